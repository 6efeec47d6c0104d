// Asynchronous copies from global to shared memory (compute capability 8.0, cp.async).
//
// A thread issues copies, commits them as a group and waits for its groups in the order of their
// commits. The place may be neither read nor written until the wait has returned; other threads
// also need a barrier after it. Both addresses are aligned to the size of the copy. A thread must
// not exit before it has waited for all its copies.
#pragma once

#include "cuda/launch.h"

namespace ddn::cuda {

#ifdef DDN_CUDA_SHIM
using cuda_shim::commit_async_copies;
using cuda_shim::copy_async;
using cuda_shim::wait_for_async_copies;
#else
// Copies 4, 8 or 16 bytes. Those of 16 bytes bypass the L1 cache.
template <int bytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const size_t from = __cvta_generic_to_global(global);
  if constexpr (bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(bytes)
                 : "memory");
  }
}

// Copies the first `valid` bytes, 0 to `bytes`, and fills the others with zeros. With none, the
// global address is not accessed.
template <int bytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, int valid) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const size_t from = __cvta_generic_to_global(global);
  if constexpr (bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(bytes),
                 "r"(valid)
                 : "memory");
  }
}

// The copies since the last commit, maybe none, become a group.
__device__ __forceinline__ void commit_async_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most the `pending` last groups of this thread are incomplete.
template <int pending = 0>
__device__ __forceinline__ void wait_for_async_copies() {
  static_assert(pending >= 0);
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}
#endif

}  // namespace ddn::cuda
