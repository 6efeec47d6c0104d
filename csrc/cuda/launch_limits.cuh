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

// The current device, for launches whose grid fills it once.
struct DeviceLimits {
  int multiprocessors = 0;
  int shared_bytes = 0;  // of a multiprocessor

  cudaError_t read() {
    int device = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) {
      error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    }
    if (error == cudaSuccess) {
      error = cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor,
                                     device);
    }
    return error;
  }
  unsigned blocks(int of_multiprocessor) const {
    return static_cast<unsigned>(of_multiprocessor * multiprocessors);
  }
  // Dynamic shared memory of a block if a multiprocessor holds so many. The driver takes 1 KiB of
  // each.
  int64_t block_shared_bytes(int blocks) const {
    return shared_bytes / blocks - (1 << 10) - static_shared_bytes;
  }
};

// Permits a kernel as much dynamic shared memory as the device has: the same number in each call,
// as several threads may launch the kernel. Shared memory takes precedence over the L1 cache.
template <class Kernel>
cudaError_t allow_shared_memory(Kernel kernel, const DeviceLimits& device) {
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(device.block_shared_bytes(1)));
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                              cudaSharedmemCarveoutMaxShared);
}

// Kernels loop over their work with the grid as stride, so a grid need not cover the work.
inline unsigned grid_for(int64_t work, int64_t per_block) {
  constexpr int64_t max_blocks = 1 << 20;
  return static_cast<unsigned>(std::min((work + per_block - 1) / per_block, max_blocks));
}

}  // namespace ddn::cuda
