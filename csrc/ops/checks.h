// What an operator refuses before any work is done. Every message names the argument, what was
// given and what is accepted; values inside tensors are never looked at.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>
#include <vector>

namespace ddn {

void check_points(const at::Tensor& x);

// dim as sorted non-negative dims; none given means all.
std::vector<int64_t> checked_dims(const at::Tensor& x, at::IntArrayRef dim);

void check_alpha(double alpha, const at::Tensor& x);
void check_alpha(const at::Tensor& alpha, const at::Tensor& x, at::IntArrayRef dim,
                 const std::optional<at::Tensor>& ptr);

// Offsets of segments along the first dim of x.
void check_offsets(const at::Tensor& ptr, const at::Tensor& x);

void check_weight(const at::Tensor& weight, const at::Tensor& x);

// Raises when t carries a forward-mode tangent, which would be lost in silence.
void check_no_tangent(const at::Tensor& t, const char* name);

void check_solver(std::string_view solver);

void check_stopping(std::optional<int64_t> max_iter, std::optional<double> tol);

}  // namespace ddn
