// Limits of launches.
#pragma once

#include <algorithm>

#include "core/args.h"
#include "cuda/launch.h"

namespace ddn::cuda {

constexpr int block_threads = 256;

// Shared memory of a block on every supported GPU (compute capability 8.6 has the least), and the
// part of it that the static arrays of reductions may take.
constexpr int64_t max_shared_bytes = 99 << 10;
constexpr int64_t static_shared_bytes = 4 << 10;
constexpr int64_t max_dynamic_bytes = max_shared_bytes - static_shared_bytes;

// Kernels loop over their work with the grid as stride, so a grid need not cover the work.
inline unsigned grid_for(int64_t work, int64_t per_block) {
  constexpr int64_t max_blocks = 1 << 20;
  return static_cast<unsigned>(std::min((work + per_block - 1) / per_block, max_blocks));
}

// The grid of a kernel whose blocks stay for the whole launch and share the work out: as many as
// all multiprocessors of the current device hold.
inline unsigned persistent_grid(int64_t work, int blocks_per_multiprocessor) {
  int device = 0, multiprocessors = 1;
  if (cudaGetDevice(&device) == cudaSuccess) {
    cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  return static_cast<unsigned>(
      std::min<int64_t>(work, int64_t{multiprocessors} * blocks_per_multiprocessor));
}

}  // namespace ddn::cuda
