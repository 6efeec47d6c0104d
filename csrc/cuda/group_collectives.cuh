// What the threads of a group do together for the global search: combine their numbers, share out
// blocks of cells, look for the first of something. A part of the `Set` of core/set.h.
#pragma once

#include "core/certify/bins.h"
#include "cuda/thread_group.cuh"

namespace ddn::cuda {

template <class ThreadGroup>
struct GroupCollectives {
  __device__ __forceinline__ int rank() const { return ThreadGroup::rank(); }
  __device__ __forceinline__ int size() const { return ThreadGroup::threads; }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
  __device__ __forceinline__ double largest(double x) const {
    double values[1] = {x};
    ThreadGroup::template reduce<Max>(values);
    return values[0];
  }
  __device__ __forceinline__ float largest(float x) const { return ThreadGroup::largest(x); }
  template <int count>
  __device__ __forceinline__ void largest(double (&values)[count]) const {
    ThreadGroup::template reduce<Max>(values);
  }
  template <int count>
  __device__ __forceinline__ void sum(double (&values)[count]) const {
    ThreadGroup::template reduce<Add>(values);
  }
  template <int count>
  __device__ __forceinline__ void exclusive_scan(double (&values)[count]) const {
    ThreadGroup::exclusive_scan(values);
  }
  // Groups are warps. Each takes as many cells at a time as the smallest block has.
  __device__ __forceinline__ int group() const { return ThreadGroup::rank() / warp_size; }
  __device__ __forceinline__ int groups() const { return ThreadGroup::threads / warp_size; }
  __device__ __forceinline__ bool leads_group() const { return lane() == 0; }
  __device__ __forceinline__ void group_sync() const { __syncwarp(); }
  __device__ __forceinline__ float group_largest(float x) const { return largest_in_warp(x); }
  __device__ __forceinline__ int place() const { return lane() / sharers; }
  __device__ __forceinline__ int places() const { return min_block; }
  __device__ __forceinline__ Share share() const { return {lane() % sharers, sharers}; }
  __device__ __forceinline__ float shared_sum(float x) const {
#pragma unroll
    for (int distance = sharers / 2; distance > 0; distance /= 2) {
      x += __shfl_xor_sync(full_mask, x, distance);
    }
    return x;
  }
  // Every warp searches for itself, which needs no barrier.
  template <class F>
  __device__ __forceinline__ int first_where(int begin, int end, const F& f) const {
    for (int i = begin; i < end; i += warp_size) {
      const int own = i + lane();
      const unsigned found = __ballot_sync(full_mask, own < end && f(own));
      if (found != 0) return i + __ffs(static_cast<int>(found)) - 1;
    }
    return end;
  }
  template <class F>
  __device__ __forceinline__ int last_where(int begin, int end, const F& f) const {
    for (int past = end; past > begin; past -= warp_size) {
      const int own = past - 1 - lane();
      const unsigned found = __ballot_sync(full_mask, own >= begin && f(own));
      if (found != 0) return past - __ffs(static_cast<int>(found));
    }
    return begin - 1;
  }
  __device__ __forceinline__ int first_largest(int begin, int end, const float* x) const {
    int most = INT32_MIN, at = begin;
    for (int i = begin + lane(); i < end; i += warp_size) {
      const int here = in_order(x[i]);
      at = here > most ? i : at;
      most = here > most ? here : most;
    }
    const bool is_largest = most == __reduce_max_sync(full_mask, most);
    return __reduce_min_sync(full_mask, is_largest ? at : INT32_MAX);
  }

 private:
  // Threads that share the sum of a cell.
  static constexpr int sharers = warp_size / min_block;
};

}  // namespace ddn::cuda
