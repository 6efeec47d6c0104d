// Launches the backward kernels. The kernel for the gradients of points and weights reads x and the
// weights once and writes each gradient once. The kernel for the gradient of alpha and for second
// order reads both in each of its passes over a set.
#include "core/penalties.h"
#include "cuda/backward_contiguous.cuh"
#include "cuda/backward_strided.cuh"
#include "cuda/backward_sums.cuh"
#include "cuda/robust_pool_cuda.h"

namespace ddn::cuda {
namespace {

// A larger set takes a block instead of a warp.
constexpr int64_t max_warp_points = 1024;

template <class P, class T>
void launch_sums(const BackwardArgs& args, cudaStream_t stream) {
  const int64_t sets = args.layout.num_sets;
  if (args.layout.ptr == nullptr && args.layout.num_points <= max_warp_points) {
    DDN_LAUNCH((backward_sums<P, T, Warp>), grid_for(sets, block_threads / warp_size),
               block_threads, 0, stream, args);
  } else {
    DDN_LAUNCH((backward_sums<P, T, Block<block_threads>>), grid_for(sets, 1), block_threads, 0,
               stream, args);
  }
}

template <class P, class S, class T, bool dense>
bool launch_contiguous(const BackwardArgs& args, int64_t channels, cudaStream_t stream) {
  using Shape = TileShape<S, T, dense>;
  ContiguousArgs planned{args};
  if (!plan<Shape>(planned, channels)) return false;
  DeviceLimits device;
  if (device.read() != cudaSuccess) return true;  // which cudaGetLastError() returns
  const unsigned grid = std::min(grid_for(planned.tiles, 1), device.blocks(Shape::blocks));
  DDN_LAUNCH((backward_contiguous<P, S, T, dense>), grid, block_threads, 0, stream, planned);
  return true;
}

template <class P, class S, class T>
void launch_points(const BackwardArgs& args, cudaStream_t stream) {
  const SetLayout& layout = args.layout;
  const bool dense = layout.ptr == nullptr;
  const int64_t channels = channels_of(layout);
  if (dense ? launch_contiguous<P, S, T, true>(args, channels, stream)
            : launch_contiguous<P, S, T, false>(args, channels, stream)) {
    return;
  }
  DDN_LAUNCH((backward_strided<P, S, T>),
             grid_for(layout.num_points * (dense ? layout.num_sets : layout.channels),
                      strided_elements * block_threads),
             block_threads, 0, stream, StridedArgs{args, channels});
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
