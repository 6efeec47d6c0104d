// One safeguarded descent: Newton's method held inside a bracket. It sees a set only through the
// sums at the points it asks for, so the same code drives the CPU and the CUDA kernels.
//
// Note: [The bracket]
// `near` is the best point evaluated so far and `far` an end with a local minimum strictly between
// the two (or at far). That holds because the objective falls from near towards far, and at far
// either the slope points back towards near or the objective is above that at near. A trial
// between the two keeps it true in each case:
//
//   objective at trial above near        ->  far = trial         (non-convex penalties only)
//   else, slope there points at far      ->  near = trial
//   else                                 ->  far = near, near = trial
//
// So the objective at `near` is never above that at the start, and for a convex objective this is
// the usual bracket of a root of f'.
//
// Note: [The bound on the passes]
// After `free_passes` every trial is the middle of the bracket counted in representable doubles,
// of which each such pass discards half: at most free_passes + 64 passes of one descent.
#pragma once

#include "core/penalties.h"

namespace ddn {

// What curvature, at least, a small step leaves.
template <class P, class V>
DDN_HOST_DEVICE V lasting_dpsi(const SumsIn<V>& at) {
  return P::has_flat_minima ? at.dpsi - at.density : at.dpsi;
}

struct DescentOptions {
  double alpha;
  double step;          // accepted |step|
  double accuracy;      // accepted relative error of a curvature
  double rounding;      // relative rounding error of a term of the sums
  double total_weight;  // sum of the weights of the set
  double range;         // of the whole set
  double breakpoint;    // see Alpha
};

// Of a smooth penalty: slope(u + alpha t) / alpha about the u of some sums, cut off after
// t^`degree`.
template <class P>
class SlopeSeries {
 public:
  DDN_HOST_DEVICE SlopeSeries(const SumsOf<P>& at, double inverse_alpha) {
    c_[0] = at.psi * inverse_alpha;
    c_[1] = at.dpsi;
    c_[2] = 0.5 * at.d2psi;
    if constexpr (P::degree > 2) {
      for (int k = 3; k <= P::degree; ++k) c_[k] = at.higher[k - 3];
    }
  }

  DDN_HOST_DEVICE double value(double t) const {
    double value = c_[P::degree];
    for (int k = P::degree - 1; k >= 0; --k) value = added(c_[k], value, t);
    return value;
  }
  DDN_HOST_DEVICE double derivative(double t) const {
    double value = P::degree * c_[P::degree];
    for (int k = P::degree - 1; k > 0; --k) value = added(k * c_[k], value, t);
    return value;
  }
  DDN_HOST_DEVICE double integral(double t) const {
    double value = c_[P::degree] * (1.0 / (P::degree + 1));
    for (int k = P::degree - 1; k >= 0; --k) value = added(c_[k] * (1.0 / (k + 1)), value, t);
    return value * t;
  }
  // What was cut off, for each unit of weight at most: of the derivative, and of the value that
  // times |t| / (degree + 1).
  static DDN_HOST_DEVICE double rest(double t) {
    constexpr double factorial[] = {1, 1, 2, 6, 24, 120, 720};
    double rest = P::max_rest / factorial[P::degree];
    for (int k = 0; k < P::degree; ++k) rest *= ::fabs(t);
    return rest;
  }

 private:
  double c_[P::degree + 1];
};

// Whether the sums of a penalty have more of the series than the psi''.
template <class P, bool = P::is_smooth>
constexpr bool is_long = false;
template <class P>
constexpr bool is_long<P, true> = P::degree > 2;

template <class P>
class Descent {
 public:
  using At = SumsOf<P>;
  static constexpr int free_passes = 40;

  DDN_HOST_DEVICE Descent(double start, double lo, double hi, const DescentOptions& options)
      : options_(options), lo_(lo), hi_(hi), trial_(start) {
    previous_step_ = added(-0.5 * lo, 0.5, hi);  // without an overflow
  }

  // The point at which the sums are wanted next; after update() returned true, the answer.
  DDN_HOST_DEVICE double point() const { return trial_; }

  // The best point evaluated so far, the start before any was, and the sums there.
  DDN_HOST_DEVICE double best() const { return passes_ == 0 ? trial_ : near_point_; }
  DDN_HOST_DEVICE const Sums& sums() const { return near_; }

  // Takes the sums at point(); true when the descent has ended there.
  DDN_HOST_DEVICE bool update(const At& at) {
    ++passes_;
    const bool first = passes_ == 1;
    if (!P::convex && !first &&
        at.density < added(near_.density, -8 * options_.rounding, near_.density)) {
      far_ = trial_;
      far_seen_ = true;
      growth_ = 0;
    } else {
      if (stationary(at)) {
        near_point_ = trial_;
        near_ = at;
        return true;
      }
      // At a maximum the slope vanishes too; it is left downwards.
      const bool descend_right = at.psi < 0;
      if (first) {
        far_ = descend_right ? hi_ : lo_;
      } else if ((far_ > near_point_) != descend_right) {  // the trial may lie at far itself
        far_ = near_point_;
        far_seen_ = true;
        growth_ = 0;
      }
      near_point_ = trial_;
      near_ = at;
    }
    return next_trial();
  }

 private:
  // Points that pull at u: what the rounding error of the slope is proportional to.
  DDN_HOST_DEVICE double mass(const Sums& at) const {
    return P::convex ? options_.total_weight : at.density;
  }

  DDN_HOST_DEVICE bool stationary(const Sums& at) const {
    const double noise = options_.rounding * mass(at);
    const double accepted = options_.step * lasting_dpsi<P>(at);
    const double floor =
        noise * (options_.range < options_.alpha ? options_.range : options_.alpha);
    return ::fabs(at.psi) <= (accepted > floor ? accepted : floor) &&
           (P::convex || at.dpsi >= -4 * noise);
  }

  DDN_HOST_DEVICE double step() const {
    const double newton = -near_.psi / near_.dpsi;
    if constexpr (P::is_smooth) {
      // Halley's method: with the curvature half-way to where Newton's method would lead.
      const double bent = added(near_.dpsi, 0.5 * near_.d2psi, newton / options_.alpha);
      if (::fabs(newton) <= 0.5 * options_.alpha && near_.dpsi > 0 && bent > 0.5 * near_.dpsi &&
          bent < 2 * near_.dpsi) {
        return series_root(-near_.psi / bent);
      }
    }
    if (P::convex) return newton;  // NaN or infinite without curvature
    // Without the breakpoints, which take some two thirds of it, a curvature is too much by far:
    // the first step out of the Huber answer is the longer.
    if (P::has_breakpoints && passes_ == 1 && ::fabs(newton) < 0.2 * options_.alpha)
      return 2.5 * newton;
    // Where there is none, or Newton's step leads out of its neighbourhood, the minimiser of the
    // quadratic that touches the objective here and lies above it everywhere (mean shift): it
    // descends, however far away it leads. Its curvature sums phi'(z)/z, which is `density` for
    // Welsch and, with the count of the points inside, at least that for the truncated quadratic,
    // where it is Newton's step.
    if (near_.dpsi > 0 && ::fabs(newton) <= options_.alpha) return newton;
    return -near_.psi / (near_.dpsi > near_.density ? near_.dpsi : near_.density);
  }

  // The root of the series that Newton's method finds from `step`, or that step.
  DDN_HOST_DEVICE double series_root(double step) const {
    if constexpr (is_long<P>) {
      const double inverse = 1 / options_.alpha;
      const SlopeSeries<P> slope(near_, inverse);
      double t = step * inverse;
      for (int i = 0; i < 2; ++i) {
        const double curvature = slope.derivative(t);
        if (!(curvature > 0.25 * near_.dpsi)) return step;
        t -= slope.value(t) / curvature;
      }
      if (::fabs(t) <= 1) return t * options_.alpha;
    }
    return step;
  }

  DDN_HOST_DEVICE bool next_trial() {
    const double width = far_ - near_point_;  // may overflow to an infinity: compared only
    const double scale = max(::fabs(near_point_), ::fabs(far_));
    if (::fabs(width) <= added(options_.step, 4.5e-16, scale)) {
      trial_ = near_point_;
      return true;
    }
    if (passes_ > free_passes) {
      const int64_t a = ordinal(near_point_), b = ordinal(far_);
      const int64_t middle = (a & b) + ((a ^ b) >> 1);  // no overflow
      trial_ = from_ordinal(middle);
      if (middle != a && middle != b) return false;
      trial_ = near_point_;
      return true;
    }
    const double half = added(-0.5 * near_point_, 0.5, far_);
    const double own = step();
    double s = own;
    if (P::convex) {
      if (!(::fabs(s) <= ::fabs(previous_step_))) s = half;
    } else if (::fabs(s) > 0.5 * ::fabs(previous_step_)) {
      // Slow progress in one direction: lengthen the stride; a trial that overshoots moves `far`.
      growth_ += 1;
      s *= 1 + growth_;
    }
    // Also catches a step that is NaN, zero, or points out of the bracket. An end of the set that
    // was never looked at may itself be the minimiser.
    const double landing = near_point_ + s;
    const bool inside = half > 0 ? s > 0 && landing < far_ : s < 0 && landing > far_;
    if (!inside && !(landing == far_ && !far_seen_)) s = half;
    trial_ = near_point_ + s;
    if (trial_ == near_point_) return true;  // the step is below the rounding of u
    if (inside && s == own && lands(trial_ - near_point_)) {
      near_point_ = trial_;
      return true;
    }
    previous_step_ = s;
    return false;
  }

  // Note: [The last step]
  // Where a step is so short that its outcome is known, it need not be looked at from its end. s is
  // the step as u could be rounded to, so that the curvature belongs to the very answer.
  //
  // Smooth penalties: with the bounds on the psi'' M_3 and on its slope M_4 per unit of weight, in
  // units of alpha, the slope after Newton's step s or Halley's is at most 1.1 W M_3 s^2, the error
  // of the curvature W M_4 s^2 / 2, and the curvature changes by W M_3 |s| at most. With more of
  // the series, what was cut off of it takes the place of these. Huber: on a stretch without a
  // breakpoint the slope is linear, and nothing else changes.
  DDN_HOST_DEVICE bool lands(double s) {
    if constexpr (is_long<P>) {
      const double inverse = 1 / options_.alpha, t = s * inverse, all = options_.total_weight;
      // Then the curvature is positive all the way, and the series has no other root there.
      if (!(near_.dpsi > 1.25 * all * P::max_d2psi * ::fabs(t))) return false;
      const SlopeSeries<P> series(near_, inverse);
      const double curvature = series.derivative(t), error = all * series.rest(t);
      const double slope = added(::fabs(series.value(t)), error * ::fabs(t), 1.0 / (P::degree + 1));
      if (!(slope <= 0.5 * options_.step * inverse * curvature &&
            error <= options_.accuracy * curvature)) {
        return false;
      }
      if (!P::convex) near_.density -= series.integral(t);
      near_.dpsi = curvature;
      near_.psi = slope * options_.alpha;  // no more than that
      return true;
    } else if constexpr (P::is_smooth) {
      const double relative = ::fabs(s) / options_.alpha, all = options_.total_weight;
      const double change = all * P::max_d2psi * relative;
      const double slope = 1.1 * change * ::fabs(s);
      const double error = 0.5 * all * P::max_rest * relative * relative;
      if (!(near_.dpsi > 4 * change && slope <= 0.5 * options_.step * near_.dpsi &&
            error <= options_.accuracy * near_.dpsi)) {
        return false;
      }
      near_.dpsi = added(near_.dpsi, near_.d2psi, s / options_.alpha);
      near_.psi = slope;
      return true;
    } else if constexpr (P::has_flat_minima) {
      if (!(near_.density == 0 && ::fabs(s) <= 0.5 * options_.breakpoint)) return false;
      near_.psi = 0;
      return true;
    } else {
      return false;
    }
  }

  DescentOptions options_;
  double lo_, hi_;
  double trial_;
  double near_point_ = 0, far_ = 0;
  At near_;
  double previous_step_;
  double growth_ = 0;
  bool far_seen_ = false;  // the sums at far_ were found
  int passes_ = 0;
};

}  // namespace ddn
