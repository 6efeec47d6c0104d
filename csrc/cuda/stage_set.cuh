// How a kernel gets at the points of a set: staged in shared memory, or in global memory.
#pragma once

#include <type_traits>

#include "core/solve.h"
#include "cuda/async_copy.cuh"
#include "cuda/group_set.cuh"
#include "cuda/launch_limits.cuh"

namespace ddn::cuda {

// Bytes of a point, its weight included.
template <class T, bool weighted>
constexpr int64_t point_bytes = static_cast<int64_t>(sizeof(T)) * (weighted ? 2 : 1);

// Loads of a thread in flight together, where registers hold them.
constexpr int loads = 8;

// How numbers are stored: S, and their conversion. Both types of 16 bits are one, since each type
// takes as much code as the whole copy.
template <class T>
struct AsStored {
  using S = T;
  __device__ __forceinline__ T operator()(T x) const { return x; }
};
template <class T, class Storage>
struct Converted {
  using S = Storage;
  __device__ __forceinline__ T operator()(S x) const { return static_cast<T>(to_real(x)); }
};
template <class T>
struct From16Bits {
  using S = uint16_t;
  bool is_half;
  __device__ __forceinline__ T operator()(S bits) const {
    return is_half ? to_float(Half{bits}) : to_float(BFloat16{bits});
  }
};

// Calls f with one of these.
template <class T, class F>
__device__ __forceinline__ void with_points_as(DType dtype, const F& f) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (dtype != DType::float32) return f(From16Bits<T>{dtype == DType::float16});
  }
  f(AsStored<T>{});
}
template <class T, class F>
__device__ __forceinline__ void with_weights_as(DType dtype, const F& f) {
  using Other = std::conditional_t<sizeof(T) == sizeof(float), double, float>;
  if (dtype == (sizeof(T) == sizeof(float) ? DType::float32 : DType::float64)) {
    f(AsStored<T>{});
  } else if (dtype == DType::boolean) {
    f(Converted<T, uint8_t>{});
  } else if (dtype == DType::float16 || dtype == DType::bfloat16) {
    f(From16Bits<T>{dtype == DType::float16});
  } else {
    f(Converted<T, Other>{});
  }
}

// Copies number i of a set from x[i * stride] to shared memory for each i. Threads other than the
// one that copied a number may read it after wait_for_async_copies() and a barrier. Numbers in the
// type of the computation are copied asynchronously, `width` of them at a time.
template <class ThreadGroup, int width, class T, class As>
__device__ __forceinline__ void copy_in_line(T* to, int n, const typename As::S* x, int64_t stride,
                                             const As& as, int rank = ThreadGroup::rank()) {
  using S = typename As::S;
  constexpr bool is_async = std::is_same_v<As, AsStored<T>>;
  constexpr int step = width * ThreadGroup::threads;
  const int64_t x_step = step * stride;
  const auto copy = [&](auto whole, int i) {
    [[maybe_unused]] S numbers[loads];
#pragma unroll
    for (int k = 0; k < loads; ++k, x += x_step) {
      const bool exists = decltype(whole)::value || i + k * step < n;
      if constexpr (is_async) {
        if (exists) copy_async<width * sizeof(T)>(to + i + k * step, x);
      } else {
        numbers[k] = exists ? *x : S{};
      }
    }
    if constexpr (!is_async) {
#pragma unroll
      for (int k = 0; k < loads; ++k) {
        const bool exists = decltype(whole)::value || i + k * step < n;
        if (exists) to[i + k * step] = as(numbers[k]);
      }
    }
  };
  int i = rank * width;
  x += i * stride;
#pragma unroll 1
  for (; i + (loads - 1) * step < n; i += loads * step) copy(std::true_type{}, i);
  if (i < n) copy(std::false_type{}, i);
}

// Copies the numbers of a set. `to` is aligned to 16 bytes, unless the group is one lane.
template <class ThreadGroup, class T, class As>
__device__ __forceinline__ void copy_set(T* to, int n, const typename As::S* x, const Dims& dims,
                                         const As& as) {
  if (dims.rank > 1) {
#pragma unroll 1
    for (int i = ThreadGroup::rank(); i < n; i += ThreadGroup::threads) {
      to[i] = as(x[dims.offset(i)]);
    }
    return;
  }
  const int64_t stride = dims.rank == 0 ? 1 : dims.stride[0];
  if constexpr (std::is_same_v<As, AsStored<T>> && ThreadGroup::threads > 1) {
    constexpr int width = 16 / sizeof(T);
    if (stride == 1 && n % width == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0) {
      copy_in_line<ThreadGroup, width>(to, n, x, 1, as);
      return;
    }
    if (stride == 1) {
      copy_in_line<ThreadGroup, 1>(to, n, x, 1, as);
      return;
    }
  }
  copy_in_line<ThreadGroup, 1>(to, n, x, stride, as);
}

// So many lanes copy a row of shared memory together, in one or two steps.
__device__ __forceinline__ int lanes_a_row(int longest) {
  static_assert(max_thread_points <= 2 * warp_size);
  return longest > 16 ? 32 : longest > 8 ? 16 : 8;
}

// Copies the sets of 32 lanes, whose points follow each other in memory, to rows of shared memory.
// from_of(r): the set of lane r, for the rows of this lane in ascending order; points_of(r): its
// number of points. longest: the most points of a set.
template <class T, class As, class FromOf, class PointsOf>
__device__ __forceinline__ void copy_rows(T* rows, int row, int longest, const As& as,
                                          const FromOf& from_of, const PointsOf& points_of) {
  using S = typename As::S;
  const int sharers = lanes_a_row(longest);
  const int step = warp_size / sharers, i = lane() % sharers;
  int r = lane() / sharers;
  T* to = rows + r * row + i;
  const auto copy = [&](T* to, const S* from) {
    if constexpr (std::is_same_v<As, AsStored<T>>) {
      copy_async<sizeof(T)>(to, from);
    } else {
      *to = as(*from);
    }
  };
#pragma unroll 8
  for (int k = 0; k < sharers; ++k, r += step, to += step * row) {
    const S* const from = from_of(r) + i;
    const int left = points_of(r) - i;
    if (left > 0) copy(to, from);
    if (left > warp_size) copy(to + warp_size, from + warp_size);
  }
}

// Copies the set of each lane to its row. place: of the lane's set, of no points if there is none.
template <class T, class As>
__device__ __forceinline__ void copy_sets_of_lanes(T* rows, int row, const typename As::S* x,
                                                   const Dims& dims, const Place& place,
                                                   const As& as) {
  using S = typename As::S;
  const auto n = static_cast<int>(place.num_points);
  if (dims.rank > 1 || (dims.rank == 1 && dims.stride[0] != 1)) {
    copy_set<Lane>(rows + lane() * row, n, x + place.first, dims, as);
    return;
  }
  // Sets of one size at equal distances, as those of a dense tensor are, need no shuffles.
  const int every = __shfl_sync(full_mask, n, 0);
  const int64_t first = __shfl_sync(full_mask, place.first, 0);
  const int64_t distance = __shfl_sync(full_mask, place.first, 1) - first;
  if (__all_sync(full_mask, n == every && place.first == first + lane() * distance)) {
    const int sharers = lanes_a_row(every);
    const S* next = x + first + lane() / sharers * distance;
    const int64_t step = warp_size / sharers * distance;
    const auto from_next = [&](int) {
      const S* const from = next;
      next += step;
      return from;
    };
    copy_rows(rows, row, every, as, from_next, [&](int) { return every; });
  } else {
    copy_rows(
        rows, row, __reduce_max_sync(full_mask, n), as,
        [&](int r) { return x + __shfl_sync(full_mask, place.first, r); },
        [&](int r) { return __shfl_sync(full_mask, n, r); });
  }
}

// Whether a thread group keeps lists of points near their breakpoints.
template <class P, class ThreadGroup, bool weighted>
constexpr bool keeps_lists = P::has_breakpoints && !weighted && ThreadGroup::threads > 1;

// Numbers of these lists.
template <class P, class T, class ThreadGroup, bool weighted>
constexpr DDN_HOST_DEVICE int list_numbers(int64_t capacity) {
  if constexpr (!keeps_lists<P, ThreadGroup, weighted>) return 0;
  return ThreadGroup::warps * ListingPoints<T>::list_capacity(capacity, ThreadGroup::warps);
}

// The memory of the sets that a warp, or a block, solves side by side: a row of points for each
// and, after all of these, rows of weights.
template <class T, class ThreadGroup, bool weighted>
struct SetMemory {
  static constexpr int sets =
      ThreadGroup::threads < warp_size ? warp_size / ThreadGroup::threads : 1;

  T* memory;
  int row;  // numbers

  static constexpr DDN_HOST_DEVICE int row_of(int64_t capacity) {
    // The groups of a warp read from different banks.
    if (ThreadGroup::threads == 1) return static_cast<int>(capacity) | 1;
    constexpr int banks = 128 / sizeof(T), multiple = 16 / sizeof(T);
    if (sets == 1) return static_cast<int>(capacity + multiple - 1) / multiple * multiple;
    const auto past = static_cast<int>(capacity) - ThreadGroup::threads;
    return (past + banks - 1) / banks * banks + ThreadGroup::threads;
  }
  static constexpr DDN_HOST_DEVICE int numbers(int64_t capacity) {
    // A multiple of 16 bytes: the stages of a warp follow each other.
    return (sets * row_of(capacity) * (weighted ? 2 : 1) + 3) / 4 * 4;
  }

  __device__ __forceinline__ T* points() const { return memory + group() * row; }
  __device__ __forceinline__ T* weights() const { return memory + (sets + group()) * row; }

  // Begins to copy the set of this group; no set if `set` is negative. All lanes of a warp call
  // this.
  __device__ __forceinline__ void copy(const ForwardArgs& args, int64_t set) const {
    copy_with(args, set, [&](T* to, auto* x, const Dims& dims, const Place& place, auto& as) {
      if constexpr (ThreadGroup::threads == 1) {
        copy_sets_of_lanes(to, row, x, dims, place, as);
      } else {
        const auto n = static_cast<int>(place.num_points);
        copy_set<ThreadGroup>(to + group() * row, n, x + place.first, dims, as);
      }
    });
  }

  // Begins to copy points of the set of any group. Neighbouring threads call this for sets that lie
  // side by side in memory. rank: of this thread among those that copy the set, as many as solve
  // it.
  __device__ __forceinline__ void copy_column(const ForwardArgs& args, int64_t set, int group,
                                              int rank) const {
    copy_with(args, set, [&](T* to, auto* x, const Dims& dims, const Place& place, auto& as) {
      const auto n = static_cast<int>(place.num_points);
      copy_in_line<ThreadGroup, 1>(to + group * row, n, x + place.first, dims.stride[0], as, rank);
    });
  }

 private:
  static __device__ __forceinline__ int group() {
    return sets > 1 ? lane() / ThreadGroup::threads : 0;
  }

  // Calls copy(to, x, dims, place, as) for the points and the weights.
  template <class Copy>
  __device__ __forceinline__ void copy_with(const ForwardArgs& args, int64_t set,
                                            const Copy& copy) const {
    const Place place = set < 0 ? Place{0, 0} : args.layout.place(set);
    with_points_as<T>(args.dtype, [&](const auto& as) {
      using S = typename std::decay_t<decltype(as)>::S;
      copy(memory, static_cast<const S*>(args.x), args.layout.points, place, as);
    });
    if constexpr (weighted) {
      const int64_t first = set < 0 ? 0 : args.weight_layout.place(set).first;
      with_weights_as<T>(args.weight_dtype, [&](const auto& as) {
        using S = typename std::decay_t<decltype(as)>::S;
        copy(memory + sets * row, static_cast<const S*>(args.weight), args.weight_layout.points,
             Place{first, place.num_points}, as);
      });
    }
  }
};

template <class P, bool global, class T, class ThreadGroup, class Points>
__device__ __forceinline__ void solve_set(
    const ForwardArgs& args, int64_t set, int64_t n, const Points& points,
    const WeightStatistics& weights,
    const GroupWorkspace<T, Points::weighted>* workspace = nullptr) {
  const GroupSet<T, ThreadGroup, Points> group_set(points, n, weights, workspace);
  solve_and_write<P, global>(args, set, group_set);
}

// Solves a set whose copies have arrived. lists: memory of `keeps_lists`.
template <class P, bool global, class T, class ThreadGroup, bool weighted>
__device__ __forceinline__ void solve_staged(
    const ForwardArgs& args, int64_t set, const SetMemory<T, ThreadGroup, weighted>& memory,
    T* lists, const GroupWorkspace<T, weighted>* workspace = nullptr) {
  const auto n = static_cast<int>(args.layout.place(set).num_points);
  WeightStatistics statistics{};
  if constexpr (weighted) {
    T* const weights = memory.weights();
    statistics = weight_statistics<ThreadGroup, T>([&](const auto& body) {
      for (int i = ThreadGroup::rank(); i < n; i += ThreadGroup::threads) body(weights[i]);
    });
    const double inverse = 1 / statistics.unit;
    for (int i = ThreadGroup::rank(); i < n; i += ThreadGroup::threads) {
      weights[i] = static_cast<T>(static_cast<double>(weights[i]) * inverse);
    }
    solve_set<P, global, T, ThreadGroup>(args, set, n,
                                         WeightedSharedMemoryPoints<T>{memory.points(), weights},
                                         statistics, workspace);
  } else if constexpr (!global && keeps_lists<P, ThreadGroup, weighted>) {
    solve_set<P, global, T, ThreadGroup>(args, set, n, ListingPoints<T>{{memory.points()}, lists},
                                         statistics, workspace);
  } else {
    solve_set<P, global, T, ThreadGroup>(args, set, n, SharedMemoryPoints<T>{memory.points()},
                                         statistics, workspace);
  }
}

// The points of a set in global memory.
template <bool weighted, class T, class ThreadGroup>
__device__ __forceinline__ auto locate_set(const ForwardArgs& args, int64_t set,
                                           WeightStatistics& weights) {
  const Place place = args.layout.place(set);
  const GlobalMemoryPoints<T> points{args.x, args.dtype, place.first, &args.layout.points};
  if constexpr (weighted) {
    WeightedGlobalMemoryPoints<T> weighted_points{
        points,
        {args.weight, args.weight_dtype, args.weight_layout.place(set).first,
         &args.weight_layout.points},
        1};
    weights = weight_statistics<ThreadGroup, T>([&](const auto& body) {
      weighted_points.template for_each_given<ThreadGroup>(place.num_points, body);
    });
    weighted_points.inverse_unit = 1 / weights.unit;
    return weighted_points;
  } else {
    return points;
  }
}

}  // namespace ddn::cuda
