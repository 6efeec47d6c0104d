// Which points the sweep over a run of places u has to look at one by one: those that enter or
// leave the inliers somewhere in the run. All others are inside throughout, and only their sums
// matter, or they are outside throughout.
#pragma once

#include "core/certify/residual_from.h"

namespace ddn {

// The run |u - centre| <= half, half < alpha. M: the Math of the points.
template <class M>
struct RunEdges {
  using V = typename M::V;

  DDN_HOST_DEVICE RunEdges(double centre, double half, double alpha) : from_centre(centre) {
    inner = M::splat(alpha - half);
    outer = M::splat(alpha + half);
    inverse = M::splat(1 / alpha);
  }
  ResidualFrom<M> from_centre;  // positive for points that may leave
  V inner;    // up to this distance from the centre, points are inside throughout;
  V outer;    // from there up to this one, they enter or leave
  V inverse;  // 1 / alpha
};

}  // namespace ddn
