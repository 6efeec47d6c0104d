// The inner operators of one device, from what runs its kernels. `Device` has static functions
//
//   guard(x)               an object that is kept while work for x is handed out
//   forward(args)          robust_pool_forward of the device
//   backward(args)         robust_pool_backward
//
// and this header turns the arguments of the schemas into those of ops/robust_pool.h.
#pragma once

#include <torch/library.h>

#include "ops/robust_pool.h"

namespace ddn {

using OptionalTensor = std::optional<at::Tensor>;

template <class Device>
struct Operators {
  static Forward forward_of(const Problem& problem, const Solver& solver, bool with_info) {
    [[maybe_unused]] const auto guard = Device::guard(problem.x);
    return forward_with([&](const ForwardArgs& args) { Device::forward(args, problem.x); }, problem,
                        solver, with_info);
  }

  static ForwardOutputs forward(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                                const OptionalTensor& alpha, const OptionalTensor& weight,
                                const OptionalTensor& ptr, at::IntArrayRef dim,
                                c10::string_view solver, std::optional<int64_t> max_iter,
                                std::optional<double> tol) {
    return forward_of({x, penalty, alpha_value, alpha, weight, ptr, dim}, {solver, max_iter, tol},
                      /*with_info=*/false)
        .answer();
  }
  static InfoOutputs info(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                          const OptionalTensor& alpha, const OptionalTensor& weight,
                          const OptionalTensor& ptr, at::IntArrayRef dim, c10::string_view solver,
                          std::optional<int64_t> max_iter, std::optional<double> tol) {
    return forward_of({x, penalty, alpha_value, alpha, weight, ptr, dim}, {solver, max_iter, tol},
                      /*with_info=*/true)
        .all();
  }
  static Gradients backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& y,
                            const at::Tensor& remainder, const at::Tensor& curvature,
                            c10::string_view penalty, double alpha_value,
                            const OptionalTensor& alpha, const OptionalTensor& weight,
                            const OptionalTensor& ptr, at::IntArrayRef dim, Wanted wanted) {
    [[maybe_unused]] const auto guard = Device::guard(x);
    return backward_with(Device::backward, {x, penalty, alpha_value, alpha, weight, ptr, dim},
                         {y, remainder, curvature, grad}, wanted);
  }
  static at::Tensor tangent(const OptionalTensor& x_tangent, const OptionalTensor& weight_tangent,
                            const OptionalTensor& alpha_tangent, const at::Tensor& x,
                            const at::Tensor& y, const at::Tensor& remainder,
                            const at::Tensor& curvature, c10::string_view penalty,
                            double alpha_value, const OptionalTensor& alpha,
                            const OptionalTensor& weight, const OptionalTensor& ptr,
                            at::IntArrayRef dim) {
    [[maybe_unused]] const auto guard = Device::guard(x);
    return tangent_with(Device::backward, {x, penalty, alpha_value, alpha, weight, ptr, dim},
                        {y, remainder, curvature, std::nullopt},
                        {x_tangent, weight_tangent, alpha_tangent});
  }
  static Gradients double_backward(const at::Tensor& grad, const OptionalTensor& x_tangent,
                                   const OptionalTensor& weight_tangent,
                                   const OptionalTensor& alpha_tangent, const at::Tensor& x,
                                   const at::Tensor& y, const at::Tensor& remainder,
                                   const at::Tensor& curvature, c10::string_view penalty,
                                   double alpha_value, const OptionalTensor& alpha,
                                   const OptionalTensor& weight, const OptionalTensor& ptr,
                                   at::IntArrayRef dim, Wanted wanted) {
    [[maybe_unused]] const auto guard = Device::guard(x);
    return double_backward_with(
        Device::backward, {x, penalty, alpha_value, alpha, weight, ptr, dim},
        {y, remainder, curvature, grad}, {x_tangent, weight_tangent, alpha_tangent}, wanted);
  }

  static void implement(torch::Library& m) {
    m.impl("_robust_pool_forward", forward);
    m.impl("_robust_pool_forward_info", info);
    m.impl("_robust_pool_backward", backward);
    m.impl("_robust_pool_tangent", tangent);
    m.impl("_robust_pool_double_backward", double_backward);
  }
};

}  // namespace ddn
