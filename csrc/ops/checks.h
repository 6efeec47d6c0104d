// What an operator refuses before any work is done. Every message names the argument, what was
// given and what is accepted; values inside tensors are never looked at.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>
#include <vector>

namespace ddn {

struct Checks {
  const char* op;  // the function whose arguments these are

  // The number of a penalty's name or short name.
  int penalty(std::string_view name) const;

  void points(const at::Tensor& x) const;

  // dim as sorted non-negative dims; none given means all.
  std::vector<int64_t> dims(const at::Tensor& x, at::IntArrayRef dim) const;
  // The dims of an inner operator, which are sorted and not negative; none given means none.
  void sorted_dims(const at::Tensor& x, at::IntArrayRef dim, bool segments) const;

  void alpha(double alpha, const at::Tensor& x) const;
  void alpha(const at::Tensor& alpha, const at::Tensor& x, at::IntArrayRef dim,
             const std::optional<at::Tensor>& ptr) const;

  // Offsets of segments along the first dim of x.
  void offsets(const at::Tensor& ptr, const at::Tensor& x) const;

  void weight(const at::Tensor& weight, const at::Tensor& x) const;

  // t: the tangent of x, weight or alpha, argument `name` of an inner operator. Its shape is
  // checked where it is expanded.
  void direction(const at::Tensor& t, const char* name, const at::Tensor& x) const;

  // Raises when t carries a forward-mode tangent, which would be lost in silence.
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
