// A descent to the contract's accuracy, and its start.
#pragma once

#include "core/newton.h"
#include "core/penalties.h"
#include "core/set.h"

namespace ddn {

struct Problem {
  double alpha;
  double tolerance;  // accepted |step| in units of alpha; negative: the contract's accuracy
  int64_t max_iter;  // passes over the set; negative: until done
};

namespace detail {

// The contract's accepted |step|, in units of alpha or of the range of the set.
template <class Real>
constexpr double accepted_fraction = sizeof(Real) == 8 ? 1e-12 : 1e-6;
// The accepted |step|, in the units of the points. Where alpha exceeds the range of the set, the
// range replaces it, since an accuracy in units of alpha would be meaningless.
template <class Real>
DDN_HOST_DEVICE double accepted_step(const Problem& problem, double range) {
  if (problem.tolerance >= 0) return problem.tolerance * problem.alpha;
  return accepted_fraction<Real> * (range < problem.alpha ? range : problem.alpha);
}
// The accepted relative error of a curvature, and so of the sum of a set's gradients.
template <class Real>
DDN_HOST_DEVICE double accepted_error() {
  return sizeof(Real) == 8 ? 1e-15 : 1e-6;
}
// Unit roundoff.
template <class Real>
DDN_HOST_DEVICE double rounding() {
  return sizeof(Real) == 8 ? 0x1p-53 : 0x1p-24;
}

// Below it a reciprocal overflows.
template <class Real>
DDN_HOST_DEVICE double smallest_normal() {
  return sizeof(Real) == 8 ? 0x1p-1022 : 0x1p-126;
}

struct Iterate {
  double u;
  Sums at;         // the sums at u, unless stopped
  bool in_double;  // whether `at` was summed in double precision
  bool stopped;    // by the bound on the passes
};

// The bracket of a descent, and the range of the whole set.
struct Bounds {
  double lo, hi;
  double range;
};

// V: the type of the arithmetic.
template <class P, class V, class Set>
DDN_HOST_DEVICE Descent<P> make_descent(const Set& set, double start, const Bounds& bounds,
                                        const Problem& problem) {
  using Real = typename Set::Real;
  return {start,
          bounds.lo,
          bounds.hi,
          {accepted_error<Real>(), rounding<V>(), problem.alpha,
           accepted_step<Real>(problem, bounds.range), set.total_weight(), bounds.range,
           problem.alpha * breakpoint_margin(set.points())}};
}

// at_start: the sums at `start`, if they are known.
template <class P, class V, class Set>
DDN_HOST_DEVICE Iterate descend(const Set& set, double start, const Bounds& bounds,
                                const Problem& problem, int64_t& passes_left,
                                const SumsOf<P>* at_start = nullptr) {
  auto descent = make_descent<P, V>(set, start, bounds, problem);
  bool done = at_start != nullptr && descent.update(*at_start);
  set.template with_sums<P, V>(problem.alpha, [&](auto sums) {
    while (!done && passes_left != 0) {
      --passes_left;
      done = descent.update(sums(descent.point()));
    }
  });
  return {done ? descent.point() : descent.best(), descent.sums(),
          sizeof(V) > sizeof(typename Set::Real), !done};
}

// Single precision suffices for large curvatures. If the curvature is below a sixteenth of the mass
// of the points, rounding divided by the curvature exceeds the contract's accuracy, and the descent
// continues in double precision.
template <class P, class Set>
DDN_HOST_DEVICE Iterate descend_to_accuracy(const Set& set, double start, const Bounds& bounds,
                                            const Problem& problem, int64_t& passes_left,
                                            const SumsOf<P>* at_start = nullptr) {
  using Real = typename Set::Real;
  Iterate it = descend<P, Real>(set, start, bounds, problem, passes_left, at_start);
  if (sizeof(Real) < sizeof(double) && !it.stopped) {
    const double mass = is_convex<P> ? set.total_weight() : it.at.density;
    if (!(lasting_dpsi<P>(it.at) >= mass / 16)) {
      it = descend<P, double>(set, it.u, bounds, problem, passes_left);
    }
  }
  return it;
}

// The start of a convex descent: the end of one step from `start`, which a smooth penalty takes
// from approximate sums. Where the sum of psi exceeds its error, its sign also tells on which side
// of `start` the minimiser lies; this narrows the bounds.
template <class P, class Set>
DDN_HOST_DEVICE double first_step(const Set& set, double start, const Problem& problem,
                                  Bounds& bounds, int64_t& passes_left) {
  if constexpr (P::is_smooth) {
    using Real = typename Set::Real;
    if (passes_left == 0 || passes_left == 1) return start;  // none left for the end of the step
    --passes_left;
    auto descent = make_descent<P, Real>(set, start, bounds, problem);
    const Sums approximate = set.template sums<ApproximateOf<P>, Real>(start, problem.alpha);
    descent.update(approximate);
    const double doubt = 0x1p-12 * set.total_weight() * problem.alpha;
    if (approximate.psi > doubt) bounds.hi = start;
    if (approximate.psi < -doubt) bounds.lo = start;
    return descent.point();
  } else {
    return start;
  }
}

// The difference of the weights of two sides, relative to the total weight, up to which they count
// as equal. Weights are rounded; numbers of points are exact.
template <class Real>
DDN_HOST_DEVICE double balance_doubt(bool weighted) {
  return 4 * (weighted ? rounding<Real>() : rounding<double>());
}

// Note: [Flat Huber objectives]
// The minimisers of a Huber objective form an interval when no point lies strictly within alpha of
// one of them. The interval extends from (the last point on the left) + alpha to (the first point
// on the right) - alpha. A descent may stop anywhere in it, its two ends included.
DDN_HOST_DEVICE bool may_be_flat(const Iterate& it) {
  return !it.stopped && !(lasting_dpsi<Huber>(it.at) > 0);
}

// Decides from around(u, radius) whether the minimisers form an interval. u: the end of a descent
// with the accepted step `step`.
struct FlatMinimum {
  double alpha, slack, radius;

  DDN_HOST_DEVICE FlatMinimum(double u, double alpha, double step)
      : alpha(alpha), slack(added(4 * step, 4e-16, ::fabs(u))), radius(max(alpha - slack, 0.0)) {}

  // Moves u to the middle of the interval if there is one. total: the weight of the set; doubt:
  // balance_doubt().
  DDN_HOST_DEVICE bool decide(const Around& around, double total, double doubt, double& u) const {
    if (around.nearer > 0) return false;
    // The pulls of the two sides must cancel, up to the rounding of their sums.
    if (::fabs(total - 2 * around.left) > doubt * total) return false;
    const double left = around.below + alpha, right = around.above - alpha;
    if (!is_finite(left) || !is_finite(right) || !(right - left > 2 * slack)) return false;
    u = 0.5 * left + 0.5 * right;
    return true;
  }
};

template <class Set>
DDN_HOST_DEVICE bool find_flat_minimum(const Set& set, double range, const Problem& problem,
                                       Iterate& it) {
  using Real = typename Set::Real;
  if (!may_be_flat(it)) return false;
  const FlatMinimum flat(it.u, problem.alpha, accepted_step<Real>(problem, range));
  return flat.decide(set.around(it.u, flat.radius), set.total_weight(),
                     balance_doubt<Real>(Set::weighted), it.u);
}

// around: of u, with a radius of zero.
DDN_HOST_DEVICE double nearest_point(const Around& around, double u) {
  return u - around.below <= around.above - u ? around.below : around.above;
}

// The documented start of a non-convex descent: the Huber answer at the same alpha, moved to the
// nearest point (the smaller of two) where no point lies within alpha of it.
template <class Set>
DDN_HOST_DEVICE double robust_start(const Set& set, double start, const Bounds& bounds,
                                    const Problem& problem, int64_t& passes_left) {
  Iterate it = descend_to_accuracy<HuberFirst>(set, start, bounds, problem, passes_left);
  if (it.stopped) return it.u;
  // The middle of a flat interval is equally far from the points on both sides.
  if (find_flat_minimum(set, bounds.range, problem, it)) return set.around(it.u, 0).below;
  return it.at.dpsi == 0 ? nearest_point(set.around(it.u, 0), it.u) : it.u;
}

// The descent from the robust start.
//
// Note: [Short of the robust start]
// The Huber descent can be skipped if the descent from `start` provably ends at the same minimum.
// One pass at `start` gives the sum of Huber's psi and a lower bound of the sum of Huber's psi'
// within alpha / 4; their quotient bounds the distance from `start` to the robust start. Let the
// descent from `start` end at v, where the sum of psi' is H. If H exceeds the most that the sum of
// psi' can fall between v and the robust start (the distance times the bound on psi''), then the
// objective is convex between the two, and the descent from the robust start ends at v as well.
template <class P, class Set>
DDN_HOST_DEVICE Iterate descend_from_robust_start(const Set& set, double start,
                                                  const Bounds& bounds, const Problem& problem,
                                                  int64_t& passes_left) {
  using Real = typename Set::Real;
  const double alpha = problem.alpha;
  if constexpr (is_gaussian<P>) {
    using Joint = typename P::AndHuber;
    if (passes_left != 0) {
      --passes_left;
      const double total = set.total_weight();
      const auto joint = set.template sums<Joint, Real>(start, alpha);
      const double psi = added(::fabs(joint.huber_psi), 128 * rounding<Real>() * total, alpha);
      if (psi < 0.25 * alpha * joint.least) {
        const Iterate it = descend_to_accuracy<typename P::Far>(set, start, bounds, problem,
                                                                passes_left, &joint.own);
        if (it.stopped) return it;
        const double distance = ::fabs(it.u - start) + psi / joint.least;
        if (it.at.dpsi > 1.01 * total * P::max_d2psi * (distance / alpha)) return it;
      }
    }
  }
  const double at = robust_start(set, start, bounds, problem, passes_left);
  return descend_to_accuracy<P>(set, at, bounds, problem, passes_left);
}

}  // namespace detail

}  // namespace ddn
