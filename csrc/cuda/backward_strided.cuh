// The first-order backward kernel of tensors with any strides.
#pragma once

#include "core/gradient.h"
#include "cuda/backward_contiguous.cuh"

namespace ddn::cuda {

// Numbers of a lane, with stride warp_size.
constexpr int strided_elements = 8;

struct StridedArgs : BackwardArgs {
  int64_t channels;  // in which the points are numbered; see Note [Rows and channels]
};

// The points of all sets are numbered as the rows and channels of a contiguous tensor are, and each
// lane takes a point at a time. The divisions that find its place dominate. Index: an integer that
// holds the number of points; 32 bits divide in a quarter of the time of 64.
template <class P, class S, class T, class Index>
__device__ __forceinline__ void write_strided(const BackwardArgs& args, Index channels) {
  const SetLayout& layout = args.layout;
  const int64_t* const ptr = layout.ptr;
  const auto points = static_cast<Index>(layout.num_points);
  const int64_t segments = layout.num_sets / channels;
  const int64_t numbers = ptr == nullptr ? layout.num_sets * points : layout.num_points * channels;
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * block_threads + threadIdx.x) / warp_size;
  const int64_t step = static_cast<int64_t>(gridDim.x) * block_threads * strided_elements;
  for (int64_t begin = warp * warp_size * strided_elements + lane(); begin < numbers;
       begin += step) {
    int64_t set = -1;
    SetGradient<T> shared;
#pragma unroll 1
    for (int k = 0; k < strided_elements && begin + k * warp_size < numbers; ++k) {
      const auto number = static_cast<Index>(begin + k * warp_size);
      const Index row = number / channels, channel = number - row * channels;
      int64_t segment, point;
      if (ptr == nullptr) {
        segment = row / points;
        point = row - static_cast<Index>(segment) * points;
      } else {
        segment = first_segment_ending_after(ptr, 0, segments, row);
        point = row;
      }
      const auto at = [&](const SetLayout& of) {
        return of.points.offset(point) +
               of.sets.offset(ptr == nullptr ? segment * channels + channel : channel);
      };
      const bool is_in_segment = ptr == nullptr || (segment < segments && row >= ptr[0]);
      T x = 0, weight = 1;
      if (is_in_segment) {
        x = to_real(static_cast<const S*>(args.x)[at(layout)]);
        if (args.weight != nullptr && args.grad_x.data != nullptr) {
          weight = load_weight<T>(args.weight, args.weight_dtype, at(args.weight_layout));
        }
        if (set != segment * channels + channel) {
          set = segment * channels + channel;
          shared = set_gradient<T>(args, set);
        }
      }
      if (args.grad_x.data != nullptr) {
        static_cast<S*>(args.grad_x.data)[at(args.grad_x.layout)] =
            is_in_segment ? bounded_from_real<S>(point_gradient<P>(x, weight, shared)) : S{};
      }
      if (args.grad_weight.data != nullptr) {
        static_cast<T*>(args.grad_weight.data)[at(args.grad_weight.layout)] =
            is_in_segment ? weight_gradient<P>(x, shared) : T(0);
      }
    }
  }
}

template <class P, class S, class T>
__global__ void __launch_bounds__(block_threads, 2)
    backward_strided(const __grid_constant__ StridedArgs args) {
  const SetLayout& layout = args.layout;
  const int64_t numbers =
      layout.num_points * (layout.ptr == nullptr ? layout.num_sets : layout.channels);
  if (numbers <= INT32_MAX) {
    write_strided<P, S, T>(args, static_cast<uint32_t>(args.channels));
  } else {
    write_strided<P, S, T>(args, args.channels);
  }
}

}  // namespace ddn::cuda
