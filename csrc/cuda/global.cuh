// The forward kernels of the global search: a block per set. Which one depends on the size of the
// set alone, its weights, if it has any, included:
//
//   up to 4 KiB    128 threads, the points and a list of them in shared memory
//   up to 32 KiB   256 threads, the same
//   above          256 threads, the points read anew in each pass, the list in global memory
#pragma once

#include "core/penalties.h"
#include "core/solve.h"
#include "cuda/dispatch.cuh"
#include "cuda/forward.cuh"

namespace ddn::cuda {

constexpr int64_t global_small_bytes = 4 << 10;
constexpr int64_t global_chip_bytes = 32 << 10;
constexpr int global_small_threads = 128;
constexpr int global_threads = 256;
// Blocks that solve large sets at a time, each with a list of its own.
constexpr int64_t most_lists = 128;

struct GlobalArgs {
  ForwardArgs forward;
  Taps taps;
};

template <class P, class T, int threads, bool weighted>
__global__ void __launch_bounds__(threads, 1)
    global_on_chip(const __grid_constant__ GlobalArgs args) {
  using Team = Block<threads>;
  using Space = Memory<T, weighted>;
  DDN_DYNAMIC_SHARED(unsigned char, shared);
  const ForwardArgs& forward = args.forward;
  const int64_t n = forward.layout.num_points;
  T* const points = reinterpret_cast<T*>(shared + Space::fixed_bytes);
  const Space memory(shared, points + (weighted ? 2 : 1) * n, n, args.taps);
  for (int64_t set = blockIdx.x; set < forward.layout.num_sets; set += gridDim.x) {
    Weights weights{};
    const auto staged = stage<weighted, T, Team>(forward, set, points, weights);
    solve_set<P, /*global=*/true, T, Team>(forward, set, staged, weights, &memory);
  }
}

template <class P, class T, bool weighted>
__global__ void __launch_bounds__(global_threads, 1)
    global_in_place(const __grid_constant__ GlobalArgs args) {
  using Team = Block<global_threads>;
  using Space = Memory<T, weighted>;
  DDN_DYNAMIC_SHARED(unsigned char, shared);
  const ForwardArgs& forward = args.forward;
  const int64_t n = forward.layout.num_points;
  T* const list = static_cast<T*>(forward.workspace) + blockIdx.x * (weighted ? 2 : 1) * n;
  const Space memory(shared, list, n, args.taps);
  for (int64_t set = blockIdx.x; set < forward.layout.num_sets; set += gridDim.x) {
    Weights weights{};
    const auto points = in_place<weighted, T, Team>(forward, set, weights);
    solve_set<P, /*global=*/true, T, Team>(forward, set, points, weights, &memory);
  }
}

template <class P, class T, int threads, bool weighted>
cudaError_t launch_global_on_chip(const GlobalArgs& args, cudaStream_t stream) {
  constexpr int fixed_bytes = Memory<T, weighted>::fixed_bytes;
  const int64_t bytes = fixed_bytes + 2 * set_bytes<T, weighted>(args.forward);
  using Kernel = void (*)(GlobalArgs);
  const Kernel kernel = global_on_chip<P, T, threads, weighted>;
  constexpr int most_bytes = fixed_bytes + 2 * static_cast<int>(global_chip_bytes);
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_bytes);
  if (error != cudaSuccess) return error;
  DDN_LAUNCH(kernel, grid_for(args.forward.layout.num_sets, 1), threads, static_cast<size_t>(bytes),
             stream, args);
  return cudaGetLastError();
}

template <class P, class T, bool weighted>
cudaError_t launch_global(const ForwardArgs& forward, cudaStream_t stream) {
  const GlobalArgs args{forward, make_taps<P>(P::is_smooth ? 8 : 16)};
  const int64_t bytes = set_bytes<T, weighted>(forward);
  if (bytes <= global_small_bytes) {
    return launch_global_on_chip<P, T, global_small_threads, weighted>(args, stream);
  }
  if (bytes <= global_chip_bytes) {
    return launch_global_on_chip<P, T, global_threads, weighted>(args, stream);
  }
  const unsigned blocks = static_cast<unsigned>(std::min(forward.layout.num_sets, most_lists));
  DDN_LAUNCH((global_in_place<P, T, weighted>), blocks, global_threads,
             static_cast<size_t>(Memory<T, weighted>::fixed_bytes), stream, args);
  return cudaGetLastError();
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
  const int64_t item = (args.dtype == DType::float64 ? 8 : 4) * (args.weight != nullptr ? 2 : 1);
  const int64_t bytes = args.layout.num_points * item;
  return bytes <= global_chip_bytes ? 0 : bytes * std::min(args.layout.num_sets, most_lists);
}

}  // namespace ddn::cuda
