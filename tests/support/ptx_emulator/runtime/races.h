// Races between the threads of a block over words of shared memory.
//
// Two accesses to a word, of which one is a store, have to be ordered: by a barrier of the block or
// by one of the warp (bar.warp.sync). Shuffles, votes and reductions let threads meet, but order no
// memory: what relies on them alone is reported too. Each word of four bytes remembers its last
// store, its last atomic and the last loads of two threads; a defect that needs more than these is
// not seen. Accesses to different bytes of a word do not race.
#pragma once

#include "types.h"

namespace ptx::races {

// One thread's access and when it was, counted in meetings of threads.
struct Access {
  s32 thread = -1;  // none
  u32 bytes = 0;    // of the word, as a mask
  u64 time = 0;
};
struct Word {
  Access store, atomic, load, other_load;
  u32 written = 0;  // a bit for each byte
};

void load(Word& word, u32 bytes, const Where& where);
void store(Word& word, u32 bytes, const Where& where);
void atomic(Word& word, u32 bytes, const Where& where);

// Threads have met.
void barrier();
void warp_meets(unsigned warp, u32 members, bool orders_memory);

}  // namespace ptx::races
