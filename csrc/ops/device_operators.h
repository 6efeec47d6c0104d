// The inner operators of one device. `Device` has the static functions
//
//   guard(x)               returns an object that lives while kernels for x are launched
//   forward(args, x)       robust_pool_forward of the device
//   backward(args)         robust_pool_backward of the device
//   safe_offsets(ptr, rows)  see PoolCall
//   sharded(launch)        sharded_passes of the device
//
// and this header converts the arguments of the schemas into those of ops/pool.h.
#pragma once

#include <torch/library.h>

#include "ops/pool.h"
#include "ops/sharded.h"

namespace ddn {

template <class Device>
struct Operators {
  static ForwardOutputs forward(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                                const OptionalTensor& alpha, const OptionalTensor& weight,
                                const OptionalTensor& ptr, at::IntArrayRef dim,
                                c10::string_view solver, std::optional<int64_t> max_iter,
                                std::optional<double> tol) {
    return run_forward({x, penalty, alpha_value, alpha, weight, ptr, dim, Device::safe_offsets},
                       {solver, max_iter, tol},
                       /*with_info=*/false)
        .answer();
  }
  static InfoOutputs forward_info(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                                  const OptionalTensor& alpha, const OptionalTensor& weight,
                                  const OptionalTensor& ptr, at::IntArrayRef dim,
                                  c10::string_view solver, std::optional<int64_t> max_iter,
                                  std::optional<double> tol) {
    return run_forward({x, penalty, alpha_value, alpha, weight, ptr, dim, Device::safe_offsets},
                       {solver, max_iter, tol},
                       /*with_info=*/true)
        .answer_and_info();
  }
  static Gradients backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& y,
                            const at::Tensor& remainder, const at::Tensor& curvature,
                            c10::string_view penalty, double alpha_value,
                            const OptionalTensor& alpha, const OptionalTensor& weight,
                            const OptionalTensor& ptr, at::IntArrayRef dim, Wanted wanted) {
    [[maybe_unused]] const auto guard = Device::guard(x);
    const BackwardLaunch launch(
        {x, penalty, alpha_value, alpha, weight, ptr, dim, Device::safe_offsets},
        {y, remainder, curvature}, grad, wanted);
    if (launch.has_work()) Device::backward(launch.args);
    return launch.gradients();
  }
  static at::Tensor jvp(const OptionalTensor& x_tangent, const OptionalTensor& weight_tangent,
                        const OptionalTensor& alpha_tangent, const at::Tensor& x,
                        const at::Tensor& y, const at::Tensor& remainder,
                        const at::Tensor& curvature, c10::string_view penalty, double alpha_value,
                        const OptionalTensor& alpha, const OptionalTensor& weight,
                        const OptionalTensor& ptr, at::IntArrayRef dim) {
    [[maybe_unused]] const auto guard = Device::guard(x);
    const BackwardLaunch launch(
        {x, penalty, alpha_value, alpha, weight, ptr, dim, Device::safe_offsets},
        {y, remainder, curvature}, {x_tangent, weight_tangent, alpha_tangent});
    if (launch.has_work()) Device::backward(launch.args);
    return launch.jvp();
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
    const Direction direction{x_tangent, weight_tangent, alpha_tangent};
    const BackwardLaunch launch(
        {x, penalty, alpha_value, alpha, weight, ptr, dim, Device::safe_offsets},
        {y, remainder, curvature}, grad, wanted, &direction);
    if (launch.has_work()) Device::backward(launch.args);
    return launch.gradients();
  }

  static at::Tensor sharded_pass(const at::Tensor& x, const OptionalTensor& weight,
                                 at::IntArrayRef dim, const at::Tensor& sets,
                                 const at::Tensor& parameters, c10::string_view penalty,
                                 int64_t pass) {
    [[maybe_unused]] const auto guard = Device::guard(x);
    ShardedLaunch launch(x, weight, dim, sets, parameters, penalty, pass);
    Device::sharded(launch);
    return launch.numbers;
  }

  static void implement(torch::Library& m) {
    m.impl("_robust_pool_forward", forward);
    m.impl("_robust_pool_forward_info", forward_info);
    m.impl("_robust_pool_backward", backward);
    m.impl("_robust_pool_jvp", jvp);
    m.impl("_robust_pool_double_backward", double_backward);
    m.impl("_sharded_pass", sharded_pass);
  }

 private:
  static ForwardLaunch run_forward(const PoolCall& call, const SolverOptions& solver,
                                   bool with_info) {
    [[maybe_unused]] const auto guard = Device::guard(call.x);
    ForwardLaunch launch(call, solver, with_info);
    if (launch.has_work()) Device::forward(launch.args, call.x);
    return launch;
  }
};

}  // namespace ddn
