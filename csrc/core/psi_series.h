// The sum of psi about a point as a polynomial, from the sums of its derivatives there.
#pragma once

#include "core/penalties.h"

namespace ddn {

// Of a smooth penalty: the Taylor polynomial of degree `degree` in t of the sum of psi at
// u + alpha t, divided by alpha, where u is the place of the given sums.
template <class P>
class PsiSeries {
 public:
  DDN_HOST_DEVICE PsiSeries(const SumsOf<P>& at, double inverse_alpha) {
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
  // A bound, for each unit of weight, on what the derivative lost at the cut; on what the value
  // lost, after multiplication by |t| / (degree + 1).
  static DDN_HOST_DEVICE double remainder(double t) {
    constexpr double factorial[] = {1, 1, 2, 6, 24, 120, 720};
    double remainder = P::max_rest / factorial[P::degree];
    for (int k = 0; k < P::degree; ++k) remainder *= ::fabs(t);
    return remainder;
  }

 private:
  double c_[P::degree + 1];
};

// Whether the sums of a penalty have more terms of the series than psi''.
template <class P, bool = P::is_smooth>
constexpr bool has_long_series = false;
template <class P>
constexpr bool has_long_series<P, true> = P::degree > 2;

}  // namespace ddn
