// The forward kernels of the global search: a block per set. Which one depends on the size of the
// set alone:
//
//   up to 4 KiB    128 threads, the points and a list of them in shared memory
//   up to 32 KiB   256 threads, the same
//   above          256 threads, the points read anew in each pass, the list in global memory
#pragma once

#include "core/penalties.h"
#include "core/solve.h"
#include "cuda/dispatch.cuh"
#include "cuda/point_set.cuh"

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

template <class P, class T, class Team, class Points>
__device__ __forceinline__ void search_set(const ForwardArgs& args, int64_t set, Points points,
                                           const Memory<T>& memory) {
  const PointSet<T, Team, Points> point_set(points, args.layout.num_points, &memory);
  solve_and_write<P, /*global=*/true>(args, set, point_set);
}

template <class P, class T, int threads>
__global__ void __launch_bounds__(threads, 1)
    global_on_chip(const __grid_constant__ GlobalArgs args) {
  using Team = Block<threads>;
  DDN_DYNAMIC_SHARED(unsigned char, shared);
  const ForwardArgs& forward = args.forward;
  const int64_t n = forward.layout.num_points;
  T* const points = reinterpret_cast<T*>(shared + Memory<T>::fixed_bytes);
  const Memory<T> memory(shared, points + n, args.taps);
  for (int64_t set = blockIdx.x; set < forward.layout.num_sets; set += gridDim.x) {
    const T* const x = static_cast<const T*>(forward.x) + forward.layout.sets.offset(set);
    // Each thread reads back only the points that it put there itself.
    for (int64_t i = Team::rank(); i < n; i += Team::threads) {
      points[i] = x[forward.layout.points.offset(i)];
    }
    search_set<P, T, Team>(forward, set, Consecutive<T>{points}, memory);
  }
}

template <class P, class T>
__global__ void __launch_bounds__(global_threads, 1)
    global_in_place(const __grid_constant__ GlobalArgs args) {
  DDN_DYNAMIC_SHARED(unsigned char, shared);
  const ForwardArgs& forward = args.forward;
  T* const list = static_cast<T*>(forward.workspace) + blockIdx.x * forward.layout.num_points;
  const Memory<T> memory(shared, list, args.taps);
  for (int64_t set = blockIdx.x; set < forward.layout.num_sets; set += gridDim.x) {
    const T* const x = static_cast<const T*>(forward.x) + forward.layout.sets.offset(set);
    search_set<P, T, Block<global_threads>>(forward, set, InPlace<T>{x, &forward.layout.points},
                                            memory);
  }
}

template <class P, class T, int threads>
cudaError_t launch_global_on_chip(const GlobalArgs& args, cudaStream_t stream) {
  const int64_t points_bytes = args.forward.layout.num_points * static_cast<int64_t>(sizeof(T));
  using Kernel = void (*)(GlobalArgs);
  const Kernel kernel = global_on_chip<P, T, threads>;
  constexpr int most_bytes = Memory<T>::fixed_bytes + 2 * static_cast<int>(global_chip_bytes);
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_bytes);
  if (error != cudaSuccess) return error;
  DDN_LAUNCH(kernel, grid_for(args.forward.layout.num_sets, 1), threads,
             static_cast<size_t>(Memory<T>::fixed_bytes + 2 * points_bytes), stream, args);
  return cudaGetLastError();
}

template <class P, class T>
cudaError_t launch_global(const ForwardArgs& forward, cudaStream_t stream) {
  const GlobalArgs args{forward, make_taps<P>(P::is_smooth ? 8 : 16)};
  const int64_t bytes = forward.layout.num_points * static_cast<int64_t>(sizeof(T));
  if (bytes <= global_small_bytes) {
    return launch_global_on_chip<P, T, global_small_threads>(args, stream);
  }
  if (bytes <= global_chip_bytes) {
    return launch_global_on_chip<P, T, global_threads>(args, stream);
  }
  const unsigned blocks = static_cast<unsigned>(std::min(forward.layout.num_sets, most_lists));
  DDN_LAUNCH((global_in_place<P, T>), blocks, global_threads,
             static_cast<size_t>(Memory<T>::fixed_bytes), stream, args);
  return cudaGetLastError();
}

template <class T>
cudaError_t global_of_type(const ForwardArgs& args, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  with_penalty(args.penalty, [&](auto penalty) {
    using P = decltype(penalty);
    if constexpr (!P::convex) error = launch_global<P, T>(args, stream);
  });
  return error;
}

// The bytes of lists that the kernels need in global memory.
inline int64_t global_workspace_bytes(const ForwardArgs& args) {
  const int64_t item = args.dtype == DType::float64 ? sizeof(double) : sizeof(float);
  const int64_t bytes = args.layout.num_points * item;
  return bytes <= global_chip_bytes ? 0 : bytes * std::min(args.layout.num_sets, most_lists);
}

}  // namespace ddn::cuda
