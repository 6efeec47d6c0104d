// A thread group is the threads that solve one set together: a warp or a block. Its reductions give
// every member the same bits, so that all members take the same way through the solver.
#pragma once

#include "core/math.h"
#include "cuda/launch.h"

namespace ddn::cuda {

constexpr int warp_size = 32;
constexpr unsigned full_mask = 0xffffffffu;

struct Add {
  template <class V>
  static __device__ __forceinline__ V combine(V a, V b) {
    return a + b;
  }
};
struct Max {
  static __device__ __forceinline__ double combine(double a, double b) { return max(a, b); }
};

// A butterfly: both partners of an exchange combine the same two numbers, and the operations are
// commutative to the last bit.
template <class Op, class V, int count>
__device__ __forceinline__ void reduce_warp(V (&values)[count]) {
#pragma unroll
  for (int distance = warp_size / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int k = 0; k < count; ++k) {
      values[k] = Op::combine(values[k], __shfl_xor_sync(full_mask, values[k], distance));
    }
  }
}

// The bits of a float as an integer, in the order of the numbers.
__device__ __forceinline__ int in_order(float x) {
  int bits;
  memcpy(&bits, &x, sizeof bits);
  return bits >= 0 ? bits : bits ^ 0x7fffffff;
}

__device__ __forceinline__ float largest_in_warp(float x) {
  const int most = __reduce_max_sync(full_mask, in_order(x));
  const int bits = most >= 0 ? most : most ^ 0x7fffffff;
  memcpy(&x, &bits, sizeof x);
  return x;
}

__device__ __forceinline__ int lane() { return threadIdx.x % warp_size; }

struct Warp {
  static constexpr int threads = warp_size;
  static constexpr int warps = 1;

  static __device__ __forceinline__ int rank() { return threadIdx.x % warp_size; }

  template <class Op, class V, int count>
  static __device__ __forceinline__ void reduce(V (&values)[count]) {
    reduce_warp<Op>(values);
  }

  template <int count>
  static __device__ __forceinline__ void sum(int (&values)[count]) {
#pragma unroll
    for (int k = 0; k < count; ++k) values[k] = __reduce_add_sync(full_mask, values[k]);
  }

  static __device__ __forceinline__ float largest(float x) { return largest_in_warp(x); }
};

template <int block_threads>
struct Block {
  static constexpr int threads = block_threads;
  static constexpr int warps = block_threads / warp_size;

  static __device__ __forceinline__ int rank() { return threadIdx.x; }

  template <class Op, class V, int count>
  static __device__ __forceinline__ void reduce(V (&values)[count]) {
    __shared__ V parts[warps * count];
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

  // Called only after a reduce(): every thread has read `parts` of the last call before it entered
  // the barriers there, so that none is needed before the writes.
  template <int count>
  static __device__ __forceinline__ void sum(int (&values)[count]) {
    __shared__ int parts[warps * count];
#pragma unroll
    for (int k = 0; k < count; ++k) values[k] = __reduce_add_sync(full_mask, values[k]);
    if (lane() == 0) {
#pragma unroll
      for (int k = 0; k < count; ++k) parts[threadIdx.x / warp_size * count + k] = values[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < count; ++k) {
      values[k] = parts[k];
#pragma unroll 1  // all loads together would crowd the registers
      for (int w = 1; w < warps; ++w) values[k] += parts[w * count + k];
    }
  }

  // Each thread gets the sums over those before it. Called only after a reduce(), as sum() is.
  template <int count>
  static __device__ __forceinline__ void exclusive_scan(double (&values)[count]) {
    __shared__ double parts[warps * count];
#pragma unroll
    for (int k = 0; k < count; ++k) {
      double sum = values[k];
#pragma unroll
      for (int distance = 1; distance < warp_size; distance *= 2) {
        const double before = __shfl_up_sync(full_mask, sum, distance);
        if (lane() >= distance) sum += before;
      }
      if (lane() == warp_size - 1) parts[threadIdx.x / warp_size * count + k] = sum;
      const double before = __shfl_up_sync(full_mask, sum, 1);
      values[k] = lane() > 0 ? before : 0;
    }
    __syncthreads();
    for (int w = 0; w < static_cast<int>(threadIdx.x) / warp_size; ++w) {
#pragma unroll
      for (int k = 0; k < count; ++k) values[k] += parts[w * count + k];
    }
  }

  static __device__ __forceinline__ float largest(float x) {
    static_assert((warps & (warps - 1)) == 0, "lanes fall on the parts evenly");
    __shared__ float parts[warps];
    x = largest_in_warp(x);
    __syncthreads();  // likewise
    if (lane() == 0) parts[threadIdx.x / warp_size] = x;
    __syncthreads();
    return largest_in_warp(parts[lane() % warps]);
  }
};

}  // namespace ddn::cuda
