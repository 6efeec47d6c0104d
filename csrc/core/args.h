// The arguments that an operator passes to the kernels of either device: pointers and plain
// numbers.
#pragma once

#include <cstdint>

#include "core/half.h"

namespace ddn {

// boolean: of weights only.
enum class DType : int { float32, float64, float16, bfloat16, boolean };

// Calls f(S{}) with the storage type of the dtype. Real is the arithmetic (opmath) type: double for
// float64, float for the others.
template <class Real, class F>
DDN_HOST_DEVICE void with_storage(DType dtype, F&& f) {
  if constexpr (sizeof(Real) == sizeof(double)) {
    f(double{});
  } else if (dtype == DType::float16) {
    f(Half{});
  } else if (dtype == DType::bfloat16) {
    f(BFloat16{});
  } else {
    f(float{});
  }
}

// The same for weights, whose dtype is independent of Real.
template <class F>
DDN_HOST_DEVICE void with_weight_storage(DType dtype, F&& f) {
  if (dtype == DType::float64) {
    f(double{});
  } else if (dtype == DType::boolean) {
    f(uint8_t{});
  } else {
    with_storage<float>(dtype, f);
  }
}

DDN_HOST_DEVICE float to_real(uint8_t x) { return x != 0 ? 1.0f : 0.0f; }
DDN_HOST_DEVICE float to_real(float x) { return x; }
DDN_HOST_DEVICE double to_real(double x) { return x; }
DDN_HOST_DEVICE float to_real(Half x) { return to_float(x); }
DDN_HOST_DEVICE float to_real(BFloat16 x) { return to_float(x); }

DDN_HOST_DEVICE float largest_of(Half) { return 65504.0f; }
DDN_HOST_DEVICE float largest_of(BFloat16) { return 3.38953139e38f; }

template <class S, class Real>
DDN_HOST_DEVICE S from_real(Real x) {
  if constexpr (sizeof(S) == sizeof(Real)) {
    return x;
  } else {
    return from_float<S>(x);
  }
}

// The same, but a value beyond the range of S becomes the largest finite number; for gradients.
template <class S, class Real>
DDN_HOST_DEVICE S bounded_from_real(Real x) {
  if constexpr (sizeof(S) < sizeof(Real)) {
    const Real most = largest_of(S{});
    x = x > most ? most : (x < -most ? -most : x);  // keeps NaN
  }
  return from_real<S>(x);
}

// Element i of an array of the dtype.
template <class Real>
DDN_HOST_DEVICE Real load_real(const void* array, DType dtype, int64_t i) {
  Real x{};
  with_storage<Real>(dtype,
                     [&](auto zero) { x = to_real(static_cast<const decltype(zero)*>(array)[i]); });
  return x;
}

// Element i of an array of weights of the dtype.
template <class Real>
DDN_HOST_DEVICE Real load_weight(const void* array, DType dtype, int64_t i) {
  Real weight{};
  with_weight_storage(dtype, [&](auto zero) {
    weight = static_cast<Real>(to_real(static_cast<const decltype(zero)*>(array)[i]));
  });
  return weight;
}

// Some dimensions of a tensor in row-major order, merged where their strides allow it.
struct Dims {
  static constexpr int max_rank = 8;
  int rank = 0;
  int64_t size[max_rank] = {};
  int64_t stride[max_rank] = {};  // in elements

  // The offset in elements of the i-th index, counted in row-major order.
  DDN_HOST_DEVICE int64_t offset(int64_t i) const {
    int64_t at = 0;
    // A 64-bit division takes about 40 instructions.
    DDN_NO_UNROLL
    for (int d = rank - 1; d > 0; --d) {
      at += (i % size[d]) * stride[d];
      i /= size[d];
    }
    return rank == 0 ? 0 : at + i * stride[0];
  }
};

// The place of a set in memory. Point j is at element first + points.offset(j), with the `points`
// of its layout.
struct Place {
  int64_t first;
  int64_t num_points;
};

// A tensor as sets of points, in row-major order of the pooled dimensions.
//
// Dense: num_sets sets of num_points points each. Ragged: `points` is a single dimension of
// num_points points, divided into segments [ptr[s], ptr[s + 1]). Each segment is `channels` sets,
// whose offsets `sets` gives.
struct SetLayout {
  int64_t num_sets = 0;
  int64_t num_points = 0;
  Dims sets;
  Dims points;
  const int64_t* ptr = nullptr;  // ragged: ascending offsets from 0 to num_points
  int64_t channels = 1;

  DDN_HOST_DEVICE bool contiguous_points() const {
    return points.rank == 0 || (points.rank == 1 && points.stride[0] == 1);
  }
  DDN_HOST_DEVICE Place place(int64_t set) const {
    if (ptr == nullptr) return {sets.offset(set), num_points};
    const int64_t segment = set / channels, begin = ptr[segment];
    return {begin * points.stride[0] + sets.offset(set - segment * channels),
            ptr[segment + 1] - begin};
  }
};

enum class Status : int { converged, stopped_early, flat, empty, not_finite };

// Diagnostics of each answer, [num_sets] each; see RobustPoolInfo in ddn_cuda/functional.py.
struct InfoArgs {
  int64_t* iterations;
  double* residual;
  double* curvature;
  double* objective;
  double* gap;
  int64_t* status;  // null: no diagnostics are requested
};

// The objectives of all sets.
struct PoolArgs {
  DType dtype;         // of x, y and their gradients
  int penalty;         // index in `Penalties`
  SetLayout layout;    // of x
  const void* x;       //
  const void* alpha;   // [num_sets] in the opmath type, or null for alpha_value
  double alpha_value;  // the alpha of all sets
  const void* weight;  // null: all weights are one
  DType weight_dtype;
  SetLayout weight_layout;
};

struct ForwardArgs : PoolArgs {
  bool global;       // runs the global search for non-convex penalties
  void* y;           // [num_sets], the answer rounded to dtype
  void* remainder;   // [num_sets], the unrounded answer minus y, in the opmath type
  void* curvature;   // [num_sets], f''(y) / phi''(0), in the opmath type; see core/solve.h
  int64_t max_iter;  // limit of passes over a set; negative: none
  double tolerance;  // accepted |step| in units of alpha; negative: that of the guarantee
  InfoArgs info;     //
  void* workspace;   // of the size that the device's kernels request, or null
};

// An array with one number for each point of x, in its own layout. data may be null.
struct PointArray {
  void* data;
  SetLayout layout;
};

// The outputs of the forward pass, the incoming gradient, and the gradients to compute.
struct BackwardArgs : PoolArgs {
  const void* y;
  const void* remainder;
  const void* curvature;
  const void* grad;        // incoming, of y, [num_sets] in dtype; null: one
  PointArray grad_x;       // in dtype
  PointArray grad_weight;  // in the opmath type
  void* grad_alpha;        // [num_sets] in the opmath type, or null
  // Second order: the direction (tangents) in which the gradients above are differentiated. Null
  // tangents are zero. See Note [The second derivatives] in core/second_order.h.
  PointArray tangent_x;       // in dtype
  PointArray tangent_weight;  // in the opmath type
  const void* tangent_alpha;  // [num_sets] in the opmath type, or null
  void* tangent_y;            // output: directional derivative of y, [num_sets] in dtype, or null

  DDN_HOST_DEVICE bool is_second_order() const {
    return tangent_x.data != nullptr || tangent_weight.data != nullptr || tangent_alpha != nullptr;
  }
};

// x rounded once to the dtype.
template <class Real>
DDN_HOST_DEVICE Real rounded(DType dtype, double x) {
  Real result{};
  with_storage<Real>(dtype, [&](auto zero) {
    using S = decltype(zero);
    if constexpr (sizeof(S) == sizeof(Real)) {
      result = static_cast<Real>(x);
    } else {
      result = to_float(from_float<S>(rounded_to_odd(x)));
    }
  });
  return result;
}

// Writes x, rounded once, to element i of an array of the dtype.
template <class Real>
DDN_HOST_DEVICE void store_real(void* array, DType dtype, int64_t i, double x) {
  const Real value = rounded<Real>(dtype, x);
  with_storage<Real>(dtype, [&](auto zero) {
    using S = decltype(zero);
    static_cast<S*>(array)[i] = from_real<S>(value);
  });
}

// The alpha of a set in the arithmetic type.
template <class Real, class Args>
DDN_HOST_DEVICE Real set_alpha(const Args& args, int64_t set) {
  return args.alpha != nullptr ? static_cast<const Real*>(args.alpha)[set]
                               : static_cast<Real>(args.alpha_value);
}

// The kernels do not overflow or underflow for alpha within [1 / alpha_limit, alpha_limit].
DDN_HOST_DEVICE constexpr double alpha_limit(DType dtype) {
  return dtype == DType::float64 ? 1e30 : 1e15;
}

}  // namespace ddn
