// The arguments of a call to a pooling operator, and the kernel arguments made from them for either
// device.
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

// The arguments that define the sets and their objectives, common to all operators. y has x's shape
// with size 1 in the pooled dims or, with ptr, with the number of segments as its first size.
struct PoolCall {
  at::Tensor x;
  std::string_view penalty;
  double alpha_value;
  OptionalTensor alpha;   // broadcasts against y
  OptionalTensor weight;  // broadcasts against x
  OptionalTensor ptr;     // offsets of segments along the first dim
  at::IntArrayRef dim;    // as the user gave it; for inner operators sorted and non-negative
  // Of inner operators: makes offsets from ptr that the kernels can rely on, whatever its values:
  // clamped to [0, rows] and raised to the largest one before. Contiguous.
  at::Tensor (*safe_offsets)(const at::Tensor& ptr, int64_t rows) = nullptr;

  Checks checks() const { return checks_for(ptr); }
  std::vector<int64_t> shape_of_answer() const;
};

struct SolverOptions {
  std::string_view name;
  std::optional<int64_t> max_iter;
  std::optional<double> tol;
};

// Checks the arguments of a public operator; returns dim as sorted non-negative dims.
std::vector<int64_t> check(const PoolCall& call, const SolverOptions& solver);

// Whether a torch.func transform or a Python tensor subclass acts on the call. Their rules run
// above autograd's kernels, or replace them.
bool is_transformed(const PoolCall& call);

// Whether autograd records the call.
bool is_recorded(const PoolCall& call);

// Runs a public operator after its checks. dims: the result of check().
at::Tensor pool(const PoolCall& call, at::IntArrayRef dims, bool keepdim,
                const SolverOptions& solver);

using ForwardOutputs = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using InfoOutputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                               at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// A checked forward call: the kernel arguments, and the input and output tensors they point into.
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
  at::Tensor iterations, residual, second_derivative, objective, gap, status;  // if with_info
};

// The outputs of the forward pass.
struct Answer {
  at::Tensor y, remainder, curvature;
};

// Tangents of x and weight, which broadcast to x's shape, and of alpha, which broadcasts to y's. An
// absent tangent is zero.
struct Direction {
  OptionalTensor x, weight, alpha;
  bool is_zero() const { return !x.has_value() && !weight.has_value() && !alpha.has_value(); }
};

// The gradients of x and weight, in x's shape, and of alpha, in y's. A gradient that is not wanted
// is an empty tensor.
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Wanted = std::array<bool, 3>;

// A checked call of an operator for derivatives.
struct BackwardLaunch {
  // The gradients of y, times grad. With a direction: the gradients of y's directional derivative,
  // times grad, which equal the directional derivatives of the gradients.
  BackwardLaunch(const PoolCall& call, const Answer& answer, const at::Tensor& grad,
                 const Wanted& wanted, const Direction* direction = nullptr);
  // The directional derivative of y.
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
  bool is_zero;  // the direction is zero
  at::Tensor grad, grad_x, grad_weight, grad_alpha, tangent_y;
};

}  // namespace ddn
