// Nothing here or below it waits for the device or reads from it: the launches can be captured in a
// CUDA graph.
#include "cuda/robust_pool_cuda.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "ops/robust_pool.h"

namespace ddn {
namespace {

Forward forward(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                const std::optional<at::Tensor>& alpha, const std::optional<at::Tensor>& weight,
                at::IntArrayRef dim, c10::string_view solver, std::optional<int64_t> max_iter,
                std::optional<double> tol, bool with_info) {
  const c10::cuda::CUDAGuard guard(x.device());
  return forward_with(
      [&](ForwardArgs args) {
        at::Tensor workspace;
        if (const int64_t bytes = cuda::robust_pool_workspace_bytes(args); bytes > 0) {
          workspace = at::empty({bytes}, x.options().dtype(at::kByte));
          args.workspace = workspace.mutable_data_ptr();
        }
        C10_CUDA_CHECK(cuda::robust_pool_forward(args, c10::cuda::getCurrentCUDAStream()));
      },
      x, penalty, alpha_value, alpha, weight, dim, solver, max_iter, tol, with_info);
}

ForwardOutputs forward_cuda(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                            const std::optional<at::Tensor>& alpha,
                            const std::optional<at::Tensor>& weight, at::IntArrayRef dim,
                            c10::string_view solver, std::optional<int64_t> max_iter,
                            std::optional<double> tol) {
  return forward(x, penalty, alpha_value, alpha, weight, dim, solver, max_iter, tol, false)
      .answer();
}

InfoOutputs info_cuda(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                      const std::optional<at::Tensor>& alpha,
                      const std::optional<at::Tensor>& weight, at::IntArrayRef dim,
                      c10::string_view solver, std::optional<int64_t> max_iter,
                      std::optional<double> tol) {
  return forward(x, penalty, alpha_value, alpha, weight, dim, solver, max_iter, tol, true).all();
}

template <Gradient wanted>
at::Tensor backward_cuda(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& y,
                         const at::Tensor& remainder, const at::Tensor& curvature,
                         c10::string_view penalty, double alpha_value,
                         const std::optional<at::Tensor>& alpha,
                         const std::optional<at::Tensor>& weight, at::IntArrayRef dim) {
  const c10::cuda::CUDAGuard guard(x.device());
  return backward_with(
      [](const BackwardArgs& args) {
        C10_CUDA_CHECK(cuda::robust_pool_backward(args, c10::cuda::getCurrentCUDAStream()));
      },
      wanted, grad, x, y, remainder, curvature, penalty, alpha_value, alpha, weight, dim);
}

}  // namespace

TORCH_LIBRARY_IMPL(ddn, CUDA, m) {
  m.impl("_robust_pool_forward", forward_cuda);
  m.impl("_robust_pool_forward_info", info_cuda);
  m.impl("_robust_pool_backward", backward_cuda<Gradient::points>);
  m.impl("_robust_pool_backward_weight", backward_cuda<Gradient::weights>);
}

}  // namespace ddn
