// The derivatives of an answer that need further sums over the set: the gradient of alpha, the
// directional derivative (jvp), and the gradients of the directional derivative.
//
// Note: [The second derivatives]
// Let s = psi, c = ds/dz and z_i = y - x_i, so that y solves sum_i w_i s(z_i) = 0. In the direction
// with tangents v of x, m of the weights and n of alpha, the tangent of y is
//
//   y' = (sum_i w_i c_i v_i - m_i s_i - w_i n ds_i/dalpha) / H,     H = sum_i w_i c_i,
//
// and that of z_i is e_i = y' - v_i. s is alpha times a function of t = z / alpha alone. With
// b = alpha dc/dz, the other second derivatives of s are therefore d2s/dz dalpha = -t b / alpha and
// d2s/dalpha2 = t^2 b / alpha. The identity that defines y',
//
//   sum_i m_i s_i + w_i (c_i e_i + n ds_i/dalpha) = 0,
//
// is differentiated by x_i, w_i and alpha, on each of which y depends as in Note [The implicit
// gradient]. The result is
//
//   dy'/dx_i    = (q_i - Q w_i c_i / H) / H
//   dy'/dw_i    = (-(c_i e_i + n ds_i/dalpha) + Q s_i / H) / H
//   dy'/dalpha  = (-R + Q A / H) / H
//
//   p_i = w_i b_i (e_i - t_i n) / alpha       q_i = m_i c_i + p_i       Q = sum_i q_i
//   R = sum_i m_i ds_i/dalpha - t_i p_i       A = sum_i w_i ds_i/dalpha
//
// Since the Hessian is symmetric, these are both the directional derivative of the gradients
// (forward over reverse) and the gradient of y' (reverse over reverse).
#pragma once

#include "core/gradient.h"

namespace ddn {

// A point, its weight, and the tangents of both.
template <class V>
struct MovingPoint {
  V x, weight, x_tangent, weight_tangent;
};

// The terms of one point in the formulas above, with weights divided by the curvature of the set. A
// point that is not finite has zeros except far_by_alpha, because psi at infinity may depend on
// alpha.
template <class V>
struct PointTerms {
  V weight, weight_tangent;
  V psi, dpsi, dpsi_dalpha, far_by_alpha;
  V t, d2psi;
};

template <class P, class V>
DDN_HOST_DEVICE PointTerms<V> point_terms(const MovingPoint<V>& point, const SetGradient<V>& set) {
  const V zero = Math<V>::splat(0), most = Math<V>::largest();
  const V z = Residuals<P, V>(set.base, set.offset, set.alpha)(point.x);
  const Terms<V> terms = P::terms(z, set.alpha);
  const V dpsi_dalpha = P::dpsi_dalpha(z, set.alpha);
  const auto finite = absolute(point.x) <= most;
  const V far = Math<V>::splat(sizeof(typename Math<V>::Scalar) == 8 ? 1e150 : 1e18);
  return {point.weight * set.inverse,
          point.weight_tangent * set.inverse,
          finite ? clip(terms.psi, most) : zero,
          finite ? terms.dpsi : zero,
          finite ? dpsi_dalpha : zero,
          point.x == point.x ? dpsi_dalpha : zero,
          finite ? clip(P::is_smooth ? z : z * set.alpha.inverse, far) : zero,
          finite ? terms.d2psi : zero};
}

// dy/dalpha.
template <class P, class Points, class Real>
DDN_HOST_DEVICE double alpha_derivative(const Points& points, const SetGradient<Real>& set) {
  using V = typename Points::V;
  double sums[1] = {};
  const auto shared = points.shared(set);
  points.sum(sums, [&](const MovingPoint<V>& point, V(&terms)[1]) {
    const PointTerms<V> at = point_terms<P>(point, shared);
    terms[0] = at.weight * at.far_by_alpha;
  });
  return -sums[0];
}

// The directional derivative y', and A / H of the Note above in alpha_pull.
template <class P, class Points, class Real>
DDN_HOST_DEVICE double direction_derivative(const Points& points, const SetGradient<Real>& set,
                                            double alpha_tangent, double& alpha_pull) {
  using V = typename Points::V;
  double sums[2] = {};
  const auto shared = points.shared(set);
  points.sum(sums, [&](const MovingPoint<V>& point, V(&terms)[2]) {
    const PointTerms<V> at = point_terms<P>(point, shared);
    const V zero = Math<V>::splat(0);
    const V pull = at.weight * at.dpsi;
    // A select, because 0 * x_tangent would be NaN for an infinite tangent of a point that exerts
    // no influence.
    terms[0] = added(pull == zero ? pull : pull * point.x_tangent, -at.psi, at.weight_tangent);
    terms[1] = at.weight * at.far_by_alpha;
  });
  alpha_pull = sums[1];
  return added(sums[0], -alpha_pull, alpha_tangent);
}

// Whether the set moves: one of its tangents is not zero.
template <class Points>
DDN_HOST_DEVICE bool has_direction(const Points& points, double alpha_tangent) {
  using V = typename Points::V;
  double sums[1] = {};
  points.sum(sums, [&](const MovingPoint<V>& point, V(&terms)[1]) {
    const V zero = Math<V>::splat(0), one = Math<V>::splat(1);
    terms[0] = (point.x_tangent == zero ? zero : one) + (point.weight_tangent == zero ? zero : one);
  });
  return sums[0] != 0 || alpha_tangent != 0;
}

// Writes the gradients of y' with respect to the points and weights, times the incoming gradient,
// to the outputs of `points`, and returns that of alpha.
template <class P, class Points, class Real>
DDN_HOST_DEVICE double second_order(const Points& points, const SetGradient<Real>& set,
                                    double y_tangent, double alpha_tangent, double alpha_pull) {
  using V = typename Points::V;
  const auto shared = points.shared(set);
  const V direction = Math<V>::splat(y_tangent), dpsi_dalpha = Math<V>::splat(alpha_tangent);
  const auto d2psi_term = [&](const MovingPoint<V>& point, const PointTerms<V>& at) {
    const V pull = at.weight * at.d2psi * shared.alpha.inverse;
    const V moved = added(direction - point.x_tangent, -at.t, dpsi_dalpha);
    return pull == Math<V>::splat(0) ? pull : pull * moved;
  };
  double sums[2] = {};
  points.sum(sums, [&](const MovingPoint<V>& point, V(&terms)[2]) {
    const PointTerms<V> at = point_terms<P>(point, shared);
    const V p = d2psi_term(point, at);
    terms[0] = added(p, at.weight_tangent, at.dpsi);
    terms[1] = added(at.weight_tangent * at.dpsi_dalpha, -at.t, p);
  });
  const V total = Math<V>::splat(sums[0]);
  points.write(
      [&](const MovingPoint<V>& point) {
        const PointTerms<V> at = point_terms<P>(point, shared);
        const V q = added(d2psi_term(point, at), at.weight_tangent, at.dpsi);
        return zero_if_unused(added(q, -total * at.weight, at.dpsi) * shared.grad, shared.grad);
      },
      [&](const MovingPoint<V>& point) {
        const PointTerms<V> at = point_terms<P>(point, shared);
        const V moved = added(at.dpsi_dalpha * dpsi_dalpha, at.dpsi, direction - point.x_tangent);
        return zero_if_unused(added(-moved, total, at.psi) * shared.inverse * shared.grad,
                              shared.grad);
      });
  const double grad = static_cast<double>(set.grad);
  return zero_if_unused(added(-sums[1], sums[0], alpha_pull) * grad, grad);
}

template <class P, class Points, class Real>
DDN_HOST_DEVICE void write_alpha_gradient(const BackwardArgs& args, int64_t set,
                                          const Points& points, const SetGradient<Real>& shared) {
  if (args.grad_alpha == nullptr) return;
  const double grad = static_cast<double>(shared.grad);
  const double gradient = zero_if_unused(alpha_derivative<P>(points, shared) * grad, grad);
  if (points.rank() == 0) static_cast<Real*>(args.grad_alpha)[set] = static_cast<Real>(gradient);
}

template <class P, class Points, class Real>
DDN_HOST_DEVICE void write_second_order(const BackwardArgs& args, int64_t set, const Points& points,
                                        SetGradient<Real> shared) {
  const double alpha_tangent =
      args.tangent_alpha == nullptr
          ? 0
          : static_cast<double>(static_cast<const Real*>(args.tangent_alpha)[set]);
  double alpha_pull;
  double y_tangent = direction_derivative<P>(points, shared, alpha_tangent, alpha_pull);
  // A NaN answer has zero derivatives in the direction zero, whose products above are NaN.
  if (y_tangent != y_tangent && !has_direction(points, alpha_tangent)) y_tangent = shared.grad = 0;
  if (args.tangent_y != nullptr) {
    if (points.rank() == 0) store_real<Real>(args.tangent_y, args.dtype, set, y_tangent);
    return;
  }
  const double gradient = second_order<P>(points, shared, y_tangent, alpha_tangent, alpha_pull);
  if (args.grad_alpha != nullptr && points.rank() == 0) {
    static_cast<Real*>(args.grad_alpha)[set] = static_cast<Real>(gradient);
  }
}

}  // namespace ddn
