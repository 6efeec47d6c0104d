// Solves one set: the answer y, the curvature there, and the diagnostics that a caller may ask for.
#pragma once

#include "core/certify/search.h"

namespace ddn {

struct Solution {
  double y;
  // Sum of phi''(y - x_i) / phi''(0); 0 where the gradient is zero by convention, NaN with y.
  double curvature;
  Status status;
  int64_t passes = 0;  // over the set, not counting the first one
  // Proven for non-convex penalties: no kernel density exceeds both `bound` and that of y plus
  // `slack`.
  double bound = detail::infinity;
  double slack = 0;
};

DDN_HOST_DEVICE Solution fixed(double y, double curvature, Status status) {
  Solution solution{};
  solution.y = y;
  solution.curvature = curvature;
  solution.status = status;
  solution.bound = detail::infinity;
  return solution;
}

// Whether an alpha from a tensor is in range. The operators check an alpha that is a number.
template <class Real>
DDN_HOST_DEVICE bool in_range(double alpha) {
  constexpr double limit = alpha_limit(sizeof(Real) == 8 ? DType::float64 : DType::float32);
  constexpr double rounding = 1e-6;  // of a limit in single precision
  return alpha >= (1 - rounding) / limit && alpha <= limit * (1 + rounding);
}

// Solves a set whose answer alpha and the weights alone decide; returns whether they do. total: the
// sum of the weights in the set's unit, NaN if a weight is negative or not finite.
template <class Real>
DDN_HOST_DEVICE bool solve_without_points(double alpha, double total, double unit,
                                          Solution& solution) {
  const double nan = __builtin_nan("");
  if (!in_range<Real>(alpha) || !(total * unit <= Math<Real>::largest())) {
    solution = fixed(nan, nan, Status::not_finite);
    return true;
  }
  solution = fixed(0, 0, Status::empty);
  return total == 0;
}

// Solves a set whose answer its infinite or NaN points decide; returns whether they do. If not,
// [lo, hi] is a bracket of the minimisers.
//
// statistics: those of careful_statistics(). doubt: balance_doubt().
template <class P>
DDN_HOST_DEVICE bool solve_not_finite(double alpha, double doubt, SetStatistics& statistics,
                                      Solution& solution) {
  using detail::infinity;
  const double nan = __builtin_nan(""), finite = statistics.finite;
  const double pull = statistics.positive_infinities - statistics.negative_infinities;
  const bool up = statistics.positive_infinities > 0, down = statistics.negative_infinities > 0;
  if (statistics.nans > 0) return solution = fixed(nan, nan, Status::not_finite), true;
  if (finite == 0 || (P::is_mean && (up || down))) {
    const bool agree = !(up && down);
    const double y = agree ? (up ? infinity : -infinity) : nan;
    return solution = fixed(y, agree ? 0 : nan, Status::not_finite), true;
  }
  if (is_convex<P> && (up || down)) {
    // |psi| is at most alpha, so the infinite points decide if they outweigh the finite ones.
    const double p = ::fabs(pull), room = P::has_flat_minima ? doubt * finite : 0;
    if (p >= finite - room) {
      const double side = pull > 0 ? 1 : -1;
      // In balance, Huber's minimisers begin where psi of the last finite point reaches alpha.
      const bool balanced = P::has_flat_minima && p <= finite + room;
      const double y =
          balanced ? (side > 0 ? statistics.hi : statistics.lo) + side * alpha : side * infinity;
      return solution = fixed(y, 0, balanced ? Status::flat : Status::not_finite), true;
    }
    // Past every finite point the sum of psi has a known sign from the distance t alpha on, where
    // finite * t / sqrt(1 + t^2) = |pull|.
    const double t = p / ::sqrt((finite - p) * (finite + p)), beyond = (1 + 2 * t) * alpha;
    if (pull > 0) statistics.hi += beyond;
    if (pull < 0) statistics.lo -= beyond;
  }
  return false;
}

// Solves a mean, or a set of equal points; returns whether the set is one of these.
template <class P>
DDN_HOST_DEVICE bool solve_trivial(const SetStatistics& statistics, Solution& solution) {
  const double finite = statistics.finite;
  if (P::is_mean) {
    // Rounding may carry the mean past the points; the mean of equal points must be exact.
    const double mean = max(min(statistics.mean, statistics.hi), statistics.lo);
    return solution = fixed(mean, finite, Status::converged), true;
  }
  if (statistics.lo == statistics.hi) {
    solution = fixed(statistics.lo, finite, Status::converged);
    solution.bound = finite;
    return true;
  }
  return false;
}

// Note: [Vanishing curvature]
// A curvature below the rounding error of its own sum is meaningless, and one below the smallest
// normal number has no reciprocal. The implicit function theorem then gives no gradient, and the
// curvature and the gradient are set to zero. The terms of a Gaussian's curvature are differences,
// density minus (density minus curvature), and the sum of these two magnitudes is rounded.
template <class P>
DDN_HOST_DEVICE double rounded_in_dpsi(const Sums& at) {
  return is_gaussian<P> ? added(-at.dpsi, 2.0, at.density) : at.dpsi;
}
// The bound holds with and without the unit: a smaller sum has lost digits before it is scaled.
template <class Real>
DDN_HOST_DEVICE double least_curvature(double unit) {
  return detail::smallest_normal<Real>() * max(1.0, 1 / unit);
}
// rounded: rounded_in_dpsi() where dpsi was summed.
template <class Real>
DDN_HOST_DEVICE double without_rounding(double dpsi, double rounded, double unit) {
  const bool vanishes =
      !(dpsi > 16 * detail::rounding<Real>() * rounded) || dpsi < least_curvature<Real>(unit);
  return vanishes ? 0 : dpsi;
}

template <class P, bool global, class Set>
DDN_HOST_DEVICE Solution solve(const Set& set, Problem problem) {
  using Real = typename Set::Real;
  Solution solution{};
  if (solve_without_points<Real>(problem.alpha, set.total_weight(), set.unit(), solution)) {
    return solution;
  }
  SetStatistics statistics = set.template statistics<!P::is_mean>();
  if (!(is_finite(statistics.mean) && is_finite(statistics.lo) && is_finite(statistics.hi))) {
    statistics = set.careful_statistics();
    const double doubt = detail::balance_doubt<Real>(Set::weighted);
    if (solve_not_finite<P>(problem.alpha, doubt, statistics, solution)) return solution;
  }
  if (solve_trivial<P>(statistics, solution)) {
    if (solution.curvature < least_curvature<Real>(set.unit())) solution.curvature = 0;
    return solution;
  }

  if constexpr (!P::is_mean) {
    int64_t passes_left = problem.max_iter;  // negative: counts down and never reaches zero
    const detail::Bounds bounds{statistics.lo, statistics.hi, statistics.hi - statistics.lo};
    const double middle = max(min(statistics.middle, statistics.hi), statistics.lo);
    detail::Iterate it;
    if constexpr (is_convex<P>) {
      detail::Bounds within = bounds;
      const double near = detail::first_step<P>(set, middle, problem, within, passes_left);
      it = detail::descend_to_accuracy<P>(set, near, within, problem, passes_left);
      if constexpr (P::has_flat_minima) {
        if (detail::find_flat_minimum(set, bounds.range, problem, it)) {
          solution = fixed(it.u, 0, Status::flat);
          solution.passes = problem.max_iter - passes_left;
          return solution;
        }
      }
    } else if constexpr (global) {
      const Global found = find_global_minimum<P>(set, statistics, problem, passes_left);
      it = found.it;
      solution.bound = found.bound;
      solution.slack = found.slack;
    } else {
      it = detail::descend_from_robust_start<P>(set, middle, bounds, problem, passes_left);
    }
    // The curvature is summed at the returned point, so that the set's gradients sum to one: within
    // the last step a point may cross a breakpoint.
    if (it.in_double || it.stopped) it.at = set.template sums<P, Real>(it.u, problem.alpha);
    solution.y = it.u;
    solution.curvature = without_rounding<Real>(it.at.dpsi, rounded_in_dpsi<P>(it.at), set.unit());
    solution.status = it.stopped ? Status::stopped_early : Status::converged;
    solution.passes = problem.max_iter - passes_left;
  }
  return solution;
}

// Note: [The proven gap]
// A convex objective has f(y) - min f <= |f'(y)| |y - y*|, and y* lies between y and any u at which
// f' has the other sign. For a non-convex objective the bound on the density that a search proved
// bounds min f from below; without a search only min f >= 0 is known.
template <class P, class Set>
DDN_NOINLINE void write_info(const InfoArgs& info, int64_t index, const Set& set, double y,
                             const Solution& solution, const Problem& problem) {
  using Real = typename Set::Real;
  const double nan = __builtin_nan(""), alpha = problem.alpha, total = set.total_weight();
  double objective = nan, residual = nan, curvature = nan, gap = nan;
  if (solution.status == Status::empty) {
    objective = residual = curvature = gap = 0;
  } else if (is_finite(y) && alpha > 0) {
    const Sums at = set.template sums<P, double>(y, alpha);
    objective = set.template objective<P>(y, alpha);
    if (objective != objective) objective = detail::infinity;  // the errors of an infinite sum
    residual = ::fabs(at.psi) * P::second(alpha) / total;
    curvature = at.dpsi * P::second(alpha);
    if constexpr (is_convex<P>) {
      gap = 0;
      if (at.psi != 0) {
        const double side = at.psi > 0 ? -1 : 1;
        const SetStatistics ends = set.template statistics<false>();
        // At least the smallest normal number: the others vanish in a range of subnormal ones.
        double width = 8 * detail::accepted_step<Real>(problem, ends.hi - ends.lo) +
                       4e-16 * ::fabs(y) + detail::smallest_normal<double>();
        const double most = Math<double>::largest() - side * y;  // no answer lies further away
        while (width < most) {
          const double psi = set.template sums<P, double>(added(y, side, width), alpha).psi;
          if (!(side * psi < 0)) break;
          width *= 16;
        }
        gap = min(::fabs(at.psi) * min(width, most), objective);
      }
    } else {
      const double limit = P::limit(alpha), rounding = 2e-15 * total * limit;
      gap = objective;
      if (is_finite(solution.bound)) {
        const double own = set.template sums<P, double>(solution.y, alpha).density;
        const double bound = max(own + solution.slack, solution.bound);
        const double excess = objective - limit * (total - bound);
        gap = min((excess > 0 ? excess : 0) + rounding, objective);
      }
    }
    // An objective that overflows has no known gap.
    if (!is_finite(objective) || !(gap >= 0)) gap = detail::infinity;
  }
  if (set.rank() == 0) {
    info.iterations[index] = solution.passes;
    info.residual[index] = residual;
    info.curvature[index] = curvature * set.unit();
    info.objective[index] = objective * set.unit();
    info.gap[index] = gap * set.unit();
    info.status[index] = static_cast<int64_t>(solution.status);
  }
}

// Writes y rounded to its dtype, and the remainder of the rounding.
template <class Real>
DDN_HOST_DEVICE void write_solution(const ForwardArgs& args, int64_t index,
                                    const Solution& solution, double unit) {
  store_real<Real>(args.y, args.dtype, index, solution.y);
  const double y = static_cast<double>(rounded<Real>(args.dtype, solution.y));
  static_cast<Real*>(args.remainder)[index] =
      is_finite(y) ? static_cast<Real>(solution.y - y) : Real(0);
  static_cast<Real*>(args.curvature)[index] = static_cast<Real>(solution.curvature * unit);
}

// Solves set number `index` and writes the requested results. takes_more: a lane batch solved the
// set in more passes than are allowed, so the status is stopped_early even if this solver
// converges.
template <class P, bool global, class Set>
DDN_HOST_DEVICE void solve_and_write(const ForwardArgs& args, int64_t index, const Set& set,
                                     bool takes_more = false) {
  using Real = typename Set::Real;
  const Problem problem{set_alpha<Real>(args, index), args.tolerance, args.max_iter};
  Solution solution = solve<P, global>(set, problem);
  if (takes_more && solution.status == Status::converged) solution.status = Status::stopped_early;
  if (set.rank() == 0) write_solution<Real>(args, index, solution, set.unit());
  if (args.info.status != nullptr) {
    const double y = static_cast<double>(rounded<Real>(args.dtype, solution.y));
    // A copy, because taking the address of `set` would move it from registers to memory.
    const Set copy = set;
    write_info<P>(args.info, index, copy, y, solution, problem);
  }
}

}  // namespace ddn
