// For the scheduler: asynchronous copies of the threads of a block.
#pragma once

namespace cuda_shim::async_copies {

void begin_block();
// The current thread returns; its copies must have been waited for.
void end_thread();

}  // namespace cuda_shim::async_copies
