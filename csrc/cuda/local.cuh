// The forward kernels of the local solver; global.cuh has those of the global search. The size of a
// set, its weights included, alone decides which of them solves it:
//
//   points                    threads of a set
//   up to 64, 256, 1024 and   1, 4, 16 and 32 lanes of a warp, the points in shared memory (float64
//   2048                      with weights: half as many points)
//   up to 64 KiB, 8192        128, the points in shared memory
//   up to 128 KiB, 32768      512, the same, on a device that has so much shared memory
//   more                      512, the points in global memory, read in each pass
//
// Sizes are those in the arithmetic: points of 16 bits are widened when they are staged.
#pragma once

#include "core/penalties.h"
#include "cuda/stage_set.cuh"
#include "cuda/tile_scheduler.cuh"

namespace ddn::cuda {

// Of a set, for each of the lanes that solve it.
constexpr int64_t lane_bytes = 512;
// Of a set in the shared memory of a block. Each thread has at most max_thread_points of it.
constexpr int small_threads = 128;
constexpr int64_t small_bytes = 64 << 10, large_bytes = 128 << 10;
constexpr int large_threads = 512;

struct LocalArgs {
  ForwardArgs forward;
  TileScheduler scheduler;
};

// Each warp has memory for several tiles. A tile is what the warp solves at a time: a set for each
// group of lanes. While the warp solves one, the next ones arrive. The grid fills the device once,
// and each warp takes tiles with the stride of the grid.
constexpr int pipeline_warps = 6;   // of a block, at most
constexpr int pipeline_blocks = 2;  // of a multiprocessor

// Tiles in the memory of a warp: more where they are small, so that enough bytes are on their way.
constexpr int few_tiles = 2, many_tiles = 4;
template <class ThreadGroup>
constexpr DDN_HOST_DEVICE int tiles_of(int64_t capacity) {
  return capacity <= max_thread_points / 2 * ThreadGroup::threads ? many_tiles : few_tiles;
}

// Numbers that a warp keeps in shared memory: tiles and lists.
template <class P, class T, class ThreadGroup, bool weighted>
constexpr DDN_HOST_DEVICE int64_t pipeline_numbers(int64_t capacity) {
  using Memory = SetMemory<T, ThreadGroup, weighted>;
  return tiles_of<ThreadGroup>(capacity) * Memory::numbers(capacity) +
         Memory::sets * list_numbers<P, T, ThreadGroup, weighted>(capacity);
}

template <class P, class T, class ThreadGroup, bool weighted>
__global__ void __launch_bounds__(pipeline_warps * warp_size, pipeline_blocks)
    local_pipeline(const __grid_constant__ LocalArgs args) {
  using Memory = SetMemory<T, ThreadGroup, weighted>;
  DDN_DYNAMIC_SHARED(T, shared);
  const ForwardArgs& forward = args.forward;
  const TileScheduler& scheduler = args.scheduler;
  const auto warps = static_cast<int>(blockDim.x) / warp_size;
  const auto warp = static_cast<int>(threadIdx.x) / warp_size;
  const int numbers = Memory::numbers(scheduler.capacity);
  T* const memory = shared + warp * pipeline_numbers<P, T, ThreadGroup, weighted>(scheduler.capacity);
  const int tiles = tiles_of<ThreadGroup>(scheduler.capacity);
  T* const lists = memory + tiles * numbers +
                   lane() / ThreadGroup::threads *
                       list_numbers<P, T, ThreadGroup, weighted>(scheduler.capacity);
  const int row = Memory::row_of(scheduler.capacity);
  const auto tile_memory = [&](int buffer) { return Memory{memory + buffer * numbers, row}; };

  const int64_t items = scheduler.items(forward.layout);
  const int64_t step = static_cast<int64_t>(gridDim.x) * warps * Memory::sets;
  const auto set_of = [&](int64_t first) {
    const int64_t item = first + lane() / ThreadGroup::threads;
    return item < items ? scheduler.set(forward.layout, item) : -1;
  };
  int64_t first = (static_cast<int64_t>(blockIdx.x) * warps + warp) * Memory::sets;
  int64_t next = first;  // the tile to copy
  int to = 0;            // its memory
  const auto copy_next = [&] {
    if (next < items) tile_memory(to).copy(forward, set_of(next));
    commit_async_copies();
    next += step;
    to = to + 1 == tiles ? 0 : to + 1;
  };
  for (int k = 1; k < tiles; ++k) copy_next();
  for (int from = 0; first < items; first += step, from = from + 1 == tiles ? 0 : from + 1) {
    copy_next();
    if (tiles == many_tiles) {
      wait_for_async_copies<many_tiles - 1>();
    } else {
      wait_for_async_copies<few_tiles - 1>();
    }
    __syncwarp();
    if (const int64_t set = set_of(first); set >= 0) {
      solve_staged<P, /*global=*/false>(forward, set, tile_memory(from), lists);
    }
    __syncwarp();  // before the next copies overwrite what a lane still reads
  }
}

template <class P, class T, int threads, bool weighted>
__global__ void __launch_bounds__(threads, 512 / threads)
    local_shared_memory(const __grid_constant__ LocalArgs args) {
  using ThreadGroup = Block<threads>;
  using Memory = SetMemory<T, ThreadGroup, weighted>;
  DDN_DYNAMIC_SHARED(T, shared);
  const int64_t capacity = args.scheduler.capacity;
  const Memory memory{shared, Memory::row_of(capacity)};
  T* const lists = shared + Memory::numbers(capacity);
  const int64_t items = args.scheduler.items(args.forward.layout);
  for (int64_t i = blockIdx.x; i < items; i += gridDim.x) {
    const int64_t set = args.scheduler.set(args.forward.layout, i);
    memory.copy(args.forward, set);
    commit_async_copies();
    wait_for_async_copies<0>();
    __syncthreads();
    solve_staged<P, /*global=*/false>(args.forward, set, memory, lists);
    __syncthreads();  // before the next copies overwrite what a thread still reads
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
    const int64_t n = args.forward.layout.place(set).num_points;
    const auto points = locate_set<weighted, T, ThreadGroup>(args.forward, set, weights);
    solve_set<P, /*global=*/false, T, ThreadGroup>(args.forward, set, n, points, weights);
  }
}

template <class P, class T, class ThreadGroup, bool weighted>
cudaError_t launch_pipeline(const LocalArgs& args, const DeviceLimits& device,
                            cudaStream_t stream) {
  using Kernel = void (*)(LocalArgs);
  const Kernel kernel = local_pipeline<P, T, ThreadGroup, weighted>;
  const int64_t bytes =
      pipeline_numbers<P, T, ThreadGroup, weighted>(args.scheduler.capacity) * sizeof(T);
  const int warps = static_cast<int>(
      std::clamp<int64_t>(device.block_shared_bytes(pipeline_blocks) / bytes, 1, pipeline_warps));
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(warps * bytes));
  if (error != cudaSuccess) return error;
  const int64_t tiles = args.forward.layout.num_sets / SetMemory<T, ThreadGroup, weighted>::sets + 1;
  const unsigned blocks = std::min(grid_for(tiles, warps), device.blocks(pipeline_blocks));
  DDN_LAUNCH(kernel, blocks, warps * warp_size, static_cast<size_t>(warps * bytes), stream, args);
  return cudaGetLastError();
}

// Bytes of shared memory of a block that solves a set.
template <class P, class T, int threads, bool weighted>
constexpr int64_t set_bytes(int64_t points) {
  using ThreadGroup = Block<threads>;
  return static_cast<int64_t>(sizeof(T)) * (SetMemory<T, ThreadGroup, weighted>::numbers(points) +
                                            list_numbers<P, T, ThreadGroup, weighted>(points));
}

template <class P, class T, int threads, bool weighted>
cudaError_t launch_blocks(const LocalArgs& args, const DeviceLimits& device, cudaStream_t stream) {
  using Kernel = void (*)(LocalArgs);
  const Kernel kernel = local_shared_memory<P, T, threads, weighted>;
  const int64_t bytes = set_bytes<P, T, threads, weighted>(args.scheduler.capacity);
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error != cudaSuccess) return error;
  DDN_LAUNCH(kernel, args.scheduler.grid(args.forward.layout, device), threads,
             static_cast<size_t>(bytes), stream, args);
  return cudaGetLastError();
}

template <class P, class T, bool weighted>
cudaError_t launch_local_global(const LocalArgs& args, const DeviceLimits& device,
                                cudaStream_t stream) {
  DDN_LAUNCH((local_global_memory<P, T, weighted>), args.scheduler.grid(args.forward.layout, device),
             large_threads, 0, stream, args);
  return cudaGetLastError();
}

template <class P, class T, bool weighted>
cudaError_t launch_local(const ForwardArgs& args, cudaStream_t stream) {
  DeviceLimits device;
  const cudaError_t error = device.read();
  if (error != cudaSuccess) return error;
  constexpr int64_t bytes = point_bytes<T, weighted>;
  constexpr int64_t lane_points = std::min<int64_t>(max_thread_points, lane_bytes / bytes);
  constexpr int64_t small_points =
      std::min<int64_t>(small_threads * max_thread_points, small_bytes / bytes);
  constexpr int64_t large_points =
      std::min<int64_t>(large_threads * max_thread_points, large_bytes / bytes);
  static_assert(set_bytes<P, T, small_threads, weighted>(small_points) <= max_dynamic_bytes);
  const bool large_fits = set_bytes<P, T, large_threads, weighted>(large_points) <=
                          device.block_shared_bytes(1) - static_shared_bytes;
  const Sizes sizes({lane_points / 2, lane_points, 4 * lane_points, 16 * lane_points,
                     32 * lane_points, small_points, large_fits ? large_points : small_points});
  using Launch = cudaError_t (*)(const LocalArgs&, const DeviceLimits&, cudaStream_t);
  constexpr Launch launches[] = {
      launch_pipeline<P, T, Lanes<1>, weighted>,
      launch_pipeline<P, T, Lanes<1>, weighted>,
      launch_pipeline<P, T, Lanes<4>, weighted>,
      launch_pipeline<P, T, Lanes<16>, weighted>,
      launch_pipeline<P, T, Lanes<32>, weighted>,
      launch_blocks<P, T, small_threads, weighted>,
      launch_blocks<P, T, large_threads, weighted>,
      launch_local_global<P, T, weighted>};
  return launch_by_size(args, sizes, stream, [&](int size, const TileScheduler& scheduler) {
    return launches[size]({args, scheduler}, device, stream);
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
