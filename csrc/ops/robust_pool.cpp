#include "ops/robust_pool.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "core/penalties.h"
#include "ops/checks.h"

namespace ddn {
namespace {

// Appends a dim to those before it, merged with the last one where it continues it in memory; false
// when there is no room.
bool append(Dims& dims, int64_t size, int64_t stride) {
  if (size == 1) return true;
  if (dims.rank > 0 && dims.stride[dims.rank - 1] == size * stride) {
    dims.size[dims.rank - 1] *= size;
    dims.stride[dims.rank - 1] = stride;
    return true;
  }
  if (dims.rank == Dims::max_rank) return false;
  dims.size[dims.rank] = size;
  dims.stride[dims.rank] = stride;
  ++dims.rank;
  return true;
}

bool is_pooled(int64_t d, at::IntArrayRef dim) {
  return std::find(dim.begin(), dim.end(), d) != dim.end();
}

DType dtype_of(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kBool:
      return DType::boolean;
    case at::kDouble:
      return DType::float64;
    case at::kHalf:
      return DType::float16;
    case at::kBFloat16:
      return DType::bfloat16;
    default:
      return DType::float32;
  }
}

// The type of the arithmetic and of all that belongs to the unrounded answer.
at::ScalarType opmath(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

std::vector<int64_t> shape_of_answer(const Problem& problem) {
  std::vector<int64_t> shape = problem.x.sizes().vec();
  for (const int64_t d : problem.dim) shape[d] = 1;
  if (problem.ptr.has_value()) shape[0] = problem.ptr->size(0) - 1;
  return shape;
}

// Offsets as the kernels rely on them, whatever their values: from 0 to the number of points, none
// below the one before.
at::Tensor safe_offsets(const std::optional<at::Tensor>& ptr, const at::Tensor& x) {
  if (!ptr.has_value()) return {};
  return std::get<0>(ptr->clamp(0, x.size(0)).cummax(0)).contiguous();
}

at::Tensor expanded(const std::optional<at::Tensor>& t, at::IntArrayRef shape,
                    at::ScalarType dtype) {
  if (!t.has_value()) return {};
  return t->to(dtype).expand(shape);
}

const void* data_or_null(const at::Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }

// The inner operators can be called by name: what the kernels rely on is checked here once more.
void check_inner(const Problem& problem) {
  const Checks checks = checks_for(problem.ptr);
  checks.points(problem.x);
  if (problem.weight.has_value()) checks.weight(*problem.weight, problem.x);
  if (problem.ptr.has_value()) checks.offsets(*problem.ptr, problem.x);
  if (problem.alpha.has_value()) {
    checks.alpha(*problem.alpha, problem.x, problem.dim, problem.ptr);
  }
  int64_t previous = -1;
  for (const int64_t d : problem.dim) {
    TORCH_CHECK_VALUE(previous < d && d < problem.x.dim(), checks.op,
                      ": `dim` of an inner operator is ", problem.dim,
                      "; expected sorted non-negative dims of x, without repeats");
    TORCH_CHECK_VALUE(problem.ptr.has_value() || problem.x.size(d) != 0, checks.op,
                      ": `x` is empty in pooled dim ", d, "; expected at least one point");
    previous = d;
  }
  TORCH_CHECK_VALUE(!problem.ptr.has_value() || problem.dim.equals({0}), checks.op,
                    ": `dim` of an inner operator with ptr is ", problem.dim, "; expected 0");
}

// The tensors of one call as the kernels take them: what belongs to points expanded to x's shape,
// what belongs to answers contiguous and in y's shape. Undefined ones are not there.
struct Operands {
  std::vector<int64_t> dim;
  at::Tensor ptr;
  at::Tensor x, weight, x_tangent, weight_tangent, grad_x, grad_weight;
  at::Tensor alpha, alpha_tangent;

  explicit Operands(const Problem& problem)
      : dim(problem.dim.vec()), ptr(safe_offsets(problem.ptr, problem.x)), x(problem.x) {
    if (problem.weight.has_value()) weight = problem.weight->expand(x.sizes());
    alpha = expanded(problem.alpha, shape_of_answer(problem), opmath(x));
    if (alpha.defined()) alpha = alpha.contiguous();
  }

  // None for a tensor of so many scattered dims that the kernels cannot describe it.
  std::optional<SetLayout> layout_of(const at::Tensor& t) const {
    SetLayout layout;
    if (!t.defined()) return layout;
    layout.num_sets = layout.num_points = 1;
    for (int64_t d = 0; d < t.dim(); ++d) {
      const bool pooled = is_pooled(d, dim);
      (pooled ? layout.num_points : layout.num_sets) *= t.size(d);
      if (pooled && ptr.defined()) continue;
      if (!append(pooled ? layout.points : layout.sets, t.size(d), t.stride(d))) {
        return std::nullopt;
      }
    }
    if (ptr.defined()) {
      layout.points.rank = 1;
      layout.points.size[0] = t.size(0);
      layout.points.stride[0] = t.stride(0);
      layout.ptr = ptr.const_data_ptr<int64_t>();
      layout.channels = layout.num_sets;
      layout.num_sets *= ptr.size(0) - 1;
    }
    return layout;
  }

  std::vector<at::Tensor*> per_point() {
    return {&x, &weight, &x_tangent, &weight_tangent, &grad_x, &grad_weight};
  }

  // Copies tensors that have no layout, in the order in which their points are visited.
  void describe() {
    for (at::Tensor* t : per_point()) {
      if (layout_of(*t).has_value()) continue;
      std::vector<int64_t> order;
      for (int64_t d = 0; d < t->dim(); ++d) {
        if (!is_pooled(d, dim)) order.push_back(d);
      }
      order.insert(ptr.defined() ? order.begin() : order.end(), dim.begin(), dim.end());
      std::vector<int64_t> back(order.size());
      for (size_t d = 0; d < order.size(); ++d)
        back[static_cast<size_t>(order[d])] = static_cast<int64_t>(d);
      *t = t->permute(order).contiguous().permute(back);
    }
  }
};

void fill_in(PoolArgs& args, const Operands& operands, const Problem& problem) {
  args.dtype = dtype_of(operands.x);
  args.penalty = penalty_number(problem.penalty, checks_for(problem.ptr));
  args.layout = *operands.layout_of(operands.x);
  args.x = operands.x.const_data_ptr();
  args.alpha = data_or_null(operands.alpha);
  args.alpha_value = problem.alpha_value;
  args.weight = data_or_null(operands.weight);
  if (operands.weight.defined()) args.weight_dtype = dtype_of(operands.weight);
  args.weight_layout = *operands.layout_of(operands.weight);
}

PointArray point_array(const Operands& operands, const at::Tensor& t) {
  return {const_cast<void*>(data_or_null(t)), *operands.layout_of(t)};
}

// The answer's tensors, checked and contiguous.
Answer checked_answer(const Problem& problem, const Answer& answer) {
  const std::vector<int64_t> shape = shape_of_answer(problem);
  const at::Tensor& x = problem.x;
  const Checks checks = checks_for(problem.ptr);
  const auto per_set = [&](const at::Tensor& t, const char* name, at::ScalarType dtype) {
    TORCH_CHECK_VALUE(
        t.sizes() == at::IntArrayRef(shape) && t.scalar_type() == dtype && t.device() == x.device(),
        checks.op, ": `", name, "` is ", t.toString(), " of shape ", t.sizes(), "; expected ",
        dtype, " of shape ", shape, " on ", x.device());
    return t.contiguous();
  };
  Answer checked{per_set(answer.y, "y", x.scalar_type()),
                 per_set(answer.remainder, "remainder", opmath(x)),
                 per_set(answer.curvature, "curvature", opmath(x)), std::nullopt};
  if (answer.grad.has_value()) checked.grad = per_set(*answer.grad, "grad", x.scalar_type());
  return checked;
}

// Direction parts as the kernels take them.
void add_direction(Operands& operands, const Problem& problem, const Direction& direction) {
  const at::Tensor& x = problem.x;
  const Checks checks = checks_for(problem.ptr);
  if (direction.x.has_value()) {
    checks.direction(*direction.x, "x_tangent", x);
    TORCH_CHECK_VALUE(direction.x->sizes() == x.sizes(), checks.op, ": `x_tangent` has shape ",
                      direction.x->sizes(), "; expected that of x, ", x.sizes());
  }
  if (direction.weight.has_value()) checks.direction(*direction.weight, "weight_tangent", x);
  if (direction.alpha.has_value()) checks.direction(*direction.alpha, "alpha_tangent", x);
  operands.x_tangent = expanded(direction.x, x.sizes(), x.scalar_type());
  operands.weight_tangent = expanded(direction.weight, x.sizes(), opmath(x));
  operands.alpha_tangent = expanded(direction.alpha, shape_of_answer(problem), opmath(x));
  if (operands.alpha_tangent.defined()) {
    operands.alpha_tangent = operands.alpha_tangent.contiguous();
  }
}

// All but the outputs; answer was checked.
BackwardArgs backward_args(const Operands& operands, const Problem& problem, const Answer& answer) {
  BackwardArgs args{};
  fill_in(args, operands, problem);
  args.y = answer.y.const_data_ptr();
  args.remainder = answer.remainder.const_data_ptr();
  args.curvature = answer.curvature.const_data_ptr();
  args.tangent_x = point_array(operands, operands.x_tangent);
  args.tangent_weight = point_array(operands, operands.weight_tangent);
  args.tangent_alpha = data_or_null(operands.alpha_tangent);
  return args;
}

Gradients empty_gradients(const Problem& problem, const Wanted& wanted) {
  const at::Tensor& x = problem.x;
  const auto real = x.options().dtype(opmath(x));
  return {wanted[0] ? at::empty_like(x) : at::empty({0}, x.options()),
          wanted[1] ? at::empty_like(x, real) : at::empty({0}, real),
          at::empty(wanted[2] ? shape_of_answer(problem) : std::vector<int64_t>{0}, real)};
}

// Runs a backward launch into new tensors; answer was checked.
Gradients gradients_with(const LaunchBackward& launch, const Problem& problem, const Answer& answer,
                         Operands& operands, const Wanted& wanted) {
  const auto [grad_x, grad_weight, grad_alpha] = empty_gradients(problem, wanted);
  if (operands.ptr.defined()) {  // of points in no segment the gradient is zero
    grad_x.zero_();
    grad_weight.zero_();
  }
  operands.grad_x = wanted[0] ? grad_x : at::Tensor();
  operands.grad_weight = wanted[1] ? grad_weight : at::Tensor();
  operands.describe();

  BackwardArgs args = backward_args(operands, problem, answer);
  args.grad = data_or_null(*answer.grad);
  args.grad_x = point_array(operands, operands.grad_x);
  args.grad_weight = point_array(operands, operands.grad_weight);
  args.grad_alpha = wanted[2] ? grad_alpha.mutable_data_ptr() : nullptr;
  if (args.layout.num_sets > 0) launch(args);
  if (wanted[0] && !operands.grad_x.is_same(grad_x)) grad_x.copy_(operands.grad_x);
  if (wanted[1] && !operands.grad_weight.is_same(grad_weight)) {
    grad_weight.copy_(operands.grad_weight);
  }
  return {grad_x, grad_weight, grad_alpha};
}

std::string penalty_names() {
  std::string names;
  for (int i = 0; i < Penalties::size; ++i) {
    with_penalty(i, [&](auto penalty) {
      using P = decltype(penalty);
      names += std::string(i == 0 ? "" : ", ") + P::name + " (" + P::alias + ")";
    });
  }
  return names;
}

}  // namespace

int penalty_number(std::string_view name, const Checks& checks) {
  int number = -1;
  for (int i = 0; i < Penalties::size; ++i) {
    with_penalty(i, [&](auto penalty) {
      using P = decltype(penalty);
      if (name == P::name || name == P::alias) number = i;
    });
  }
  TORCH_CHECK_VALUE(number >= 0, checks.op, ": `penalty` is '", name, "'; expected one of ",
                    penalty_names());
  return number;
}

Forward forward_with(const LaunchForward& launch, const Problem& problem, const Solver& solver,
                     bool with_info) {
  check_inner(problem);
  Operands operands(problem);
  operands.describe();
  const at::Tensor& x = problem.x;
  const std::vector<int64_t> shape = shape_of_answer(problem);
  Forward out;
  out.y = at::empty(shape, x.options());
  out.remainder = at::empty(shape, x.options().dtype(opmath(x)));
  out.curvature = at::empty_like(out.remainder);

  ForwardArgs args{};
  fill_in(args, operands, problem);
  args.global = solver.name == "global";
  args.y = out.y.mutable_data_ptr();
  args.remainder = out.remainder.mutable_data_ptr();
  args.curvature = out.curvature.mutable_data_ptr();
  args.max_iter = solver.max_iter.value_or(-1);
  args.tolerance = solver.tol.value_or(-1);
  if (with_info) {
    const auto reals = [&] { return at::empty(shape, x.options().dtype(at::kDouble)); };
    const auto numbers = [&] { return at::empty(shape, x.options().dtype(at::kLong)); };
    out.iterations = numbers();
    out.residual = reals();
    out.second_derivative = reals();
    out.objective = reals();
    out.gap = reals();
    out.status = numbers();
    args.info = {out.iterations.mutable_data_ptr<int64_t>(),
                 out.residual.mutable_data_ptr<double>(),
                 out.second_derivative.mutable_data_ptr<double>(),
                 out.objective.mutable_data_ptr<double>(),
                 out.gap.mutable_data_ptr<double>(),
                 out.status.mutable_data_ptr<int64_t>()};
  }
  if (args.layout.num_sets > 0) launch(args);
  return out;
}

Gradients backward_with(const LaunchBackward& launch, const Problem& problem, const Answer& answer,
                        const Wanted& wanted) {
  check_inner(problem);
  Operands operands(problem);
  return gradients_with(launch, problem, checked_answer(problem, answer), operands, wanted);
}

at::Tensor tangent_with(const LaunchBackward& launch, const Problem& problem, const Answer& answer,
                        const Direction& direction) {
  check_inner(problem);
  const Answer checked = checked_answer(problem, answer);
  at::Tensor tangent = at::zeros(shape_of_answer(problem), problem.x.options());
  if (direction.is_zero()) return tangent;
  Operands operands(problem);
  add_direction(operands, problem, direction);
  operands.describe();
  BackwardArgs args = backward_args(operands, problem, checked);
  args.tangent_y = tangent.mutable_data_ptr();
  if (args.layout.num_sets > 0) launch(args);
  return tangent;
}

Gradients double_backward_with(const LaunchBackward& launch, const Problem& problem,
                               const Answer& answer, const Direction& direction,
                               const Wanted& wanted) {
  check_inner(problem);
  const Answer checked = checked_answer(problem, answer);
  Operands operands(problem);
  add_direction(operands, problem, direction);
  if (direction.is_zero()) {
    const Gradients gradients = empty_gradients(problem, wanted);
    for (at::Tensor t : {std::get<0>(gradients), std::get<1>(gradients), std::get<2>(gradients)}) {
      t.zero_();
    }
    return gradients;
  }
  return gradients_with(launch, problem, checked, operands, wanted);
}

}  // namespace ddn
