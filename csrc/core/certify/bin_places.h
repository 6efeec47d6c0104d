// The place of a point among the bins of a grid, in fixed point: the number of its bin, followed by
// `place_bits` binary digits of its distance from the left end of the bin. Each device chooses the
// number of digits such that its integers hold the sums over many points. `bin_place_error`
// (core/certify/bins.h) bounds the error for either choice.
#pragma once

#include "core/certify/bins.h"
#include "core/certify/residual_from.h"

namespace ddn {

// M: the Math of the points.
template <class M>
class BinPlaces {
 public:
  using V = typename M::V;

  // round: adds half a unit, so that truncation rounds to nearest.
  DDN_HOST_DEVICE BinPlaces(const Grid& grid, int place_bits, bool round)
      : from_origin_(grid.origin) {
    const double one = 1 << place_bits;
    negative_scale_ = M::splat(-(one / grid.width));
    shift_ = M::splat((grid.pad + 1) * one + (round ? 0.5 : 0));
    limit_ = M::splat((grid.bins() - 1) * one + one / 2);
  }
  // The result has a fraction, which the conversion to an integer truncates.
  DDN_HOST_DEVICE V operator()(V x) const {
    return max(min(M::fma(from_origin_(x), negative_scale_, shift_), limit_), M::splat(0));
  }

 private:
  ResidualFrom<M> from_origin_;
  V negative_scale_, shift_, limit_;
};

}  // namespace ddn
