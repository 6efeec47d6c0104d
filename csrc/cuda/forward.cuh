// The forward kernels of descents; global.cuh has those of the global search. Which one solves a
// set depends on the size of the set alone:
//
//   up to 4 KiB    a warp per set, eight sets to a block, the points in shared memory
//   up to 64 KiB   a block per set, the points in shared memory
//   above          a block per set, the points read anew in each pass
#pragma once

#include "core/penalties.h"
#include "core/solve.h"
#include "cuda/dispatch.cuh"
#include "cuda/point_set.cuh"

namespace ddn::cuda {

constexpr int64_t warp_bytes = 4 << 10;
constexpr int64_t block_bytes = 64 << 10;
constexpr int large_threads = 512;

template <class P, class T, class Team, class Points>
__device__ __forceinline__ void solve_set(const ForwardArgs& args, int64_t set, Points points) {
  const PointSet<T, Team, Points> point_set(points, args.layout.num_points);
  solve_and_write<P, /*global=*/false>(args, set, point_set);
}

template <class P, class T, class Team>
__global__ void __launch_bounds__(block_threads, 2) forward_on_chip(const ForwardArgs args) {
  DDN_DYNAMIC_SHARED(T, shared);
  constexpr int teams = block_threads / Team::threads;
  const int team = static_cast<int>(threadIdx.x) / Team::threads;
  const int64_t n = args.layout.num_points;
  T* const points = shared + team * n;
  const int64_t step = static_cast<int64_t>(gridDim.x) * teams;
  for (int64_t set = static_cast<int64_t>(blockIdx.x) * teams + team; set < args.layout.num_sets;
       set += step) {
    const T* const x = static_cast<const T*>(args.x) + args.layout.sets.offset(set);
    // Each thread reads back only the points that it put there itself (see PointSet), so there is
    // no barrier around this loop.
    for (int64_t i = Team::rank(); i < n; i += Team::threads) {
      points[i] = x[args.layout.points.offset(i)];
    }
    solve_set<P, T, Team>(args, set, Consecutive<T>{points});
  }
}

template <class P, class T>
__global__ void __launch_bounds__(large_threads, 1) forward_in_place(const ForwardArgs args) {
  for (int64_t set = blockIdx.x; set < args.layout.num_sets; set += gridDim.x) {
    const T* const x = static_cast<const T*>(args.x) + args.layout.sets.offset(set);
    solve_set<P, T, Block<large_threads>>(args, set, InPlace<T>{x, &args.layout.points});
  }
}

template <class P, class T>
cudaError_t launch_forward(const ForwardArgs& args, cudaStream_t stream) {
  const int64_t bytes = args.layout.num_points * static_cast<int64_t>(sizeof(T));
  const int64_t sets = args.layout.num_sets;
  if (bytes <= warp_bytes) {
    constexpr int teams = block_threads / warp_size;
    DDN_LAUNCH((forward_on_chip<P, T, Warp>), grid_for(sets, teams), block_threads,
               static_cast<size_t>(teams * bytes), stream, args);
  } else if (bytes <= block_bytes) {
    using Kernel = void (*)(ForwardArgs);
    const Kernel kernel = forward_on_chip<P, T, Block<block_threads>>;
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(block_bytes));
    if (error != cudaSuccess) return error;
    DDN_LAUNCH(kernel, grid_for(sets, 1), block_threads, static_cast<size_t>(bytes), stream, args);
  } else {
    DDN_LAUNCH((forward_in_place<P, T>), grid_for(sets, 1), large_threads, 0, stream, args);
  }
  return cudaGetLastError();
}

template <class T>
cudaError_t forward_of_type(const ForwardArgs& args, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  with_penalty(args.penalty,
               [&](auto penalty) { error = launch_forward<decltype(penalty), T>(args, stream); });
  return error;
}

}  // namespace ddn::cuda
