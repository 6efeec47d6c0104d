// What the launchers share.
#pragma once

#include <algorithm>

#include "core/args.h"
#include "cuda/launch.h"

namespace ddn::cuda {

constexpr int block_threads = 256;

// Shared memory that a block may have on every supported GPU (compute capability 8.6 grants the
// least), and how much of that is left to the static arrays of reductions.
constexpr int64_t most_shared_bytes = 99 << 10;
constexpr int64_t static_shared_bytes = 4 << 10;
constexpr int64_t most_dynamic_bytes = most_shared_bytes - static_shared_bytes;

// Kernels walk over their work in strides of the grid, so a grid need not cover it.
inline unsigned grid_for(int64_t work, int64_t per_block) {
  constexpr int64_t most_blocks = 1 << 20;
  return static_cast<unsigned>(std::min((work + per_block - 1) / per_block, most_blocks));
}

}  // namespace ddn::cuda
