// The backward kernels. The gradients of points and weights read x, and weights where there are
// some, once and write once; what takes sums over a set (core/second_order.h) reads it once more
// for each.
#include "core/gradient.h"
#include "core/penalties.h"
#include "core/second_order.h"
#include "cuda/dispatch.cuh"
#include "cuda/point_set.cuh"
#include "cuda/robust_pool_cuda.h"
#include "cuda/thread_group.cuh"

namespace ddn::cuda {
namespace {

// Points that a lane takes from one set at a time; its loads are in flight together.
constexpr int points_per_lane = 8;
constexpr int tile = points_per_lane * warp_size;

template <class P, class S, class T>
__device__ __forceinline__ void write_gradients(const BackwardArgs& args, T x, T weight,
                                                const SetGradient<T>& set, int64_t grad_x_at,
                                                int64_t grad_weight_at) {
  if (args.grad_x.data != nullptr) {
    static_cast<S*>(args.grad_x.data)[grad_x_at] =
        bounded_from_real<S>(point_gradient<P>(x, weight, set));
  }
  if (args.grad_weight.data != nullptr) {
    static_cast<T*>(args.grad_weight.data)[grad_weight_at] = weight_gradient<P>(x, set);
  }
}

// simple: the tile has all of its points, and these lie in one stretch, as do their weights and
// gradients. Most of them are; then no place has to be looked for. Others lie in one dim. first:
// this lane's first point.
template <class P, class S, class T, bool simple>
__device__ __forceinline__ void backward_tile(const BackwardArgs& args, int64_t set,
                                              int64_t first) {
  const int64_t n = args.layout.num_points;
  const auto there = [&](int64_t i) { return simple || i < n; };
  const auto place = [](const SetLayout& layout, int64_t i) {
    return simple ? i : i * layout.points.stride[0];
  };
  const S* const x = static_cast<const S*>(args.x) + args.layout.sets.offset(set);
  T points[points_per_lane], weights[points_per_lane];
#pragma unroll
  for (int k = 0; k < points_per_lane; ++k) {
    const int64_t i = first + k * warp_size;
    points[k] = there(i) ? to_real(x[place(args.layout, i)]) : T(0);
    weights[k] = 1;
  }
  if (args.weight != nullptr && args.grad_x.data != nullptr) {
    with_weight_storage(args.weight_dtype, [&](auto zero) {
      const auto* const weight =
          static_cast<const decltype(zero)*>(args.weight) + args.weight_layout.sets.offset(set);
#pragma unroll
      for (int k = 0; k < points_per_lane; ++k) {
        const int64_t i = first + k * warp_size;
        if (there(i)) weights[k] = static_cast<T>(to_real(weight[place(args.weight_layout, i)]));
      }
    });
  }
  const SetGradient<T> shared = set_gradient<T>(args, set);
  const int64_t grad_x = args.grad_x.layout.sets.offset(set);
  const int64_t grad_weight = args.grad_weight.layout.sets.offset(set);
#pragma unroll
  for (int k = 0; k < points_per_lane; ++k) {
    const int64_t i = first + k * warp_size;
    if (!there(i)) continue;
    write_gradients<P, S>(args, points[k], weights[k], shared,
                          grad_x + place(args.grad_x.layout, i),
                          grad_weight + place(args.grad_weight.layout, i));
  }
}

// Points first, first + 1, ... of a set for each lane, where the sets of neighbouring lanes are
// neighbours in memory (channels last): all accesses of a warp touch whole sectors.
template <class P, class S, class T>
__device__ __forceinline__ void backward_channels_last(const BackwardArgs& args, int64_t set,
                                                       int64_t first) {
  if (set >= args.layout.num_sets) return;
  const int64_t n = args.layout.num_points;
  // The lane's first number in a tensor, and the distance of the next ones.
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

// A tile of points, weights or gradients in several dims. The divisions that find their places take
// longest: nothing is gained by several at a time.
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

// A warp takes a tile of a set: small sets do not waste a block, and large ones are shared out.
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
  // Divisions of 64 bits are long: one for the first tile, and one for the step to the next if
  // there is any.
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

// Of the segments [first, past) the first one that ends behind the row, or past. Segments before
// `first` are known not to.
__device__ __forceinline__ int64_t first_segment_ending_after(const int64_t* ptr, int64_t first,
                                                              int64_t past, int64_t row) {
  while (first < past) {
    const int64_t middle = first + (past - first) / 2;
    if (ptr[middle + 1] <= row) {
      first = middle + 1;
    } else {
      past = middle;
    }
  }
  return first;
}

// The same from `first` on, where it is likely to be near: by steps that double.
__device__ __forceinline__ int64_t gallop_to_segment(const int64_t* ptr, int64_t first,
                                                     int64_t segments, int64_t row) {
  int64_t reach = 1;
  while (first + reach <= segments && ptr[first + reach] <= row) {
    first += reach;
    reach *= 2;
  }
  return first_segment_ending_after(ptr, first,
                                    first + reach <= segments ? first + reach - 1 : segments, row);
}

// Numbers of a lane, warp_size apart: one search among all segments serves them.
constexpr int elements_per_lane = 8;

// Of segments, a warp takes consecutive numbers: neighbours are channels of one row.
template <class P, class S, class T>
__global__ void __launch_bounds__(block_threads, 2)
    backward_segments(const __grid_constant__ BackwardArgs args) {
  const SetLayout& layout = args.layout;
  const int64_t* const ptr = layout.ptr;
  const int64_t channels = layout.channels, segments = layout.num_sets / channels;
  const int64_t numbers = layout.num_points * channels;
  const int64_t rows_a_step = channels >= warp_size ? 0 : warp_size / channels;
  const int64_t channels_a_step = warp_size - rows_a_step * channels;
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * block_threads + threadIdx.x) / warp_size;
  const int64_t step = static_cast<int64_t>(gridDim.x) * block_threads * elements_per_lane;
  for (int64_t begin = warp * warp_size * elements_per_lane + lane(); begin < numbers;
       begin += step) {
    int64_t row = begin / channels, channel = begin - row * channels;
    int64_t segment = first_segment_ending_after(ptr, 0, segments, row);
    int64_t end = segment < segments ? ptr[segment + 1] : INT64_MAX;
#pragma unroll 1
    for (int k = 0; k < elements_per_lane && begin + k * warp_size < numbers; ++k) {
      if (k > 0) {
        row += rows_a_step;
        channel += channels_a_step;
        if (channel >= channels) {
          channel -= channels;
          ++row;
        }
        if (end <= row) {
          segment = gallop_to_segment(ptr, segment + 1, segments, row);
          end = segment < segments ? ptr[segment + 1] : INT64_MAX;
        }
      }
      if (segment >= segments || row < ptr[0]) continue;  // a row of no segment
      const auto at = [&](const SetLayout& of) {
        return row * of.points.stride[0] + of.sets.offset(channel);
      };
      const T x = to_real(static_cast<const S*>(args.x)[at(layout)]);
      const T weight = args.weight != nullptr
                           ? load_weight<T>(args.weight, args.weight_dtype, at(args.weight_layout))
                           : T(1);
      const SetGradient<T> shared = set_gradient<T>(args, segment * channels + channel);
      write_gradients<P, S>(args, x, weight, shared, at(args.grad_x.layout),
                            at(args.grad_weight.layout));
    }
  }
}

// The points of a set with what moves them, as core/second_order.h sums over them.
template <class T, class ThreadGroup>
struct MovingPoints {
  using V = T;

  const BackwardArgs& args;
  int64_t set;

  static __device__ __forceinline__ int rank() { return ThreadGroup::rank(); }
  static __device__ __forceinline__ SetGradient<T> shared(const SetGradient<T>& gradient) {
    return gradient;
  }
  template <class Body>
  __device__ __forceinline__ void for_each(const Body& body) const {
    const int64_t n = args.layout.place(set).num_points;
    for (int64_t i = ThreadGroup::rank(); i < n; i += ThreadGroup::threads) body(i);
  }
  static __device__ __forceinline__ int64_t at(const SetLayout& layout, int64_t set, int64_t i) {
    return layout.place(set).first + layout.points.offset(i);
  }
  __device__ __forceinline__ MovingPoint<T> load(int64_t i) const {
    const PointArray& x_tangent = args.tangent_x;
    const PointArray& weight_tangent = args.tangent_weight;
    return {load_real<T>(args.x, args.dtype, at(args.layout, set, i)),
            args.weight == nullptr
                ? T(1)
                : load_weight<T>(args.weight, args.weight_dtype, at(args.weight_layout, set, i)),
            x_tangent.data == nullptr
                ? T(0)
                : load_real<T>(x_tangent.data, args.dtype, at(x_tangent.layout, set, i)),
            weight_tangent.data == nullptr
                ? T(0)
                : static_cast<const T*>(weight_tangent.data)[at(weight_tangent.layout, set, i)]};
  }
  template <int count, class Body>
  __device__ __forceinline__ void sum(double (&sums)[count], const Body& body) const {
    CompensatedSum<double> totals[count];
    for_each([&](int64_t i) {
      T terms[count];
      body(load(i), terms);
      for (int k = 0; k < count; ++k) totals[k].add(static_cast<double>(terms[k]));
    });
    for (int k = 0; k < count; ++k) sums[k] = totals[k].total();
    ThreadGroup::template reduce<Add>(sums);
  }
  template <class PointBody, class WeightBody>
  __device__ __forceinline__ void write(const PointBody& point_body,
                                        const WeightBody& weight_body) const {
    for_each([&](int64_t i) {
      const MovingPoint<T> point = load(i);
      if (args.grad_x.data != nullptr) {
        const T gradient = point_body(point);
        with_storage<T>(args.dtype, [&](auto zero) {
          using S = decltype(zero);
          static_cast<S*>(args.grad_x.data)[at(args.grad_x.layout, set, i)] =
              bounded_from_real<S>(gradient);
        });
      }
      if (args.grad_weight.data != nullptr) {
        static_cast<T*>(args.grad_weight.data)[at(args.grad_weight.layout, set, i)] =
            weight_body(point);
      }
    });
  }
};

// A thread group takes a set.
template <class P, class T, class ThreadGroup>
__global__ void __launch_bounds__(block_threads, 1)
    backward_sums(const __grid_constant__ BackwardArgs args) {
  constexpr int thread_groups = block_threads / ThreadGroup::threads;
  const int64_t step = static_cast<int64_t>(gridDim.x) * thread_groups;
  for (int64_t set =
           static_cast<int64_t>(blockIdx.x) * thread_groups + threadIdx.x / ThreadGroup::threads;
       set < args.layout.num_sets; set += step) {
    const MovingPoints<T, ThreadGroup> points{args, set};
    const SetGradient<T> shared = set_gradient<T>(args, set);
    if (args.is_second_order()) {
      write_second_order<P>(args, set, points, shared);
    } else {
      write_alpha_gradient<P>(args, set, points, shared);
    }
  }
}

// Up to so many points, a warp takes a set.
constexpr int64_t most_warp_points = 1024;

template <class P, class T>
void launch_sums(const BackwardArgs& args, cudaStream_t stream) {
  const int64_t sets = args.layout.num_sets;
  if (args.layout.ptr == nullptr && args.layout.num_points <= most_warp_points) {
    DDN_LAUNCH((backward_sums<P, T, Warp>), grid_for(sets, block_threads / warp_size),
               block_threads, 0, stream, args);
  } else {
    DDN_LAUNCH((backward_sums<P, T, Block<block_threads>>), grid_for(sets, 1), block_threads, 0,
               stream, args);
  }
}

template <class P, class S, class T>
void launch_points(const BackwardArgs& args, cudaStream_t stream) {
  if (args.layout.ptr != nullptr) {
    DDN_LAUNCH(
        (backward_segments<P, S, T>),
        grid_for(args.layout.num_points * args.layout.channels, elements_per_lane * block_threads),
        block_threads, 0, stream, args);
  } else {
    const int64_t tiles = args.layout.num_sets * ((args.layout.num_points + tile - 1) / tile);
    DDN_LAUNCH((backward<P, S, T>), grid_for(tiles, block_threads / warp_size), block_threads, 0,
               stream, args);
  }
}

template <class T>
cudaError_t backward_of_type(const BackwardArgs& args, cudaStream_t stream) {
  with_penalty(args.penalty, [&](auto penalty) {
    using P = decltype(penalty);
    const bool points = args.grad_x.data != nullptr || args.grad_weight.data != nullptr;
    if (args.is_second_order() || args.grad_alpha != nullptr) launch_sums<P, T>(args, stream);
    if (args.is_second_order() || !points || args.layout.num_points == 0) return;
    if constexpr (sizeof(T) == sizeof(double)) {
      launch_points<P, double, T>(args, stream);
    } else if (args.dtype == DType::float16) {
      launch_points<P, Half, T>(args, stream);
    } else if (args.dtype == DType::bfloat16) {
      launch_points<P, BFloat16, T>(args, stream);
    } else {
      launch_points<P, float, T>(args, stream);
    }
  });
  return cudaGetLastError();
}

}  // namespace

cudaError_t robust_pool_backward(const BackwardArgs& args, cudaStream_t stream) {
  if (args.layout.num_sets == 0) return cudaSuccess;
  return args.dtype == DType::float64 ? backward_of_type<double>(args, stream)
                                      : backward_of_type<float>(args, stream);
}

}  // namespace ddn::cuda
