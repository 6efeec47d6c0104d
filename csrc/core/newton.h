// One safeguarded descent: Newton's method inside a bracket. A descent sees a set only through the
// sums at the points that it asks for, so that one text serves single sets on both devices, lane
// batches and sets whose points lie on several ranks.
//
// `Descent<P, V>` takes the penalty P and V, a double or a SIMD vector of doubles with one set in
// each lane. Decisions are masks: a bool for a double, else a vector of masks. `mask ? a : b`
// selects. `if (any(mask))` skips what no lane needs; `if (branch(mask))` is a branch for a double,
// and a vector always takes it, since its selections cost less than the test.
//
// Note: [The bracket]
// `best` is the best point evaluated so far and `end` a point with a local minimum strictly between
// the two (or at `end`). That holds because the objective falls from `best` towards `end`, and at
// `end` either the gradient points back towards `best` or the objective is above that at `best`. A
// trial between the two keeps it true in each case:
//
//   objective at the trial above that at `best`  ->  end = trial        (non-convex penalties only)
//   else, the objective there falls towards end  ->  best = trial
//   else                                         ->  end = best, best = trial
//
// So the objective at `best` is never above that at the start, and for a convex objective this is
// the usual bracket of a root of f'.
//
// Note: [The bound on the passes]
// After `free_passes` every trial is the middle of the bracket counted in representable doubles, of
// which each such pass discards half: at most free_passes + 64 passes of one descent.
#pragma once

#include <type_traits>

#include "core/penalties.h"
#include "core/psi_series.h"

namespace ddn {

// A lower bound on the sum of psi' after a small step.
template <class P, class V>
DDN_HOST_DEVICE V lasting_dpsi(const SumsIn<V>& at) {
  return P::has_flat_minima ? at.dpsi - at.density : at.dpsi;
}

// What the rounding error of the sum of psi is proportional to: the weight of the points that pull.
template <class P, class V>
DDN_HOST_DEVICE V pulling_weight(const SumsIn<V>& at, V total_weight) {
  return is_convex<P> ? total_weight : at.density;
}

template <class V>
struct DescentOptions {
  double accuracy;  // accepted relative error of a sum of psi'
  double rounding;  // relative rounding error of a term of the sums
  V alpha;
  V step;          // accepted |step|
  V total_weight;  // sum of the weights of the set
  V range;         // of the whole set
  V margin;        // see Alpha
};

template <class P, class V = double>
class Descent {
 public:
  using At = std::conditional_t<std::is_same_v<V, double>, SumsOf<P>, SumsIn<V>>;
  using Mask = typename Math<V>::Mask;
  static constexpr int free_passes = 40;

  Descent() = default;
  DDN_HOST_DEVICE Descent(V start, V lo, V hi, const DescentOptions<V>& options)
      : options_(options), inverse_alpha_(1.0 / options.alpha), lo_(lo), hi_(hi), trial_(start) {
    previous_step_ = added(-0.5 * lo, Math<V>::splat(0.5), hi);  // without an overflow
  }

  // The point at which the sums are wanted next; where update() returned true, the answer.
  DDN_HOST_DEVICE V point() const { return trial_; }

  // The best point evaluated so far, the start before any was, and the sums there.
  DDN_HOST_DEVICE V best() const { return passes_ == 0 ? trial_ : best_; }
  DDN_HOST_DEVICE const SumsIn<V>& sums() const { return at_best_; }

  // Takes the sums at point(); true where the descent has ended there. The state of a descent that
  // ended in an earlier pass is undefined.
  DDN_HOST_DEVICE Mask update(const At& at) {
    const bool first = ++passes_ == 1;
    const V before = best_;
    Mask worse{};
    if constexpr (!is_convex<P>) worse = at.density < allowed_density();
    const Mask better = !worse;
    Mask open = worse;  // has not ended
    if (branch(better)) {
      assign(better, best_, trial_);
      take(better, at);
      open = worse | !stationary(at);
      if (!any(open)) return !open;
      // At a maximum psi vanishes too; the descent leaves it downwards.
      const Mask right = at.psi < Math<V>::splat(0);
      if (first) {
        end_ = right ? hi_ : lo_;
      } else {
        // The trial may lie at end_.
        const Mask turned = better & open & ((end_ > before) != right);
        if (branch(turned)) turn_back(turned, before);
      }
    }
    if constexpr (!is_convex<P>) {
      if (branch(worse)) turn_back(worse, trial_);
    }
    return (!open) | next_trial(open);
  }

 private:
  static DDN_HOST_DEVICE bool any(Mask mask) { return Math<V>::any(mask); }
  static DDN_HOST_DEVICE bool branch(Mask mask) {
    if constexpr (std::is_same_v<Mask, bool>) return mask;
    return true;
  }
  // In the branch of `mask`.
  template <class T>
  static DDN_HOST_DEVICE void assign(Mask mask, T& target, T value) {
    if constexpr (std::is_same_v<Mask, bool>) {
      target = value;
    } else if constexpr (std::is_same_v<T, Mask>) {
      target = (mask & value) | ((!mask) & target);
    } else {
      target = mask ? value : target;
    }
  }
  // up & a() | !up & b()
  template <class A, class B>
  static DDN_HOST_DEVICE Mask either(Mask up, const A& a, const B& b) {
    if constexpr (std::is_same_v<Mask, bool>) {
      return up ? a() : b();
    } else {
      return (up & a()) | ((!up) & b());
    }
  }

  // Makes a point at which sums were taken the end of the bracket.
  DDN_HOST_DEVICE void turn_back(Mask mask, V end) {
    assign(mask, end_, end);
    assign(mask, end_seen_, !Mask{});
    if constexpr (!is_convex<P>) assign(mask, growth_, Math<V>::splat(0));
  }

  // Makes these the sums at the best point.
  DDN_HOST_DEVICE void take(Mask mask, const At& at) {
    if constexpr (std::is_same_v<Mask, bool>) {
      at_best_ = at;  // also the further terms of the series
    } else {
      assign(mask, at_best_.psi, at.psi);
      assign(mask, at_best_.dpsi, at.dpsi);
      assign(mask, at_best_.density, at.density);
      assign(mask, at_best_.d2psi, at.d2psi);
    }
  }

  DDN_HOST_DEVICE V allowed_density() const {
    const V best = at_best_.density;
    return passes_ == 1 ? Math<V>::splat(-Math<double>::largest())
                        : added(best, Math<V>::splat(-8 * options_.rounding), best);
  }

  DDN_HOST_DEVICE Mask stationary(const At& at) const {
    const V noise = options_.rounding * pulling_weight<P, V>(at, options_.total_weight);
    const V floor = noise * min(options_.range, options_.alpha);
    Mask ends = absolute(at.psi) <= max(options_.step * lasting_dpsi<P, V>(at), floor);
    if constexpr (!is_convex<P>) {
      if (branch(ends)) ends = ends & (at.dpsi >= -4.0 * noise);
    }
    return ends;
  }

  DDN_HOST_DEVICE V step() const {
    const V psi = at_best_.psi, dpsi = at_best_.dpsi, alpha = options_.alpha;
    const V newton = -psi / dpsi;  // NaN or infinite where psi' vanishes
    V step = newton;
    Mask halley{};
    if constexpr (P::is_smooth) {
      // Halley's method: with psi' half-way to where Newton's method would lead.
      const V bent = added(dpsi, 0.5 * at_best_.d2psi, newton * inverse_alpha_);
      halley = (absolute(newton) <= 0.5 * alpha) & (dpsi > Math<V>::splat(0)) &
               (bent > 0.5 * dpsi) & (bent < 2.0 * dpsi);
      if (any(halley)) step = halley ? series_root(-psi / bent) : step;
    }
    if constexpr (!is_convex<P>) {
      // Where psi' is not positive, or Newton's step leads out of its neighbourhood, the step is
      // that of mean shift: to the minimiser of the quadratic that touches the objective here and
      // is nowhere below it. Such a step descends, however long it is. The quadratic's second
      // derivative is the sum of psi(z) / z: that of `density` for Welsch, that of psi' for the
      // truncated quadratic, and never above both (core/penalty.h).
      if (branch(!halley)) {
        const Mask steady = (dpsi > Math<V>::splat(0)) & (absolute(newton) <= alpha);
        const Mask shifts = (!halley) & (!steady);
        if (any(shifts)) step = shifts ? -psi / max(dpsi, at_best_.density) : step;
      }
      // Without the breakpoints, which take some two thirds of it, psi' is too large by far: the
      // first step out of the Huber answer is the longer.
      if (P::has_breakpoints && passes_ == 1) {
        step = absolute(newton) < 0.2 * alpha ? 2.5 * newton : step;
      }
    }
    return step;
  }

  // The root of the series that Newton's method finds from `step`, or that step.
  DDN_HOST_DEVICE V series_root(V step) const {
    if constexpr (has_long_series<P>) {
      const PsiSeries<P> psi(at_best_, inverse_alpha_);
      double t = step * inverse_alpha_;
      for (int i = 0; i < 2; ++i) {
        const double dpsi = psi.derivative(t);
        if (!(dpsi > 0.25 * at_best_.dpsi)) return step;
        t -= psi.value(t) / dpsi;
      }
      if (::fabs(t) <= 1) return t * options_.alpha;
    }
    return step;
  }

  // Makes trial_ the next point of a descent that is `open`; true where it ends by that.
  DDN_HOST_DEVICE Mask next_trial(Mask open) {
    const V width = end_ - best_;  // may overflow to an infinity: compared only
    const V scale = max(absolute(best_), absolute(end_));
    Mask stays = absolute(width) <= added(options_.step, Math<V>::splat(4.5e-16), scale);
    if (passes_ > free_passes) {
      const V middle = halfway(best_, end_);
      stays = stays | (middle == best_) | (middle == end_);
      trial_ = open & !stays ? middle : best_;
      return stays;
    }
    if (!any(!stays)) {
      trial_ = best_;
      return stays;
    }
    const V half = added(-0.5 * best_, Math<V>::splat(0.5), end_), own = step();
    V s = own;
    if constexpr (is_convex<P>) {
      s = absolute(own) <= absolute(previous_step_) ? own : half;
    } else {
      // Slow progress in one direction: lengthen the stride; a trial that overshoots moves `end`.
      const Mask slow = absolute(own) > 0.5 * absolute(previous_step_);
      if (branch(slow)) {
        growth_ = slow ? growth_ + 1.0 : growth_;
        s = slow ? own * (1.0 + growth_) : own;
      }
    }
    // `inside` is also false of a step that is NaN, zero, or points out of the bracket. An end of
    // the set at which no sums were taken may itself be the minimiser.
    const V landing = best_ + s, zero = Math<V>::splat(0);
    const Mask inside = either(
        half > zero, [&] { return (s > zero) & (landing < end_); },
        [&] { return (s < zero) & (landing > end_); });
    if (branch(!inside)) {
      const Mask reaches = (landing == end_) & !end_seen_;
      if (branch(!reaches)) s = inside | reaches ? s : half;
    }
    const V next = best_ + s;
    stays = stays | (next == best_);  // the step is below the rounding of u
    if (!any(!stays)) {
      trial_ = best_;
      return stays;
    }
    trial_ = open & !stays ? next : best_;
    previous_step_ = s;
    Mask lands = inside & (s == own) & !stays & open;
    if (!any(lands)) return stays;
    lands = land(next - best_, lands);
    best_ = lands ? next : best_;
    return stays | lands;
  }

  // Note: [The last step]
  // Where a step is so short that its outcome is known, its end takes no pass. s is the step as u
  // could be rounded to, so that the sum of psi' belongs to the very answer.
  //
  // Smooth penalties: with the bounds on psi'', M_3, and on psi''', M_4, per unit of weight and in
  // units of alpha, the sum of psi after Newton's step s or Halley's is at most 1.1 W M_3 s^2, the
  // error of that of psi' W M_4 s^2 / 2, and psi' changes by W M_3 |s| at most. With more of the
  // series, the remainder after its cut takes the place of these. Huber: between breakpoints the
  // sum of psi is linear, and nothing else changes.
  //
  // Returns the lanes, among those of `may`, where a step s ends the descent, and replaces their
  // sums by those at its end.
  DDN_HOST_DEVICE Mask land(V s, Mask may) {
    SumsIn<V>& at = at_best_;
    const V all = options_.total_weight, t = s * inverse_alpha_;
    if constexpr (has_long_series<P>) {
      // Then psi' is positive all the way, and the series has no other root there.
      if (!(at.dpsi > 1.25 * all * P::max_d2psi * ::fabs(t))) return false;
      const PsiSeries<P> series(at_best_, inverse_alpha_);
      const double dpsi = series.derivative(t), error = all * series.remainder(t);
      const double psi = added(::fabs(series.value(t)), error * ::fabs(t), 1.0 / (P::degree + 1));
      if (!(psi <= 0.5 * options_.step * inverse_alpha_ * dpsi &&
            error <= options_.accuracy * dpsi)) {
        return false;
      }
      if (!is_convex<P>) at.density -= series.integral(t);
      at.dpsi = dpsi;
      at.psi = psi * options_.alpha;  // no more than that
      return true;
    } else if constexpr (P::is_smooth) {
      const V change = all * P::max_d2psi * absolute(t), psi = 1.1 * change * absolute(s);
      const V error = 0.5 * all * P::max_rest * t * t;
      const Mask lands = may & (at.dpsi > 4.0 * change) & (psi <= 0.5 * options_.step * at.dpsi) &
                         (error <= options_.accuracy * at.dpsi);
      at.dpsi = lands ? added(at.dpsi, at.d2psi, t) : at.dpsi;
      at.psi = lands ? psi : at.psi;
      return lands;
    } else if constexpr (P::has_flat_minima) {
      const Mask lands =
          may & (at.density == Math<V>::splat(0)) & (absolute(s) <= 0.5 * options_.margin);
      at.psi = lands ? Math<V>::splat(0) : at.psi;
      return lands;
    } else {
      return Mask{};
    }
  }

  DescentOptions<V> options_;
  V inverse_alpha_;
  V lo_, hi_;
  V trial_;
  V best_{}, end_{};
  At at_best_{};
  V previous_step_;
  V growth_{};
  Mask end_seen_{};  // the sums at end_ were taken
  int passes_ = 0;
};

}  // namespace ddn
