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

// Copies the numbers of a set to shared memory, where threads other than the one that copied a
// number may read it after finish_copies() and a barrier. Numbers that are stored as they are
// computed with are copied asynchronously. from(i): the place of number i.
template <class ThreadGroup, class T, class S, class From>
__device__ __forceinline__ void copy_numbers(T* to, int n, const S* x, const From& from) {
  constexpr int step = ThreadGroup::threads;
#pragma unroll 1
  for (int first = ThreadGroup::rank(); first < n; first += loads * step) {
    if constexpr (std::is_same_v<S, T>) {
#pragma unroll
      for (int k = 0; k < loads; ++k) {
        const int i = first + k * step;
        if (i < n) copy_async<sizeof(T)>(to + i, x + from(i));
      }
    } else {
      S numbers[loads];
#pragma unroll
      for (int k = 0; k < loads; ++k) {
        const int i = first + k * step;
        numbers[k] = i < n ? x[from(i)] : S{};
      }
#pragma unroll
      for (int k = 0; k < loads; ++k) {
        const int i = first + k * step;
        if (i < n) to[i] = static_cast<T>(to_real(numbers[k]));
      }
    }
  }
}

// The same for numbers that follow each other, `width` bytes at a time.
template <class ThreadGroup, int width, class T>
__device__ __forceinline__ void copy_words(T* to, int n, const T* x) {
  constexpr int numbers = width / sizeof(T), step = numbers * ThreadGroup::threads;
  int i = ThreadGroup::rank() * numbers;
#pragma unroll 1
  for (; i + (loads - 1) * step < n; i += loads * step) {
#pragma unroll
    for (int k = 0; k < loads; ++k) copy_async<width>(to + i + k * step, x + i + k * step);
  }
#pragma unroll 1
  for (; i < n; i += step) copy_async<width>(to + i, x + i);
}

// `to` is aligned to 16 bytes.
template <class ThreadGroup, class T, class S>
__device__ __forceinline__ void copy_set(T* to, const S* x, const Dims& dims, int n) {
  if (dims.rank > 1) {
    copy_numbers<ThreadGroup>(to, n, x, [&](int i) { return dims.offset(i); });
    return;
  }
  const int64_t stride = dims.rank == 0 ? 1 : dims.stride[0];
  if constexpr (std::is_same_v<S, T>) {
    if (stride == 1) {
      const auto address = reinterpret_cast<uintptr_t>(x);
      if ((address | n * sizeof(T)) % 16 == 0) {
        copy_words<ThreadGroup, 16>(to, n, x);
      } else {
        copy_words<ThreadGroup, sizeof(T)>(to, n, x);
      }
      return;
    }
  }
  copy_numbers<ThreadGroup>(to, n, x, [=](int i) { return i * stride; });
}

// Copies the numbers of the 32 sets of a warp, one set for each lane, to rows of shared memory.
// first, n: of the lane's set; n is zero if there is none.
template <class T, class S>
__device__ __forceinline__ void copy_rows(T* rows, int row, const S* x, const Dims& dims,
                                          int64_t first, int n) {
  if (dims.rank == 0 || (dims.rank == 1 && dims.stride[0] == 1)) {
    // Several lanes copy a row: a power of two, up to 32.
    const int longest = __reduce_max_sync(full_mask, n);
    const int lanes_a_row = longest > 16 ? 32 : longest > 8 ? 16 : longest > 4 ? 8 : 4;
    const int rows_a_step = warp_size / lanes_a_row;
    const int i = lane() % lanes_a_row;
    int r = lane() / lanes_a_row;
    T* to = rows + r * row + i;
#pragma unroll 4
    for (int step = 0; step < lanes_a_row; ++step, r += rows_a_step, to += rows_a_step * row) {
      const S* const from = x + __shfl_sync(full_mask, first, r) + i;
      const int left = __shfl_sync(full_mask, n, r) - i;
      for (int k = 0; k < left; k += warp_size) {
        if constexpr (std::is_same_v<S, T>) {
          copy_async<sizeof(T)>(to + k, from + k);
        } else {
          to[k] = static_cast<T>(to_real(from[k]));
        }
      }
    }
  } else if (dims.rank == 1) {
    const int64_t stride = dims.stride[0];
    copy_numbers<Lane>(rows + lane() * row, n, x + first, [=](int i) { return i * stride; });
  } else {
    copy_numbers<Lane>(rows + lane() * row, n, x + first, [&](int i) { return dims.offset(i); });
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

// A set in shared memory; no set if `set` is negative.
struct StagedSet {
  int64_t set;
  int points;
};

// The memory of the sets that a warp, or a block, solves side by side: a row of points for each and,
// after all of these, rows of weights.
template <class T, class ThreadGroup, bool weighted>
struct SetMemory {
  static constexpr int sets = ThreadGroup::threads < warp_size ? warp_size / ThreadGroup::threads : 1;

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
    // The second tile of a warp is aligned to 16 bytes, too.
    return (sets * row_of(capacity) * (weighted ? 2 : 1) + 3) / 4 * 4;
  }

  __device__ __forceinline__ T* points() const { return memory + group() * row; }
  __device__ __forceinline__ T* weights() const { return memory + (sets + group()) * row; }

  // Begins to copy a set; all lanes of a warp call this.
  __device__ __forceinline__ StagedSet stage(const ForwardArgs& args, int64_t set) const {
    const Place place = set < 0 ? Place{0, 0} : args.layout.place(set);
    const auto n = static_cast<int>(place.num_points);
    with_storage<T>(args.dtype, [&](auto zero) {
      copy(memory, static_cast<const decltype(zero)*>(args.x), args.layout.points, place.first, n);
    });
    if constexpr (weighted) {
      const int64_t first = set < 0 ? 0 : args.weight_layout.place(set).first;
      with_weight_storage(args.weight_dtype, [&](auto zero) {
        copy(memory + sets * row, static_cast<const decltype(zero)*>(args.weight),
             args.weight_layout.points, first, n);
      });
    }
    return {set, n};
  }

 private:
  static __device__ __forceinline__ int group() {
    return sets > 1 ? lane() / ThreadGroup::threads : 0;
  }

  template <class S>
  __device__ __forceinline__ void copy(T* to, const S* x, const Dims& dims, int64_t first,
                                       int n) const {
    if constexpr (ThreadGroup::threads == 1) {
      copy_rows(to, row, x, dims, first, n);
    } else {
      copy_set<ThreadGroup>(to + group() * row, x + first, dims, n);
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
    const ForwardArgs& args, const StagedSet& staged,
    const SetMemory<T, ThreadGroup, weighted>& memory, T* lists,
    const GroupWorkspace<T, weighted>* workspace = nullptr) {
  const int n = staged.points;
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
    solve_set<P, global, T, ThreadGroup>(
        args, staged.set, n, WeightedSharedMemoryPoints<T>{memory.points(), weights}, statistics,
        workspace);
  } else if constexpr (!global && keeps_lists<P, ThreadGroup, weighted>) {
    solve_set<P, global, T, ThreadGroup>(
        args, staged.set, n, ListingPoints<T>{{memory.points()}, lists}, statistics, workspace);
  } else {
    solve_set<P, global, T, ThreadGroup>(
        args, staged.set, n, SharedMemoryPoints<T>{memory.points()}, statistics, workspace);
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
