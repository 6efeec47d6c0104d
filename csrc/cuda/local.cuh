// The forward kernels of the local solver; global.cuh has those of the global search. The size of a
// set, its weights included, alone decides which of them solves it:
//
//   points                    threads of a set
//   up to 64, 256, 1024 and   1, 4, 16 and 32 lanes of a warp, the points in shared memory (float64
//   2048                      with weights: half as many points)
//   up to 64 KiB, 8192        128, the points in shared memory
//   up to 128 KiB, 32768      512, the same, as far as the device has shared memory
//   more                      512, the points in global memory, read in each pass
//
// Sizes are those in the arithmetic: points of 16 bits are widened when they are staged.
#pragma once

#include <type_traits>

#include "core/penalties.h"
#include "cuda/stage_set.cuh"
#include "cuda/tile_scheduler.cuh"

namespace ddn::cuda {

// Of a set, for each of the lanes that solve it.
constexpr int64_t lane_bytes = 512;
// Of a set in the shared memory of a block. Each thread has at most max_thread_points of it.
constexpr int small_threads = 128, large_threads = 512;
constexpr int64_t small_bytes = 64 << 10, large_bytes = 128 << 10;

// Of the ring in which the pipeline below keeps the next sets.
constexpr int few_stages = 2, many_stages = 4;

struct LocalArgs {
  ForwardArgs forward;
  TileScheduler scheduler;
  int stages;    // of a worker
  bool columns;  // the sets of a block are copied together, see launch_pipeline
};

// A worker is a warp, or a block whose threads solve one set together. Each has a ring of stages in
// shared memory. A stage holds a tile: one set, or a set for each group of lanes. While a worker
// solves the sets of one tile, the next tiles arrive. The grid fills the device once, and each
// worker takes tiles with the stride of the grid.
template <class ThreadGroup>
constexpr bool is_block = ThreadGroup::threads > warp_size;
template <class ThreadGroup>
using Worker = std::conditional_t<is_block<ThreadGroup>, ThreadGroup, Warp>;

// Threads of a block, at most, and blocks of a multiprocessor.
template <class ThreadGroup>
constexpr int pipeline_threads = is_block<ThreadGroup> ? ThreadGroup::threads : 6 * warp_size;
template <class ThreadGroup>
constexpr int pipeline_blocks = !is_block<ThreadGroup>                  ? 2
                                : ThreadGroup::threads == small_threads ? 3
                                                                        : 1;
// The threads of a block that copies its sets together.
constexpr int column_threads = 8 * warp_size;

// Numbers that a worker keeps in shared memory: its stages and lists.
template <class P, class T, class ThreadGroup, bool weighted>
constexpr DDN_HOST_DEVICE int64_t worker_numbers(int64_t capacity, int stages) {
  using Memory = SetMemory<T, ThreadGroup, weighted>;
  const int64_t numbers = stages * Memory::numbers(capacity) +
                          Memory::sets * list_numbers<P, T, ThreadGroup, weighted>(capacity);
  return (numbers + 31) / 32 * 32 + 4;  // the memory of neighbouring workers begins in other banks
}

template <class P, class T, class ThreadGroup, bool weighted>
__global__ void __launch_bounds__(is_block<ThreadGroup> ? ThreadGroup::threads : 12 * warp_size,
                                  is_block<ThreadGroup> ? pipeline_blocks<ThreadGroup> : 1)
    local_pipeline(const __grid_constant__ LocalArgs args) {
  using Memory = SetMemory<T, ThreadGroup, weighted>;
  DDN_DYNAMIC_SHARED(T, shared);
  const ForwardArgs& forward = args.forward;
  const TileScheduler& scheduler = args.scheduler;
  const int64_t capacity = scheduler.capacity;
  const int stages = args.stages;
  constexpr bool has_groups = !is_block<ThreadGroup> && ThreadGroup::threads > 1;
  constexpr int worker_threads = Worker<ThreadGroup>::threads;
  const int workers = is_block<ThreadGroup> ? 1 : static_cast<int>(blockDim.x) / worker_threads;
  const int worker = is_block<ThreadGroup> ? 0 : static_cast<int>(threadIdx.x) / worker_threads;
  const int group = is_block<ThreadGroup> ? 0 : lane() / ThreadGroup::threads;
  T* const memory = shared + worker * worker_numbers<P, T, ThreadGroup, weighted>(capacity, stages);
  const int numbers = Memory::numbers(capacity), row = Memory::row_of(capacity);
  T* const lists =
      memory + stages * numbers + group * list_numbers<P, T, ThreadGroup, weighted>(capacity);
  const auto stage_memory = [&](int stage) { return Memory{memory + stage * numbers, row}; };

  const int64_t items = scheduler.items(forward.layout);
  const int64_t step = static_cast<int64_t>(gridDim.x) * workers * Memory::sets;
  const auto set_of = [&](int64_t first) {
    return first + group < items ? scheduler.set(forward.layout, first + group) : -1;
  };
  int64_t next = (static_cast<int64_t>(blockIdx.x) * workers + worker) * Memory::sets;
  int64_t first = next;
  const auto after = [&](int stage) { return stage + 1 == stages ? 0 : stage + 1; };
  const auto sync = [&] { args.columns ? __syncthreads() : Worker<ThreadGroup>::sync(); };
  for (int to = 0, from = 0, ahead = 0; first < items; to = after(to)) {
    if (next < items) {
      if constexpr (has_groups) {
        if (args.columns) {
          // Neighbouring threads copy points of neighbouring sets.
          constexpr int columns = column_threads / ThreadGroup::threads;
          const int column = static_cast<int>(threadIdx.x) % columns;
          const int owner = column / Memory::sets;
          T* const theirs =
              shared + owner * worker_numbers<P, T, ThreadGroup, weighted>(capacity, stages);
          const Memory stage{theirs + to * numbers, row};
          stage.copy_column(forward, next - worker * Memory::sets + column, column % Memory::sets,
                            static_cast<int>(threadIdx.x) / columns);
        }
      }
      if (!has_groups || !args.columns) stage_memory(to).copy(forward, set_of(next));
    }
    commit_async_copies();
    next += step;
    if (++ahead < stages) continue;  // fills the memory first
    if (stages == 1) {
      wait_for_async_copies<0>();
    } else if (stages == few_stages) {
      wait_for_async_copies<few_stages - 1>();
    } else {
      wait_for_async_copies<many_stages - 1>();
    }
    sync();
    if (const int64_t set = set_of(first); set >= 0) {
      solve_staged<P, /*global=*/false>(forward, set, stage_memory(from), lists);
    }
    sync();  // before the next copies overwrite what a thread still reads
    first += step;
    from = after(from);
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

// Whether each `columns` sets from a multiple of `columns` on lie side by side.
inline bool has_columns(const SetLayout& layout, int columns) {
  const Dims& sets = layout.sets;
  return layout.points.rank == 1 && layout.points.stride[0] != 1 && sets.rank > 0 &&
         sets.stride[sets.rank - 1] == 1 && sets.size[sets.rank - 1] % columns == 0;
}

template <class P, class T, class ThreadGroup, bool weighted>
cudaError_t launch_pipeline(LocalArgs args, const DeviceLimits& device, cudaStream_t stream) {
  constexpr int max_workers = pipeline_threads<ThreadGroup> / Worker<ThreadGroup>::threads;
  const int64_t capacity = args.scheduler.capacity;
  const auto worker_bytes = [&](int stages) {
    return worker_numbers<P, T, ThreadGroup, weighted>(capacity, stages) *
           static_cast<int64_t>(sizeof(T));
  };
  // Small sets need more stages for the same number of bytes on their way.
  args.stages = capacity <= max_thread_points / 2 * ThreadGroup::threads ? many_stages : few_stages;
  if (is_block<ThreadGroup>) {
    constexpr int at_least = std::min(2, pipeline_blocks<ThreadGroup>);
    args.stages = worker_bytes(few_stages) <= device.block_shared_bytes(at_least) ? few_stages : 1;
  }
  int blocks_each = pipeline_blocks<ThreadGroup>;
  auto workers = static_cast<int>(std::clamp<int64_t>(
      device.block_shared_bytes(blocks_each) / worker_bytes(args.stages), 1, max_workers));
  // Where neighbouring sets lie side by side in memory, as the channels of a tensor with channels
  // last do, the threads of a warp would read from as many sectors of memory as points. The warps
  // of a block therefore copy their sets together.
  constexpr int columns = column_threads / ThreadGroup::threads, warps = column_threads / warp_size;
  args.columns = !is_block<ThreadGroup> && ThreadGroup::threads > 1 &&
                 args.scheduler.segments == nullptr && has_columns(args.forward.layout, columns) &&
                 (!weighted || has_columns(args.forward.weight_layout, columns)) &&
                 warps * worker_bytes(args.stages) <= device.block_shared_bytes(1);
  if (args.columns) {
    blocks_each = 1;
    workers = warps;
  }
  const int64_t bytes = workers * worker_bytes(args.stages);
  using Kernel = void (*)(LocalArgs);
  const Kernel kernel = local_pipeline<P, T, ThreadGroup, weighted>;
  const cudaError_t error = allow_shared_memory(kernel, device);
  if (error != cudaSuccess) return error;
  const unsigned blocks = std::min(
      grid_for(args.forward.layout.num_sets, workers * SetMemory<T, ThreadGroup, weighted>::sets),
      device.blocks(blocks_each));
  DDN_LAUNCH(kernel, blocks, static_cast<unsigned>(workers * Worker<ThreadGroup>::threads),
             static_cast<size_t>(bytes), stream, args);
  return cudaGetLastError();
}

template <class P, class T, bool weighted>
cudaError_t launch_local_global(LocalArgs args, const DeviceLimits& device, cudaStream_t stream) {
  DDN_LAUNCH((local_global_memory<P, T, weighted>),
             args.scheduler.grid(args.forward.layout, device), large_threads, 0, stream, args);
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
  // Fewer kernels for double precision.
  constexpr bool is_double = sizeof(T) == sizeof(double);
  using Few = std::conditional_t<is_double, Warp, Lanes<4>>;
  using Some = std::conditional_t<is_double, Warp, Lanes<16>>;
  using Small = Block<small_threads>;
  using Large = Block<large_threads>;
  const auto fits = [](auto group, int64_t points, int64_t available) {
    return worker_numbers<P, T, decltype(group), weighted>(points, 1) *
               static_cast<int64_t>(sizeof(T)) <=
           available;
  };
  static_assert(fits(Small{}, small_points, max_dynamic_bytes));
  // As many as the device has shared memory for; those of compute capability 8.6 have too little.
  int64_t large_points = std::min<int64_t>(large_threads * max_thread_points, large_bytes / bytes);
  while (large_points > small_points && !fits(Large{}, large_points, device.block_shared_bytes(1)))
    large_points -= 1024;
  const Sizes sizes({lane_points / 2, lane_points, 4 * lane_points, 16 * lane_points,
                     32 * lane_points, small_points, std::max(large_points, small_points)});
  using Launch = cudaError_t (*)(LocalArgs, const DeviceLimits&, cudaStream_t);
  constexpr Launch launches[] = {
      launch_pipeline<P, T, Lanes<1>, weighted>,  launch_pipeline<P, T, Lanes<1>, weighted>,
      launch_pipeline<P, T, Few, weighted>,       launch_pipeline<P, T, Some, weighted>,
      launch_pipeline<P, T, Lanes<32>, weighted>, launch_pipeline<P, T, Small, weighted>,
      launch_pipeline<P, T, Large, weighted>,     launch_local_global<P, T, weighted>};
  return launch_by_size(args, sizes, stream, [&](int size, const TileScheduler& scheduler) {
    return launches[size]({args, scheduler, 0, false}, device, stream);
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
