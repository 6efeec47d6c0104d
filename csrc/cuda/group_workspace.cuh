// The working memory of a thread group for the global search: its bins and its list.
#pragma once

#include "core/certify/bins.h"
#include "core/set.h"
#include "cuda/launch.h"

namespace ddn::cuda {

// Bins are filled by integer sums, which do not depend on the order of the additions. A weight is
// counted in units of 2^-32, rounded up: with 16-bit places `bin_points` of them fit 64 bits.
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

// In dynamic shared memory, except for the list of a set that does not fit there.
template <class T, bool weighted>
struct GroupWorkspace {
  using Count = typename Counting<weighted>::Count;
  static constexpr int max_cells = 512;
  static constexpr int max_blocks = 80;  // eight cells each at least, and the pad
  static constexpr int max_bins = max_cells + 2 * 48 + 2 + bins_slack;  // 48: the widest pad
  static constexpr int place_bits = 16;
  static constexpr int64_t bin_points = 1 << 15;

  // The first part of the dynamic shared memory.
  struct Fixed {
    Count counts[max_bins], places[max_bins];
    double masses[max_bins], moments[max_bins];  // of more than bin_points points
    float mass[max_bins], moment[max_bins], centre[max_cells], upper[max_cells];
    float blocks[max_blocks], bounds[max_blocks];
    unsigned size;  // of the list
  };
  static constexpr int fixed_bytes = (sizeof(Fixed) + 15) / 16 * 16;
  // Found by name and not by a pointer, so that the compiler knows the address of each array.
  static __device__ __forceinline__ Fixed& fixed() {
    DDN_DYNAMIC_SHARED(Fixed, shared);
    return *shared;
  }

  T* list;
  T* list_weights;  // null unless `weighted`
  const KernelTable* table;

  // list: memory for the points and, if `weighted`, as many weights.
  __device__ __forceinline__ GroupWorkspace(T* list_, int64_t points, const KernelTable& table_)
      : list(list_), list_weights(weighted ? list_ + points : nullptr), table(&table_) {}
};

template <class T, bool weighted>
struct SortedList {
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

}  // namespace ddn::cuda
