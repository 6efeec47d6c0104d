// Sums at several u near each other, for penalties that are a parabola between breakpoints at
// distance alpha and beyond them a line or nothing: where u does not go far, few points pass a
// breakpoint, and the others need to be looked at once.
#pragma once

#include <type_traits>

#include "core/penalties.h"
#include "core/set.h"

namespace ddn {

// What a look at a set at one u tells: wherever within reach u goes from there, only the points
// that it has listed pass a breakpoint.
struct BreakpointPass {
  double centre = 0, reach = -1;
  FixedSums others{};  // about the centre
  int size = 0;        // of the list, as who keeps it counts
  bool has_squares = false, has_beyond = false;
  bool is_listed = true;  // false: there was no room for the list
};

// A `Lister` has
//
//   BreakpointPass look<squares, beyond>(u, inner, outer)
//                                 lists the points with inner < |u - x| <= outer and sums up the
//                                 others; reach is left to be said
//   Sums     listed<P>(u, known)  over the points that it has listed
//   Sums     all<P>(u)            over all points, if `bounded`: there may be no room for a list
template <class P, class Lister>
class BreakpointSums {
 public:
  // known: of an earlier look at the set at this alpha.
  DDN_HOST_DEVICE BreakpointSums(const Lister& lister, double alpha, int64_t points,
                                 BreakpointPass& known)
      : lister_(lister), alpha_(alpha), margin_(alpha * breakpoint_margin(points)), known_(known) {}

  DDN_HOST_DEVICE Sums operator()(double u) {
    if (!(::fabs(u - known_.centre) <= known_.reach && (!squares || known_.has_squares) &&
          (!beyond || known_.has_beyond))) {
      look(u);
    }
    if constexpr (Lister::bounded) {
      if (!known_.is_listed) return lister_.template all<P>(u);
    }
    const Sums near = lister_.template listed<P>(u, known_);
    const Sums others = P::moved(known_.others, u - known_.centre, alpha_);
    return {near.psi + others.psi, near.dpsi + others.dpsi, near.density + others.density, 0};
  }

 private:
  static constexpr bool first = std::is_same_v<P, HuberFirst>;
  static constexpr bool squares = !is_convex<P> || first, beyond = is_convex<P>;
  // Of the list, in units of alpha.
  static constexpr double width = is_convex<P> && !first ? 0.1 : 0.15;

  DDN_COLD void look(double u) {
    known_ = lister_.template look<squares, beyond>(u, alpha_ * (1 - width), alpha_ * (1 + width));
    // Less what the distances are rounded by, and twice what is near a breakpoint.
    known_.reach = alpha_ * (width - 1e-5) - 2 * margin_;
    if (Lister::bounded && !known_.is_listed) {  // for good
      known_.reach = detail::infinity;
      known_.has_squares = known_.has_beyond = true;
    }
  }

  Lister lister_;
  double alpha_, margin_;
  BreakpointPass& known_;
};

}  // namespace ddn
