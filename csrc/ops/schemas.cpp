// The operators of the namespace `ddn`, and the public ones as compositions of the inner ones.
//
// The inner operators carry kernels (robust_pool_cpu.cpp, robust_pool_cuda.cpp), fakes and
// derivatives (ddn_cuda/_autograd.py). The forward one hands its curvature to the backward one.

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "ops/checks.h"
#include "ops/robust_pool.h"

namespace ddn {
namespace {

using PublicInfo =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// Raises for bad arguments; returns dim as sorted non-negative dims.
std::vector<int64_t> check(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                           const std::optional<at::Tensor>& alpha, at::IntArrayRef dim,
                           const std::optional<at::Tensor>& weight, c10::string_view solver,
                           std::optional<int64_t> max_iter, std::optional<double> tol) {
  penalty_number(penalty);
  check_points(x);
  check_solver(solver);
  std::vector<int64_t> dims = checked_dims(x, dim);
  if (alpha.has_value()) {
    check_alpha(*alpha, x, dims);
    check_no_tangent(*alpha, "alpha");
  } else {
    check_alpha(alpha_value, x);
  }
  if (weight.has_value()) {
    check_weight(*weight, x);
    check_no_tangent(*weight, "weight");
  }
  check_stopping(max_iter, tol);
  check_no_tangent(x, "x");
  return dims;
}

at::Tensor robust_pool(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                       const std::optional<at::Tensor>& alpha, at::IntArrayRef dim, bool keepdim,
                       const std::optional<at::Tensor>& weight, c10::string_view solver,
                       std::optional<int64_t> max_iter, std::optional<double> tol) {
  const std::vector<int64_t> dims =
      check(x, penalty, alpha_value, alpha, dim, weight, solver, max_iter, tol);
  static const auto inner =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("ddn::_robust_pool_forward", "")
          .typed<ForwardOutputs(const at::Tensor&, c10::string_view, double,
                                const std::optional<at::Tensor>&, const std::optional<at::Tensor>&,
                                at::IntArrayRef, c10::string_view, std::optional<int64_t>,
                                std::optional<double>)>();
  const at::Tensor y =
      std::get<0>(inner.call(x, penalty, alpha_value, alpha, weight, dims, solver, max_iter, tol));
  return keepdim ? y : y.squeeze(dims);
}

// The same with what is told of each answer; see RobustPoolInfo in ddn_cuda/functional.py.
PublicInfo robust_pool_info(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                            const std::optional<at::Tensor>& alpha, at::IntArrayRef dim,
                            bool keepdim, const std::optional<at::Tensor>& weight,
                            c10::string_view solver, std::optional<int64_t> max_iter,
                            std::optional<double> tol) {
  const std::vector<int64_t> dims =
      check(x, penalty, alpha_value, alpha, dim, weight, solver, max_iter, tol);
  static const auto inner =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("ddn::_robust_pool_forward_info", "")
          .typed<InfoOutputs(const at::Tensor&, c10::string_view, double,
                             const std::optional<at::Tensor>&, const std::optional<at::Tensor>&,
                             at::IntArrayRef, c10::string_view, std::optional<int64_t>,
                             std::optional<double>)>();
  const InfoOutputs out =
      inner.call(x, penalty, alpha_value, alpha, weight, dims, solver, max_iter, tol);
  const auto shaped = [&](const at::Tensor& t) { return keepdim ? t : t.squeeze(dims); };
  return {shaped(std::get<0>(out)), shaped(std::get<3>(out)), shaped(std::get<4>(out)),
          shaped(std::get<5>(out)), shaped(std::get<6>(out)), shaped(std::get<7>(out)),
          shaped(std::get<8>(out))};
}

at::Tensor robust_pool_tensor(const at::Tensor& x, c10::string_view penalty,
                              const at::Tensor& alpha, at::IntArrayRef dim, bool keepdim,
                              const std::optional<at::Tensor>& weight, c10::string_view solver,
                              std::optional<int64_t> max_iter, std::optional<double> tol) {
  return robust_pool(x, penalty, 1.0, alpha, dim, keepdim, weight, solver, max_iter, tol);
}

at::Tensor robust_pool_float(const at::Tensor& x, c10::string_view penalty, double alpha,
                             at::IntArrayRef dim, bool keepdim,
                             const std::optional<at::Tensor>& weight, c10::string_view solver,
                             std::optional<int64_t> max_iter, std::optional<double> tol) {
  return robust_pool(x, penalty, alpha, std::nullopt, dim, keepdim, weight, solver, max_iter, tol);
}

}  // namespace

TORCH_LIBRARY(ddn, m) {
  // Overloads are tried in the order of their definition, and `float alpha` would take a
  // one-element tensor by a silent .item() that loses its gradient: the tensor overload is first.
  m.def(
      "robust_pool.tensor(Tensor x, str penalty=\"huber\", *, Tensor alpha, int[1] dim=-1, "
      "bool keepdim=False, Tensor? weight=None, str solver=\"global\", int? max_iter=None, "
      "float? tol=None) -> Tensor",
      robust_pool_tensor);
  m.def(
      "robust_pool(Tensor x, str penalty=\"huber\", *, float alpha=1.0, int[1] dim=-1, "
      "bool keepdim=False, Tensor? weight=None, str solver=\"global\", int? max_iter=None, "
      "float? tol=None) -> Tensor",
      robust_pool_float);
  m.def(
      "_robust_pool_forward(Tensor x, str penalty, float alpha_value, Tensor? alpha, "
      "Tensor? weight, int[] dim, str solver, int? max_iter, float? tol) -> (Tensor y, "
      "Tensor remainder, Tensor curvature)");
  m.def(
      "_robust_pool_forward_info(Tensor x, str penalty, float alpha_value, Tensor? alpha, "
      "Tensor? weight, int[] dim, str solver, int? max_iter, float? tol) -> (Tensor y, Tensor "
      "remainder, "
      "Tensor curvature, Tensor iterations, Tensor residual, Tensor second_derivative, "
      "Tensor objective, Tensor gap, Tensor status)");
  m.def(
      "_robust_pool_info(Tensor x, str penalty, float alpha_value, Tensor? alpha, int[1] dim, "
      "bool keepdim, Tensor? weight, str solver, int? max_iter, float? tol) -> (Tensor y, "
      "Tensor iterations, Tensor residual, Tensor curvature, Tensor objective, Tensor gap, "
      "Tensor status)",
      robust_pool_info);
  m.def(
      "_robust_pool_backward(Tensor grad, Tensor x, Tensor y, Tensor remainder, Tensor curvature, "
      "str penalty, float alpha_value, Tensor? alpha, Tensor? weight, int[] dim) -> Tensor");
  m.def(
      "_robust_pool_backward_weight(Tensor grad, Tensor x, Tensor y, Tensor remainder, "
      "Tensor curvature, str penalty, float alpha_value, Tensor? alpha, Tensor? weight, "
      "int[] dim) -> Tensor");
}

}  // namespace ddn
