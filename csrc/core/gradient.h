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

#include "core/solve.h"

namespace ddn {

// What the incoming gradient of a set is multiplied with: 1 / curvature, and zero where the
// forward pass left zero for a curvature that vanishes.
DDN_HD double gradient_scale(double curvature) { return curvature == 0 ? 0 : 1 / curvature; }

// dy/dx of a point x times 1 / scale; zero for a point at infinity.
template <class P, class V>
DDN_HD V point_gradient(V x, V base, V offset, const Alpha<V>& alpha) {
  const V zero = Math<V>::splat(0);
  const V curvature = P::terms(residual(x, base, offset), alpha).curvature;
  return absolute(x) <= Math<V>::largest() ? curvature : zero;
}

}  // namespace ddn
