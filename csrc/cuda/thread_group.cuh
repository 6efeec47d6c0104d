// A thread group: the threads that solve one set together, some lanes of a warp or a block.
// Reductions give every thread the same bits, so that all threads take the same branches in the
// solver.
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
  template <class V>
  static __device__ __forceinline__ V combine(V a, V b) {
    return max(a, b);
  }
};

// A butterfly: both partners of an exchange combine the same two numbers, and the operations are
// commutative to the last bit.
template <class Op, int lanes = warp_size, class V, int count>
__device__ __forceinline__ void reduce_lanes(unsigned mask, V (&values)[count]) {
#pragma unroll
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int k = 0; k < count; ++k) {
      values[k] = Op::combine(values[k], __shfl_xor_sync(mask, values[k], distance));
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

// Neighbouring lanes: a power of two of them. The groups of a warp may be at different places of a
// program, so that a collective names only the lanes of its group.
template <int lanes>
struct Lanes {
  static constexpr int threads = lanes;
  static constexpr int warps = 1;

  static __device__ __forceinline__ int rank() { return lane() % lanes; }
  static __device__ __forceinline__ unsigned mask() {
    return full_mask >> (warp_size - lanes) << (lane() - rank());
  }
  static __device__ __forceinline__ void sync() { __syncwarp(mask()); }

  template <class Op, class V, int count>
  static __device__ __forceinline__ void reduce(V (&values)[count]) {
    reduce_lanes<Op, lanes>(mask(), values);
  }

  template <int count>
  static __device__ __forceinline__ void sum(int (&values)[count]) {
    if constexpr (lanes == warp_size) {
#pragma unroll
      for (int k = 0; k < count; ++k) values[k] = __reduce_add_sync(full_mask, values[k]);
    } else {
      reduce<Add>(values);
    }
  }

  static __device__ __forceinline__ float largest(float x) {
    if constexpr (lanes == warp_size) return largest_in_warp(x);
    float values[1] = {x};
    reduce<Max>(values);
    return values[0];
  }
};

using Lane = Lanes<1>;
using Warp = Lanes<warp_size>;

template <int block_threads>
struct Block {
  static constexpr int threads = block_threads;
  static constexpr int warps = block_threads / warp_size;

  static __device__ __forceinline__ void sync() { __syncthreads(); }

  static __device__ __forceinline__ int rank() { return threadIdx.x; }

  template <class Op, class V, int count>
  static __device__ __forceinline__ void reduce(V (&values)[count]) {
    __shared__ V parts[warps * count];
    reduce_lanes<Op>(full_mask, values);
    __syncthreads();  // the readers of an earlier reduction have left `parts`
    if (threadIdx.x % warp_size == 0) {
#pragma unroll
      for (int k = 0; k < count; ++k) parts[threadIdx.x / warp_size * count + k] = values[k];
    }
    __syncthreads();
    combine<Op>(parts, values);
  }

  // To be called only after a reduce(): its barriers separate the reads of `parts` in the last call
  // from the writes here.
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
    combine<Add>(parts, values);
  }

  // Each thread gets the sums over the threads of smaller rank. To be called only after a reduce(),
  // as sum() is.
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
    static_assert((warps & (warps - 1)) == 0, "every part is read by some lane");
    __shared__ float parts[warps];
    x = largest_in_warp(x);
    __syncthreads();  // the readers of an earlier maximum have left `parts`
    if (lane() == 0) parts[threadIdx.x / warp_size] = x;
    __syncthreads();
    return largest_in_warp(parts[lane() % warps]);
  }

 private:
  // Combines the parts of the warps: each lane reads that of one warp.
  template <class Op, class V, int count>
  static __device__ __forceinline__ void combine(const V (&parts)[warps * count],
                                                 V (&values)[count]) {
    static_assert((warps & (warps - 1)) == 0);
#pragma unroll
    for (int k = 0; k < count; ++k) values[k] = parts[lane() % warps * count + k];
    reduce_lanes<Op, warps>(full_mask, values);
  }
};

}  // namespace ddn::cuda
