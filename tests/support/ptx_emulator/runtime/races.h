// Races between the threads of a block over words of shared memory.
//
// Two accesses to a word, one of them a store, must be ordered by a barrier of the block or of the
// warp (bar.warp.sync). Shuffles, votes and reductions synchronise threads but do not order memory;
// code that relies on them alone is reported as well. Each word of four bytes remembers its last
// store, its last atomic and the last loads of two threads; races that involve more accesses are
// not detected. Accesses to different bytes of a word do not race.
//
// An asynchronous copy is a store of its thread at the time of the wait for it. Between the issue
// and the wait, any access to the word, of whatever thread, is a race.
#pragma once

#include "types.h"

namespace ptx::races {

// An access of a thread, and its time, counted in meetings of threads.
struct Access {
  s32 thread = -1;  // none
  u32 bytes = 0;    // of the word, as a mask
  u64 time = 0;
};
struct Word {
  Access store, atomic, load, other_load;
  Access copy;      // in flight
  u32 written = 0;  // a bit for each byte
};

void load(Word& word, u32 bytes, const Where& where);
void store(Word& word, u32 bytes, const Where& where);
void atomic(Word& word, u32 bytes, const Where& where);
// Of an asynchronous copy; whole words.
void begin_copy(Word& word, u32 bytes, const Where& where);
void end_copy(Word& word, u32 bytes);

// Threads have met.
void barrier();
void warp_meets(unsigned warp, u32 members, bool orders_memory);

}  // namespace ptx::races
