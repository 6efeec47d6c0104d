// The operators of the namespace `ddn`.
//
// The public operators are compositions of the inner ones. The inner operators have kernels
// (register_cpu.cpp, register_cuda.cpp) and one entry each in ddn_cuda/_operators.py, from which
// their other rules follow. The derivatives take y, remainder and curvature from the forward pass.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <c10/core/GradMode.h>
#include <torch/library.h>

#include <string>

#include "ops/pool.h"

namespace ddn {
namespace {

template <class F>
bool any_of(const PoolCall& call, F&& holds) {
  return holds(call.x) || (call.alpha.has_value() && holds(*call.alpha)) ||
         (call.weight.has_value() && holds(*call.weight));
}

at::Tensor inner_forward(const PoolCall& call, at::IntArrayRef dims, const SolverOptions& solver) {
  static const auto inner =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("ddn::_robust_pool_forward", "")
          .typed<ForwardOutputs(const at::Tensor&, c10::string_view, double, const OptionalTensor&,
                                const OptionalTensor&, const OptionalTensor&, at::IntArrayRef,
                                c10::string_view, std::optional<int64_t>, std::optional<double>)>();
  return std::get<0>(inner.call(call.x, call.penalty, call.alpha_value, call.alpha, call.weight,
                                call.ptr, dims, solver.name, solver.max_iter, solver.tol));
}

}  // namespace

std::vector<int64_t> check(const PoolCall& call, const SolverOptions& solver) {
  const Checks checks = call.checks();
  checks.penalty(call.penalty);
  checks.points(call.x);
  checks.solver(solver.name);
  std::vector<int64_t> dims{0};
  if (call.ptr.has_value()) {
    checks.offsets(*call.ptr, call.x);
  } else {
    dims = checks.dims(call.x, call.dim);
  }
  if (call.alpha.has_value()) {
    checks.alpha(*call.alpha, call.x, dims, call.ptr);
  } else {
    checks.alpha(call.alpha_value, call.x);
  }
  if (call.weight.has_value()) checks.weight(*call.weight, call.x);
  checks.stopping(solver.max_iter, solver.tol);
  return dims;
}

bool is_transformed(const PoolCall& call) {
  using c10::DispatchKey;
  static constexpr c10::DispatchKeySet wrappers(
      {DispatchKey::FuncTorchBatched, DispatchKey::FuncTorchGradWrapper, DispatchKey::Python});
  const auto is_wrapped = [](const at::Tensor& t) { return t.key_set().has_any(wrappers); };
  return c10::impl::tls_is_dispatch_key_included(DispatchKey::FuncTorchDynamicLayerFrontMode) ||
         any_of(call, is_wrapped) || (call.ptr.has_value() && is_wrapped(*call.ptr));
}

bool is_recorded(const PoolCall& call) {
  return c10::GradMode::is_enabled() &&
         any_of(call, [](const at::Tensor& t) { return t.requires_grad(); });
}

at::Tensor pool(const PoolCall& call, at::IntArrayRef dims, bool keepdim,
                const SolverOptions& solver) {
  const Checks checks = call.checks();
  checks.no_tangent(call.x, "x");
  if (call.alpha.has_value()) checks.no_tangent(*call.alpha, "alpha");
  if (call.weight.has_value()) checks.no_tangent(*call.weight, "weight");
  const auto answer = [&] {
    const at::Tensor y = inner_forward(call, dims, solver);
    return keepdim || call.ptr.has_value() ? y : y.squeeze(dims);
  };
  if (is_recorded(call) || is_transformed(call)) return answer();
  // Skips autograd's kernels, which are in Python, as there is nothing to record.
  at::AutoDispatchBelowADInplaceOrView guard;
  return answer();
}

namespace {

// Raises for invalid arguments; returns dim as sorted non-negative dims.
std::vector<int64_t> robust_pool_check(const at::Tensor& x, c10::string_view penalty,
                                       double alpha_value, const OptionalTensor& alpha,
                                       at::IntArrayRef dim, const OptionalTensor& weight,
                                       const OptionalTensor& ptr, c10::string_view solver,
                                       std::optional<int64_t> max_iter, std::optional<double> tol) {
  return check({x, penalty, alpha_value, alpha, weight, ptr, dim}, {solver, max_iter, tol});
}

at::Tensor checked_pool(const PoolCall& call, bool keepdim, const SolverOptions& solver) {
  return pool(call, check(call, solver), keepdim, solver);
}

at::Tensor robust_pool_tensor(const at::Tensor& x, c10::string_view penalty,
                              const at::Tensor& alpha, at::IntArrayRef dim, bool keepdim,
                              const OptionalTensor& weight, c10::string_view solver,
                              std::optional<int64_t> max_iter, std::optional<double> tol) {
  return checked_pool({x, penalty, 1.0, alpha, weight, std::nullopt, dim}, keepdim,
                      {solver, max_iter, tol});
}

at::Tensor robust_pool_float(const at::Tensor& x, c10::string_view penalty, double alpha,
                             at::IntArrayRef dim, bool keepdim, const OptionalTensor& weight,
                             c10::string_view solver, std::optional<int64_t> max_iter,
                             std::optional<double> tol) {
  return checked_pool({x, penalty, alpha, std::nullopt, weight, std::nullopt, dim}, keepdim,
                      {solver, max_iter, tol});
}

at::Tensor segment_robust_pool_tensor(const at::Tensor& x, const at::Tensor& ptr,
                                      c10::string_view penalty, const at::Tensor& alpha,
                                      const OptionalTensor& weight, c10::string_view solver,
                                      std::optional<int64_t> max_iter, std::optional<double> tol) {
  return checked_pool({x, penalty, 1.0, alpha, weight, ptr, {}}, true, {solver, max_iter, tol});
}

at::Tensor segment_robust_pool_float(const at::Tensor& x, const at::Tensor& ptr,
                                     c10::string_view penalty, double alpha,
                                     const OptionalTensor& weight, c10::string_view solver,
                                     std::optional<int64_t> max_iter, std::optional<double> tol) {
  return checked_pool({x, penalty, alpha, std::nullopt, weight, ptr, {}}, true,
                      {solver, max_iter, tol});
}

// Raises if an argument of an inner operator carries a forward-mode tangent; otherwise redispatches
// to its kernel. A kernel cannot make this check: below autograd's keys torch.func has removed the
// tangents from their tensors, and above them vmap may still hide them.
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

// The operators that have kernels.
constexpr const char* inner_schemas[] = {
    "_robust_pool_forward(Tensor x, str penalty, float alpha_value, Tensor? alpha, "
    "Tensor? weight, Tensor? ptr, int[] dim, str solver, int? max_iter, float? tol) -> "
    "(Tensor y, Tensor remainder, Tensor curvature)",

    "_robust_pool_forward_info(Tensor x, str penalty, float alpha_value, Tensor? alpha, "
    "Tensor? weight, Tensor? ptr, int[] dim, str solver, int? max_iter, float? tol) -> "
    "(Tensor y, Tensor remainder, Tensor curvature, Tensor iterations, Tensor residual, "
    "Tensor second_derivative, Tensor objective, Tensor gap, Tensor status)",

    "_robust_pool_backward(Tensor grad, Tensor x, Tensor y, Tensor remainder, Tensor curvature, "
    "str penalty, float alpha_value, Tensor? alpha, Tensor? weight, Tensor? ptr, int[] dim, "
    "bool[3] wanted) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_alpha)",

    "_robust_pool_jvp(Tensor? x_tangent, Tensor? weight_tangent, Tensor? alpha_tangent, "
    "Tensor x, Tensor y, Tensor remainder, Tensor curvature, str penalty, float alpha_value, "
    "Tensor? alpha, Tensor? weight, Tensor? ptr, int[] dim) -> Tensor",

    "_robust_pool_double_backward(Tensor grad, Tensor? x_tangent, Tensor? weight_tangent, "
    "Tensor? alpha_tangent, Tensor x, Tensor y, Tensor remainder, Tensor curvature, "
    "str penalty, float alpha_value, Tensor? alpha, Tensor? weight, Tensor? ptr, int[] dim, "
    "bool[3] wanted) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_alpha)",
};

}  // namespace

TORCH_LIBRARY(ddn, m) {
  // Overloads are tried in the order of their definition. The tensor overload comes first, because
  // `float alpha` would accept a one-element tensor by a silent .item() and lose its gradient.
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
      robust_pool_check);
  for (const char* schema : inner_schemas) m.def(schema);
}

// Registers the compositions for vmap as well, which would otherwise call the operators once for
// each element of its batch.
TORCH_LIBRARY_IMPL(ddn, FuncTorchBatched, m) {
  m.impl("robust_pool.tensor", robust_pool_tensor);
  m.impl("robust_pool", robust_pool_float);
  m.impl("segment_robust_pool.tensor", segment_robust_pool_tensor);
  m.impl("segment_robust_pool", segment_robust_pool_float);
  m.impl("_robust_pool_check", robust_pool_check);
}

TORCH_LIBRARY_IMPL(ddn, ADInplaceOrView, m) {
  for (const std::string schema : inner_schemas) {
    m.impl(schema.substr(0, schema.find('(')).c_str(),
           torch::CppFunction::makeFromBoxedFunction<&refuse_tangents>());
  }
}

}  // namespace ddn
