// Solves one set whose points lie on several ranks: the solver of core/solve.h as a state machine
// that requests sums over the points of all ranks. Runs on the host.
//
// Every rank holds such an object for each set and passes the same numbers to it, so that all ranks
// take the same decisions. In each round the driver collects the requests() of every set, runs
// their passes (core/sharded_pass.h) over its own points, all-reduces the numbers, and passes them
// to take(), until there are no requests.
#pragma once

#include <vector>

#include "core/certify/cell_search.h"
#include "core/sharded_pass.h"
#include "core/solve.h"

namespace ddn {

struct ShardedOptions {
  bool weighted;
  bool global;       // for penalties that are not convex: the global search
  int64_t max_iter;  // iterations of each descent; negative: until done
  double tolerance;  // accepted |step| in units of alpha; negative: the contract's accuracy
};

template <class Q>
struct ShardedDescent {
  Descent<Q> descent;
  int64_t left = -1;  // iterations
  bool done = false;

  bool ended() const { return done || left == 0; }
  void take(const double* numbers) {
    --left;
    done = descent.update(SharedSums<Q>::unpack(numbers));
  }
  detail::Iterate result() const {
    return {done ? descent.point() : descent.best(), descent.sums(), true, !done};
  }
};

template <class P, class Real>
class ShardedSolve {
 public:
  // own: the Huber answer of this rank's points alone; NaN if it has none.
  ShardedSolve(double alpha, double own, const ShardedOptions& options)
      : alpha_(alpha), own_(own), options_(options) {}

  // Calls ask(pass, request) for each request of this round.
  template <class Ask>
  void requests(const Ask& ask) const {
    const auto at = [&](double u, double reach) {
      return PassRequest{1 / unit_, alpha_, u, reach};
    };
    switch (stage_) {
      case Stage::ends:
        return ask(ShardedPass::ends, at(0, 0));
      case Stage::totals:
        return ask(ShardedPass::totals, at(own_, exponent_));
      case Stage::huber:
        return ask(ShardedPass::huber, at(huber_.descent.point(), margin_));
      case Stage::huber_flat:
      case Stage::flat:
        ask(ShardedPass::around, at(it_.u, flat().radius));
        return ask(ShardedPass::nearest, at(it_.u, flat().radius));
      case Stage::huber_nearest:
        return ask(ShardedPass::nearest, at(it_.u, 0));
      case Stage::descents:
        for (const auto& each : descents_) {
          if (!each.ended()) ask(ShardedPass::sums, at(each.descent.point(), margin_));
        }
        return;
      case Stage::cells:
        if constexpr (!is_convex<P>) {
          for (const SearchedCell& cell : search_[0].cells()) {
            ask(search_[0].pass(), at(cell.centre, cell.radius));
          }
        }
        return;
      case Stage::losses:
        for (const auto& each : descents_) ask(ShardedPass::losses, at(each.result().u, 0));
        return;
      case Stage::done:
        return;
    }
  }

  // next(pass): the numbers that answer the next of this set's requests for that pass.
  template <class Next>
  void take(const Next& next) {
    switch (stage_) {
      case Stage::ends:
        return take_ends(next(ShardedPass::ends));
      case Stage::totals:
        return take_totals(next(ShardedPass::totals));
      case Stage::huber:
        huber_.take(next(ShardedPass::huber));
        if (huber_.ended()) take_robust_start();
        return;
      case Stage::huber_flat:
        // The middle of a flat interval is equally far from the points on both sides.
        was_flat_ = decide_flat(next);
        if (was_flat_ || it_.at.dpsi == 0) {
          stage_ = Stage::huber_nearest;
        } else {
          descend_from(it_.u);
        }
        return;
      case Stage::huber_nearest: {
        const double* const ends = next(ShardedPass::nearest);
        const Around around{0, 0, ends[0], -ends[1]};
        return descend_from(was_flat_ ? around.below : detail::nearest_point(around, it_.u));
      }
      case Stage::flat:
        if (decide_flat(next)) {
          solution_ = fixed(it_.u, 0, Status::flat);
          stage_ = Stage::done;
        } else {
          finish();
        }
        return;
      case Stage::descents: {
        bool all_ended = true;
        for (auto& each : descents_) {
          if (!each.ended()) each.take(next(ShardedPass::sums));
          all_ended = all_ended && each.ended();
        }
        if (all_ended) take_minima();
        return;
      }
      case Stage::cells:
        if constexpr (!is_convex<P>) {
          const ShardedPass pass = search_[0].pass();
          search_[0].take([&] { return next(pass); });
          if (search_[0].done()) polish();
        }
        return;
      case Stage::losses:
        if constexpr (!is_convex<P>) take_losses(next);
        return;
      case Stage::done:
        return;
    }
  }

  // Once there are no more requests:
  double answer() const { return solution_.y; }
  // Whether the curvature is to be summed at the rounded answer and given to curvature().
  bool is_open() const { return open_; }
  // Sum of phi''(y - x) / phi''(0), with the unit.
  double curvature(double summed) const {
    double own = solution_.curvature;
    if (open_) {
      own = own == 0 ? 0 : without_rounding<Real>(summed / unit_, rounded_, unit_);
    } else if (own < least_curvature<Real>(unit_)) {
      own = 0;
    }
    return own * unit_;
  }
  // Whether no rank has a point of any weight.
  bool is_empty() const { return total_ == 0; }

 private:
  enum class Stage {
    ends,
    totals,
    // robust_start() of core/local_minimum.h, request by request, for a non-convex penalty:
    huber,          // its Huber descent
    huber_flat,     // whether the descent ended in a flat interval
    huber_nearest,  // the points nearest to the end of the descent
    // The descents of the penalty itself and, for the global solver, the search:
    descents,
    flat,
    cells,
    losses,  // of the ends of the descents
    done
  };

  detail::FlatMinimum flat() const { return {it_.u, alpha_, step_}; }
  template <class Next>
  bool decide_flat(const Next& next) {
    const double* const weights = next(ShardedPass::around);
    const double* const ends = next(ShardedPass::nearest);
    return flat().decide({weights[0], weights[1], ends[0], -ends[1]}, total_, doubt(), it_.u);
  }
  double doubt() const { return detail::balance_doubt<Real>(options_.weighted); }

  void take_ends(const double* ends) {
    statistics_.lo = -ends[0];
    statistics_.hi = ends[1];
    unit_ = weight_unit(ends[2]);
    const double reach = max(::fabs(statistics_.lo), ::fabs(statistics_.hi));
    exponent_ = is_finite(reach) && reach > 0 ? max(::ilogb(reach) + 1.0, -1000.0) : 0;
    stage_ = Stage::totals;
  }

  void take_totals(const double* totals) {
    const auto exponent = static_cast<int>(exponent_);
    const auto in_bounds = [&](double sum) {
      const double x = ::ldexp(sum / totals[0], exponent);
      return max(min(x, statistics_.hi), statistics_.lo);
    };
    statistics_.finite = totals[0];
    statistics_.positive_infinities = totals[1];
    statistics_.negative_infinities = totals[2];
    statistics_.nans = totals[3];
    statistics_.mean = in_bounds(totals[4]);
    statistics_.middle = in_bounds(totals[5]);
    total_ = totals[0] + totals[1] + totals[2] + totals[3];
    stage_ = Stage::done;
    if (solve_without_points<Real>(alpha_, total_, unit_, solution_)) return;
    if (solve_not_finite<P>(alpha_, doubt(), statistics_, solution_)) return;
    if (solve_trivial<P>(statistics_, solution_)) return;
    if constexpr (!P::is_mean) {
      open_ = true;
      const double range = statistics_.hi - statistics_.lo;
      step_ = detail::accepted_step<Real>({alpha_, options_.tolerance, options_.max_iter}, range);
      margin_ = alpha_ * breakpoint_margin(static_cast<int64_t>(min(total_, 1e15)));
      if constexpr (is_convex<P>) {
        descend_from(statistics_.middle);
      } else {
        huber_ = begin<Huber>(statistics_.middle);
        stage_ = Stage::huber;
      }
    }
  }

  template <class Q>
  ShardedDescent<Q> begin(double start) const {
    const double lo = statistics_.lo, hi = statistics_.hi;
    // Sums are in double precision for all dtypes; the all-reduce rounds them once more.
    const double rounding = 4 * detail::rounding<double>();
    return {{start,
             lo,
             hi,
             {detail::accepted_error<Real>(), rounding, alpha_, step_, total_, hi - lo, margin_}},
            options_.max_iter};
  }
  void descend_from(double start) {
    start = max(min(start, statistics_.hi), statistics_.lo);
    descents_.assign(1, begin<P>(start));
    stage_ = Stage::descents;
  }

  void take_robust_start() {
    it_ = huber_.result();
    was_flat_ = false;
    if (detail::may_be_flat(it_)) {
      stage_ = Stage::huber_flat;
    } else if (!it_.stopped && it_.at.dpsi == 0) {
      stage_ = Stage::huber_nearest;
    } else {
      descend_from(it_.u);
    }
  }

  void take_minima() {
    it_ = descents_[0].result();
    if (searched_) {
      if (descents_.size() == 1) return finish();
      stage_ = Stage::losses;
      return;
    }
    if constexpr (is_convex<P>) {
      if (P::has_flat_minima && detail::may_be_flat(it_)) {
        stage_ = Stage::flat;
        return;
      }
    } else if (options_.global) {
      constexpr bool is_double = sizeof(Real) == sizeof(double);
      const AttainedDensity attained(alpha_, statistics_.finite, is_double ? 1e-12 : 1e-6,
                                     is_double ? 1e-14 : 2e-7);
      search_.emplace_back(statistics_.lo, statistics_.hi, attained, it_.u, it_.at.density);
      stage_ = Stage::cells;
      if (search_[0].done()) polish();
      return;
    }
    finish();
  }

  void polish() {
    searched_ = true;
    descents_.clear();
    for (const double u : search_[0].candidates()) descents_.push_back(begin<P>(u));
    stage_ = Stage::descents;
  }

  // Selects the smallest u among the least losses, up to their rounding.
  template <class Next>
  void take_losses(const Next& next) {
    std::vector<double> losses;
    double least = detail::infinity;
    for (size_t i = 0; i < descents_.size(); ++i) {
      losses.push_back(*next(ShardedPass::losses));
      least = min(losses.back(), least);
    }
    bool found = false;
    for (size_t i = 0; i < descents_.size(); ++i) {
      const detail::Iterate it = descents_[i].result();
      if (!(losses[i] <= least + search_[0].doubt(least)) || (found && it.u >= it_.u)) continue;
      it_ = it;
      found = true;
    }
    finish();
  }

  void finish() {
    rounded_ = rounded_in_dpsi<P>(it_.at);
    solution_ = fixed(it_.u, it_.at.dpsi, it_.stopped ? Status::stopped_early : Status::converged);
    stage_ = Stage::done;
  }

  struct NoSearch {};
  using Search = std::conditional_t<is_convex<P>, NoSearch, CellSearch<P>>;

  double alpha_, own_;
  ShardedOptions options_;
  Stage stage_ = Stage::ends;
  SetStatistics statistics_{};
  double unit_ = 1, exponent_ = 0, total_ = 0;
  double step_ = 0, margin_ = 0;
  ShardedDescent<Huber> huber_;
  std::vector<ShardedDescent<P>> descents_;
  std::vector<Search> search_;  // one or none
  detail::Iterate it_{};
  bool was_flat_ = false, searched_ = false, open_ = false;
  double rounded_ = 0;  // in the curvature
  Solution solution_{};
};

}  // namespace ddn
