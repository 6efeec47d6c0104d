// The forward kernels of the local solver; global.cuh has those of the global search. The size of a
// set, its weights included, alone decides which of them solves it:
//
//   up to 8 KiB    a warp per set, eight sets to a block, the points in shared memory
//   up to 64 KiB   a block per set, the points in shared memory
//   above          a block per set, the points in global memory, read in each pass
//
// Sizes are those in the arithmetic: points of 16 bits are widened when they are staged.
#pragma once

#include "core/penalties.h"
#include "cuda/stage_set.cuh"
#include "cuda/tile_scheduler.cuh"

namespace ddn::cuda {

constexpr int64_t warp_bytes = 8 << 10;
constexpr int64_t block_bytes = 64 << 10;
constexpr int large_threads = 512;

struct LocalArgs {
  ForwardArgs forward;
  TileScheduler scheduler;
};

template <class P, class T, class ThreadGroup, bool weighted>
__global__ void __launch_bounds__(block_threads, 2)
    local_shared_memory(const __grid_constant__ LocalArgs args) {
  DDN_DYNAMIC_SHARED(T, shared);
  constexpr int thread_groups = block_threads / ThreadGroup::threads;
  const int thread_group = static_cast<int>(threadIdx.x) / ThreadGroup::threads;
  const int64_t capacity = args.scheduler.capacity;
  T* const points = shared + thread_group * group_numbers<P, T, ThreadGroup, weighted>(capacity);
  const int64_t step = static_cast<int64_t>(gridDim.x) * thread_groups;
  const int64_t items = args.scheduler.items(args.forward.layout);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * thread_groups + thread_group; i < items;
       i += step) {
    const int64_t set = args.scheduler.set(args.forward.layout, i);
    WeightStatistics weights{};
    const auto staged = stage_set<weighted, T, ThreadGroup, keeps_lists<P, weighted>>(
        args.forward, set, points, capacity, weights);
    solve_set<P, /*global=*/false, T, ThreadGroup>(args.forward, set, staged, weights);
  }
}

template <class P, class T, bool weighted>
__global__ void __launch_bounds__(large_threads, 1)
    local_global_memory(const __grid_constant__ LocalArgs args) {
  using ThreadGroup = Block<large_threads>;
  const int64_t items = args.scheduler.items(args.forward.layout);
  for (int64_t i = blockIdx.x; i < items; i += gridDim.x) {
    const int64_t set = args.scheduler.set(args.forward.layout, i);
    WeightStatistics weights{};
    const auto points = locate_set<weighted, T, ThreadGroup>(args.forward, set, weights);
    solve_set<P, /*global=*/false, T, ThreadGroup>(args.forward, set, points, weights);
  }
}

// max_points: of a set.
template <class P, class T, class ThreadGroup, bool weighted, int64_t max_points>
cudaError_t launch_local_shared(const LocalArgs& args, cudaStream_t stream) {
  constexpr int thread_groups = block_threads / ThreadGroup::threads;
  using Kernel = void (*)(LocalArgs);
  const Kernel kernel = local_shared_memory<P, T, ThreadGroup, weighted>;
  constexpr auto bytes = [](int64_t points) {
    return thread_groups * group_numbers<P, T, ThreadGroup, weighted>(points) *
           static_cast<int64_t>(sizeof(T));
  };
  constexpr int64_t max_bytes = bytes(max_points);
  static_assert(max_bytes <= max_dynamic_bytes);
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(max_bytes));
  if (error != cudaSuccess) return error;
  DDN_LAUNCH(kernel, args.scheduler.grid(args.forward.layout, thread_groups), block_threads,
             static_cast<size_t>(bytes(args.scheduler.capacity)), stream, args);
  return cudaGetLastError();
}

template <class P, class T, bool weighted>
cudaError_t launch_warps(const LocalArgs& args, cudaStream_t stream) {
  constexpr int64_t max_points = warp_bytes / point_bytes<T, weighted>;
  return launch_local_shared<P, T, Warp, weighted, max_points>(args, stream);
}

template <class P, class T, bool weighted>
cudaError_t launch_blocks(const LocalArgs& args, cudaStream_t stream) {
  constexpr int64_t max_points = block_bytes / point_bytes<T, weighted>;
  return launch_local_shared<P, T, Block<block_threads>, weighted, max_points>(args, stream);
}

template <class P, class T, bool weighted>
cudaError_t launch_local_global(const LocalArgs& args, cudaStream_t stream) {
  DDN_LAUNCH((local_global_memory<P, T, weighted>), args.scheduler.grid(args.forward.layout, 1),
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
  return launch_by_size(args, sizes, stream, [&](int size, const TileScheduler& scheduler) {
    return launches[size]({args, scheduler}, stream);
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
