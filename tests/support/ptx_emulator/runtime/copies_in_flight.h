// Asynchronous copies from global to shared memory (cp.async). The data arrive at the wait of the
// thread that has issued the copy; until then any access to the place is a race.
#pragma once

#include "types.h"

namespace ptx::async_copies {

// Of n bytes, of which the first `valid` ones are read and the others become zeros.
void issue(u64 shared, u64 global, u32 n, u32 valid, const Where& where);
void commit();
void wait(u32 pending);

// For translated.cpp.
void begin_block();
void end_thread();

}  // namespace ptx::async_copies
