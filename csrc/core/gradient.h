// The gradient of an answer with respect to a point, the point's weight, and alpha.
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
// 44(8), 2022, proposition 4.4). Numerators and denominators are divided by phi''(0). This is valid
// even if phi''(0) depends on alpha: the derivative of a factor times f'(y) = 0 vanishes.
#pragma once

#include <type_traits>

#include "core/args.h"
#include "core/solve.h"

namespace ddn {

// The quantities that the gradients of all points of a set share.
template <class V>
struct SetGradient {
  V base, offset;  // y rounded to its dtype, and the remainder
  V inverse;       // 1 / curvature; zero if the forward pass stored zero for a vanishing curvature
  V grad;          // the gradient of y
  Alpha<V> alpha;

  template <class P>
  DDN_HOST_DEVICE Terms<V> terms(V x) const {
    return P::terms(Residuals<P, V>(base, offset, alpha)(x), alpha);
  }
};

template <class Real>
DDN_HOST_DEVICE SetGradient<Real> set_gradient(const BackwardArgs& args, int64_t set) {
  const Real alpha = set_alpha<Real>(args, set);
  // All loads come before the first division, so that their latencies overlap.
  const Real curvature = static_cast<const Real*>(args.curvature)[set];
  const Real y = load_real<Real>(args.y, args.dtype, set);
  const Real remainder = static_cast<const Real*>(args.remainder)[set];
  const Real grad = args.grad == nullptr ? 1 : load_real<Real>(args.grad, args.dtype, set);
  // If grad is zero, the loss does not use the answer, which sends zero back even if it is NaN, as
  // a mean does: with these numbers the gradients of all points are zero.
  if (grad == 0) return {0, 0, 0, 0, {1, 1}};
  return {y, remainder, curvature == 0 ? 0 : 1 / curvature, grad, {alpha, 1 / alpha}};
}

// Clamps infinities to the largest finite number; NaN is kept.
template <class V>
DDN_HOST_DEVICE V bounded(V x) {
  return clamp(x, Math<V>::largest());
}

// A product with the incoming gradient `grad` of the set that has another factor than the numbers
// of set_gradient(): zero if grad is.
template <class V>
DDN_HOST_DEVICE V zero_if_unused(V product, V grad) {
  const V zero = Math<V>::splat(0);
  return grad == zero ? zero : product;
}

// Whether grad / H is far enough from overflow for products with numbers up to 1.
template <class Real>
DDN_HOST_DEVICE bool is_ordinary(const SetGradient<Real>& set) {
  const double scale = static_cast<double>(set.inverse) * static_cast<double>(set.grad);
  return ::fabs(scale) <= 0.5 * static_cast<double>(Math<Real>::largest());
}

// grad * dy/dx for a point x; zero for a point at infinity, where psi' is zero, and NaN if y is NaN
// and grad is not zero. (psi' of the quadratic is one at infinity, but `inverse` is zero if the
// mean is infinite, and NaN if it is NaN.) The quotient w psi' / H, which has no units, is formed
// first, so that no factor overflows. If grad / H `is_ordinary` and the weight does not change
// this, the cheaper product of psi' <= 1 with w grad / H is safe. W: One, or V.
template <class P, bool is_ordinary = false, class V, class W>
DDN_HOST_DEVICE V point_gradient(V x, W weight, const SetGradient<V>& set) {
  const V curvature = set.template terms<P>(x).dpsi;
  const V scale = (set.inverse * weight) * set.grad;
  if constexpr (is_ordinary && std::is_same_v<W, One>) return curvature * scale;
  const V careful = bounded((curvature * (set.inverse * weight)) * set.grad);
  if constexpr (std::is_same_v<W, One>) return careful;
  if constexpr (!is_ordinary) return zero_if_unused(careful, set.grad);
  const V quick_or_careful =
      absolute(scale) <= Math<V>::splat(0.5) * Math<V>::largest() ? curvature * scale : careful;
  return zero_if_unused(quick_or_careful, set.grad);
}

// grad * dy/dw for a point x, even of zero weight; zero for a point that is not finite. The
// quotient may overflow for points far from zero, hence the clamping.
template <class P, class V>
DDN_HOST_DEVICE V weight_gradient(V x, const SetGradient<V>& set) {
  const V psi = set.template terms<P>(x).psi;
  const V most = Math<V>::largest();
  const V finite = absolute(x) <= most ? clip(psi, most) : Math<V>::splat(0);
  return bounded(-bounded(finite * set.inverse) * set.grad);
}

}  // namespace ddn
