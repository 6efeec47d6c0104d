// The best minimum that a certified search has found, and a bound on all that it left out.
#pragma once

#include "core/local_minimum.h"

namespace ddn {

// How a search ended.
struct Global {
  detail::Iterate it;
  // No u has a density above both `bound` and the answer's own plus `slack`.
  double bound;
  double slack;
};

template <class P, class Set>
class Candidates {
 public:
  using Real = typename Set::Real;

 protected:
  // The loss of a candidate, the weight less the density, known to within `error`.
  struct Loss {
    double value;
    double error;
  };
  // Errors in units of the weight: of sums of losses in single precision, and of what a last step
  // that is not looked at changes.
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

  // Cells with no higher density need no search.
  DDN_HOST_DEVICE double enough() const {
    return found_ ? max(total_ - (loss_.value + loss_.error) + allowed(), -1.0) : -1;
  }
  // A quarter of the promised excess, in units of the density; the rest is for what follows.
  DDN_HOST_DEVICE double allowed() const {
    const double least = found_ ? max(loss_.value - loss_.error, 0.0) : 0;
    const double promised = 0.25 * (sizeof(Real) == 8 ? 1e-12 : 1e-6) * least;
    const double rounding = 4e-16 * total_;
    return max(promised, rounding);
  }

  static DDN_HOST_DEVICE double loss_rounding() { return sizeof(Real) == 8 ? 1e-14 : 2e-7; }

  // Losses that differ by less are not told apart.
  DDN_HOST_DEVICE double doubt(double loss) const {
    return max(loss_rounding() * loss, 4e-16 * total_);
  }

  // Of sums in single precision; docs/global.md, A9.
  DDN_HOST_DEVICE double single_error(double u) const {
    return added(single_precision, 0x1p-48, ::fabs(u) / problem_.alpha) * total_;
  }
  // The loss where a descent ended, from the sums before its last step.
  DDN_HOST_DEVICE Loss loss_of(const detail::Iterate& it) const {
    if (it.stopped || problem_.tolerance >= 0) return {0, detail::infinity};
    double error = (sizeof(Real) == 8 ? last_step_double : last_step_single) * total_;
    if (sizeof(Real) < 8 && !it.in_double) error = single_error(it.u);
    return {total_ - it.at.density, error};
  }

  // Takes a candidate when it is better; of equally good ones the smallest. slack: of the density
  // near it above its own.
  template <class View>
  DDN_HOST_DEVICE void consider(const View& view, double u, Loss loss, bool sorted,
                                const detail::Iterate* it, double slack) {
    // In a stretch of the sorted points it costs less than later.
    if (sorted && loss.error > 0) loss = {loss_at(view, u), 0};
    if (found_) {
      const double errors = loss.error + loss_.error;
      if (errors > 0 && !(::fabs(loss.value - loss_.value) > errors + doubt(loss.value))) {
        settle();
        if (loss.error > 0) loss = {loss_at(view, u), 0};
      }
      const bool better = loss.value < loss_.value - doubt(loss.value);
      const bool tied = !better && loss.value <= loss_.value + doubt(loss.value);
      const bool taken = better || (tied && u < u_);
      // Of two that are not told apart the one left out may be the deeper one.
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

  // Makes the loss of the best candidate known.
  DDN_HOST_DEVICE void settle() {
    if (loss_.error > 0) loss_ = {loss_at(set_, u_), 0};
  }
  template <class View>
  DDN_NOINLINE double loss_at(const View& view, double u) {
    count_pass();
    return total_ - view.template sums<P, double>(u, problem_.alpha).density;
  }

  // polish(): finds the Iterate of an answer that has none.
  template <class Polish>
  DDN_HOST_DEVICE Global finish(const Polish& polish) {
    // The middle of a cell may lie beyond the points, and rounding may carry a mean past them.
    u_ = max(min(found_ ? u_ : start_, hi_), lo_);
    const bool cut = cut_;
    if (!cut && !polished_) polish();
    if (cut) it_ = {u_, {}, true, true};
    return {it_, cut ? min(ceiling_, total_) : bound_, slack_};
  }

  DDN_HOST_DEVICE void descend_to_answer() {
    if (stopped()) {
      it_ = {u_, {}, true, true};
    } else {
      // A window of a sweep is stationary up to rounding: one pass shows it.
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
  bool polished_ = false;  // it_ belongs to u_
  bool cut_ = false;       // the passes ran out before the search had ended
  double u_ = 0;
  Loss loss_{};
  double start_ = 0;  // where to begin when nothing was found
  detail::Iterate it_{};
  double bound_ = -1;  // on the density in all that was left out though it might exceed the best
  double ceiling_ = detail::infinity;  // on the density anywhere, once the bins are counted
  double slack_ = 0;                   // of the density near the answer above its own
};

}  // namespace ddn
