// The forward kernels of the global search: a block per set. The size of a set, its weights
// included, alone decides which of them solves it:
//
//   up to 8 KiB    128 threads, points and list in shared memory
//   up to 32 KiB   256 threads, the same
//   above          256 threads, points and list in global memory
#pragma once

#include "core/penalties.h"
#include "cuda/stage_set.cuh"
#include "cuda/tile_scheduler.cuh"

namespace ddn::cuda {

constexpr int64_t global_small_bytes = 8 << 10;
constexpr int64_t global_shared_bytes = 32 << 10;
constexpr int global_small_threads = 128;
constexpr int global_threads = 256;
// Blocks that solve large sets at a time, each with its own list.
constexpr int64_t max_lists = 128;
// Channels of a large segment that are solved at a time, each with its own list.
constexpr int64_t max_channel_lists = 32;

struct GlobalArgs {
  ForwardArgs forward;
  TileScheduler scheduler;
  KernelTable table;
  unsigned char* lists;  // in global memory, of sets that do not fit into shared memory
};

inline int64_t channel_lists(const SetLayout& layout) {
  return std::min(layout.channels, max_channel_lists);
}

// Blocks on a multiprocessor: as many as registers allow without a spill.
template <class P, class T, int threads, bool weighted>
constexpr int min_blocks = sizeof(T) == 4 && !weighted ? (is_gaussian<P> ? 256 : 512) / threads : 1;

template <class P, class T, int threads, bool weighted>
__global__ void __launch_bounds__(threads, (min_blocks<P, T, threads, weighted>))
    global_shared_memory(const __grid_constant__ GlobalArgs args) {
  using ThreadGroup = Block<threads>;
  using Workspace = GroupWorkspace<T, weighted>;
  DDN_DYNAMIC_SHARED(unsigned char, shared);
  const ForwardArgs& forward = args.forward;
  const int64_t capacity = args.scheduler.capacity;
  using Memory = SetMemory<T, ThreadGroup, weighted>;
  const Memory memory{reinterpret_cast<T*>(shared + Workspace::fixed_bytes),
                      Memory::row_of(capacity)};
  const Workspace workspace(memory.memory + Memory::numbers(capacity), capacity, args.table);
  const int64_t items = args.scheduler.items(forward.layout);
  for (int64_t i = blockIdx.x; i < items; i += gridDim.x) {
    const int64_t set = args.scheduler.set(forward.layout, i);
    memory.copy(forward, set);
    commit_async_copies();
    wait_for_async_copies<0>();
    __syncthreads();
    solve_staged<P, /*global=*/true>(forward, set, memory, static_cast<T*>(nullptr), &workspace);
    __syncthreads();  // before the next copies overwrite what a thread still reads
  }
}

template <class P, class T, bool weighted>
__global__ void __launch_bounds__(global_threads, 1)
    global_global_memory(const __grid_constant__ GlobalArgs args) {
  using ThreadGroup = Block<global_threads>;
  using Workspace = GroupWorkspace<T, weighted>;
  const ForwardArgs& forward = args.forward;
  const SetLayout& layout = forward.layout;
  T* const lists = reinterpret_cast<T*>(args.lists);
  constexpr int numbers = weighted ? 2 : 1;
  const auto solve = [&](int64_t set, T* list) {
    const int64_t n = layout.place(set).num_points;
    const Workspace workspace(list, n, args.table);
    WeightStatistics weights{};
    const auto points = locate_set<weighted, T, ThreadGroup>(forward, set, weights);
    solve_set<P, /*global=*/true, T, ThreadGroup>(forward, set, n, points, weights, &workspace);
  };
  if (layout.ptr == nullptr) {
    T* const list = lists + blockIdx.x * numbers * layout.num_points;
    for (int64_t set = blockIdx.x; set < layout.num_sets; set += gridDim.x) solve(set, list);
    return;
  }
  // A list has as many points as all segments together; each segment has its place there. A block
  // takes the channels of a segment with stride `copies`.
  const int64_t copies = layout.channels < max_channel_lists ? layout.channels : max_channel_lists;
  const int64_t items = *args.scheduler.count * copies;
  for (int64_t i = blockIdx.x; i < items; i += gridDim.x) {
    const int64_t segment = args.scheduler.segments[i / copies], copy = i % copies;
    T* const list = lists + numbers * (copy * layout.num_points + layout.ptr[segment]);
    for (int64_t c = copy; c < layout.channels; c += copies) {
      solve(segment * layout.channels + c, list);
    }
  }
}

template <class P, class T, int threads, bool weighted>
cudaError_t launch_global_shared(const GlobalArgs& args, const DeviceLimits& device,
                                 cudaStream_t stream) {
  constexpr auto bytes = [](int64_t capacity) {
    const int64_t points = SetMemory<T, Block<threads>, weighted>::numbers(capacity);
    return GroupWorkspace<T, weighted>::fixed_bytes + points * static_cast<int64_t>(sizeof(T)) +
           capacity * point_bytes<T, weighted>;
  };
  using Kernel = void (*)(GlobalArgs);
  const Kernel kernel = global_shared_memory<P, T, threads, weighted>;
  static_assert(bytes(global_shared_bytes / point_bytes<T, weighted>) <= max_dynamic_bytes);
  const cudaError_t error = allow_shared_memory(kernel, device);
  if (error != cudaSuccess) return error;
  DDN_LAUNCH(kernel, args.scheduler.grid(args.forward.layout, device), threads,
             static_cast<size_t>(bytes(args.scheduler.capacity)), stream, args);
  return cudaGetLastError();
}

template <class P, class T, bool weighted>
cudaError_t launch_global_global(const GlobalArgs& args, const DeviceLimits& device,
                                 cudaStream_t stream) {
  const SetLayout& layout = args.forward.layout;
  const unsigned blocks = layout.ptr == nullptr
                              ? static_cast<unsigned>(std::min(layout.num_sets, max_lists))
                              : args.scheduler.grid(layout, device);
  DDN_LAUNCH((global_global_memory<P, T, weighted>), blocks, global_threads,
             static_cast<size_t>(GroupWorkspace<T, weighted>::fixed_bytes), stream, args);
  return cudaGetLastError();
}

template <class P, class T, bool weighted>
cudaError_t launch_global(const ForwardArgs& forward, cudaStream_t stream) {
  constexpr int64_t bytes = point_bytes<T, weighted>;
  const Sizes sizes({global_small_bytes / bytes, global_shared_bytes / bytes});
  using Launch = cudaError_t (*)(const GlobalArgs&, const DeviceLimits&, cudaStream_t);
  constexpr Launch launches[] = {launch_global_shared<P, T, global_small_threads, weighted>,
                                 launch_global_shared<P, T, global_threads, weighted>,
                                 launch_global_global<P, T, weighted>};
  unsigned char* const lists =
      static_cast<unsigned char*>(forward.workspace) + SegmentLists::bytes(forward.layout);
  DeviceLimits device;
  const cudaError_t error = device.read();
  if (error != cudaSuccess) return error;
  return launch_by_size(forward, sizes, stream, [&](int size, const TileScheduler& scheduler) {
    const GlobalArgs args{forward, scheduler, make_kernel_table<P>(), lists};
    return launches[size](args, device, stream);
  });
}

template <class T, bool weighted>
cudaError_t global_of_type(const ForwardArgs& args, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  with_penalty(args.penalty, [&](auto penalty) {
    using P = decltype(penalty);
    if constexpr (!is_convex<P>) error = launch_global<P, T, weighted>(args, stream);
  });
  return error;
}

// The bytes of lists that the kernels need in global memory.
inline int64_t global_workspace_bytes(const ForwardArgs& args) {
  const int64_t point = (args.dtype == DType::float64 ? 8 : 4) * (args.weight != nullptr ? 2 : 1);
  const int64_t bytes = args.layout.num_points * point;
  if (bytes <= global_shared_bytes) return 0;
  return bytes * (args.layout.ptr == nullptr ? std::min(args.layout.num_sets, max_lists)
                                             : channel_lists(args.layout));
}

}  // namespace ddn::cuda
