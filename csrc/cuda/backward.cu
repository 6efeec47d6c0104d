// The backward kernel: reads x, and weights where there are some, once and writes their gradients
// once.
#include "core/gradient.h"
#include "core/penalties.h"
#include "cuda/dispatch.cuh"
#include "cuda/robust_pool_cuda.h"
#include "cuda/team.cuh"

namespace ddn::cuda {
namespace {

// Points that a lane takes from one set at a time; its loads are under way together.
constexpr int points_per_lane = 8;
constexpr int tile = points_per_lane * warp_size;

// A warp takes a tile of a set: small sets do not waste a block, and large ones are shared out.
template <class P, class T>
__global__ void __launch_bounds__(block_threads, 2) backward(const BackwardArgs args) {
  const int64_t n = args.layout.num_points;
  const int64_t tiles_per_set = (n + tile - 1) / tile;
  const int64_t tiles = args.layout.num_sets * tiles_per_set;
  constexpr int warps = block_threads / warp_size;
  const int64_t step = static_cast<int64_t>(gridDim.x) * warps;
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size; t < tiles;
       t += step) {
    const int64_t set = t / tiles_per_set;
    const int64_t first = (t - set * tiles_per_set) * tile + threadIdx.x % warp_size;
    const T* const x = static_cast<const T*>(args.x) + args.layout.sets.offset(set);
    const int64_t grad_offset = args.grad_layout.sets.offset(set);
    T* const grad_x = static_cast<T*>(args.grad_x);
    T* const grad_weight = static_cast<T*>(args.grad_weight);
    const SetGradient<T> shared = set_gradient<T, T>(args, set);
    T points[points_per_lane], weights[points_per_lane];
#pragma unroll
    for (int k = 0; k < points_per_lane; ++k) {
      const int64_t i = first + k * warp_size;
      points[k] = i < n ? x[args.layout.points.offset(i)] : T(0);
      weights[k] = 1;
    }
    if (args.weight != nullptr && grad_x != nullptr) {
      const T* const weight =
          static_cast<const T*>(args.weight) + args.weight_layout.sets.offset(set);
#pragma unroll
      for (int k = 0; k < points_per_lane; ++k) {
        const int64_t i = first + k * warp_size;
        if (i < n) weights[k] = weight[args.weight_layout.points.offset(i)];
      }
    }
#pragma unroll
    for (int k = 0; k < points_per_lane; ++k) {
      const int64_t i = first + k * warp_size;
      if (i >= n) continue;
      const int64_t at = grad_offset + args.grad_layout.points.offset(i);
      if (grad_x != nullptr) grad_x[at] = point_gradient<P>(points[k], weights[k], shared);
      if (grad_weight != nullptr) grad_weight[at] = weight_gradient<P>(points[k], shared);
    }
  }
}

template <class T>
cudaError_t backward_of_type(const BackwardArgs& args, cudaStream_t stream) {
  const int64_t tiles = args.layout.num_sets * ((args.layout.num_points + tile - 1) / tile);
  with_penalty(args.penalty, [&](auto penalty) {
    using P = decltype(penalty);
    DDN_LAUNCH((backward<P, T>), grid_for(tiles, block_threads / warp_size), block_threads, 0,
               stream, args);
  });
  return cudaGetLastError();
}

}  // namespace

cudaError_t robust_pool_backward(const BackwardArgs& args, cudaStream_t stream) {
  if (args.layout.num_sets == 0 || args.layout.num_points == 0) return cudaSuccess;
  return args.dtype == DType::float64 ? backward_of_type<double>(args, stream)
                                      : backward_of_type<float>(args, stream);
}

}  // namespace ddn::cuda
