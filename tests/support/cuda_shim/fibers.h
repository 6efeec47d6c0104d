// Fibers: the threads of a block, taking turns on one host thread.
#pragma once

namespace cuda_shim::fibers {

// Sees to it that fibers 0 to count - 1 exist. Each calls `body` over and over again.
void create(unsigned count, void (*body)());

// The fiber that is running.
extern unsigned running;

// Called by the host: runs the fiber, and what it switches to, until one goes back. Returns whether
// that was with leave().
bool enter(unsigned fiber);

// Called by a fiber: another one runs; returns when it is the caller's turn again.
void switch_to(unsigned fiber);

// Called by a fiber: the host goes on; returns when the caller is next entered or switched to.
void leave();

// The same for good: all fibers are given up, wherever they are, to be created anew.
[[noreturn]] void abandon();

}  // namespace cuda_shim::fibers
