// A thread group's working memory for the global search, with its bins and its list, and how that
// is sorted.
#pragma once

#include <type_traits>

#include "core/certify/bins.h"
#include "core/set.h"
#include "cuda/thread_group.cuh"

namespace ddn::cuda {

// Bins are filled by integer sums, which come out the same in any order. A weight is counted in
// units of 2^-32, rounded up: with 16-bit places `bin_points` of them fit 64 bits.
template <bool weighted>
struct Counting {
  using Count = unsigned;
  static constexpr double one = 1;
  static __device__ __forceinline__ Count count(One) { return 1; }
};
template <>
struct Counting<true> {
  using Count = unsigned long long;
  static constexpr double one = 4294967296.0;
  template <class T>
  static __device__ __forceinline__ Count count(T weight) {
    return static_cast<Count>(::ceil(static_cast<double>(weight) * one));
  }
};

// A thread group's working memory for the global search: but for the list of a set that does not
// fit there, dynamic shared memory.
template <class T, bool weighted>
struct Memory {
  using Count = typename Counting<weighted>::Count;
  static constexpr int most_cells = 512;
  static constexpr int most_blocks = 80;  // eight cells each at least, and the pad
  static constexpr int most_bins = most_cells + 2 * 48 + 2 + bins_slack;  // 48: the widest pad
  static constexpr int place_bits = 16;
  static constexpr int64_t bin_points = 1 << 15;

  // Shared memory begins with it.
  struct Fixed {
    Count counts[most_bins], places[most_bins];
    double masses[most_bins], moments[most_bins];  // of more than bin_points points
    float mass[most_bins], moment[most_bins], centre[most_cells], upper[most_cells];
    float blocks[most_blocks], bounds[most_blocks];
    unsigned size;  // of the list
  };
  static constexpr int fixed_bytes = (sizeof(Fixed) + 15) / 16 * 16;
  // By name and not by a pointer, so that the compiler knows where each array lies.
  static __device__ __forceinline__ Fixed& fixed() {
    DDN_DYNAMIC_SHARED(Fixed, shared);
    return *shared;
  }

  T* list;
  T* list_weights;  // null unless `weighted`
  const KernelTable* table;

  // list: room for the points and, if `weighted`, as many weights.
  __device__ __forceinline__ Memory(T* list_, int64_t points, const KernelTable& table_)
      : list(list_), list_weights(weighted ? list_ + points : nullptr), table(&table_) {}
};

template <class T, bool weighted>
struct List {
  const T* x;
  const T* weights;
  __device__ __forceinline__ double point(int64_t i) const { return static_cast<double>(x[i]); }
  __device__ __forceinline__ double weight(int64_t i) const {
    if constexpr (weighted) {
      return static_cast<double>(weights[i]);
    } else {
      return 1;
    }
  }
};

// A number of a list, and its weight, in a lane's registers.
template <class T, bool weighted>
struct Listed {
  T x, weight;

  // Of this lane and the one whose number differs in the bits of `mask`, the lower one gets what
  // comes first.
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

// A list that all threads have seen completed. Bitonic, with the first step of each merge mirrored:
// then every exchange moves the larger number up, and places beyond the end act as if they held
// +inf. What stays within as many numbers as a warp has lanes is exchanged between these.
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
      Listed<T, weighted> item{static_cast<T>(detail::infinity), 0};
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
