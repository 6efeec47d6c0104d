// The operators of the namespace `ddn`, and the public ones as compositions of the inner ones.
//
// The inner operators carry kernels (robust_pool_cpu.cpp, robust_pool_cuda.cpp), fakes, rules for
// vmap and derivatives (ddn_cuda/_operators.py). The forward one hands its curvature to the others.

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <torch/library.h>

#include "ops/checks.h"
#include "ops/robust_pool.h"

namespace ddn {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// Raises for bad arguments; returns dim as sorted non-negative dims.
std::vector<int64_t> check(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                           const OptionalTensor& alpha, at::IntArrayRef dim,
                           const OptionalTensor& weight, const OptionalTensor& ptr,
                           c10::string_view solver, std::optional<int64_t> max_iter,
                           std::optional<double> tol) {
  const Checks checks = checks_for(ptr);
  penalty_number(penalty, checks);
  checks.points(x);
  checks.solver(solver);
  std::vector<int64_t> dims{0};
  if (ptr.has_value()) {
    checks.offsets(*ptr, x);
  } else {
    dims = checks.dims(x, dim);
  }
  if (alpha.has_value()) {
    checks.alpha(*alpha, x, dims, ptr);
  } else {
    checks.alpha(alpha_value, x);
  }
  if (weight.has_value()) checks.weight(*weight, x);
  checks.stopping(max_iter, tol);
  return dims;
}

at::Tensor pool(const at::Tensor& x, c10::string_view penalty, double alpha_value,
                const OptionalTensor& alpha, at::IntArrayRef dim, bool keepdim,
                const OptionalTensor& weight, const OptionalTensor& ptr, c10::string_view solver,
                std::optional<int64_t> max_iter, std::optional<double> tol) {
  const std::vector<int64_t> dims =
      check(x, penalty, alpha_value, alpha, dim, weight, ptr, solver, max_iter, tol);
  const Checks checks = checks_for(ptr);
  checks.no_tangent(x, "x");
  if (alpha.has_value()) checks.no_tangent(*alpha, "alpha");
  if (weight.has_value()) checks.no_tangent(*weight, "weight");
  static const auto inner =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("ddn::_robust_pool_forward", "")
          .typed<ForwardOutputs(const at::Tensor&, c10::string_view, double, const OptionalTensor&,
                                const OptionalTensor&, const OptionalTensor&, at::IntArrayRef,
                                c10::string_view, std::optional<int64_t>, std::optional<double>)>();
  const at::Tensor y = std::get<0>(
      inner.call(x, penalty, alpha_value, alpha, weight, ptr, dims, solver, max_iter, tol));
  return keepdim || ptr.has_value() ? y : y.squeeze(dims);
}

at::Tensor robust_pool_tensor(const at::Tensor& x, c10::string_view penalty,
                              const at::Tensor& alpha, at::IntArrayRef dim, bool keepdim,
                              const OptionalTensor& weight, c10::string_view solver,
                              std::optional<int64_t> max_iter, std::optional<double> tol) {
  return pool(x, penalty, 1.0, alpha, dim, keepdim, weight, std::nullopt, solver, max_iter, tol);
}

at::Tensor robust_pool_float(const at::Tensor& x, c10::string_view penalty, double alpha,
                             at::IntArrayRef dim, bool keepdim, const OptionalTensor& weight,
                             c10::string_view solver, std::optional<int64_t> max_iter,
                             std::optional<double> tol) {
  return pool(x, penalty, alpha, std::nullopt, dim, keepdim, weight, std::nullopt, solver, max_iter,
              tol);
}

at::Tensor segment_robust_pool_tensor(const at::Tensor& x, const at::Tensor& ptr,
                                      c10::string_view penalty, const at::Tensor& alpha,
                                      const OptionalTensor& weight, c10::string_view solver,
                                      std::optional<int64_t> max_iter, std::optional<double> tol) {
  return pool(x, penalty, 1.0, alpha, {0}, true, weight, ptr, solver, max_iter, tol);
}

at::Tensor segment_robust_pool_float(const at::Tensor& x, const at::Tensor& ptr,
                                     c10::string_view penalty, double alpha,
                                     const OptionalTensor& weight, c10::string_view solver,
                                     std::optional<int64_t> max_iter, std::optional<double> tol) {
  return pool(x, penalty, alpha, std::nullopt, {0}, true, weight, ptr, solver, max_iter, tol);
}

// Raises when an argument of an inner operator carries a forward-mode tangent, else goes on to its
// kernel. That itself would look too late: below autograd's keys torch.func has taken tangents off
// their tensors, while above them vmap may still hide them.
void refuse_tangents(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                     torch::jit::Stack* stack) {
  const std::vector<c10::Argument>& arguments = op.schema().arguments();
  const auto values = torch::jit::last(*stack, arguments.size());
  bool segments = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    segments |= arguments[i].name() == "ptr" && values[i].isTensor();
  }
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (!values[i].isTensor()) continue;
    checks_for(segments).no_tangent(values[i].toTensor(), arguments[i].name().c_str());
  }
  op.redispatchBoxed(keys & c10::after_ADInplaceOrView_keyset, stack);
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
      "segment_robust_pool.tensor(Tensor x, Tensor ptr, str penalty=\"huber\", *, Tensor alpha, "
      "Tensor? weight=None, str solver=\"global\", int? max_iter=None, float? tol=None) -> Tensor",
      segment_robust_pool_tensor);
  m.def(
      "segment_robust_pool(Tensor x, Tensor ptr, str penalty=\"huber\", *, float alpha=1.0, "
      "Tensor? weight=None, str solver=\"global\", int? max_iter=None, float? tol=None) -> Tensor",
      segment_robust_pool_float);

  m.def(
      "_robust_pool_check(Tensor x, str penalty, float alpha_value, Tensor? alpha, int[1] dim, "
      "Tensor? weight, Tensor? ptr, str solver, int? max_iter, float? tol) -> int[]",
      check);
  m.def(
      "_robust_pool_forward(Tensor x, str penalty, float alpha_value, Tensor? alpha, "
      "Tensor? weight, Tensor? ptr, int[] dim, str solver, int? max_iter, float? tol) -> "
      "(Tensor y, Tensor remainder, Tensor curvature)");
  m.def(
      "_robust_pool_forward_info(Tensor x, str penalty, float alpha_value, Tensor? alpha, "
      "Tensor? weight, Tensor? ptr, int[] dim, str solver, int? max_iter, float? tol) -> "
      "(Tensor y, Tensor remainder, Tensor curvature, Tensor iterations, Tensor residual, "
      "Tensor second_derivative, Tensor objective, Tensor gap, Tensor status)");
  m.def(
      "_robust_pool_backward(Tensor grad, Tensor x, Tensor y, Tensor remainder, Tensor curvature, "
      "str penalty, float alpha_value, Tensor? alpha, Tensor? weight, Tensor? ptr, int[] dim, "
      "bool[3] wanted) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_alpha)");
  m.def(
      "_robust_pool_tangent(Tensor? x_tangent, Tensor? weight_tangent, Tensor? alpha_tangent, "
      "Tensor x, Tensor y, Tensor remainder, Tensor curvature, str penalty, float alpha_value, "
      "Tensor? alpha, Tensor? weight, Tensor? ptr, int[] dim) -> Tensor");
  m.def(
      "_robust_pool_double_backward(Tensor grad, Tensor? x_tangent, Tensor? weight_tangent, "
      "Tensor? alpha_tangent, Tensor x, Tensor y, Tensor remainder, Tensor curvature, "
      "str penalty, float alpha_value, Tensor? alpha, Tensor? weight, Tensor? ptr, int[] dim, "
      "bool[3] wanted) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_alpha)");
}

// Under vmap too these are what they are composed of: without this, vmap would call them once for
// each of its batch.
TORCH_LIBRARY_IMPL(ddn, FuncTorchBatched, m) {
  m.impl("robust_pool.tensor", robust_pool_tensor);
  m.impl("robust_pool", robust_pool_float);
  m.impl("segment_robust_pool.tensor", segment_robust_pool_tensor);
  m.impl("segment_robust_pool", segment_robust_pool_float);
  m.impl("_robust_pool_check", check);
}

TORCH_LIBRARY_IMPL(ddn, ADInplaceOrView, m) {
  for (const char* inner :
       {"_robust_pool_forward", "_robust_pool_forward_info", "_robust_pool_backward",
        "_robust_pool_tangent", "_robust_pool_double_backward"}) {
    m.impl(inner, torch::CppFunction::makeFromBoxedFunction<&refuse_tangents>());
  }
}

}  // namespace ddn
