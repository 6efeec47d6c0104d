// The first-order backward kernel of dense tensors.
#pragma once

#include "cuda/backward_points.cuh"
#include "cuda/launch_limits.cuh"
#include "cuda/thread_group.cuh"

namespace ddn::cuda {

// Points of one set that a lane takes at a time; their loads are in flight together.
constexpr int points_per_lane = 8;
constexpr int tile = points_per_lane * warp_size;

// whole: the tile is full, and its points, weights and gradients are contiguous. Otherwise they lie
// in one dim. first: the index of this lane's first point.
template <class P, class S, class T, bool whole>
__device__ __forceinline__ void backward_tile(const BackwardArgs& args, int64_t set,
                                              int64_t first) {
  const int64_t n = args.layout.num_points;
  const auto exists = [&](int64_t i) { return whole || i < n; };
  const auto place = [](const SetLayout& layout, int64_t i) {
    return whole ? i : i * layout.points.stride[0];
  };
  const S* const x = static_cast<const S*>(args.x) + args.layout.sets.offset(set);
  T points[points_per_lane], weights[points_per_lane];
#pragma unroll
  for (int k = 0; k < points_per_lane; ++k) {
    const int64_t i = first + k * warp_size;
    points[k] = exists(i) ? to_real(x[place(args.layout, i)]) : T(0);
    weights[k] = 1;
  }
  if (args.weight != nullptr && args.grad_x.data != nullptr) {
    with_weight_storage(args.weight_dtype, [&](auto zero) {
      const auto* const weight =
          static_cast<const decltype(zero)*>(args.weight) + args.weight_layout.sets.offset(set);
#pragma unroll
      for (int k = 0; k < points_per_lane; ++k) {
        const int64_t i = first + k * warp_size;
        if (exists(i)) weights[k] = static_cast<T>(to_real(weight[place(args.weight_layout, i)]));
      }
    });
  }
  const SetGradient<T> shared = set_gradient<T>(args, set);
  const int64_t grad_x = args.grad_x.layout.sets.offset(set);
  const int64_t grad_weight = args.grad_weight.layout.sets.offset(set);
#pragma unroll
  for (int k = 0; k < points_per_lane; ++k) {
    const int64_t i = first + k * warp_size;
    if (!exists(i)) continue;
    write_gradients<P, S>(args, points[k], weights[k], shared,
                          grad_x + place(args.grad_x.layout, i),
                          grad_weight + place(args.grad_weight.layout, i));
  }
}

// Points first, first + 1, ... of a set for each lane. The sets of neighbouring lanes are
// neighbours in memory (channels last), so that all accesses of a warp touch whole sectors.
template <class P, class S, class T>
__device__ __forceinline__ void backward_channels_last(const BackwardArgs& args, int64_t set,
                                                       int64_t first) {
  if (set >= args.layout.num_sets) return;
  const int64_t n = args.layout.num_points;
  // The index of the lane's first number in a tensor.
  const auto origin = [&](const SetLayout& layout) {
    return layout.sets.offset(set) + first * layout.points.stride[0];
  };
  const S* const x = static_cast<const S*>(args.x) + origin(args.layout);
  const int64_t x_stride = args.layout.points.stride[0];
  T points[points_per_lane], weights[points_per_lane];
#pragma unroll
  for (int k = 0; k < points_per_lane; ++k) {
    points[k] = first + k < n ? to_real(x[k * x_stride]) : T(0);
    weights[k] = 1;
  }
  if (args.weight != nullptr && args.grad_x.data != nullptr) {
    with_weight_storage(args.weight_dtype, [&](auto zero) {
      const auto* const weight =
          static_cast<const decltype(zero)*>(args.weight) + origin(args.weight_layout);
      const int64_t stride = args.weight_layout.points.stride[0];
#pragma unroll
      for (int k = 0; k < points_per_lane; ++k) {
        if (first + k < n) weights[k] = static_cast<T>(to_real(weight[k * stride]));
      }
    });
  }
  const SetGradient<T> shared = set_gradient<T>(args, set);
  const int64_t grad_x = origin(args.grad_x.layout);
  const int64_t grad_x_stride = args.grad_x.layout.points.stride[0];
  const int64_t grad_weight = origin(args.grad_weight.layout);
  const int64_t grad_weight_stride = args.grad_weight.layout.points.stride[0];
#pragma unroll
  for (int k = 0; k < points_per_lane; ++k) {
    if (first + k >= n) continue;
    write_gradients<P, S>(args, points[k], weights[k], shared, grad_x + k * grad_x_stride,
                          grad_weight + k * grad_weight_stride);
  }
}

// A tile of points, weights or gradients in several dims. The divisions that compute their offsets
// dominate, so more loads in flight would gain nothing.
template <class P, class S, class T>
__device__ __forceinline__ void backward_tile_anywhere(const BackwardArgs& args, int64_t set,
                                                       int64_t first) {
  const int64_t n = args.layout.num_points, end = first + tile < n ? first + tile : n;
  const SetGradient<T> shared = set_gradient<T>(args, set);
  const auto place = [set](const SetLayout& layout, int64_t i) {
    return layout.sets.offset(set) + layout.points.offset(i);
  };
#pragma unroll 1
  for (int64_t i = first; i < end; i += warp_size) {
    const T x = to_real(static_cast<const S*>(args.x)[place(args.layout, i)]);
    const T weight =
        args.weight != nullptr && args.grad_x.data != nullptr
            ? load_weight<T>(args.weight, args.weight_dtype, place(args.weight_layout, i))
            : T(1);
    write_gradients<P, S>(args, x, weight, shared, place(args.grad_x.layout, i),
                          place(args.grad_weight.layout, i));
  }
}

// Each warp takes a tile of a set, so that small sets do not waste a block and large sets are
// spread over many warps.
template <class P, class S, class T>
__global__ void __launch_bounds__(block_threads, 2)
    backward(const __grid_constant__ BackwardArgs args) {
  const int64_t n = args.layout.num_points;
  const auto all = [&](const auto& are) {
    const auto absent_or = [&](const void* data, const SetLayout& layout) {
      return data == nullptr || are(layout);
    };
    return are(args.layout) && absent_or(args.weight, args.weight_layout) &&
           absent_or(args.grad_x.data, args.grad_x.layout) &&
           absent_or(args.grad_weight.data, args.grad_weight.layout);
  };
  const bool all_flat = all([](const SetLayout& layout) { return layout.contiguous_points(); });
  const bool all_in_line = all([](const SetLayout& layout) { return layout.points.rank <= 1; });
  constexpr int warps = block_threads / warp_size;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size;
  const int64_t step = static_cast<int64_t>(gridDim.x) * warps;
  const Dims& sets = args.layout.sets;
  const bool sets_are_contiguous =
      sets.rank > 0 && sets.stride[sets.rank - 1] == 1 && sets.size[sets.rank - 1] >= warp_size / 2;
  if (all_in_line && !all_flat && sets_are_contiguous) {
    const int64_t runs = (n + points_per_lane - 1) / points_per_lane;
    const int64_t groups = (args.layout.num_sets + warp_size - 1) / warp_size;
    for (int64_t i = begin; i < runs * groups; i += step) {
      const int64_t run = i / groups, group = i - run * groups;
      backward_channels_last<P, S, T>(args, group * warp_size + lane(), run * points_per_lane);
    }
    return;
  }
  const int64_t tiles_per_set = (n + tile - 1) / tile;
  // 64-bit divisions are slow. One locates the first tile; a second one, only if the warp takes
  // another tile, splits the step to it into sets and tiles.
  const bool continues = begin + step < args.layout.num_sets * tiles_per_set;
  const int64_t step_sets = continues ? step / tiles_per_set : 0;
  const int64_t step_tiles = step - step_sets * tiles_per_set;
  int64_t set = begin / tiles_per_set, in_set = begin - set * tiles_per_set;
  while (set < args.layout.num_sets) {
    const int64_t start = in_set * tile, first = start + threadIdx.x % warp_size;
    if (all_flat && start + tile <= n) {
      backward_tile<P, S, T, true>(args, set, first);
    } else if (all_in_line) {
      backward_tile<P, S, T, false>(args, set, first);
    } else {
      backward_tile_anywhere<P, S, T>(args, set, first);
    }
    if (!continues) break;
    set += step_sets;
    in_set += step_tiles;
    if (in_set >= tiles_per_set) {
      in_set -= tiles_per_set;
      ++set;
    }
  }
}

}  // namespace ddn::cuda
