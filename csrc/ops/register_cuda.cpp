// The CUDA kernels of the inner operators. Only sharded() synchronises with the device; no other
// function called from here reads from it, so the launches can be captured in a CUDA graph.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/robust_pool_cuda.h"
#include "ops/device_operators.h"

namespace ddn {
namespace {

struct Cuda {
  static c10::cuda::CUDAGuard guard(const at::Tensor& x) {
    return c10::cuda::CUDAGuard(x.device());
  }
  static void forward(ForwardArgs args, const at::Tensor& x) {
    at::Tensor workspace;
    if (const int64_t bytes = cuda::robust_pool_workspace_bytes(args); bytes > 0) {
      workspace = at::empty({bytes}, x.options().dtype(at::kByte));
      args.workspace = workspace.mutable_data_ptr();
    }
    C10_CUDA_CHECK(cuda::robust_pool_forward(args, c10::cuda::getCurrentCUDAStream()));
  }
  static void backward(const BackwardArgs& args) {
    C10_CUDA_CHECK(cuda::robust_pool_backward(args, c10::cuda::getCurrentCUDAStream()));
  }
  static at::Tensor safe_offsets(const at::Tensor& ptr, int64_t rows) {
    const at::Tensor given = ptr.contiguous(), safe = at::empty_like(given);
    const int64_t count = given.numel();
    const at::Tensor largest = at::empty({cuda::segment_offsets_workspace(count)}, given.options());
    C10_CUDA_CHECK(
        cuda::segment_offsets({given.const_data_ptr<int64_t>(), safe.mutable_data_ptr<int64_t>(),
                               largest.mutable_data_ptr<int64_t>(), count, rows},
                              c10::cuda::getCurrentCUDAStream()));
    return safe;
  }
  static void sharded(ShardedLaunch& launch) {
    const at::Device device = launch.numbers.device();
    const at::Tensor sets = launch.sets.to(device), parameters = launch.parameters.to(device);
    launch.args.sets = sets.const_data_ptr<int64_t>();
    launch.args.parameters = static_cast<const PassRequest*>(parameters.const_data_ptr());
    C10_CUDA_CHECK(cuda::sharded_passes(launch.args, c10::cuda::getCurrentCUDAStream()));
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(ddn, CUDA, m) { Operators<Cuda>::implement(m); }

}  // namespace ddn
