// u - x for many points x and one u, for a number or a SIMD vector of them.
#pragma once

#include "core/set.h"

namespace ddn {

// M: the Math of the points.
template <class M>
class ResidualFrom {
 public:
  using V = typename M::V;

  explicit DDN_HOST_DEVICE ResidualFrom(double u) {
    const Split<typename M::Scalar, typename M::Scalar> at(u);
    // A subtraction of zero is exact and compiled to nothing, or to a broadcast for a vector.
    base_ = at.base - V{};
    offset_ = at.offset - V{};
  }
  DDN_HOST_DEVICE V operator()(V x) const { return residual(x, base_, offset_); }

 private:
  V base_, offset_;
};

}  // namespace ddn
