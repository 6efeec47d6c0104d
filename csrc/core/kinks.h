// Sums at several u near each other, for penalties that are a parabola between kinks at distance
// alpha and beyond them a line or nothing: where u does not go far, few points pass a kink, and the
// others need to be looked at once.
#pragma once

#include <type_traits>

#include "core/penalties.h"
#include "core/set.h"

namespace ddn {

// What a look at a set at one u tells: wherever within reach u goes from there, only the points
// that it has listed pass a kink.
struct KinkLook {
  double centre = 0, reach = -1;
  Settled others{};  // about the centre
  int size = 0;      // of the list, as who keeps it counts
  bool has_squares = false, has_beyond = false;
  bool is_listed = true;  // false: there was no room for the list
};

// A `Lister` has
//
//   KinkLook look<squares, beyond>(u, inner, outer)
//                                 lists the points with inner < |u - x| <= outer and sums up the
//                                 others; reach is left to be said
//   Sums     listed<P>(u, known)  over the points that it has listed
//   Sums     all<P>(u)            over all points, if `bounded`: there may be no room for a list
template <class P, class Lister>
class KinkedSums {
 public:
  // known: of an earlier look at the set at this alpha.
  DDN_HD KinkedSums(const Lister& lister, double alpha, int64_t points, KinkLook& known)
      : lister_(lister), alpha_(alpha), kink_(alpha * kink_distance(points)), known_(known) {}

  DDN_HD Sums operator()(double u) {
    if (!(::fabs(u - known_.centre) <= known_.reach && (!squares || known_.has_squares) &&
          (!beyond || known_.has_beyond))) {
      look(u);
    }
    if constexpr (Lister::bounded) {
      if (!known_.is_listed) return lister_.template all<P>(u);
    }
    const Sums near = lister_.template listed<P>(u, known_);
    const Sums others = P::moved(known_.others, u - known_.centre, alpha_);
    return {near.slope + others.slope, near.curvature + others.curvature, near.depth + others.depth,
            0};
  }

 private:
  static constexpr bool first = std::is_same_v<P, HuberFirst>;
  static constexpr bool squares = !P::convex || first, beyond = P::convex;
  // Of the list, in units of alpha.
  static constexpr double width = P::convex && !first ? 0.1 : 0.15;

  DDN_SELDOM void look(double u) {
    known_ = lister_.template look<squares, beyond>(u, alpha_ * (1 - width), alpha_ * (1 + width));
    // Less what the distances are rounded by, and twice what is near a kink.
    known_.reach = alpha_ * (width - 1e-5) - 2 * kink_;
    if (Lister::bounded && !known_.is_listed) {  // for good
      known_.reach = detail::infinity;
      known_.has_squares = known_.has_beyond = true;
    }
  }

  Lister lister_;
  double alpha_, kink_;
  KinkLook& known_;
};

}  // namespace ddn
