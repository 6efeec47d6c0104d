// Sorts a list of points, with their weights if they have any.
#pragma once

#include "core/set.h"
#include "cuda/thread_group.cuh"

namespace ddn::cuda {

// A point of the list and its weight, in the registers of a lane.
template <class T, bool weighted>
struct ListItem {
  T x, weight;

  // Compares with the lane whose number differs in the bits of `mask`; the lower lane of the two
  // keeps the smaller item.
  __device__ __forceinline__ void exchange(int mask) {
    const bool lower = (lane() ^ mask) > lane();
    const T other = __shfl_xor_sync(full_mask, x, mask);
    if constexpr (weighted) {
      const T other_weight = __shfl_xor_sync(full_mask, weight, mask);
      const T first = lower ? other : x, second = lower ? x : other;
      const bool ties = first == second;
      if (first < second || (ties && (lower ? other_weight < weight : weight < other_weight))) {
        x = other;
        weight = other_weight;
      }
    } else {
      x = lower ? min(x, other) : max(x, other);
    }
  }
};

// After a barrier that follows the last write to the list. A bitonic sort whose merges begin with a
// mirrored step: every exchange then moves the larger number up, and places beyond the end act as
// if they held +inf. Steps within 32 neighbours are exchanges between the lanes of a warp.
template <class ThreadGroup, bool weighted, class T, class Index>
__device__ __forceinline__ void sort_list(T* list, T* weights, Index n) {
  const auto swap = [](T* of, Index i, Index j) {
    const T x = of[i];
    of[i] = of[j];
    of[j] = x;
  };
  const auto exchange = [&](Index i, Index j) {
    if (j >= n) return;
    if constexpr (weighted) {
      if (!(list[i] > list[j] || (list[i] == list[j] && weights[i] > weights[j]))) return;
      swap(weights, i, j);
    } else {
      if (!(list[i] > list[j])) return;
    }
    swap(list, i, j);
  };
  const auto by_warps = [&](const auto& steps) {
    for (Index first = ThreadGroup::rank() - lane(); first < n; first += ThreadGroup::threads) {
      const Index i = first + lane();
      ListItem<T, weighted> item{static_cast<T>(detail::infinity), 0};
      if (i < n) {
        item.x = list[i];
        if constexpr (weighted) item.weight = weights[i];
      }
      steps(item);
      if (i < n) {
        list[i] = item.x;
        if constexpr (weighted) weights[i] = item.weight;
      }
    }
    __syncthreads();
  };
  const auto merge = [](auto& item, int distance) {
#pragma unroll
    for (; distance > 0; distance /= 2) item.exchange(distance);
  };
  by_warps([&](auto& item) {
#pragma unroll
    for (int width = 2; width <= warp_size; width *= 2) {
      item.exchange(width - 1);
      merge(item, width / 4);
    }
  });
  // Widths and distances are powers of two: no division is needed.
  Index half = warp_size / 2;
  while (2 * half < n) half *= 2;
  for (Index width = 2 * warp_size; width <= 2 * half; width *= 2) {
    const Index in_half = width / 2 - 1;
    for (Index p = ThreadGroup::rank(); p < half; p += ThreadGroup::threads) {
      const Index at = p & in_half, start = 2 * (p - at);
      exchange(start + at, start + width - 1 - at);
    }
    __syncthreads();
    for (Index distance = width / 4; distance >= warp_size; distance /= 2) {
      for (Index p = ThreadGroup::rank(); p < half; p += ThreadGroup::threads) {
        const Index i = 2 * p - (p & (distance - 1));
        exchange(i, i + distance);
      }
      __syncthreads();
    }
    by_warps([&](auto& item) { merge(item, warp_size / 2); });
  }
}

}  // namespace ddn::cuda
