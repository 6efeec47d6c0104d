// The forward kernels of descents; global.cuh has those of the global search. Which one solves a
// set depends on the size of the set alone, its weights, if it has any, included:
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

// Copies a set to shared memory; each thread reads back only the points that it put there itself
// (see PointSet), so there is no barrier. Weights follow the points.
template <bool weighted, class T, class Team>
__device__ __forceinline__ auto stage(const ForwardArgs& args, int64_t set, T* points,
                                      Weights& weights) {
  const int64_t n = args.layout.num_points;
  const T* const x = static_cast<const T*>(args.x) + args.layout.sets.offset(set);
  for (int64_t i = Team::rank(); i < n; i += Team::threads) {
    points[i] = x[args.layout.points.offset(i)];
  }
  if constexpr (weighted) {
    T* const staged = points + n;
    const T* const given = static_cast<const T*>(args.weight) + args.weight_layout.sets.offset(set);
    for (int64_t i = Team::rank(); i < n; i += Team::threads) {
      staged[i] = given[args.weight_layout.points.offset(i)];
    }
    weights = survey_weights<Team, T>(n, [&](int64_t i) { return staged[i]; });
    const double inverse = 1 / weights.unit;
    for (int64_t i = Team::rank(); i < n; i += Team::threads) {
      staged[i] = static_cast<T>(static_cast<double>(staged[i]) * inverse);
    }
    return WeightedConsecutive<T>{points, staged};
  } else {
    return Consecutive<T>{points};
  }
}

// The points of a set where they are.
template <bool weighted, class T, class Team>
__device__ __forceinline__ auto in_place(const ForwardArgs& args, int64_t set, Weights& weights) {
  const T* const x = static_cast<const T*>(args.x) + args.layout.sets.offset(set);
  if constexpr (weighted) {
    const Dims& dims = args.weight_layout.points;
    const T* const given = static_cast<const T*>(args.weight) + args.weight_layout.sets.offset(set);
    weights = survey_weights<Team, T>(args.layout.num_points,
                                      [&](int64_t i) { return given[dims.offset(i)]; });
    return WeightedInPlace<T>{x, given, &args.layout.points, &dims, 1 / weights.unit};
  } else {
    return InPlace<T>{x, &args.layout.points};
  }
}

template <class P, bool global, class T, class Team, class Points>
__device__ __forceinline__ void solve_set(const ForwardArgs& args, int64_t set, Points points,
                                          const Weights& weights,
                                          const Memory<T, Points::weighted>* memory = nullptr) {
  const PointSet<T, Team, Points> point_set(points, args.layout.num_points, weights, memory);
  solve_and_write<P, global>(args, set, point_set);
}

template <class P, class T, class Team, bool weighted>
__global__ void __launch_bounds__(block_threads, 2)
    forward_on_chip(const __grid_constant__ ForwardArgs args) {
  DDN_DYNAMIC_SHARED(T, shared);
  constexpr int teams = block_threads / Team::threads;
  const int team = static_cast<int>(threadIdx.x) / Team::threads;
  T* const points = shared + team * (weighted ? 2 : 1) * args.layout.num_points;
  const int64_t step = static_cast<int64_t>(gridDim.x) * teams;
  for (int64_t set = static_cast<int64_t>(blockIdx.x) * teams + team; set < args.layout.num_sets;
       set += step) {
    Weights weights{};
    const auto staged = stage<weighted, T, Team>(args, set, points, weights);
    solve_set<P, /*global=*/false, T, Team>(args, set, staged, weights);
  }
}

template <class P, class T, bool weighted>
__global__ void __launch_bounds__(large_threads, 1)
    forward_in_place(const __grid_constant__ ForwardArgs args) {
  using Team = Block<large_threads>;
  for (int64_t set = blockIdx.x; set < args.layout.num_sets; set += gridDim.x) {
    Weights weights{};
    const auto points = in_place<weighted, T, Team>(args, set, weights);
    solve_set<P, /*global=*/false, T, Team>(args, set, points, weights);
  }
}

// Bytes of a set, its weights included.
template <class T, bool weighted>
int64_t set_bytes(const ForwardArgs& args) {
  return args.layout.num_points * static_cast<int64_t>(sizeof(T)) * (weighted ? 2 : 1);
}

template <class P, class T, bool weighted>
cudaError_t launch_forward(const ForwardArgs& args, cudaStream_t stream) {
  const int64_t bytes = set_bytes<T, weighted>(args);
  const int64_t sets = args.layout.num_sets;
  if (bytes <= warp_bytes) {
    constexpr int teams = block_threads / warp_size;
    DDN_LAUNCH((forward_on_chip<P, T, Warp, weighted>), grid_for(sets, teams), block_threads,
               static_cast<size_t>(teams * bytes), stream, args);
  } else if (bytes <= block_bytes) {
    using Kernel = void (*)(ForwardArgs);
    const Kernel kernel = forward_on_chip<P, T, Block<block_threads>, weighted>;
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(block_bytes));
    if (error != cudaSuccess) return error;
    DDN_LAUNCH(kernel, grid_for(sets, 1), block_threads, static_cast<size_t>(bytes), stream, args);
  } else {
    DDN_LAUNCH((forward_in_place<P, T, weighted>), grid_for(sets, 1), large_threads, 0, stream,
               args);
  }
  return cudaGetLastError();
}

template <class T, bool weighted>
cudaError_t forward_of_type(const ForwardArgs& args, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  with_penalty(args.penalty, [&](auto penalty) {
    error = launch_forward<decltype(penalty), T, weighted>(args, stream);
  });
  return error;
}

}  // namespace ddn::cuda
