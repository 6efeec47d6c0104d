// What the operators of both devices share: from checked tensors to the kernels' arguments.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <functional>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/args.h"
#include "ops/checks.h"

namespace ddn {

// Raises for a name that is no penalty.
int penalty_number(std::string_view name, const Checks& checks);

// What every inner operator is told of the sets and their objectives. Shapes are those of x, the
// points, and of y, in which pooled dims have size 1 or, with ptr, the first is the number of
// segments.
struct Problem {
  at::Tensor x;
  std::string_view penalty;
  double alpha_value;
  std::optional<at::Tensor> alpha;   // broadcasts against y
  std::optional<at::Tensor> weight;  // broadcasts against x
  std::optional<at::Tensor> ptr;     // offsets of segments along the first dim
  at::IntArrayRef dim;               // sorted, not negative
};

struct Solver {
  std::string_view name;
  std::optional<int64_t> max_iter;
  std::optional<double> tol;
};

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
using LaunchForward = std::function<void(const ForwardArgs&)>;
Forward forward_with(const LaunchForward& launch, const Problem& problem, const Solver& solver,
                     bool with_info);

// The forward's outputs, and the gradient of y.
struct Answer {
  at::Tensor y, remainder, curvature;
  std::optional<at::Tensor> grad;
};
// A direction in which x, weight (each of x's shape or one that broadcasts to it) and alpha (to
// y's) move; a part that is not there stands still.
struct Direction {
  std::optional<at::Tensor> x, weight, alpha;
  bool is_zero() const { return !x.has_value() && !weight.has_value() && !alpha.has_value(); }
};

// The gradients of x and weight, in x's shape, and of alpha, in y's; an empty tensor stands for
// one that is not wanted.
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Wanted = std::array<bool, 3>;

using LaunchBackward = std::function<void(const BackwardArgs&)>;
Gradients backward_with(const LaunchBackward& launch, const Problem& problem, const Answer& answer,
                        const Wanted& wanted);

// The derivative of y in a direction.
at::Tensor tangent_with(const LaunchBackward& launch, const Problem& problem, const Answer& answer,
                        const Direction& direction);

// The gradients of that derivative, times answer.grad; just as well the derivatives of the
// gradients in that direction.
Gradients double_backward_with(const LaunchBackward& launch, const Problem& problem,
                               const Answer& answer, const Direction& direction,
                               const Wanted& wanted);

}  // namespace ddn
