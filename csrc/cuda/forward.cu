#include "cuda/forward_types.h"
#include "cuda/global.cuh"
#include "cuda/robust_pool_cuda.h"

namespace ddn::cuda {

namespace {

bool is_global(const ForwardArgs& args) {
  bool convex = true;
  with_penalty(args.penalty, [&](auto penalty) { convex = decltype(penalty)::convex; });
  return args.global && !convex;
}

}  // namespace

cudaError_t robust_pool_forward(const ForwardArgs& args, cudaStream_t stream) {
  if (args.layout.num_sets == 0 || args.layout.num_points == 0) return cudaSuccess;
  if (is_global(args)) {
    return args.dtype == DType::float64 ? global_float64(args, stream)
                                        : global_float32(args, stream);
  }
  return args.dtype == DType::float64 ? forward_float64(args, stream)
                                      : forward_float32(args, stream);
}

int64_t robust_pool_workspace_bytes(const ForwardArgs& args) {
  return is_global(args) ? global_workspace_bytes(args) : 0;
}

}  // namespace ddn::cuda
