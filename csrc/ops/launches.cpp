// The preparation of a launch by an inner operator: checks, outputs, and the kernel arguments.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "ops/pool.h"

namespace ddn {
namespace {

// Checks the preconditions of the kernels, because inner operators can be called directly. Returns
// the penalty's number.
int check_inner(const PoolCall& call) {
  const Checks checks = call.checks();
  checks.points(call.x);
  if (call.weight.has_value()) checks.weight(*call.weight, call.x);
  if (call.ptr.has_value()) checks.offsets(*call.ptr, call.x);
  checks.sorted_dims(call.x, call.dim, call.ptr.has_value());
  if (call.alpha.has_value()) checks.alpha(*call.alpha, call.x, call.dim, call.ptr);
  return checks.penalty(call.penalty);
}

// Checks that t has y's shape, the dtype and x's device; returns it contiguous.
at::Tensor per_set(const PoolCall& call, const at::Tensor& t, const char* name,
                   at::ScalarType dtype) {
  const std::vector<int64_t> shape = call.shape_of_answer();
  const at::Device device = call.x.device();
  TORCH_CHECK_VALUE(
      t.sizes() == at::IntArrayRef(shape) && t.scalar_type() == dtype && t.device() == device,
      call.checks().op, ": `", name, "` is ", t.toString(), " of shape ", t.sizes(), "; expected ",
      dtype, " of shape ", shape, " on ", device);
  return t.contiguous();
}

Answer checked_answer(const PoolCall& call, const Answer& answer) {
  const at::ScalarType real = opmath(call.x);
  return {per_set(call, answer.y, "y", call.x.scalar_type()),
          per_set(call, answer.remainder, "remainder", real),
          per_set(call, answer.curvature, "curvature", real)};
}

void add_direction(Operands& operands, const PoolCall& call, const Direction& direction) {
  const at::Tensor& x = call.x;
  const Checks checks = call.checks();
  if (direction.x.has_value()) {
    checks.direction(*direction.x, "x_tangent", x);
    TORCH_CHECK_VALUE(direction.x->sizes() == x.sizes(), checks.op, ": `x_tangent` has shape ",
                      direction.x->sizes(), "; expected that of x, ", x.sizes());
  }
  if (direction.weight.has_value()) checks.direction(*direction.weight, "weight_tangent", x);
  if (direction.alpha.has_value()) checks.direction(*direction.alpha, "alpha_tangent", x);
  operands.x_tangent = expanded(direction.x, x.sizes(), x.scalar_type());
  operands.weight_tangent = expanded(direction.weight, x.sizes(), opmath(x));
  operands.alpha_tangent = expanded(direction.alpha, call.shape_of_answer(), opmath(x));
  if (operands.alpha_tangent.defined()) {
    operands.alpha_tangent = operands.alpha_tangent.contiguous();
  }
}

// Points in no segment have zero gradients.
void clear_outside(at::Tensor& gradient, const at::Tensor& ptr) {
  if (gradient.dim() == 1 && gradient.numel() == 0) return;  // not wanted
  if (ptr.is_cuda()) {                                       // the offsets are not known here
    gradient.zero_();
    return;
  }
  const int64_t* const offsets = ptr.const_data_ptr<int64_t>();
  const int64_t end = offsets[ptr.size(0) - 1], rows = gradient.size(0);
  gradient.narrow(0, 0, offsets[0]).zero_();
  gradient.narrow(0, end, rows - end).zero_();
}

}  // namespace

ForwardLaunch::ForwardLaunch(const PoolCall& call, const SolverOptions& solver, bool with_info)
    : ForwardLaunch(call, solver, with_info, check_inner(call)) {}

ForwardLaunch::ForwardLaunch(const PoolCall& call, const SolverOptions& solver, bool with_info,
                             int penalty)
    : operands(call) {
  operands.describe();
  operands.fill_in(args, call.alpha_value, penalty);
  const at::Tensor& x = call.x;
  const std::vector<int64_t> shape = call.shape_of_answer();
  const auto options = x.options();
  y = at::empty(shape, options);
  remainder = at::empty(shape, options.dtype(opmath(x)));
  curvature = at::empty(shape, options.dtype(opmath(x)));
  args.global = solver.name == "global";
  args.y = y.mutable_data_ptr();
  args.remainder = remainder.mutable_data_ptr();
  args.curvature = curvature.mutable_data_ptr();
  args.max_iter = solver.max_iter.value_or(-1);
  args.tolerance = solver.tol.value_or(-1);
  if (!with_info) return;
  for (at::Tensor* t : {&iterations, &status}) *t = at::empty(shape, options.dtype(at::kLong));
  for (at::Tensor* t : {&residual, &second_derivative, &objective, &gap}) {
    *t = at::empty(shape, options.dtype(at::kDouble));
  }
  args.info = {iterations.mutable_data_ptr<int64_t>(),
               residual.mutable_data_ptr<double>(),
               second_derivative.mutable_data_ptr<double>(),
               objective.mutable_data_ptr<double>(),
               gap.mutable_data_ptr<double>(),
               status.mutable_data_ptr<int64_t>()};
}

BackwardLaunch::BackwardLaunch(const PoolCall& call, const Answer& given,
                               const at::Tensor& given_grad, const Wanted& wanted,
                               const Direction* direction)
    : BackwardLaunch(call, given, direction, check_inner(call)) {
  const at::Tensor& x = call.x;
  grad = per_set(call, given_grad, "grad", x.scalar_type());
  const auto real = x.options().dtype(opmath(x));
  grad_x = wanted[0] ? at::empty_like(x) : at::empty({0}, x.options());
  grad_weight = wanted[1] ? at::empty_like(x, real) : at::empty({0}, real);
  grad_alpha = at::empty(wanted[2] ? call.shape_of_answer() : std::vector<int64_t>{0}, real);
  const bool all_written = x.is_cuda() && direction == nullptr && call.shape_of_answer()[0] > 0;
  for (at::Tensor* t : {&grad_x, &grad_weight}) {
    if (is_zero) {
      t->zero_();
    } else if (operands.ptr.defined() && !all_written) {
      clear_outside(*t, operands.ptr);
    }
  }
  if (is_zero) {
    grad_alpha.zero_();
    return;
  }
  if (wanted[0]) operands.grad_x = grad_x;
  if (wanted[1]) operands.grad_weight = grad_weight;
  point_to_inputs(call);
  args.grad = grad.const_data_ptr();
  args.grad_x = operands.point_array(operands.grad_x);
  args.grad_weight = operands.point_array(operands.grad_weight);
  args.grad_alpha = wanted[2] ? grad_alpha.mutable_data_ptr() : nullptr;
}

BackwardLaunch::BackwardLaunch(const PoolCall& call, const Answer& given,
                               const Direction& direction)
    : BackwardLaunch(call, given, &direction, check_inner(call)) {
  tangent_y = at::zeros(call.shape_of_answer(), call.x.options());
  if (is_zero) return;
  point_to_inputs(call);
  args.tangent_y = tangent_y.mutable_data_ptr();
}

BackwardLaunch::BackwardLaunch(const PoolCall& call, const Answer& given,
                               const Direction* direction, int penalty)
    : operands(call),
      answer(checked_answer(call, given)),
      is_zero(direction != nullptr && direction->is_zero()) {
  args.penalty = penalty;
  if (direction != nullptr) add_direction(operands, call, *direction);
}

void BackwardLaunch::point_to_inputs(const PoolCall& call) {
  operands.describe();
  operands.fill_in(args, call.alpha_value, args.penalty);
  args.y = answer.y.const_data_ptr();
  args.remainder = answer.remainder.const_data_ptr();
  args.curvature = answer.curvature.const_data_ptr();
  args.tangent_x = operands.point_array(operands.x_tangent);
  args.tangent_weight = operands.point_array(operands.weight_tangent);
  args.tangent_alpha = data_or_null(operands.alpha_tangent);
}

Gradients BackwardLaunch::gradients() const {
  // describe() may have replaced a gradient by a copy, into which the kernels have written.
  const auto copy_back = [](const at::Tensor& to, const at::Tensor& from) {
    if (from.defined() && !from.is_same(to)) to.copy_(from);
  };
  copy_back(grad_x, operands.grad_x);
  copy_back(grad_weight, operands.grad_weight);
  return {grad_x, grad_weight, grad_alpha};
}

}  // namespace ddn
