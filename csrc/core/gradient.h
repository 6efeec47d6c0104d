// The gradient of one answer with respect to one of its points.
//
// Note: [The implicit gradient]
// y solves f'(y) = sum_i phi'(y - x_i) = 0. Differentiating this identity by x_i,
//
//   f''(y) dy/dx_i - phi''(y - x_i) = 0,   so   dy/dx_i = phi''(y - x_i) / sum_j phi''(y - x_j)
//
// (the implicit function theorem; Gould, Hartley, Campbell, "Deep Declarative Networks", IEEE TPAMI
// 44(8), 2022, proposition 4.4). Both sides of the quotient are kept divided by phi''(0).
#pragma once

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
};

template <class Scalar, class Real>
DDN_HD SetGradient<Real> set_gradient(const BackwardArgs& args, int64_t set) {
  const Real alpha = set_alpha<Real>(args, set);
  const Real curvature = static_cast<const Real*>(args.curvature)[set];
  return {static_cast<Real>(static_cast<const Scalar*>(args.y)[set]),
          static_cast<const Real*>(args.remainder)[set],
          curvature == 0 ? 0 : 1 / curvature,
          static_cast<Real>(static_cast<const Scalar*>(args.grad)[set]),
          {alpha, 1 / alpha}};
}

// grad * dy/dx for a point x; zero for a point at infinity. The quotient comes first: it is at most
// about one, whatever the sizes of its parts.
template <class P, class V>
DDN_HD V point_gradient(V x, const SetGradient<V>& set) {
  const V curvature = P::terms(residual(x, set.base, set.offset), set.alpha).curvature;
  const V finite = absolute(x) <= Math<V>::largest() ? curvature : Math<V>::splat(0);
  return (finite * set.inverse) * set.grad;
}

}  // namespace ddn
