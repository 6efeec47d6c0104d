// The best minimum that a certified search has found, and a bound of the density in everything that
// the search has discarded.
#pragma once

#include "core/local_minimum.h"

namespace ddn {

// The result of a search.
struct Global {
  detail::Iterate it;
  // The density is nowhere above the larger of `bound` and the answer's density plus `slack`.
  double bound;
  double slack;
};

template <class P, class Set>
class Candidates {
 public:
  using Real = typename Set::Real;

 protected:
  // The loss of a candidate, total weight minus density, accurate to `error`.
  struct Loss {
    double value;
    double error;
  };
  // Errors in units of the total weight: of losses summed in single precision, and of a last step
  // after which the loss is not summed again.
  static constexpr double single_precision = 4e-6;
  static constexpr double last_step_single = 1e-9;
  static constexpr double last_step_double = 1e-12;

  DDN_HOST_DEVICE Candidates(const Set& set, const SetStatistics& statistics,
                             const Problem& problem, int64_t& passes_left)
      : set_(set),
        lo_(statistics.lo),
        hi_(statistics.hi),
        middle_(statistics.middle),
        total_(statistics.finite),
        problem_(problem),
        passes_left_(passes_left) {}

  DDN_NOINLINE double robust_start() {
    return detail::robust_start(set_, max(min(middle_, hi_), lo_), {lo_, hi_, range()}, problem_,
                                passes_left_);
  }
  template <class View>
  DDN_NOINLINE detail::Iterate descend(const View& view, double start, double lo, double hi,
                                       const SumsOf<P>* at_start = nullptr) {
    return detail::descend_to_accuracy<P>(view, start, {lo, hi, range()}, problem_, passes_left_,
                                          at_start);
  }
  DDN_HOST_DEVICE double range() const { return hi_ - lo_; }
  DDN_HOST_DEVICE bool stopped() const { return passes_left_ == 0; }
  DDN_HOST_DEVICE void count_pass() {
    if (passes_left_ != 0) --passes_left_;
  }

  // Cells whose bound is not above this density are discarded; docs/global.md, equation (2).
  DDN_HOST_DEVICE double discard_threshold() const {
    return found_ ? max(total_ - (loss_.value + loss_.error) + density_tolerance(), -1.0) : -1;
  }
  // A quarter of the excess that the guarantee allows, in units of the density. The rest is for
  // later errors.
  DDN_HOST_DEVICE double density_tolerance() const {
    const double least = found_ ? max(loss_.value - loss_.error, 0.0) : 0;
    const double promised = 0.25 * (sizeof(Real) == 8 ? 1e-12 : 1e-6) * least;
    const double rounding = 4e-16 * total_;
    return max(promised, rounding);
  }

  static DDN_HOST_DEVICE double loss_rounding() { return sizeof(Real) == 8 ? 1e-14 : 2e-7; }

  // Losses that differ by at most this are tied.
  DDN_HOST_DEVICE double tie_tolerance(double loss) const {
    return max(loss_rounding() * loss, 4e-16 * total_);
  }

  // The error of a loss at u that is summed in single precision; docs/global.md, A9.
  DDN_HOST_DEVICE double single_error(double u) const {
    return added(single_precision, 0x1p-48, ::fabs(u) / problem_.alpha) * total_;
  }
  // The loss at the end of a descent, from the sums before its last step.
  DDN_HOST_DEVICE Loss loss_of(const detail::Iterate& it) const {
    if (it.stopped || problem_.tolerance >= 0) return {0, detail::infinity};
    double error = (sizeof(Real) == 8 ? last_step_double : last_step_single) * total_;
    if (sizeof(Real) < 8 && !it.in_double) error = single_error(it.u);
    return {total_ - it.at.density, error};
  }

  // Takes a candidate if it is better, or tied and further left. slack: a bound of how far the
  // density near the candidate exceeds the candidate's own.
  template <class View>
  DDN_HOST_DEVICE void consider(const View& view, double u, Loss loss, bool sorted,
                                const detail::Iterate* it, double slack) {
    // A pass over a view of the sorted points costs less than one over the set later.
    if (sorted && loss.error > 0) loss = {loss_at(view, u), 0};
    if (found_) {
      const double errors = loss.error + loss_.error;
      if (errors > 0 && !(::fabs(loss.value - loss_.value) > errors + tie_tolerance(loss.value))) {
        settle();
        if (loss.error > 0) loss = {loss_at(view, u), 0};
      }
      const bool better = loss.value < loss_.value - tie_tolerance(loss.value);
      const bool tied = !better && loss.value <= loss_.value + tie_tolerance(loss.value);
      const bool taken = better || (tied && u < u_);
      // If the two are tied, the rejected one may have the smaller loss.
      const Loss& left = taken ? loss_ : loss;
      bound_ = max(total_ - (left.value - left.error) + (taken ? slack_ : slack), bound_);
      if (!taken) return;
    }
    slack_ = slack;
    found_ = true;
    u_ = u;
    loss_ = loss;
    polished_ = it != nullptr;
    if (polished_) it_ = *it;
  }

  // Recomputes the loss of the best candidate in double precision, if it has an error.
  DDN_HOST_DEVICE void settle() {
    if (loss_.error > 0) loss_ = {loss_at(set_, u_), 0};
  }
  template <class View>
  DDN_NOINLINE double loss_at(const View& view, double u) {
    count_pass();
    return total_ - view.template sums<P, double>(u, problem_.alpha).density;
  }

  // polish(): computes the Iterate of an answer that is not the end of a descent.
  template <class Polish>
  DDN_HOST_DEVICE Global finish(const Polish& polish) {
    // The centre of a cell may lie outside the range of the points, and so may a rounded mean.
    u_ = max(min(found_ ? u_ : start_, hi_), lo_);
    if (!incomplete_ && !polished_) polish();
    if (incomplete_) it_ = {u_, {}, true, true};
    return {it_, incomplete_ ? min(ceiling_, total_) : bound_, slack_};
  }

  DDN_HOST_DEVICE void descend_to_answer() {
    if (stopped()) {
      it_ = {u_, {}, true, true};
    } else {
      // The mean of a sweep's window is stationary up to rounding; one pass confirms it.
      count_pass();
      const SumsOf<P> at = set_.template sums<P, Real>(u_, problem_.alpha);
      it_ = descend(set_, u_, lo_, hi_, &at);
    }
  }

  const Set& set_;
  double lo_, hi_, middle_;
  double total_;
  Problem problem_;
  int64_t& passes_left_;

  bool found_ = false;
  bool polished_ = false;    // it_ belongs to u_
  bool incomplete_ = false;  // max_iter ended the search
  double u_ = 0;
  Loss loss_{};
  double start_ = 0;  // the answer if no candidate was found
  detail::Iterate it_{};
  double bound_ = -1;                  // of the density in everything that was discarded
  double ceiling_ = detail::infinity;  // of the density anywhere, once the bins are counted
  double slack_ = 0;                   // see consider()
};

}  // namespace ddn
