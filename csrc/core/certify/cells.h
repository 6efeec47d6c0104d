// What sums over the points tell of the kernel density on a cell |u - c| <= r, for searches that
// cannot see the points (core/certify/cell_search.h). docs/distributed_search.md derives the
// bounds. t is (c - x) / alpha, and r is in units of alpha.
//
// A kind of cell has the `numbers` of its sums, and
//
//   add<M>(t, r, weight, add)   calls add(i, a, b) with the product a b that one point of that
//                               weight adds to the i-th sum. M: the Math of the arithmetic
#pragma once

#include "core/certify/series_terms.h"

namespace ddn {

// Gaussians: a bound on the density in the cell, and the density at its centre.
struct GaussianCell {
  static constexpr int numbers = 2;
  template <class M, class V, class Weight, class Add>
  static DDN_HOST_DEVICE void add(V t, V r, Weight weight, const Add& add) {
    const V limit = M::splat(M::gauss_limit), distance = min(absolute(t), limit);
    const V nearest = max(min(absolute(t) - r, limit), M::splat(0));
    add(0, M::gauss(nearest * nearest), weight);
    add(1, M::gauss(distance * distance), weight);
  }
};

// Gaussians on a cell of at most Series::radius: the power series of the density about the centre.
struct SeriesCell {
  static constexpr int numbers = Series::terms;
  template <class M, class V, class Weight, class Add>
  static DDN_HOST_DEVICE void add(V t, V, Weight weight, const Add& add) {
    const V z = clip(t, M::splat(M::gauss_limit));
    add_series_terms<M>(z, M::gauss(z * z) * weight, add);
  }
};

// Clipped parabolas: the mass, first moment and density at the centre of the points that are
// inliers on the whole cell; a bound on the density of all others there; the density at the centre.
struct ParabolaCell {
  static constexpr int numbers = 5;
  template <class M, class V, class Weight, class Add>
  static DDN_HOST_DEVICE void add(V t, V r, Weight weight, const Add& add) {
    const V zero = M::splat(0), one = M::splat(1), distance = min(absolute(t), one);
    const V nearest = max(min(absolute(t) - r, one), zero);
    const auto inlier = absolute(t) <= one - r;
    const V density = one - distance * distance;
    add(0, inlier ? one : zero, weight);
    add(1, inlier ? t : zero, weight);
    add(2, inlier ? density : zero, weight);
    add(3, inlier ? zero : one - nearest * nearest, weight);
    add(4, density, weight);
  }
};

}  // namespace ddn
