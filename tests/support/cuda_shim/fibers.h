// Fibers: the threads of a block, scheduled cooperatively on one host thread.
#pragma once

namespace cuda_shim::fibers {

// Creates fibers 0 to count - 1 if needed. Each calls `body` in a loop.
void create(unsigned count, void (*body)());

// The current fiber.
extern unsigned running;

// Called by the host: runs the fiber, and the fibers it switches to, until one returns. Returns
// whether that was by leave().
bool enter(unsigned fiber);

// Called by a fiber: switches to another one; returns when the caller is resumed.
void switch_to(unsigned fiber);

// Called by a fiber: returns to the host; continues when the caller is resumed.
void leave();

// Returns to the host and abandons all fibers, which are then created anew.
[[noreturn]] void abandon();

}  // namespace cuda_shim::fibers
