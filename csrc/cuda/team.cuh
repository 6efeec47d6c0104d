// A team is the threads that solve one set together: a warp or a block. Its reductions give every
// member the same bits, so that all members take the same way through the solver.
#pragma once

#include "core/math.h"
#include "cuda/launch.h"

namespace ddn::cuda {

constexpr int warp_size = 32;
constexpr unsigned full_mask = 0xffffffffu;

struct Add {
  static __device__ __forceinline__ double combine(double a, double b) { return a + b; }
};
struct Larger {
  static __device__ __forceinline__ double combine(double a, double b) { return larger(a, b); }
};

// A butterfly: both partners of an exchange combine the same two numbers, and the operations are
// commutative to the last bit.
template <class Op, int count>
__device__ __forceinline__ void reduce_warp(double (&values)[count]) {
#pragma unroll
  for (int distance = warp_size / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int k = 0; k < count; ++k) {
      values[k] = Op::combine(values[k], __shfl_xor_sync(full_mask, values[k], distance));
    }
  }
}

struct Warp {
  static constexpr int threads = warp_size;

  static __device__ __forceinline__ int rank() { return threadIdx.x % warp_size; }

  template <class Op, int count>
  static __device__ __forceinline__ void reduce(double (&values)[count]) {
    reduce_warp<Op>(values);
  }
};

template <int block_threads>
struct Block {
  static constexpr int threads = block_threads;
  static constexpr int warps = block_threads / warp_size;

  static __device__ __forceinline__ int rank() { return threadIdx.x; }

  template <class Op, int count>
  static __device__ __forceinline__ void reduce(double (&values)[count]) {
    __shared__ double parts[warps * count];
    reduce_warp<Op>(values);
    __syncthreads();  // the readers of an earlier reduction have left `parts`
    if (threadIdx.x % warp_size == 0) {
#pragma unroll
      for (int k = 0; k < count; ++k) parts[threadIdx.x / warp_size * count + k] = values[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < count; ++k) {
      values[k] = parts[k];
      for (int w = 1; w < warps; ++w) values[k] = Op::combine(values[k], parts[w * count + k]);
    }
  }
};

}  // namespace ddn::cuda
