// A cheap proof that a local minimum of a smooth non-convex objective is global, for small sets.
//
// Note: [Proof by cells]
// A grid of cells covers the points. The derivatives of the density at the centre of a cell bound
// the density in the cell (docs/global.md, section 5, small sets). The answer is the global minimum
// if the cells whose bound reaches the answer's density all belong to one interval of adjacent
// cells that contains the answer and in which the density is concave. Places are in units of alpha
// from the smallest point. The arithmetic is in the precision of the points; `margin` is several
// times its rounding.
#pragma once

#include "core/penalties.h"

namespace ddn {

template <class V>
struct CellProof {
  typename Math<V>::Mask proven;
  V curvature;  // bound of the second derivative of the density where the minimum may lie
};

// V: a lane batch, a SIMD vector with one set in each lane. range: of the points. place: of the
// answer. weight: total. open: the lanes that need a proof. sums(u): the sums over the points at u.
template <class P, class V, class SumsAt>
DDN_HOST_DEVICE CellProof<V> prove_by_cells(V range, V place, V weight, typename Math<V>::Mask open,
                                            const SumsAt& sums) {
  using M = Math<V>;
  using Mask = typename M::Mask;
  constexpr double width = 0.4, half = 0.5005 * width;  // of a cell
  constexpr int max_cells = 64;
  constexpr double margin = 1e-4;  // of the weight
  constexpr double rest = P::max_d2psi * half * half * half / 6 + margin;
  constexpr double curvature_rest = P::max_rest * half * half / 2 + margin;
  const V cells =
      range * M::splat(1 / width);  // rounded up: the last cell extends beyond the range
  const V least = sums(place).density - M::splat(margin) * weight;

  // State of the current interval of adjacent concave cells: whether one of its cells may contain
  // the minimum (suspect), and whether it contains the answer (own). met: the answer's cell was
  // visited.
  Mask suspect{}, own{}, met{};
  V curvatures = M::splat(-detail::infinity);
  open = open & (range < M::splat(max_cells * width));
  for (int cell = 0; cell <= max_cells; ++cell) {
    const Mask inside = open & (cells >= M::splat(cell));
    if (!M::any(inside)) break;
    const SumsIn<V> at = sums(M::splat((cell + 0.5) * width));
    // The density has the derivatives -psi, -dpsi, -d2psi.
    const V psi = absolute(at.psi);
    // The rise to the vertex of the parabola, or to the higher end of the cell.
    const V rise = psi < at.dpsi * M::splat(half)
                       ? psi * psi / (M::splat(2) * at.dpsi)
                       : psi * M::splat(half) - at.dpsi * M::splat(0.5 * half * half);
    const Mask may_hold = at.density + rise + M::splat(rest) * weight >= least;
    const V curvature =
        absolute(at.d2psi) * M::splat(half) - at.dpsi + M::splat(curvature_rest) * weight;
    const Mask concave = curvature < M::splat(-margin) * weight;
    const Mask here = (place >= M::splat(cell * width)) & (place < M::splat((cell + 1) * width));
    open = open & !(inside & !concave & (may_hold | (suspect & !own)));
    suspect = inside ? concave & (suspect | may_hold) : suspect;
    own = inside ? concave & (own | here) : own;
    met = met | (inside & here);
    curvatures = inside & may_hold & (curvature > curvatures) ? curvature : curvatures;
  }
  return {open & met & ((!suspect) | own), curvatures};
}

}  // namespace ddn
