// Tensors as the kernels take them: strides of sets and points, shapes expanded.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "core/args.h"

namespace ddn {

struct PoolCall;

// The type of the arithmetic and of all that belongs to the unrounded answer.
inline at::ScalarType opmath(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

inline const void* data_or_null(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr() : nullptr;
}

// Undefined where t is not there.
at::Tensor expanded(const std::optional<at::Tensor>& t, at::IntArrayRef shape,
                    at::ScalarType dtype);

// The tensors of one call: what belongs to points expanded to x's shape, what belongs to answers
// contiguous and in y's shape. Undefined ones are not there.
struct Operands {
  std::vector<int64_t> dim;
  at::Tensor ptr;
  at::Tensor x, weight, x_tangent, weight_tangent, grad_x, grad_weight;
  at::Tensor alpha, alpha_tangent;

  explicit Operands(const PoolCall& call);

  // Copies tensors of more scattered dims than the kernels can describe, in the order in which
  // their points are visited. What follows is for afterwards.
  void describe();

  // Fills in x, alpha and weight.
  void fill_in(PoolArgs& args, double alpha_value, int penalty) const;

  PointArray point_array(const at::Tensor& t) const;

 private:
  // None for a tensor that has no description.
  std::optional<SetLayout> layout_of(const at::Tensor& t) const;
};

}  // namespace ddn
