#include "ops/checks.h"

#include <ATen/WrapDimUtils.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>

#include "core/args.h"
#include "core/penalties.h"

namespace ddn {

void check_points(const at::Tensor& x) {
  TORCH_CHECK_TYPE(x.defined(), "robust_pool: `x` is None; expected a tensor");
  TORCH_CHECK_TYPE(x.layout() == at::kStrided, "robust_pool: `x` has layout ", x.layout(),
                   "; expected a dense (strided) tensor");
  const at::ScalarType dtype = x.scalar_type();
  TORCH_CHECK_TYPE(
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16,
      "robust_pool: `x` has dtype ", dtype,
      "; expected a real floating-point tensor (Float, Double, Half or BFloat16)");
}

std::vector<int64_t> checked_dims(const at::Tensor& x, at::IntArrayRef dim) {
  const int64_t rank = x.dim();
  std::vector<int64_t> dims;
  if (dim.empty()) {
    for (int64_t d = 0; d < rank; ++d) dims.push_back(d);
  }
  const int64_t limit = std::max<int64_t>(rank, 1);  // a 0-dim tensor is one point
  for (const int64_t d : dim) {
    TORCH_CHECK_INDEX(-limit <= d && d < limit, "robust_pool: `dim` is ", dim, " for x with ", rank,
                      " dims; expected values from ", -limit, " to ", limit - 1);
    dims.push_back(d < 0 ? d + limit : d);
  }
  std::sort(dims.begin(), dims.end());
  TORCH_CHECK_VALUE(std::adjacent_find(dims.begin(), dims.end()) == dims.end(),
                    "robust_pool: `dim` is ", dim, " for x with ", rank,
                    " dims, which names a dim twice; expected distinct dims");
  if (rank == 0) dims.clear();
  for (const int64_t d : dims) {
    TORCH_CHECK_VALUE(x.sym_size(d) != 0, "robust_pool: `x` has shape ", x.sym_sizes(),
                      ", which is empty in pooled dim ", d, "; expected at least one point");
  }
  return dims;
}

void check_alpha(double alpha, const at::Tensor& x) {
  const double limit =
      alpha_limit(x.scalar_type() == at::kDouble ? DType::float64 : DType::float32);
  TORCH_CHECK_VALUE(alpha >= 1 / limit && alpha <= limit, "robust_pool: `alpha` is ", alpha,
                    "; expected a finite number from ", 1 / limit, " to ", limit,
                    " for x of dtype ", x.scalar_type());
}

void check_alpha(const at::Tensor& alpha, const at::Tensor& x, at::IntArrayRef dim,
                 const std::optional<at::Tensor>& ptr) {
  TORCH_CHECK_TYPE(at::isFloatingType(alpha.scalar_type()), "robust_pool: `alpha` has dtype ",
                   alpha.scalar_type(), "; expected a real floating-point tensor or a float");
  TORCH_CHECK_VALUE(alpha.device() == x.device(), "robust_pool: `alpha` is on ", alpha.device(),
                    " but x is on ", x.device(), "; expected both on the same device");
  bool broadcasts = alpha.dim() <= x.dim();
  for (int64_t d = 1; broadcasts && d <= alpha.dim(); ++d) {
    const int64_t at = x.dim() - d;
    const bool pooled = std::find(dim.begin(), dim.end(), at) != dim.end();
    const c10::SymInt size = alpha.sym_size(alpha.dim() - d);
    const c10::SymInt answers =
        !pooled ? x.sym_size(at) : (ptr.has_value() ? ptr->sym_size(0) - 1 : c10::SymInt(1));
    broadcasts = size == 1 || size == answers;
  }
  TORCH_CHECK_VALUE(broadcasts, "robust_pool: `alpha` has shape ", alpha.sym_sizes(),
                    " for x of shape ", x.sym_sizes(), " pooled over dims ", dim,
                    ptr.has_value() ? " by segments" : "",
                    "; expected a shape that broadcasts against the output with keepdim=True");
}

void check_offsets(const at::Tensor& ptr, const at::Tensor& x) {
  TORCH_CHECK_VALUE(x.dim() >= 1,
                    "segment_robust_pool: `x` is a 0-dim tensor; expected one whose "
                    "first dim holds the points");
  TORCH_CHECK_TYPE(ptr.scalar_type() == at::kLong, "segment_robust_pool: `ptr` has dtype ",
                   ptr.scalar_type(), "; expected Long");
  TORCH_CHECK_VALUE(ptr.dim() == 1 && ptr.sym_size(0) >= 1, "segment_robust_pool: `ptr` has shape ",
                    ptr.sym_sizes(), "; expected one dim of at least one offset");
  TORCH_CHECK_VALUE(ptr.device() == x.device(), "segment_robust_pool: `ptr` is on ", ptr.device(),
                    " but x is on ", x.device(), "; expected both on the same device");
}

void check_weight(const at::Tensor& weight, const at::Tensor& x) {
  TORCH_CHECK_TYPE(weight.layout() == at::kStrided, "robust_pool: `weight` has layout ",
                   weight.layout(), "; expected a dense (strided) tensor");
  const at::ScalarType dtype = weight.scalar_type();
  TORCH_CHECK_TYPE(at::isFloatingType(dtype) || dtype == at::kBool,
                   "robust_pool: `weight` has dtype ", dtype,
                   "; expected a real floating-point tensor or a mask (Bool)");
  TORCH_CHECK_VALUE(weight.device() == x.device(), "robust_pool: `weight` is on ", weight.device(),
                    " but x is on ", x.device(), "; expected both on the same device");
  bool broadcasts = weight.dim() <= x.dim();
  for (int64_t d = 1; broadcasts && d <= weight.dim(); ++d) {
    const c10::SymInt size = weight.sym_size(weight.dim() - d);
    broadcasts = size == 1 || size == x.sym_size(x.dim() - d);
  }
  TORCH_CHECK_VALUE(broadcasts, "robust_pool: `weight` has shape ", weight.sym_sizes(),
                    " for x of shape ", x.sym_sizes(),
                    "; expected a shape that broadcasts against x");
}

void check_no_tangent(const at::Tensor& t, const char* name) {
  TORCH_CHECK_NOT_IMPLEMENTED(!t._fw_grad(/*level=*/0).defined(), "robust_pool: `", name,
                              "` carries a forward-mode tangent; expected none: forward-mode "
                              "differentiation is not supported");
}

void check_solver(std::string_view solver) {
  TORCH_CHECK_VALUE(solver == "local" || solver == "global", "robust_pool: `solver` is '", solver,
                    "'; expected 'local' or 'global'");
}

void check_stopping(std::optional<int64_t> max_iter, std::optional<double> tol) {
  TORCH_CHECK_VALUE(!max_iter.has_value() || *max_iter >= 1, "robust_pool: `max_iter` is ",
                    max_iter.value_or(0), "; expected a positive int or None");
  TORCH_CHECK_VALUE(!tol.has_value() || (*tol > 0 && std::isfinite(*tol)), "robust_pool: `tol` is ",
                    tol.value_or(0), "; expected a positive finite float or None");
}

}  // namespace ddn
