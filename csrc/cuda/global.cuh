// The forward kernels of the global search: a block per set. Which one depends on the size of the
// set alone, its weights, if it has any, included:
//
//   up to 8 KiB    128 threads, the points and a list of them in shared memory
//   up to 32 KiB   256 threads, the same
//   above          256 threads, the points read anew in each pass, the list in global memory
#pragma once

#include "core/penalties.h"
#include "core/solve.h"
#include "cuda/dispatch.cuh"
#include "cuda/local.cuh"

namespace ddn::cuda {

constexpr int64_t global_small_bytes = 8 << 10;
constexpr int64_t global_chip_bytes = 32 << 10;
constexpr int global_small_threads = 128;
constexpr int global_threads = 256;
// Blocks that solve large sets at a time, each with a list of its own.
constexpr int64_t most_lists = 128;
// Channels of a large segment that are solved at a time, each with a list of its own.
constexpr int64_t most_channel_lists = 32;

struct GlobalArgs {
  ForwardArgs forward;
  TileScheduler work;
  KernelTable table;
  unsigned char* lists;  // in global memory, of sets that do not fit on the chip
};

inline int64_t channel_lists(const SetLayout& layout) {
  return std::min(layout.channels, most_channel_lists);
}

// As many on a multiprocessor as registers allow that nothing is spilled.
template <class P, class T, int threads, bool weighted>
constexpr int least_blocks = sizeof(T) == 4 && !weighted ? (P::is_smooth ? 256 : 512) / threads : 1;

template <class P, class T, int threads, bool weighted>
__global__ void __launch_bounds__(threads, (least_blocks<P, T, threads, weighted>))
    global_shared_memory(const __grid_constant__ GlobalArgs args) {
  using ThreadGroup = Block<threads>;
  using Space = Memory<T, weighted>;
  DDN_DYNAMIC_SHARED(unsigned char, shared);
  const ForwardArgs& forward = args.forward;
  const int64_t capacity = args.work.capacity;
  T* const points = reinterpret_cast<T*>(shared + Space::fixed_bytes);
  const Space memory(points + (weighted ? 2 : 1) * capacity, capacity, args.table);
  const int64_t items = args.work.items(forward.layout);
  for (int64_t i = blockIdx.x; i < items; i += gridDim.x) {
    const int64_t set = args.work.set(forward.layout, i);
    Weights weights{};
    const auto staged = stage<weighted, T, ThreadGroup>(forward, set, points, capacity, weights);
    solve_set<P, /*global=*/true, T, ThreadGroup>(forward, set, staged, weights, &memory);
  }
}

template <class P, class T, bool weighted>
__global__ void __launch_bounds__(global_threads, 1)
    global_global_memory(const __grid_constant__ GlobalArgs args) {
  using ThreadGroup = Block<global_threads>;
  using Space = Memory<T, weighted>;
  const ForwardArgs& forward = args.forward;
  const SetLayout& layout = forward.layout;
  T* const lists = reinterpret_cast<T*>(args.lists);
  constexpr int numbers = weighted ? 2 : 1;
  const auto solve = [&](int64_t set, T* list) {
    const Space memory(list, layout.place(set).num_points, args.table);
    Weights weights{};
    const auto points = in_place<weighted, T, ThreadGroup>(forward, set, weights);
    solve_set<P, /*global=*/true, T, ThreadGroup>(forward, set, points, weights, &memory);
  };
  if (layout.ptr == nullptr) {
    T* const list = lists + blockIdx.x * numbers * layout.num_points;
    for (int64_t set = blockIdx.x; set < layout.num_sets; set += gridDim.x) solve(set, list);
    return;
  }
  // All segments together have the points of one list: each has its place there, and a block that
  // takes a segment takes every so-manieth of its channels.
  const int64_t copies =
      layout.channels < most_channel_lists ? layout.channels : most_channel_lists;
  const int64_t items = *args.work.count * copies;
  for (int64_t i = blockIdx.x; i < items; i += gridDim.x) {
    const int64_t segment = args.work.segments[i / copies], copy = i % copies;
    T* const list = lists + numbers * (copy * layout.num_points + layout.ptr[segment]);
    for (int64_t c = copy; c < layout.channels; c += copies) {
      solve(segment * layout.channels + c, list);
    }
  }
}

template <class P, class T, int threads, bool weighted>
cudaError_t launch_global_shared(const GlobalArgs& args, cudaStream_t stream) {
  constexpr int fixed_bytes = Memory<T, weighted>::fixed_bytes;
  const int64_t bytes = fixed_bytes + 2 * args.work.capacity * point_bytes<T, weighted>;
  using Kernel = void (*)(GlobalArgs);
  const Kernel kernel = global_shared_memory<P, T, threads, weighted>;
  constexpr int most_bytes = fixed_bytes + 2 * static_cast<int>(global_chip_bytes);
  static_assert(most_bytes <= most_dynamic_bytes);
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_bytes);
  if (error != cudaSuccess) return error;
  DDN_LAUNCH(kernel, args.work.grid(args.forward.layout, 1), threads, static_cast<size_t>(bytes),
             stream, args);
  return cudaGetLastError();
}

template <class P, class T, bool weighted>
cudaError_t launch_global_global(const GlobalArgs& args, cudaStream_t stream) {
  const SetLayout& layout = args.forward.layout;
  const unsigned blocks = layout.ptr == nullptr
                              ? static_cast<unsigned>(std::min(layout.num_sets, most_lists))
                              : args.work.grid(layout, 1);
  DDN_LAUNCH((global_global_memory<P, T, weighted>), blocks, global_threads,
             static_cast<size_t>(Memory<T, weighted>::fixed_bytes), stream, args);
  return cudaGetLastError();
}

template <class P, class T, bool weighted>
cudaError_t launch_global(const ForwardArgs& forward, cudaStream_t stream) {
  constexpr int64_t bytes = point_bytes<T, weighted>;
  const Sizes sizes{global_small_bytes / bytes, global_chip_bytes / bytes};
  using Launch = cudaError_t (*)(const GlobalArgs&, cudaStream_t);
  constexpr Launch launches[] = {launch_global_shared<P, T, global_small_threads, weighted>,
                                 launch_global_shared<P, T, global_threads, weighted>,
                                 launch_global_global<P, T, weighted>};
  unsigned char* const lists =
      static_cast<unsigned char*>(forward.workspace) + SegmentLists::bytes(forward.layout);
  return launch_by_size(forward, sizes, stream, [&](int size, const TileScheduler& work) {
    const GlobalArgs args{forward, work, make_kernel_table<P>(), lists};
    return launches[size](args, stream);
  });
}

template <class T, bool weighted>
cudaError_t global_of_type(const ForwardArgs& args, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  with_penalty(args.penalty, [&](auto penalty) {
    using P = decltype(penalty);
    if constexpr (!P::convex) error = launch_global<P, T, weighted>(args, stream);
  });
  return error;
}

// The bytes of lists that the kernels need in global memory.
inline int64_t global_workspace_bytes(const ForwardArgs& args) {
  const int64_t point = (args.dtype == DType::float64 ? 8 : 4) * (args.weight != nullptr ? 2 : 1);
  const int64_t bytes = args.layout.num_points * point;
  if (bytes <= global_chip_bytes) return 0;
  return bytes * (args.layout.ptr == nullptr ? std::min(args.layout.num_sets, most_lists)
                                             : channel_lists(args.layout));
}

}  // namespace ddn::cuda
