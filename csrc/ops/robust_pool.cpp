#include "ops/robust_pool.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <string>
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

// None for a tensor of so many scattered dims that the kernels cannot describe it.
std::optional<SetLayout> make_layout(const at::Tensor& x, at::IntArrayRef dim) {
  SetLayout layout;
  layout.num_sets = layout.num_points = 1;
  for (int64_t d = 0; d < x.dim(); ++d) {
    const bool pooled = is_pooled(d, dim);
    (pooled ? layout.num_points : layout.num_sets) *= x.size(d);
    if (!append(pooled ? layout.points : layout.sets, x.size(d), x.stride(d))) return std::nullopt;
  }
  return layout;
}

// The kept dims in their order, then the pooled ones.
std::vector<int64_t> sets_first(const at::Tensor& x, at::IntArrayRef dim) {
  std::vector<int64_t> order;
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (!is_pooled(d, dim)) order.push_back(d);
  }
  order.insert(order.end(), dim.begin(), dim.end());
  return order;
}

// A copy of x with one row per set, for tensors that have no layout.
at::Tensor as_rows(const at::Tensor& x, at::IntArrayRef dim) {
  int64_t points = 1;
  for (const int64_t d : dim) points *= x.size(d);
  return x.permute(sets_first(x, dim)).reshape({-1, points});
}
std::optional<at::Tensor> as_rows_if_defined(const at::Tensor& t, at::IntArrayRef dim) {
  if (!t.defined()) return std::nullopt;
  return as_rows(t, dim);
}

at::Tensor as_column(const at::Tensor& per_set) { return per_set.reshape({-1, 1}); }

std::optional<at::Tensor> as_column_if_defined(const at::Tensor& per_set) {
  if (!per_set.defined()) return std::nullopt;
  return as_column(per_set);
}

std::vector<int64_t> keepdim_shape(const at::Tensor& x, at::IntArrayRef dim) {
  std::vector<int64_t> shape = x.sizes().vec();
  for (const int64_t d : dim) shape[d] = 1;
  return shape;
}

DType dtype_of(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? DType::float64 : DType::float32;
}

// The type of the arithmetic, of the remainder and of the curvature.
at::ScalarType opmath(const at::Tensor& x) { return x.scalar_type(); }

// One alpha per set, or an undefined tensor where one number serves all.
at::Tensor alpha_per_set(const std::optional<at::Tensor>& alpha, const at::Tensor& x,
                         at::IntArrayRef shape) {
  if (!alpha.has_value()) return {};
  return alpha->to(opmath(x)).expand(shape).contiguous();
}

// A view of x's shape, or an undefined tensor where there are no weights.
at::Tensor weight_per_point(const std::optional<at::Tensor>& weight, const at::Tensor& x) {
  if (!weight.has_value()) return {};
  return weight->to(opmath(x)).expand(x.sizes());
}

const void* data_or_null(const at::Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }

// The inner operators can be called by name: what the kernels rely on is checked here once more.
void check_inner(const at::Tensor& x, const std::optional<at::Tensor>& weight,
                 at::IntArrayRef dim) {
  check_points(x);
  check_no_tangent(x, "x");
  if (weight.has_value()) {
    check_weight(*weight, x);
    check_no_tangent(*weight, "weight");
  }
  int64_t previous = -1;
  for (const int64_t d : dim) {
    TORCH_CHECK_VALUE(previous < d && d < x.dim(), "robust_pool: `dim` of an inner operator is ",
                      dim, "; expected sorted non-negative dims of x, without repeats");
    TORCH_CHECK_VALUE(x.size(d) != 0, "robust_pool: `x` is empty in pooled dim ", d,
                      "; expected at least one point");
    previous = d;
  }
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

int penalty_number(std::string_view name) {
  int number = -1;
  for (int i = 0; i < Penalties::size; ++i) {
    with_penalty(i, [&](auto penalty) {
      using P = decltype(penalty);
      if (name == P::name || name == P::alias) number = i;
    });
  }
  TORCH_CHECK_VALUE(number >= 0, "robust_pool: `penalty` is '", name, "'; expected one of ",
                    penalty_names());
  return number;
}

Forward forward_with(const std::function<void(const ForwardArgs&)>& launch, const at::Tensor& x,
                     std::string_view penalty, double alpha_value,
                     const std::optional<at::Tensor>& alpha,
                     const std::optional<at::Tensor>& weight, at::IntArrayRef dim,
                     std::string_view solver, std::optional<int64_t> max_iter,
                     std::optional<double> tol, bool with_info) {
  check_inner(x, weight, dim);
  const std::vector<int64_t> shape = keepdim_shape(x, dim);
  const at::Tensor alphas = alpha_per_set(alpha, x, shape);
  const at::Tensor weights = weight_per_point(weight, x);
  const std::optional<SetLayout> layout = make_layout(x, dim);
  const std::optional<SetLayout> weight_layout =
      weights.defined() ? make_layout(weights, dim) : SetLayout{};
  if (!layout.has_value() || !weight_layout.has_value()) {
    Forward out = forward_with(launch, as_rows(x, dim), penalty, alpha_value,
                               as_column_if_defined(alphas), as_rows_if_defined(weights, dim),
                               /*dim=*/{1}, solver, max_iter, tol, with_info);
    for (at::Tensor* t : out.tensors()) {
      if (t->defined()) *t = t->view(shape);
    }
    return out;
  }
  Forward out;
  out.y = at::empty(shape, x.options());
  out.remainder = at::empty(shape, x.options().dtype(opmath(x)));
  out.curvature = at::empty_like(out.remainder);

  ForwardArgs args{};
  args.dtype = dtype_of(x);
  args.penalty = penalty_number(penalty);
  args.global = solver == "global";
  args.layout = *layout;
  args.x = x.const_data_ptr();
  args.y = out.y.mutable_data_ptr();
  args.remainder = out.remainder.mutable_data_ptr();
  args.curvature = out.curvature.mutable_data_ptr();
  args.alpha = data_or_null(alphas);
  args.alpha_value = alpha_value;
  args.weight = data_or_null(weights);
  args.weight_layout = *weight_layout;
  args.max_iter = max_iter.value_or(-1);
  args.tolerance = tol.value_or(-1);
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

at::Tensor backward_with(const std::function<void(const BackwardArgs&)>& launch, Gradient wanted,
                         const at::Tensor& grad, const at::Tensor& x, const at::Tensor& y,
                         const at::Tensor& remainder, const at::Tensor& curvature,
                         std::string_view penalty, double alpha_value,
                         const std::optional<at::Tensor>& alpha,
                         const std::optional<at::Tensor>& weight, at::IntArrayRef dim) {
  check_inner(x, weight, dim);
  const std::vector<int64_t> shape = keepdim_shape(x, dim);
  const auto per_set = [&](const at::Tensor& t, const char* name, at::ScalarType dtype) {
    TORCH_CHECK_VALUE(
        t.sizes() == at::IntArrayRef(shape) && t.scalar_type() == dtype && t.device() == x.device(),
        "robust_pool: `", name, "` is ", t.toString(), " of shape ", t.sizes(), "; expected ",
        dtype, " of shape ", shape, " on ", x.device());
    return t.contiguous();
  };
  const at::Tensor grads = per_set(grad, "grad", x.scalar_type());
  const at::Tensor ys = per_set(y, "y", x.scalar_type());
  const at::Tensor remainders = per_set(remainder, "remainder", opmath(x));
  const at::Tensor curvatures = per_set(curvature, "curvature", opmath(x));
  const at::Tensor alphas = alpha_per_set(alpha, x, shape);
  const at::Tensor weights = weight_per_point(weight, x);
  at::Tensor out = at::empty_like(x);
  const std::optional<SetLayout> layout = make_layout(x, dim);
  const std::optional<SetLayout> weight_layout =
      weights.defined() ? make_layout(weights, dim) : SetLayout{};
  const std::optional<SetLayout> grad_layout = make_layout(out, dim);
  if (!layout.has_value() || !weight_layout.has_value() || !grad_layout.has_value()) {
    const at::Tensor rows =
        backward_with(launch, wanted, as_column(grads), as_rows(x, dim), as_column(ys),
                      as_column(remainders), as_column(curvatures), penalty, alpha_value,
                      as_column_if_defined(alphas), as_rows_if_defined(weights, dim), /*dim=*/{1});
    at::Tensor permuted = out.permute(sets_first(x, dim));
    permuted.copy_(rows.view(permuted.sizes()));
    return out;
  }

  BackwardArgs args{};
  args.dtype = dtype_of(x);
  args.penalty = penalty_number(penalty);
  args.layout = *layout;
  args.grad_layout = *grad_layout;
  args.grad = grads.const_data_ptr();
  args.x = x.const_data_ptr();
  args.y = ys.const_data_ptr();
  args.remainder = remainders.const_data_ptr();
  args.curvature = curvatures.const_data_ptr();
  args.alpha = data_or_null(alphas);
  args.alpha_value = alpha_value;
  args.weight = data_or_null(weights);
  args.weight_layout = *weight_layout;
  (wanted == Gradient::points ? args.grad_x : args.grad_weight) = out.mutable_data_ptr();
  if (args.layout.num_sets > 0) launch(args);
  return out;
}

}  // namespace ddn
