// Sums at several nearby u, for penalties that are a parabola up to the breakpoints at |z| = alpha
// and linear or constant beyond. While u moves little, few points pass a breakpoint. One pass lists
// these points and sums the others, whose sums at another u follow in closed form.
#pragma once

#include "core/penalties.h"
#include "core/set.h"

namespace ddn {

// The result of a pass over a set. While |u - centre| <= reach, only listed points pass a
// breakpoint.
struct BreakpointPass {
  double centre = 0, reach = -1;
  FixedSums others{};  // of the points that are not listed, about the centre
  int size = 0;        // of the list, in units of the Lister
  bool has_squares = false, has_beyond = false;
  bool is_listed = true;  // false if the list would not fit
};

// A `Lister` has
//
//   BreakpointPass collect<squares, beyond>(u, inner, outer)
//                                 lists the points with inner < |u - x| <= outer and sums the
//                                 others; the caller sets `reach`
//   Sums     listed<P>(u, known)  over the listed points
//   Sums     all<P>(u)            over all points; only if `bounded`, the list may not fit
template <class P, class Lister>
class BreakpointSums {
 public:
  // known: of an earlier pass at the same alpha.
  DDN_HOST_DEVICE BreakpointSums(const Lister& lister, double alpha, int64_t points,
                                 BreakpointPass& known)
      : lister_(lister), alpha_(alpha), margin_(alpha * breakpoint_margin(points)), known_(known) {}

  DDN_HOST_DEVICE Sums operator()(double u) {
    if (!(::fabs(u - known_.centre) <= known_.reach && (!squares || known_.has_squares) &&
          (!beyond || known_.has_beyond))) {
      collect(u);
    }
    if constexpr (Lister::bounded) {
      if (!known_.is_listed) return lister_.template all<P>(u);
    }
    const Sums near = lister_.template listed<P>(u, known_);
    const Sums others = P::moved(known_.others, u - known_.centre, alpha_);
    return {near.psi + others.psi, near.dpsi + others.dpsi, near.density + others.density, 0};
  }

 private:
  static constexpr bool squares = P::moves_squares, beyond = P::moves_beyond;
  // The list has the points within this distance of a breakpoint, in units of alpha. Squares are
  // summed for the truncated quadratic, whose descent is the longer one.
  static constexpr double width = squares ? 0.15 : 0.1;

  DDN_COLD void collect(double u) {
    known_ =
        lister_.template collect<squares, beyond>(u, alpha_ * (1 - width), alpha_ * (1 + width));
    // Reduced by the rounding of distances, and by twice the margin that counts as near.
    known_.reach = alpha_ * (width - 1e-5) - 2 * margin_;
    if (Lister::bounded && !known_.is_listed) {  // every further call takes a full pass
      known_.reach = detail::infinity;
      known_.has_squares = known_.has_beyond = true;
    }
  }

  Lister lister_;
  double alpha_, margin_;
  BreakpointPass& known_;
};

}  // namespace ddn
