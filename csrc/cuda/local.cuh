// The forward kernels of descents; global.cuh has those of the global search. Which one solves a
// set depends on the size of the set alone, its weights, if it has any, included:
//
//   up to 8 KiB    a warp per set, eight sets to a block, the points in shared memory
//   up to 64 KiB   a block per set, the points in shared memory
//   above          a block per set, the points read anew in each pass
//
// Sizes are those of the arithmetic: points of 16 bits are widened when they are staged.
#pragma once

#include "core/penalties.h"
#include "core/solve.h"
#include "cuda/dispatch.cuh"
#include "cuda/point_set.cuh"
#include "cuda/tile_scheduler.cuh"

namespace ddn::cuda {

constexpr int64_t warp_bytes = 8 << 10;
constexpr int64_t block_bytes = 64 << 10;
constexpr int large_threads = 512;

struct LocalArgs {
  ForwardArgs forward;
  TileScheduler work;
};

// Loads of a thread that are in flight together: of whole batches, and of what remains (eight would
// spill registers in the truncated quadratic's kernels).
constexpr int loads = 16;
constexpr int remaining_loads = 4;
static_assert(loads % run == 0 && run % remaining_loads == 0);

// Copies n numbers to shared memory, each thread those that it reads back itself (see PointSet):
// there is no barrier. Calls visit(number) for each, and flush() after every `run` of them and at
// the end. Most sets lie in one stretch, and then no place has to be looked for.
template <class ThreadGroup, class T, class S, class Visit, class Flush>
__device__ __forceinline__ void stage_numbers(const S* x, const Dims& dims, int64_t points,
                                              T* staged, const Visit& visit, const Flush& flush) {
  const int n = static_cast<int>(points);
  const auto put = [&](int i, S number) {
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
        put(i + k * ThreadGroup::threads, batch[k]);
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
        if (at < n) put(at, batch[k]);
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
    // The divisions take longest: nothing is gained by several loads at a time.
#pragma unroll 1
    for (int i = ThreadGroup::rank(); i < n; i += ThreadGroup::threads) {
      put(i, x[dims.offset(i)]);
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
  const int lists = keeps_lists<P, weighted>
                        ? ThreadGroup::warps * Listing<T>::room(capacity, ThreadGroup::warps)
                        : 0;
  return (weighted ? 2 : 1) * capacity + lists;
}

// A set in shared memory. Weights, or lists, lie `capacity` points further.
template <bool weighted, class T, class ThreadGroup, bool lists = false>
__device__ __forceinline__ auto stage(const ForwardArgs& args, int64_t set, T* points,
                                      int64_t capacity, Weights& weights) {
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
    return Listing<T>{{{points}, accumulator.seen()}, points + capacity};
  } else {
    return Staged<T>{{points}, accumulator.seen()};
  }
}

// The points of a set where they are.
template <bool weighted, class T, class ThreadGroup>
__device__ __forceinline__ auto in_place(const ForwardArgs& args, int64_t set, Weights& weights) {
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
__device__ __forceinline__ void solve_set(const ForwardArgs& args, int64_t set, Points points,
                                          const Weights& weights,
                                          const Memory<T, Points::weighted>* memory = nullptr) {
  const int64_t n = args.layout.place(set).num_points;
  const PointSet<T, ThreadGroup, Points> point_set(points, n, weights, memory);
  solve_and_write<P, global>(args, set, point_set);
}

template <class P, class T, class ThreadGroup, bool weighted>
__global__ void __launch_bounds__(block_threads, 2)
    local_shared_memory(const __grid_constant__ LocalArgs args) {
  DDN_DYNAMIC_SHARED(T, shared);
  constexpr int thread_groups = block_threads / ThreadGroup::threads;
  const int thread_group = static_cast<int>(threadIdx.x) / ThreadGroup::threads;
  const int64_t capacity = args.work.capacity;
  T* const points = shared + thread_group * group_numbers<P, T, ThreadGroup, weighted>(capacity);
  const int64_t step = static_cast<int64_t>(gridDim.x) * thread_groups;
  const int64_t items = args.work.items(args.forward.layout);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * thread_groups + thread_group; i < items;
       i += step) {
    const int64_t set = args.work.set(args.forward.layout, i);
    Weights weights{};
    const auto staged = stage<weighted, T, ThreadGroup, keeps_lists<P, weighted>>(
        args.forward, set, points, capacity, weights);
    solve_set<P, /*global=*/false, T, ThreadGroup>(args.forward, set, staged, weights);
  }
}

template <class P, class T, bool weighted>
__global__ void __launch_bounds__(large_threads, 1)
    local_global_memory(const __grid_constant__ LocalArgs args) {
  using ThreadGroup = Block<large_threads>;
  const int64_t items = args.work.items(args.forward.layout);
  for (int64_t i = blockIdx.x; i < items; i += gridDim.x) {
    const int64_t set = args.work.set(args.forward.layout, i);
    Weights weights{};
    const auto points = in_place<weighted, T, ThreadGroup>(args.forward, set, weights);
    solve_set<P, /*global=*/false, T, ThreadGroup>(args.forward, set, points, weights);
  }
}

// Bytes of a point, its weight included.
template <class T, bool weighted>
constexpr int64_t point_bytes = static_cast<int64_t>(sizeof(T)) * (weighted ? 2 : 1);

// most_points: of a set.
template <class P, class T, class ThreadGroup, bool weighted, int64_t most_points>
cudaError_t launch_local_shared(const LocalArgs& args, cudaStream_t stream) {
  constexpr int thread_groups = block_threads / ThreadGroup::threads;
  using Kernel = void (*)(LocalArgs);
  const Kernel kernel = local_shared_memory<P, T, ThreadGroup, weighted>;
  constexpr auto bytes = [](int64_t points) {
    return thread_groups * group_numbers<P, T, ThreadGroup, weighted>(points) *
           static_cast<int64_t>(sizeof(T));
  };
  constexpr int64_t most_bytes = bytes(most_points);
  static_assert(most_bytes <= most_dynamic_bytes);
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(most_bytes));
  if (error != cudaSuccess) return error;
  DDN_LAUNCH(kernel, args.work.grid(args.forward.layout, thread_groups), block_threads,
             static_cast<size_t>(bytes(args.work.capacity)), stream, args);
  return cudaGetLastError();
}

template <class P, class T, bool weighted>
cudaError_t launch_warps(const LocalArgs& args, cudaStream_t stream) {
  constexpr int64_t most_points = warp_bytes / point_bytes<T, weighted>;
  return launch_local_shared<P, T, Warp, weighted, most_points>(args, stream);
}

template <class P, class T, bool weighted>
cudaError_t launch_blocks(const LocalArgs& args, cudaStream_t stream) {
  constexpr int64_t most_points = block_bytes / point_bytes<T, weighted>;
  return launch_local_shared<P, T, Block<block_threads>, weighted, most_points>(args, stream);
}

template <class P, class T, bool weighted>
cudaError_t launch_local_global(const LocalArgs& args, cudaStream_t stream) {
  DDN_LAUNCH((local_global_memory<P, T, weighted>), args.work.grid(args.forward.layout, 1),
             large_threads, 0, stream, args);
  return cudaGetLastError();
}

template <class P, class T, bool weighted>
cudaError_t launch_local(const ForwardArgs& args, cudaStream_t stream) {
  constexpr int64_t bytes = point_bytes<T, weighted>;
  const Sizes sizes{warp_bytes / bytes, block_bytes / bytes};
  using Launch = cudaError_t (*)(const LocalArgs&, cudaStream_t);
  constexpr Launch launches[] = {launch_warps<P, T, weighted>, launch_blocks<P, T, weighted>,
                                 launch_local_global<P, T, weighted>};
  return launch_by_size(args, sizes, stream, [&](int size, const TileScheduler& work) {
    return launches[size]({args, work}, stream);
  });
}

template <class T, bool weighted>
cudaError_t local_of_type(const ForwardArgs& args, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  with_penalty(args.penalty, [&](auto penalty) {
    error = launch_local<decltype(penalty), T, weighted>(args, stream);
  });
  return error;
}

}  // namespace ddn::cuda
