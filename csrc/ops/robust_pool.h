// What the operators of both devices share: from checked tensors to the kernels' arguments.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/args.h"

namespace ddn {

// Raises for a name that is no penalty.
int penalty_number(std::string_view name);

using ForwardOutputs = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using InfoOutputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                               at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// What a forward operator returns; from `iterations` on only when asked for.
struct Forward {
  at::Tensor y, remainder, curvature;
  at::Tensor iterations, residual, second_derivative, objective, gap, status;

  std::vector<at::Tensor*> tensors() {
    return {&y,         &remainder, &curvature, &iterations, &residual, &second_derivative,
            &objective, &gap,       &status};
  }
  ForwardOutputs answer() const { return {y, remainder, curvature}; }
  InfoOutputs all() const {
    return {y,         remainder, curvature, iterations, residual, second_derivative,
            objective, gap,       status};
  }
};

// Allocates the outputs, describes the sets, and has `launch` fill them in.
Forward forward_with(const std::function<void(const ForwardArgs&)>& launch, const at::Tensor& x,
                     std::string_view penalty, double alpha_value,
                     const std::optional<at::Tensor>& alpha,
                     const std::optional<at::Tensor>& weight, at::IntArrayRef dim,
                     std::string_view solver, std::optional<int64_t> max_iter,
                     std::optional<double> tol, bool with_info);

enum class Gradient { points, weights };

// The gradient of x, or of the weights in x's shape.
at::Tensor backward_with(const std::function<void(const BackwardArgs&)>& launch, Gradient wanted,
                         const at::Tensor& grad, const at::Tensor& x, const at::Tensor& y,
                         const at::Tensor& remainder, const at::Tensor& curvature,
                         std::string_view penalty, double alpha_value,
                         const std::optional<at::Tensor>& alpha,
                         const std::optional<at::Tensor>& weight, at::IntArrayRef dim);

}  // namespace ddn
