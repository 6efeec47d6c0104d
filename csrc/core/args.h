// What an operator hands to the kernels of either device: pointers and plain numbers.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace ddn {

enum class DType : int { float32, float64 };

// Some dims of a tensor in row-major order, merged where their strides allow it.
struct Dims {
  static constexpr int max_rank = 8;
  int rank = 0;
  int64_t size[max_rank] = {};
  int64_t stride[max_rank] = {};  // in elements

  // Where the i-th index of these dims, counted in row-major order, lies.
  DDN_HD int64_t offset(int64_t i) const {
    int64_t at = 0;
    for (int d = rank - 1; d > 0; --d) {
      at += (i % size[d]) * stride[d];
      i /= size[d];
    }
    return rank == 0 ? 0 : at + i * stride[0];
  }
};

// A tensor as num_sets sets of num_points points each: point j of set i lies at
// sets.offset(i) + points.offset(j). Points are visited in row-major order of the pooled dims.
struct SetLayout {
  int64_t num_sets = 0;
  int64_t num_points = 0;
  Dims sets;
  Dims points;

  DDN_HD bool contiguous_points() const {
    return points.rank == 0 || (points.rank == 1 && points.stride[0] == 1);
  }
};

enum class Status : int { converged, stopped_early, flat, empty, not_finite };

// What is told of each answer besides, [num_sets] each; see RobustPoolInfo in
// ddn_cuda/functional.py.
struct InfoArgs {
  int64_t* iterations;
  double* residual;
  double* curvature;
  double* objective;
  double* gap;
  int64_t* status;  // null: nothing is asked for
};

struct ForwardArgs {
  DType dtype;         // of x and y
  int penalty;         // its place in `Penalties`
  bool global;         // for penalties that are not convex: the global search
  SetLayout layout;    // of x
  const void* x;       //
  void* y;             // [num_sets], the answer rounded to dtype
  void* remainder;     // [num_sets], the unrounded answer minus y, in the opmath type
  void* curvature;     // [num_sets], f''(y) / phi''(0), in the opmath type; see core/solve.h
  const void* alpha;   // [num_sets] in the opmath type, or null:
  double alpha_value;  // then this one is meant
  const void* weight;  // in the opmath type, or null: each is one
  SetLayout weight_layout;
  int64_t max_iter;  // passes over a set; negative: until done
  double tolerance;  // accepted |step| in units of alpha; negative: the contract's
  InfoArgs info;     //
  void* workspace;   // what a device's kernels ask for, or null
};

struct BackwardArgs {
  DType dtype;            // of grad, x, y and grad_x
  int penalty;            //
  SetLayout layout;       // of x
  SetLayout grad_layout;  // of grad_x
  const void* grad;       // [num_sets]
  const void* x;          //
  const void* y;          // the forward's outputs, as there
  const void* remainder;  //
  const void* curvature;  //
  const void* alpha;      // as in the forward
  double alpha_value;     //
  const void* weight;     // as in the forward
  SetLayout weight_layout;
  void* grad_x;       // or null: not asked for
  void* grad_weight;  // one for each point, laid out as grad_x; or null
};

// The alpha of a set as the kernels' arithmetic knows it.
template <class Real, class Args>
DDN_HD Real set_alpha(const Args& args, int64_t set) {
  return args.alpha != nullptr ? static_cast<const Real*>(args.alpha)[set]
                               : static_cast<Real>(args.alpha_value);
}

// The range of alpha in which nothing over- or underflows.
DDN_HD constexpr double alpha_limit(DType dtype) { return dtype == DType::float64 ? 1e30 : 1e15; }

}  // namespace ddn
