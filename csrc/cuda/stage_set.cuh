// How a kernel gets at the points of a set: staged in shared memory, or in global memory.
#pragma once

#include "core/solve.h"
#include "cuda/group_set.cuh"
#include "cuda/launch_limits.cuh"

namespace ddn::cuda {

// Bytes of a point, its weight included.
template <class T, bool weighted>
constexpr int64_t point_bytes = static_cast<int64_t>(sizeof(T)) * (weighted ? 2 : 1);

// Loads of a thread in flight together, in whole batches and in the remainder, where eight would
// spill registers in the kernels of the truncated quadratic.
constexpr int loads = 16;
constexpr int remaining_loads = 4;
static_assert(loads % run == 0 && run % remaining_loads == 0);

// Copies numbers to shared memory. Each thread copies those that it reads back itself (see
// GroupPoints), so that there is no barrier. Calls visit(number) for each, and flush() after every
// `run` of them and at the end.
template <class ThreadGroup, class T, class S, class Visit, class Flush>
__device__ __forceinline__ void stage_numbers(const S* x, const Dims& dims, int64_t points,
                                              T* staged, const Visit& visit, const Flush& flush) {
  const int n = static_cast<int>(points);
  const auto stage = [&](int i, S number) {
    const T real = static_cast<T>(to_real(number));
    staged[i] = real;
    visit(real);
  };
  // All threads leave the loops together, so that no warp diverges.
  const auto copy = [&](auto place) {
    int first = 0;
    for (; first + loads * ThreadGroup::threads <= n; first += loads * ThreadGroup::threads) {
      const int i = first + ThreadGroup::rank();
      S batch[loads];
#pragma unroll
      for (int k = 0; k < loads; ++k) batch[k] = x[place(i + k * ThreadGroup::threads)];
#pragma unroll
      for (int k = 0; k < loads; ++k) {
        stage(i + k * ThreadGroup::threads, batch[k]);
        if ((k + 1) % run == 0) flush();
      }
    }
    int unflushed = 0;
#pragma unroll 1
    for (; first < n; first += remaining_loads * ThreadGroup::threads) {
      const int i = first + ThreadGroup::rank();
      S batch[remaining_loads];
#pragma unroll
      for (int k = 0; k < remaining_loads; ++k) {
        const int at = i + k * ThreadGroup::threads;
        batch[k] = at < n ? x[place(at)] : S{};
      }
#pragma unroll
      for (int k = 0; k < remaining_loads; ++k) {
        const int at = i + k * ThreadGroup::threads;
        if (at < n) stage(at, batch[k]);
      }
      unflushed += remaining_loads;
      if (unflushed % run == 0) flush();
    }
    flush();
  };
  if (dims.rank <= 1) {
    const int64_t stride = dims.rank == 0 ? 1 : dims.stride[0];
    if (stride == 1) {
      copy([](int i) { return i; });
    } else {
      copy([=](int i) { return i * stride; });
    }
  } else {
    // The divisions take longest: more loads in flight would gain nothing.
#pragma unroll 1
    for (int i = ThreadGroup::rank(); i < n; i += ThreadGroup::threads) {
      stage(i, x[dims.offset(i)]);
      if (i / ThreadGroup::threads % run == run - 1) flush();
    }
    flush();
  }
}

// Whether a kernel keeps lists of points near their breakpoints.
template <class P, bool weighted>
constexpr bool keeps_lists = P::has_breakpoints && !weighted;

// Numbers that a thread group keeps in shared memory: points and their weights, or lists.
template <class P, class T, class ThreadGroup, bool weighted>
constexpr DDN_HOST_DEVICE int64_t group_numbers(int64_t capacity) {
  const int lists =
      keeps_lists<P, weighted>
          ? ThreadGroup::warps * ListingPoints<T>::list_capacity(capacity, ThreadGroup::warps)
          : 0;
  return (weighted ? 2 : 1) * capacity + lists;
}

// The points of a set, in shared memory from `points` on. Weights, or lists, lie `capacity` points
// further.
template <bool weighted, class T, class ThreadGroup, bool lists = false>
__device__ __forceinline__ auto stage_set(const ForwardArgs& args, int64_t set, T* points,
                                          int64_t capacity, WeightStatistics& weights) {
  const Place place = args.layout.place(set);
  StatisticsAccumulator<T, /*weighted=*/false> accumulator;
  with_storage<T>(args.dtype, [&](auto zero) {
    const auto* const x = static_cast<const decltype(zero)*>(args.x) + place.first;
    const auto visit = [&](T point) {
      if constexpr (!weighted) accumulator.add(point, One{});
    };
    stage_numbers<ThreadGroup>(x, args.layout.points, place.num_points, points, visit,
                               [&] { accumulator.flush(); });
  });
  if constexpr (weighted) {
    T* const staged = points + capacity;
    with_weight_storage(args.weight_dtype, [&](auto zero) {
      const auto* const given =
          static_cast<const decltype(zero)*>(args.weight) + args.weight_layout.place(set).first;
      stage_numbers<ThreadGroup>(
          given, args.weight_layout.points, place.num_points, staged, [](T) {}, [] {});
    });
    weights = weight_statistics<ThreadGroup, T>([&](const auto& body) {
      for (int64_t i = ThreadGroup::rank(); i < place.num_points; i += ThreadGroup::threads)
        body(staged[i]);
    });
    const double inverse = 1 / weights.unit;
    for (int64_t i = ThreadGroup::rank(); i < place.num_points; i += ThreadGroup::threads) {
      staged[i] = static_cast<T>(static_cast<double>(staged[i]) * inverse);
    }
    return WeightedSharedMemoryPoints<T>{points, staged};
  } else if constexpr (lists) {
    return ListingPoints<T>{{{points}, accumulator.statistics()}, points + capacity};
  } else {
    return StagedPoints<T>{{points}, accumulator.statistics()};
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

template <class P, bool global, class T, class ThreadGroup, class Points>
__device__ __forceinline__ void solve_set(
    const ForwardArgs& args, int64_t set, Points points, const WeightStatistics& weights,
    const GroupWorkspace<T, Points::weighted>* workspace = nullptr) {
  const int64_t n = args.layout.place(set).num_points;
  const GroupSet<T, ThreadGroup, Points> group_set(points, n, weights, workspace);
  solve_and_write<P, global>(args, set, group_set);
}

}  // namespace ddn::cuda
