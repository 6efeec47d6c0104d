// The answer for one set: y, the curvature there, and what is to be said about it.
//
// A `Set` is whatever lets its points be summed over: all lanes of a warp or all threads of a block
// call these functions together and get the same numbers; a CPU thread calls them alone. It has
//
//   using Scalar, Real                     type of the points, and of the arithmetic on them
//   double  count()                        number of points
//   Survey  survey()                       of all points
//   Survey  careful_survey()               the same, exact when points are not finite or overflow
//   Sums    sums<P, V>(u, alpha)           at u, in arithmetic of type V
//   Around  around(u, radius)              see there
#pragma once

#include "core/args.h"
#include "core/descent.h"
#include "core/penalties.h"

namespace ddn {

struct Survey {
  double mean;    // of the finite points (survey(): of all, so that it tells of the others)
  double lo, hi;  // of the finite points
  // Numbers of points, from careful_survey() only.
  double positive_infinities, negative_infinities, nans;
};

// How the points lie about u: the number nearer than the radius; of those at least as far away, the
// number on the left and the nearest one on each side (-inf, +inf where there is none).
struct Around {
  double nearer;
  double left;
  double below, above;
};

// A point u as a number of type Scalar and what remains: so that u - x keeps its relative accuracy
// however far from zero the set lies.
template <class Scalar, class V>
struct Split {
  Scalar base;
  V offset;
  explicit DDN_HD Split(double u)
      : base(static_cast<Scalar>(u)), offset(static_cast<V>(u - static_cast<double>(base))) {
    if (!is_finite(static_cast<double>(base))) offset = 0;
  }
};

template <class V>
DDN_HD V residual(V x, V base, V offset) {
  return (base - x) + offset;
}

enum class Status : int { converged, stopped_early, flat, empty, not_finite };

struct Solution {
  double y;
  // Sum of phi''(y - x_i) / phi''(0); 0 where the gradient is zero by convention, NaN with y.
  double curvature;
  Status status;
};

DDN_HD Solution fixed(double y, double curvature, Status status) { return {y, curvature, status}; }

struct Problem {
  double alpha;
  double tolerance;  // accepted |step| in units of alpha; negative: the contract's accuracy
  int64_t max_iter;  // passes over the set; negative: until done
};

namespace detail {

constexpr double infinity = __builtin_huge_val();

// The accepted |step|, in the units of the points. Where alpha exceeds the range of the set, the
// range takes its place: there an accuracy in units of alpha would say little.
template <class Real>
DDN_HD double accepted_step(const Problem& problem, double lo, double hi) {
  if (problem.tolerance >= 0) return problem.tolerance * problem.alpha;
  const double range = hi - lo;
  return (sizeof(Real) == 8 ? 1e-12 : 1e-6) * (range < problem.alpha ? range : problem.alpha);
}
// Unit roundoff.
template <class Real>
DDN_HD double rounding() {
  return sizeof(Real) == 8 ? 0x1p-53 : 0x1p-24;
}

// Below it a reciprocal overflows.
template <class Real>
DDN_HD double smallest_normal() {
  return sizeof(Real) == 8 ? 0x1p-1022 : 0x1p-126;
}

struct Iterate {
  double u;
  Sums at;         // the sums at u, unless stopped
  bool in_double;  // in which arithmetic `at` was found
  bool stopped;    // by the bound on the passes, before u was evaluated
};

template <class P, class V, class Set>
DDN_HD Iterate descend(const Set& set, double start, double lo, double hi, const Problem& problem,
                       int64_t& passes_left) {
  Descent<P> descent(start, lo, hi,
                     {problem.alpha, accepted_step<typename Set::Real>(problem, lo, hi),
                      rounding<V>(), set.count()});
  bool done = false;
  while (!done && passes_left != 0) {
    --passes_left;
    done = descent.update(set.template sums<P, V>(descent.point(), problem.alpha));
  }
  return {descent.point(), descent.sums(), sizeof(V) > sizeof(typename Set::Real), !done};
}

// Single precision decides the answer where curvature is plentiful; its rounding, divided by a
// curvature below a sixteenth of the points', would move the answer by more than the promised
// accuracy, so there the descent goes on in double precision.
template <class P, class Set>
DDN_HD Iterate descend_to_accuracy(const Set& set, double start, double lo, double hi,
                                   const Problem& problem, int64_t& passes_left) {
  using Real = typename Set::Real;
  Iterate it = descend<P, Real>(set, start, lo, hi, problem, passes_left);
  if (sizeof(Real) < sizeof(double) && !it.stopped) {
    const double mass = P::convex ? set.count() : it.at.depth;
    if (!(lasting_curvature<P>(it.at) >= mass / 16)) {
      it = descend<P, double>(set, it.u, lo, hi, problem, passes_left);
    }
  }
  return it;
}

// Note: [Flat Huber objectives]
// The minimisers of a Huber objective form an interval when no point lies strictly within alpha of
// one of them: they are then the stretch between (the last point on the left) + alpha and (the
// first on the right) - alpha. A descent may stop anywhere in it, its two ends included.
template <class Set>
DDN_HD bool find_flat(const Set& set, double lo, double hi, const Problem& problem, Iterate& it) {
  const double n = set.count();
  if (it.stopped || lasting_curvature<Huber>(it.at) > 0) return false;
  const double step = accepted_step<typename Set::Real>(problem, lo, hi);
  const double slack = 4 * step + 4e-16 * ::fabs(it.u);
  const double radius = problem.alpha - slack;
  const Around around = set.around(it.u, radius > 0 ? radius : 0);
  if (around.nearer > 0) return false;
  // The pulls of the two sides must cancel, up to the rounding of their sums.
  if (::fabs(n - 2 * around.left) > 4 * rounding<double>() * n) return false;
  const double left = around.below + problem.alpha, right = around.above - problem.alpha;
  if (!is_finite(left) || !is_finite(right) || !(right - left > 2 * slack)) return false;
  it.u = 0.5 * left + 0.5 * right;
  return true;
}

template <class Set>
DDN_HD double nearest_point(const Set& set, double u) {
  const Around around = set.around(u, 0);
  return u - around.below <= around.above - u ? around.below : around.above;
}

// The documented start of a non-convex descent: the Huber answer at the same alpha, moved to the
// nearest point (the smaller of two) where no point lies within alpha of it.
template <class Set>
DDN_HD double robust_start(const Set& set, double start, double lo, double hi,
                           const Problem& problem, int64_t& passes_left) {
  Iterate it = descend_to_accuracy<Huber>(set, start, lo, hi, problem, passes_left);
  if (it.stopped) return it.u;
  // The middle of a flat stretch is as far from the one side as from the other.
  if (find_flat(set, lo, hi, problem, it)) return set.around(it.u, 0).below;
  return it.at.curvature == 0 ? nearest_point(set, it.u) : it.u;
}

}  // namespace detail

// What needs no descent: sets with points that are not finite, means, sets of equal points. Returns
// true with the solution, else makes [lo, hi] a bracket of the minimisers.
template <class P, class Set>
DDN_HD bool solve_directly(const Set& set, double alpha, Survey& survey, Solution& solution) {
  using detail::infinity;
  const double nan = __builtin_nan("");
  const double n = set.count();
  const bool ordinary = is_finite(survey.mean) && is_finite(survey.lo) && is_finite(survey.hi);
  double pull = 0, finite = n;
  if (!ordinary) {
    survey = set.careful_survey();
    pull = survey.positive_infinities - survey.negative_infinities;
    finite = n - survey.positive_infinities - survey.negative_infinities;
    if (survey.nans > 0) return solution = fixed(nan, nan, Status::not_finite), true;
    if (finite == 0 || (P::is_mean && finite < n)) {
      const bool agree = ::fabs(pull) == n - finite;
      const double y = agree ? (pull > 0 ? infinity : -infinity) : nan;
      return solution = fixed(y, agree ? 0 : nan, Status::not_finite), true;
    }
    // An infinite point pulls with alpha at most, and so do all finite ones together with the rest.
    if (P::convex && ::fabs(pull) >= finite) {
      const double side = pull > 0 ? 1 : -1;
      // In balance, Huber's minimisers begin where the last finite point ceases to pull.
      const bool balanced = P::has_flats && ::fabs(pull) == finite;
      const double y =
          balanced ? (side > 0 ? survey.hi : survey.lo) + side * alpha : side * infinity;
      return solution = fixed(y, 0, balanced ? Status::flat : Status::not_finite), true;
    }
    if (P::convex && pull != 0) {
      // Past every finite point the slope's sign is settled at the distance t alpha with
      // finite * t / sqrt(1 + t^2) = |pull|, below sqrt(finite) for whole numbers of points.
      if (pull > 0) survey.hi += finite * alpha;
      if (pull < 0) survey.lo -= finite * alpha;
    }
  }
  if (P::is_mean) {
    // Rounding may carry it past the points, so that the mean of equal ones would not be theirs.
    const double mean = larger(smaller(survey.mean, survey.hi), survey.lo);
    return solution = fixed(mean, n, Status::converged), true;
  }
  if (survey.lo == survey.hi) return solution = fixed(survey.lo, finite, Status::converged), true;
  return false;
}

template <class P, class Set>
DDN_HD Solution solve(const Set& set, Problem problem) {
  using Real = typename Set::Real;
  const double nan = __builtin_nan("");
  if (!(problem.alpha > 0) || !is_finite(problem.alpha)) {
    return fixed(nan, nan, Status::not_finite);
  }

  Solution solution;
  Survey survey = set.survey();
  if (solve_directly<P>(set, problem.alpha, survey, solution)) return solution;

  if constexpr (!P::is_mean) {
    int64_t passes_left = problem.max_iter;  // negative: counts down and never reaches zero
    double start = larger(smaller(survey.mean, survey.hi), survey.lo);
    if constexpr (!P::convex) {
      start = detail::robust_start(set, start, survey.lo, survey.hi, problem, passes_left);
    }
    detail::Iterate it =
        detail::descend_to_accuracy<P>(set, start, survey.lo, survey.hi, problem, passes_left);
    if constexpr (P::has_flats) {
      if (detail::find_flat(set, survey.lo, survey.hi, problem, it))
        return fixed(it.u, 0, Status::flat);
    }
    // The curvature belongs to the very point that is returned, so that the gradient's weights sum
    // to one: a Huber point may enter or leave within the last step.
    if (it.in_double || it.stopped) it.at = set.template sums<P, Real>(it.u, problem.alpha);
    // Note: [Vanishing curvature]
    // Below the rounding error of its own sum a curvature says nothing; the implicit function
    // theorem then gives no gradient, and zero is returned for it.
    const double total = P::convex ? it.at.curvature : it.at.absolute_curvature;
    const bool vanishes = !(it.at.curvature > 16 * detail::rounding<Real>() * total) ||
                          it.at.curvature < detail::smallest_normal<Real>();
    solution = fixed(it.u, vanishes ? 0 : it.at.curvature,
                     it.stopped ? Status::stopped_early : Status::converged);
  }
  return solution;
}

template <class Scalar, class Real>
DDN_HD void write_solution(const ForwardArgs& args, int64_t set, const Solution& solution) {
  const Split<Scalar, Real> y(solution.y);
  static_cast<Scalar*>(args.y)[set] = y.base;
  static_cast<Real*>(args.remainder)[set] = y.offset;
  static_cast<Real*>(args.curvature)[set] = static_cast<Real>(solution.curvature);
}

}  // namespace ddn
