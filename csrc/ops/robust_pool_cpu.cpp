#include "cpu/robust_pool_cpu.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "ops/robust_pool.h"

namespace ddn {
namespace {

void parallel_for(int64_t begin, int64_t end, int64_t grain, const cpu::Range& body) {
  at::parallel_for(begin, end, grain, body);
}

Forward forward(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                const std::optional<at::Tensor>& alpha, const std::optional<at::Tensor>& weight,
                at::IntArrayRef dim, c10::string_view solver, std::optional<int64_t> max_iter,
                std::optional<double> tol, bool with_info) {
  return forward_with([](const ForwardArgs& args) { cpu::robust_pool_forward(args, parallel_for); },
                      x, penalty, alpha_value, alpha, weight, dim, solver, max_iter, tol,
                      with_info);
}

ForwardOutputs forward_cpu(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                           const std::optional<at::Tensor>& alpha,
                           const std::optional<at::Tensor>& weight, at::IntArrayRef dim,
                           c10::string_view solver, std::optional<int64_t> max_iter,
                           std::optional<double> tol) {
  return forward(x, penalty, alpha_value, alpha, weight, dim, solver, max_iter, tol, false)
      .answer();
}

InfoOutputs info_cpu(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                     const std::optional<at::Tensor>& alpha,
                     const std::optional<at::Tensor>& weight, at::IntArrayRef dim,
                     c10::string_view solver, std::optional<int64_t> max_iter,
                     std::optional<double> tol) {
  return forward(x, penalty, alpha_value, alpha, weight, dim, solver, max_iter, tol, true).all();
}

template <Gradient wanted>
at::Tensor backward_cpu(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& y,
                        const at::Tensor& remainder, const at::Tensor& curvature,
                        c10::string_view penalty, double alpha_value,
                        const std::optional<at::Tensor>& alpha,
                        const std::optional<at::Tensor>& weight, at::IntArrayRef dim) {
  return backward_with(
      [](const BackwardArgs& args) { cpu::robust_pool_backward(args, parallel_for); }, wanted, grad,
      x, y, remainder, curvature, penalty, alpha_value, alpha, weight, dim);
}

}  // namespace

TORCH_LIBRARY_IMPL(ddn, CPU, m) {
  m.impl("_robust_pool_forward", forward_cpu);
  m.impl("_robust_pool_forward_info", info_cpu);
  m.impl("_robust_pool_backward", backward_cpu<Gradient::points>);
  m.impl("_robust_pool_backward_weight", backward_cpu<Gradient::weights>);
}

}  // namespace ddn
