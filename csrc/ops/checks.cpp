#include "ops/checks.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "core/args.h"
#include "core/penalties.h"

namespace ddn {
namespace {

// Whether kernels read this dtype.
bool is_stored(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf ||
         dtype == at::kBFloat16;
}

// Conditions on sizes that may be symbolic under torch.compile. expected() assumes the condition
// and defers the check to run time; known() is false unless the condition is known to hold.
bool expected(const c10::SymBool& condition) { return condition.expect_true(__FILE__, __LINE__); }
bool known(const c10::SymBool& condition) { return condition.guard_or_false(__FILE__, __LINE__); }

bool broadcasts_to(const c10::SymInt& size, const c10::SymInt& wanted) {
  return known(size.sym_eq(1)) || expected(size.sym_eq(wanted));
}

void check_dense(const at::Tensor& t, const char* op, const char* name) {
  TORCH_CHECK_TYPE(!t.is_nested(), op, ": `", name,
                   "` is a nested tensor; expected a dense one, such as the values() of a nested "
                   "tensor of layout torch.jagged");
  TORCH_CHECK_TYPE(t.layout() == at::kStrided, op, ": `", name, "` has layout ", t.layout(),
                   "; expected a dense (strided) tensor");
}

void check_same_device(const at::Tensor& t, const at::Tensor& x, const char* op, const char* name) {
  TORCH_CHECK_VALUE(t.device() == x.device(), op, ": `", name, "` is on ", t.device(),
                    " but x is on ", x.device(), "; expected both on the same device");
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

int Checks::penalty(std::string_view name) const {
  int number = -1;
  for (int i = 0; i < Penalties::size; ++i) {
    with_penalty(i, [&](auto penalty) {
      using P = decltype(penalty);
      if (name == P::name || name == P::alias) number = i;
    });
  }
  TORCH_CHECK_VALUE(number >= 0, op, ": `penalty` is '", name, "'; expected one of ",
                    penalty_names());
  return number;
}

void Checks::points(const at::Tensor& x) const {
  TORCH_CHECK_TYPE(x.defined(), op, ": `x` is None; expected a tensor");
  check_dense(x, op, "x");
  const at::ScalarType dtype = x.scalar_type();
  TORCH_CHECK_TYPE(is_stored(dtype), op, ": `x` has dtype ", dtype,
                   "; expected a real floating-point tensor (Float, Double, Half or BFloat16)");
}

std::vector<int64_t> Checks::dims(const at::Tensor& x, at::IntArrayRef dim) const {
  const int64_t rank = x.dim();
  std::vector<int64_t> dims;
  if (dim.empty()) {
    for (int64_t d = 0; d < rank; ++d) dims.push_back(d);
  }
  const int64_t limit = std::max<int64_t>(rank, 1);  // a 0-dim tensor is one point
  for (const int64_t d : dim) {
    TORCH_CHECK_INDEX(-limit <= d && d < limit, op, ": `dim` is ", dim, " for x with ", rank,
                      " dims; expected values from ", -limit, " to ", limit - 1);
    dims.push_back(d < 0 ? d + limit : d);
  }
  std::sort(dims.begin(), dims.end());
  TORCH_CHECK_VALUE(std::adjacent_find(dims.begin(), dims.end()) == dims.end(), op, ": `dim` is ",
                    dim, " for x with ", rank,
                    " dims, which names a dim twice; expected distinct dims");
  if (rank == 0) dims.clear();
  for (const int64_t d : dims) {
    TORCH_CHECK_VALUE(expected(x.sym_size(d).sym_ne(0)), op, ": `x` has shape ", x.sym_sizes(),
                      ", which is empty in pooled dim ", d, "; expected at least one point");
  }
  return dims;
}

void Checks::sorted_dims(const at::Tensor& x, at::IntArrayRef dim, bool segments) const {
  int64_t previous = -1;
  for (const int64_t d : dim) {
    TORCH_CHECK_VALUE(previous < d && d < x.dim(), op, ": `dim` of an inner operator is ", dim,
                      "; expected sorted non-negative dims of x, without repeats");
    TORCH_CHECK_VALUE(segments || x.size(d) != 0, op, ": `x` is empty in pooled dim ", d,
                      "; expected at least one point");
    previous = d;
  }
  TORCH_CHECK_VALUE(!segments || dim.equals({0}), op, ": `dim` of an inner operator with ptr is ",
                    dim, "; expected 0");
}

void Checks::alpha(double alpha, const at::Tensor& x) const {
  const double limit =
      alpha_limit(x.scalar_type() == at::kDouble ? DType::float64 : DType::float32);
  TORCH_CHECK_VALUE(alpha >= 1 / limit && alpha <= limit, op, ": `alpha` is ", alpha,
                    "; expected a finite number from ", 1 / limit, " to ", limit,
                    " for x of dtype ", x.scalar_type());
}

void Checks::alpha(const at::Tensor& alpha, const at::Tensor& x, at::IntArrayRef dim,
                   const std::optional<at::Tensor>& ptr) const {
  check_dense(alpha, op, "alpha");
  TORCH_CHECK_TYPE(is_stored(alpha.scalar_type()), op, ": `alpha` has dtype ", alpha.scalar_type(),
                   "; expected a real floating-point tensor (Float, Double, Half or BFloat16) or a "
                   "float");
  check_same_device(alpha, x, op, "alpha");
  bool broadcasts = alpha.dim() <= x.dim();
  for (int64_t d = 1; broadcasts && d <= alpha.dim(); ++d) {
    const int64_t at = x.dim() - d;
    const bool pooled = std::find(dim.begin(), dim.end(), at) != dim.end();
    const c10::SymInt answers =
        !pooled ? x.sym_size(at) : (ptr.has_value() ? ptr->sym_size(0) - 1 : c10::SymInt(1));
    broadcasts = broadcasts_to(alpha.sym_size(alpha.dim() - d), answers);
  }
  TORCH_CHECK_VALUE(broadcasts, op, ": `alpha` has shape ", alpha.sym_sizes(), " for x of shape ",
                    x.sym_sizes(), " pooled over dims ", dim, ptr.has_value() ? " by segments" : "",
                    "; expected a shape that broadcasts against the output",
                    ptr.has_value() ? ", (segments, *channels)" : " with keepdim=True");
}

void Checks::offsets(const at::Tensor& ptr, const at::Tensor& x) const {
  TORCH_CHECK_VALUE(x.dim() >= 1, op,
                    ": `x` is a 0-dim tensor; expected one whose "
                    "first dim holds the points");
  check_dense(ptr, op, "ptr");
  TORCH_CHECK_TYPE(ptr.scalar_type() == at::kLong, op, ": `ptr` has dtype ", ptr.scalar_type(),
                   "; expected Long");
  TORCH_CHECK_VALUE(ptr.dim() == 1 && expected(ptr.sym_size(0).sym_ge(1)), op, ": `ptr` has shape ",
                    ptr.sym_sizes(), "; expected one dim of at least one offset");
  check_same_device(ptr, x, op, "ptr");
}

void Checks::weight(const at::Tensor& weight, const at::Tensor& x) const {
  check_dense(weight, op, "weight");
  const at::ScalarType dtype = weight.scalar_type();
  TORCH_CHECK_TYPE(is_stored(dtype) || dtype == at::kBool, op, ": `weight` has dtype ", dtype,
                   "; expected a real floating-point tensor (Float, Double, Half or BFloat16) or a "
                   "mask (Bool)");
  check_same_device(weight, x, op, "weight");
  bool broadcasts = weight.dim() <= x.dim();
  for (int64_t d = 1; broadcasts && d <= weight.dim(); ++d) {
    broadcasts = broadcasts_to(weight.sym_size(weight.dim() - d), x.sym_size(x.dim() - d));
  }
  TORCH_CHECK_VALUE(broadcasts, op, ": `weight` has shape ", weight.sym_sizes(), " for x of shape ",
                    x.sym_sizes(), "; expected a shape that broadcasts against x");
}

void Checks::direction(const at::Tensor& t, const char* name, const at::Tensor& x) const {
  check_dense(t, op, name);
  check_same_device(t, x, op, name);
}

void Checks::no_tangent(const at::Tensor& t, const char* name) const {
  TORCH_CHECK_NOT_IMPLEMENTED(!t._fw_grad(/*level=*/0).defined(), op, ": `", name,
                              "` carries a forward-mode tangent; expected none: forward-mode "
                              "differentiation is not supported");
}

void Checks::solver(std::string_view solver) const {
  TORCH_CHECK_VALUE(solver == "local" || solver == "global", op, ": `solver` is '", solver,
                    "'; expected 'local' or 'global'");
}

void Checks::stopping(std::optional<int64_t> max_iter, std::optional<double> tol) const {
  TORCH_CHECK_VALUE(!max_iter.has_value() || *max_iter >= 1, op, ": `max_iter` is ",
                    max_iter.value_or(0), "; expected a positive int or None");
  TORCH_CHECK_VALUE(!tol.has_value() || (*tol > 0 && std::isfinite(*tol)), op, ": `tol` is ",
                    tol.value_or(0), "; expected a positive finite float or None");
}

}  // namespace ddn
