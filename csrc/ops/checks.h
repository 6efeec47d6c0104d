// The argument checks of the operators, which precede all work. A message names the argument, the
// value given and the values accepted. The values in tensors are never read.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>
#include <vector>

namespace ddn {

struct Checks {
  const char* op;  // name of the function, for messages

  // The number of the penalty with this name or short name.
  int penalty(std::string_view name) const;

  void points(const at::Tensor& x) const;

  // Returns dim as sorted non-negative dims; an empty dim stands for all.
  std::vector<int64_t> dims(const at::Tensor& x, at::IntArrayRef dim) const;
  // The dims of an inner operator must be sorted and non-negative; an empty dim stands for none.
  void sorted_dims(const at::Tensor& x, at::IntArrayRef dim, bool segments) const;

  void alpha(double alpha, const at::Tensor& x) const;
  void alpha(const at::Tensor& alpha, const at::Tensor& x, at::IntArrayRef dim,
             const std::optional<at::Tensor>& ptr) const;

  // Offsets of segments along the first dim of x.
  void offsets(const at::Tensor& ptr, const at::Tensor& x) const;

  void weight(const at::Tensor& weight, const at::Tensor& x) const;

  // t: the tangent of x, weight or alpha; `name`: its argument of an inner operator. The expansion
  // of t checks its shape.
  void direction(const at::Tensor& t, const char* name, const at::Tensor& x) const;

  // Raises if t carries a forward-mode tangent, which would be dropped silently.
  void no_tangent(const at::Tensor& t, const char* name) const;

  void solver(std::string_view solver) const;

  void stopping(std::optional<int64_t> max_iter, std::optional<double> tol) const;
};

inline Checks checks_for(bool segments) {
  return {segments ? "segment_robust_pool" : "robust_pool"};
}
inline Checks checks_for(const std::optional<at::Tensor>& ptr) {
  return checks_for(ptr.has_value());
}

}  // namespace ddn
