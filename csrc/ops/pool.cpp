// The public operators: checks, and a call of an inner operator.
#include "ops/pool.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>

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

std::vector<int64_t> PoolCall::shape_of_answer() const {
  std::vector<int64_t> shape = x.sizes().vec();
  for (const int64_t d : dim) shape[d] = 1;
  if (ptr.has_value()) shape[0] = ptr->size(0) - 1;
  return shape;
}

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

}  // namespace ddn
