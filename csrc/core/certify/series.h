// The Welsch density near one place as a power series with a proven remainder, and its maximum.
//
// Note: [The series]
// K(z) = exp(-z^2/2) has the Taylor coefficients g_n = K^(n)(z) / n! with g_0 = K, g_1 = -z K and
// g_(n+1) = -(z g_n + g_(n-1)) / (n+1). By Cramer's bound on Hermite functions (Abramowitz and
// Stegun, 22.14.17), |K^(n)| <= 1.09 sqrt(n!), so that after the terms up to r^(n-1) the density of
// n points of total mass m is known on |t| <= r up to 1.09 m r^n / sqrt(n!): 6e-17 m for r = 1/4
// and n = 16. One pass over the points thus settles everything about the density in a stretch of
// alpha/2, even where it is flat to the last bit.
#pragma once

#include "core/math.h"

namespace ddn {

struct Series {
  static constexpr int terms = 16;
  static constexpr double radius = 0.25;      // in units of alpha
  static constexpr double remainder = 6e-17;  // per unit of mass
  double c[terms];                            // of t = (u - centre) / alpha

  // About another centre: Horner's scheme, repeated.
  DDN_HOST_DEVICE Series moved(double by) const {
    Series s = *this;
    for (int i = 0; i < terms - 1; ++i) {
      for (int j = terms - 2; j >= i; --j) s.c[j] = added(s.c[j], by, s.c[j + 1]);
    }
    return s;
  }
  // Bounds on |t| <= r: rest() of |s(t) - s(0)|, rest_of_second() of |s''(t) - s''(0)|.
  DDN_HOST_DEVICE double rest(double r) const {
    double sum = 0;
    for (int i = terms - 1; i >= 1; --i) sum = added(::fabs(c[i]), sum, r);
    return sum * r;
  }
  DDN_HOST_DEVICE double rest_of_second(double r) const {
    double sum = 0;
    for (int i = terms - 1; i >= 3; --i) sum = added(i * (i - 1) * ::fabs(c[i]), sum, r);
    return sum * r;
  }
  DDN_HOST_DEVICE double at(double t) const {
    double sum = 0;
    for (int i = terms - 1; i >= 0; --i) sum = added(c[i], sum, t);
    return sum;
  }
};

// The maximiser on |t| <= radius of a series that is concave there: a safeguarded Newton method for
// a zero of its derivative.
DDN_HOST_DEVICE double top_of_concave(const Series& s, double radius) {
  double lo = -radius, hi = radius, t = 0;
  for (int k = 0; k < 60 && hi - lo > 1e-14; ++k) {
    double first = 0, second = 0;
    for (int i = Series::terms - 1; i >= 1; --i) {
      second = added(first, second, t);
      first = added(i * s.c[i], first, t);
    }
    if (first > 0) lo = t;
    if (first <= 0) hi = t;
    double next = t - first / second;
    if (!(next > lo && next < hi)) next = 0.5 * (lo + hi);
    if (::fabs(next - t) < 1e-15) break;
    t = next;
  }
  return t;
}

struct Interval {
  double centre, radius;
};
constexpr int most_halvings = 48;  // a radius of 1e-9, where halving stops, takes fewer

struct Maximum {
  bool found;  // a value of at least `floor`
  double t;
  double value;
  double bound;  // no value on the interval is above it
};

// The maximum on |t| <= radius, to within `tolerance`; if it lies below `floor`, only its `bound`.
//
// Branch and bound from left to right: an interval is discarded if its upper bound is at most the
// best value plus the tolerance, solved if the series is concave on it, and halved otherwise.
static DDN_NOINLINE Maximum maximise(const Series& series, double radius, double floor,
                                     double tolerance) {
  Interval stack[most_halvings];
  int size = 0;
  stack[size++] = {0, radius};
  Maximum best{false, 0, floor, -1};
  while (size > 0) {
    const Interval here = stack[--size];
    const Series s = series.moved(here.centre);
    if (s.c[0] > best.value || (!best.found && s.c[0] >= floor)) {
      best.t = here.centre;
      best.value = s.c[0];
      best.found = true;
    }
    const double upper = s.c[0] + s.rest(here.radius);
    if (upper <= best.value + tolerance || here.radius < 1e-9) {
      best.bound = max(upper, best.bound);
      continue;
    }
    const double second = 2 * s.c[2] + s.rest_of_second(here.radius);
    if (second < 0) {
      const double t = top_of_concave(s, here.radius);
      const double value = s.at(t);
      if (value > best.value || (!best.found && value >= floor)) {
        best.t = here.centre + t;
        best.value = value;
        best.found = true;
      }
      best.bound = max(value, best.bound);
      continue;
    }
    const double half = 0.5 * here.radius;
    stack[size++] = {here.centre + half, half};
    stack[size++] = {here.centre - half, half};
  }
  return best;
}

// The leftmost local maximum on |t| <= radius that lies left of `best` and is at least `floor`;
// `best` itself if there is none.
static DDN_NOINLINE Maximum leftmost(const Series& series, double radius, double floor,
                                     Maximum best) {
  Interval stack[most_halvings];
  int size = 0;
  const double half = 0.5 * (best.t + radius);
  stack[size++] = {best.t - half, half};
  while (size > 0) {
    const Interval here = stack[--size];
    const Series s = series.moved(here.centre);
    if (s.c[0] + s.rest(here.radius) < floor) continue;
    const bool flat = here.radius < 1e-9;
    if (flat || 2 * s.c[2] + s.rest_of_second(here.radius) < 0) {
      const double t = flat ? 0 : top_of_concave(s, here.radius);
      const double value = s.at(t);
      // A maximum at an end of the interval is no local maximum of the series.
      const bool inside = flat || ::fabs(t) < here.radius - 1e-9;
      if (!inside || value < floor) continue;
      best.t = here.centre + t;
      best.value = value;
      break;
    }
    const double part = 0.5 * here.radius;
    stack[size++] = {here.centre + part, part};
    stack[size++] = {here.centre - part, part};
  }
  return best;
}

}  // namespace ddn
