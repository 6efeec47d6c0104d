// Robust pooling as the operators see it: the arguments of a call, and what its kernels are
// launched with on either device.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/args.h"
#include "ops/checks.h"
#include "ops/layout.h"

namespace ddn {

using OptionalTensor = std::optional<at::Tensor>;

// What every operator is told of the sets and their objectives. Shapes are those of x, the points,
// and of y, in which pooled dims have size 1 or, with ptr, the first is the number of segments.
struct PoolCall {
  at::Tensor x;
  std::string_view penalty;
  double alpha_value;
  OptionalTensor alpha;   // broadcasts against y
  OptionalTensor weight;  // broadcasts against x
  OptionalTensor ptr;     // offsets of segments along the first dim
  at::IntArrayRef dim;    // as the user gave it, or for inner operators sorted and not negative

  Checks checks() const { return checks_for(ptr); }
  std::vector<int64_t> shape_of_answer() const;
};

struct SolverOptions {
  std::string_view name;
  std::optional<int64_t> max_iter;
  std::optional<double> tol;
};

// Raises for bad arguments of a public operator; returns dim as sorted non-negative dims.
std::vector<int64_t> check(const PoolCall& call, const SolverOptions& solver);

// Whether a transform of torch.func, or a subclass in Python, acts on the call: their rules are
// called above autograd's kernels, or stand in for those.
bool is_transformed(const PoolCall& call);

// Whether autograd would record the call.
bool is_recorded(const PoolCall& call);

// A public operator after its checks; dims: what they returned.
at::Tensor pool(const PoolCall& call, at::IntArrayRef dims, bool keepdim,
                const SolverOptions& solver);

using ForwardOutputs = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using InfoOutputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                               at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// A forward call, checked: the kernels' arguments, the tensors that they point into, and outputs.
struct ForwardLaunch {
  ForwardLaunch(const PoolCall& call, const SolverOptions& solver, bool with_info);

  bool has_work() const { return args.layout.num_sets > 0; }
  ForwardOutputs answer() const { return {y, remainder, curvature}; }
  InfoOutputs answer_and_info() const {
    return {y,         remainder, curvature, iterations, residual, second_derivative,
            objective, gap,       status};
  }

  ForwardArgs args{};

 private:
  ForwardLaunch(const PoolCall& call, const SolverOptions& solver, bool with_info, int penalty);

  Operands operands;
  at::Tensor y, remainder, curvature;
  at::Tensor iterations, residual, second_derivative, objective, gap, status;  // with info alone
};

// The forward's outputs.
struct Answer {
  at::Tensor y, remainder, curvature;
};

// Tangents of x, weight (each of x's shape or one that broadcasts to it) and alpha (to y's); one
// that is not there is zero.
struct Direction {
  OptionalTensor x, weight, alpha;
  bool is_zero() const { return !x.has_value() && !weight.has_value() && !alpha.has_value(); }
};

// The gradients of x and weight, in x's shape, and of alpha, in y's; an empty tensor stands for
// one that is not wanted.
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Wanted = std::array<bool, 3>;

// A call of one of the derivatives, checked.
struct BackwardLaunch {
  // The gradients of y, times grad. With a direction: those of y's derivative in it, which are the
  // derivatives of the gradients in that direction as well.
  BackwardLaunch(const PoolCall& call, const Answer& answer, const at::Tensor& grad,
                 const Wanted& wanted, const Direction* direction = nullptr);
  // The derivative of y in a direction.
  BackwardLaunch(const PoolCall& call, const Answer& answer, const Direction& direction);

  bool has_work() const { return !is_zero && args.layout.num_sets > 0; }
  // After the launch.
  Gradients gradients() const;
  at::Tensor jvp() const { return tangent_y; }

  BackwardArgs args{};

 private:
  BackwardLaunch(const PoolCall& call, const Answer& answer, const Direction* direction,
                 int penalty);
  void point_to_inputs(const PoolCall& call);

  Operands operands;
  Answer answer;
  bool is_zero;  // for want of a direction
  at::Tensor grad, grad_x, grad_weight, grad_alpha, tangent_y;
};

}  // namespace ddn
