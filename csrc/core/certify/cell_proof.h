// A cheap proof that a local minimum of a smooth non-convex objective is global, for small sets.
//
// Note: [Proof by cells]
// A grid of cells covers the points. The answer is global if every cell has less density than it,
// but for some in one stretch of cells about the answer in which the density is concave. The
// density in a cell is known from its derivatives at the middle: docs/global.md, section 5. All is
// in units of alpha, from the first point on, and in the precision of the points, whose rounding
// `margin` exceeds by far.
#pragma once

#include "core/penalties.h"

namespace ddn {

template <class V>
struct CellProof {
  typename Math<V>::Mask proven;
  V bend;  // a bound on the second derivative of the density where the minimum may be
};

// V: a SIMD vector with one set in each lane. range: of the points; place: of the answer; weight:
// of all points; open: where a proof is wanted. sums(u): the sums over the points at u.
template <class P, class V, class SumsAt>
DDN_HOST_DEVICE CellProof<V> prove_by_cells(V range, V place, V weight, typename Math<V>::Mask open,
                                            const SumsAt& sums) {
  using M = Math<V>;
  using Mask = typename M::Mask;
  constexpr double width = 0.4, half = 0.5005 * width;  // of a cell
  constexpr int most_cells = 64;
  constexpr double margin = 1e-4;  // of the weight
  constexpr double rest = P::max_d2psi * half * half * half / 6 + margin;
  constexpr double bend_rest = P::max_rest * half * half / 2 + margin;
  const V cells = range * M::splat(1 / width);  // the last one reaches further
  const V least = sums(place).density - M::splat(margin) * weight;

  // Of the stretch of concave cells that is being passed: whether one may hold the minimum, and
  // whether the answer lies there. And whether the answer was met.
  Mask suspect{}, own{}, met{};
  V bends = M::splat(-detail::infinity);
  open = open & (range < M::splat(most_cells * width));
  for (int cell = 0; cell <= most_cells; ++cell) {
    const Mask inside = open & (cells >= M::splat(cell));
    if (!M::any(inside)) break;
    const SumsIn<V> at = sums(M::splat((cell + 0.5) * width));
    // The density has the derivatives -psi, -dpsi, -d2psi.
    const V slope = absolute(at.psi);
    // The top of the parabola, or its value at the end that is higher.
    const V rise = slope < at.dpsi * M::splat(half)
                       ? slope * slope / (M::splat(2) * at.dpsi)
                       : slope * M::splat(half) - at.dpsi * M::splat(0.5 * half * half);
    const Mask may_hold = at.density + rise + M::splat(rest) * weight >= least;
    const V bend = absolute(at.d2psi) * M::splat(half) - at.dpsi + M::splat(bend_rest) * weight;
    const Mask concave = bend < M::splat(-margin) * weight;
    const Mask here = (place >= M::splat(cell * width)) & (place < M::splat((cell + 1) * width));
    open = open & !(inside & !concave & (may_hold | (suspect & !own)));
    suspect = inside ? concave & (suspect | may_hold) : suspect;
    own = inside ? concave & (own | here) : own;
    met = met | (inside & here);
    bends = inside & may_hold & (bend > bends) ? bend : bends;
  }
  return {open & met & (!suspect | own), bends};
}

}  // namespace ddn
