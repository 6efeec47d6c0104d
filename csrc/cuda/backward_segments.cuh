// The first-order backward kernel of segments.
#pragma once

#include "cuda/backward_points.cuh"
#include "cuda/launch_limits.cuh"
#include "cuda/thread_group.cuh"

namespace ddn::cuda {

// The first of the segments [first, past) that ends after the row, or `past`.
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

// The same from `first` on, by steps that double: the segment is likely to be near.
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

// Numbers of a lane, with stride warp_size: one search among all segments serves them.
constexpr int elements_per_lane = 8;

// A warp takes consecutive numbers: neighbours are channels of one row.
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

}  // namespace ddn::cuda
