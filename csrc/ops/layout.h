// Converts tensors to the form that the kernels take: expanded shapes, and the strides of sets and
// points.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "core/args.h"

namespace ddn {

struct PoolCall;

// The dtype of the arithmetic, of the curvature and of the remainder of an answer.
inline at::ScalarType opmath(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

inline const void* data_or_null(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr() : nullptr;
}

// t converted and expanded; undefined if t is absent.
at::Tensor expanded(const std::optional<at::Tensor>& t, at::IntArrayRef shape,
                    at::ScalarType dtype);

// The tensors of one call. Per-point tensors are expanded to x's shape; per-answer tensors have y's
// shape and are contiguous. Absent tensors are undefined.
struct Operands {
  std::vector<int64_t> dim;
  at::Tensor ptr;
  at::Tensor x, weight, x_tangent, weight_tangent, grad_x, grad_weight;
  at::Tensor alpha, alpha_tangent;

  explicit Operands(const PoolCall& call);

  // Copies the tensors whose strides need more than Dims::max_rank dims, in the order in which the
  // kernels visit the points. Must precede fill_in() and point_array().
  void describe();

  // Sets x, alpha and weight in args.
  void fill_in(PoolArgs& args, double alpha_value, int penalty) const;

  PointArray point_array(const at::Tensor& t) const;

 private:
  // nullopt if the strides of t need more than Dims::max_rank dims.
  std::optional<SetLayout> layout_of(const at::Tensor& t) const;
};

}  // namespace ddn
