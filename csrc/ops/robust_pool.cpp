#include "ops/robust_pool.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <string>
#include <vector>

#include "core/penalties.h"
#include "ops/checks.h"

namespace ddn {
namespace {

// Appends a dim to those before it, merged with the last one where it continues it in memory.
void append(Dims& dims, int64_t size, int64_t stride) {
  if (size == 1) return;
  if (dims.rank > 0 && dims.stride[dims.rank - 1] == size * stride) {
    dims.size[dims.rank - 1] *= size;
    dims.stride[dims.rank - 1] = stride;
    return;
  }
  TORCH_CHECK_NOT_IMPLEMENTED(dims.rank < Dims::max_rank, "robust_pool: `x` has more than ",
                              Dims::max_rank,
                              " dims that no merging of strides joins; expected "
                              "at most that many, pooled or kept");
  dims.size[dims.rank] = size;
  dims.stride[dims.rank] = stride;
  ++dims.rank;
}

SetLayout make_layout(const at::Tensor& x, at::IntArrayRef dim) {
  SetLayout layout;
  layout.num_sets = layout.num_points = 1;
  size_t next = 0;  // dim is sorted
  for (int64_t d = 0; d < x.dim(); ++d) {
    const bool pooled = next < dim.size() && dim[next] == d;
    next += pooled;
    (pooled ? layout.num_points : layout.num_sets) *= x.size(d);
    append(pooled ? layout.points : layout.sets, x.size(d), x.stride(d));
  }
  return layout;
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

const void* data_or_null(const at::Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }

// The inner operators can be called by name: what the kernels rely on is checked here once more.
void check_inner(const at::Tensor& x, at::IntArrayRef dim) {
  check_points(x);
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

ForwardOutputs forward_with(const std::function<void(const ForwardArgs&)>& launch,
                            const at::Tensor& x, std::string_view penalty, double alpha_value,
                            const std::optional<at::Tensor>& alpha, at::IntArrayRef dim,
                            std::optional<int64_t> max_iter, std::optional<double> tol) {
  check_inner(x, dim);
  const std::vector<int64_t> shape = keepdim_shape(x, dim);
  at::Tensor y = at::empty(shape, x.options());
  at::Tensor remainder = at::empty(shape, x.options().dtype(opmath(x)));
  at::Tensor curvature = at::empty_like(remainder);
  const at::Tensor alphas = alpha_per_set(alpha, x, shape);

  ForwardArgs args{};
  args.dtype = dtype_of(x);
  args.penalty = penalty_number(penalty);
  args.layout = make_layout(x, dim);
  args.x = x.const_data_ptr();
  args.y = y.mutable_data_ptr();
  args.remainder = remainder.mutable_data_ptr();
  args.curvature = curvature.mutable_data_ptr();
  args.alpha = data_or_null(alphas);
  args.alpha_value = alpha_value;
  args.max_iter = max_iter.value_or(-1);
  args.tolerance = tol.value_or(-1);
  if (args.layout.num_sets > 0) launch(args);
  return {y, remainder, curvature};
}

at::Tensor backward_with(const std::function<void(const BackwardArgs&)>& launch,
                         const at::Tensor& grad, const at::Tensor& x, const at::Tensor& y,
                         const at::Tensor& remainder, const at::Tensor& curvature,
                         std::string_view penalty, double alpha_value,
                         const std::optional<at::Tensor>& alpha, at::IntArrayRef dim) {
  check_inner(x, dim);
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
  at::Tensor grad_x = at::empty_like(x);

  BackwardArgs args{};
  args.dtype = dtype_of(x);
  args.penalty = penalty_number(penalty);
  args.layout = make_layout(x, dim);
  args.grad_layout = make_layout(grad_x, dim);
  args.grad = grads.const_data_ptr();
  args.x = x.const_data_ptr();
  args.y = ys.const_data_ptr();
  args.remainder = remainders.const_data_ptr();
  args.curvature = curvatures.const_data_ptr();
  args.alpha = data_or_null(alphas);
  args.alpha_value = alpha_value;
  args.grad_x = grad_x.mutable_data_ptr();
  if (args.layout.num_sets > 0) launch(args);
  return grad_x;
}

}  // namespace ddn
