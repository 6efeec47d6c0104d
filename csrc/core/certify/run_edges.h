// Classifies points for the sweep over a run of places u. Only the points that enter or leave the
// inliers somewhere in the run are swept one by one. The others are inside throughout, where only
// their sums matter, or outside throughout.
#pragma once

#include "core/set.h"

namespace ddn {

// The run |u - centre| <= half, half < alpha. M: the Math of the points.
template <class M>
struct RunEdges {
  using V = typename M::V;

  DDN_HOST_DEVICE RunEdges(double centre, double half, double alpha) {
    const Split<typename M::Scalar, typename M::Scalar> at(centre);
    base = M::splat(at.base);
    offset = M::splat(at.offset);
    inner = M::splat(alpha - half);
    outer = M::splat(alpha + half);
    inverse = M::splat(1 / alpha);
  }
  // centre - x; positive for points that may leave.
  DDN_HOST_DEVICE V operator()(V x) const { return residual(x, base, offset); }

  V base, offset;  // the centre
  V inner;         // points up to this distance from the centre are inside throughout
  V outer;         // points beyond `inner` up to this distance enter or leave
  V inverse;       // 1 / alpha
};

}  // namespace ddn
