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
  using Launcher = cudaError_t (*)(const ForwardArgs&, cudaStream_t);
  constexpr Launcher launchers[2][2][2] = {
      {{forward_float32, forward_float64}, {forward_weighted_float32, forward_weighted_float64}},
      {{global_float32, global_float64}, {global_weighted_float32, global_weighted_float64}}};
  const Launcher launch =
      launchers[is_global(args)][args.weight != nullptr][args.dtype == DType::float64];
  return launch(args, stream);
}

int64_t robust_pool_workspace_bytes(const ForwardArgs& args) {
  return is_global(args) ? global_workspace_bytes(args) : 0;
}

}  // namespace ddn::cuda
