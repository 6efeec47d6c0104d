// Counters of a launch: basic blocks by warp and by lane, memory traffic, and chains of dependent
// loads. Code translated with counters calls these functions; counts.py defines the figures.
//
// Between two collectives of the whole warp (an epoch), a warp executes the n-th passing of a basic
// block once, for any subset of its lanes. Divergent paths count once each.
#pragma once

#include "types.h"

namespace ptx::counters {

enum class Kind : u8 {
  global_load,
  global_store,
  global_atomic,
  shared_load,
  shared_store,
  shared_atomic
};
constexpr int kinds = 6;

extern bool enabled;

// A lane enters basic block b of the given number of PTX instructions. Returns the number of its
// passings in this epoch.
u32 enter_block(u32 b, u32 instructions);

// The number of the next instruction that accesses memory, and the passing of its basic block.
extern u32 access_number, access_passing;
inline void next_access(u32 number, u32 passing) {
  access_number = number;
  access_passing = passing;
}
void no_access();  // a load that is not of global memory although its address is generic
void note_access(Kind kind, u64 a, unsigned n);
inline void access(Kind kind, u64 a, unsigned n) {
  if (enabled) note_access(kind, a, n);
}

// Chains of loads. Time is in latencies of a global load. A load is issued as early in its basic
// block as its address is known, and is ready one latency later.
inline u32 later(u32 a, u32 b) { return a > b ? a : b; }
// Of this lane.
u32 current_time();
// The time at which the last load, issued at the given time, is ready; 0 unless it was from global
// memory. position: instructions of the basic block before this one.
u32 ready_time(u32 issued, u32 position);
// The lane uses a value that is ready at the given time.
void wait_for(u32 ready, u32 position);

// Asynchronous copies. A copy is issued where it stands, is ready one latency later like a load,
// and its bytes are in flight until the wait for its group, in whatever basic block.
extern u32 copy_position;  // of the instruction, as above
// Returns the time at which the copy of the given bytes is ready; 0 if it has none.
u32 issue_copy(u32 bytes);
// The wait for copies of that many bytes altogether, the last of which is ready at that time.
void wait_for_copies(u32 bytes, u32 ready);

// For races.cpp and translated.cpp.
void next_epoch(unsigned warp);
void next_epoch_of_all();
void begin_launch(const char* kernel, u32 basic_blocks, unsigned shared_bytes);
void begin_block();
void end_launch();
// All counts since the last call of clear(), as JSON.
const char* json();
void clear();

}  // namespace ptx::counters
