// The shared memory of the current block.
#pragma once

#include <cstddef>

namespace cuda_shim::shared_memory {

// For the blocks of one launch.
void allocate(size_t dynamic_bytes);

// Fills all of it, dynamic and static, with NaN.
void poison();

// Whether a block wrote next to its dynamic shared memory since poison().
bool overrun();

}  // namespace cuda_shim::shared_memory
