// The gradients of one answer: with respect to one of its points, the weight of that, and alpha.
//
// Note: [The implicit gradient]
// y solves f'(y) = sum_i w_i phi'(y - x_i; alpha) = 0. With H = f''(y) = sum_j w_j phi''(y - x_j),
// this identity differentiated by x_i, by w_i and by alpha gives
//
//   H dy/dx_i - w_i phi''(y - x_i) = 0,                so   dy/dx_i = w_i phi''(y - x_i) / H
//   H dy/dw_i + phi'(y - x_i) = 0,                     so   dy/dw_i = -phi'(y - x_i) / H
//   H dy/dalpha + sum_i w_i dphi'/dalpha(y - x_i) = 0, so
//                                        dy/dalpha = -sum_i w_i dphi'/dalpha(y - x_i) / H
//
// (the implicit function theorem; Gould, Hartley, Campbell, "Deep Declarative Networks", IEEE TPAMI
// 44(8), 2022, proposition 4.4). Both sides of a quotient are kept divided by phi''(0): also where
// that depends on alpha, since a factor in front of an identity that is zero may be differentiated
// or not.
#pragma once

#include <type_traits>

#include "core/args.h"
#include "core/solve.h"

namespace ddn {

// What the gradients of all points of one set share.
template <class V>
struct SetGradient {
  V base, offset;  // y and what rounding took from it
  V inverse;       // 1 / curvature; zero where the forward pass left zero for one that vanishes
  V grad;          // of y
  Alpha<V> alpha;

  template <class P>
  DDN_HOST_DEVICE Terms<V> terms(V x) const {
    return P::terms(Residuals<P, V>(base, offset, alpha)(x), alpha);
  }
};

template <class Real>
DDN_HOST_DEVICE SetGradient<Real> set_gradient(const BackwardArgs& args, int64_t set) {
  const Real alpha = set_alpha<Real>(args, set);
  // All loads are issued before the first division waits for one.
  const Real curvature = static_cast<const Real*>(args.curvature)[set];
  const Real y = load_real<Real>(args.y, args.dtype, set);
  const Real remainder = static_cast<const Real*>(args.remainder)[set];
  const Real grad = args.grad == nullptr ? 1 : load_real<Real>(args.grad, args.dtype, set);
  return {y, remainder, curvature == 0 ? 0 : 1 / curvature, grad, {alpha, 1 / alpha}};
}

// No number beyond the largest one; NaN stays.
template <class V>
DDN_HOST_DEVICE V bounded(V x) {
  return clamp(x, Math<V>::largest());
}

// Whether grad / H is an ordinary number.
template <class Real>
DDN_HOST_DEVICE bool is_ordinary(const SetGradient<Real>& set) {
  const double scale = static_cast<double>(set.inverse) * static_cast<double>(set.grad);
  return ::fabs(scale) <= 0.5 * static_cast<double>(Math<Real>::largest());
}

// grad * dy/dx for a point x; zero for a point at infinity, which has no curvature. (That of a mean
// has, but `inverse` is zero where the mean is infinite, and NaN where there is none.) The
// quotients come first: they have no units, whatever the sizes of their parts. But where grad / H
// `is_ordinary` and the weight does not change that, its product with the curvature, which is one
// at most, is as good. W: One, or V.
template <class P, bool is_ordinary = false, class V, class W>
DDN_HOST_DEVICE V point_gradient(V x, W weight, const SetGradient<V>& set) {
  const V curvature = set.template terms<P>(x).dpsi;
  const V scale = (set.inverse * weight) * set.grad;
  if constexpr (is_ordinary && std::is_same_v<W, One>) return curvature * scale;
  const V careful = bounded((curvature * (set.inverse * weight)) * set.grad);
  if constexpr (!is_ordinary) return careful;
  return absolute(scale) <= Math<V>::splat(0.5) * Math<V>::largest() ? curvature * scale : careful;
}

// grad * dy/dw for a point x, also of zero weight; zero for one that is not finite. Far from zero
// the quotient may be larger than any number.
template <class P, class V>
DDN_HOST_DEVICE V weight_gradient(V x, const SetGradient<V>& set) {
  const V slope = set.template terms<P>(x).psi;
  const V most = Math<V>::largest();
  const V finite = absolute(x) <= most ? clip(slope, most) : Math<V>::splat(0);
  return bounded(-bounded(finite * set.inverse) * set.grad);
}

}  // namespace ddn
