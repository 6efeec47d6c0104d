// Classifies points for the sweep over a run of places u. Only the points that enter or leave the
// inliers somewhere in the run are swept one by one. The others are inside throughout, where only
// their sums matter, or outside throughout.
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
  V inner;                      // points up to this distance from the centre are inside throughout
  V outer;                      // points beyond `inner` up to this distance enter or leave
  V inverse;                    // 1 / alpha
};

}  // namespace ddn
