// The contribution of one point to the power series of the Welsch density, by the recurrence of
// Note [The series] in core/certify/series.h. For a scalar or a SIMD vector.
#pragma once

#include "core/certify/series.h"

namespace ddn {

// The terms from the i-th on, given the two before.
template <class M, int i, class V, class Add>
DDN_HOST_DEVICE void add_series_terms(V z, V before_last, V last, const Add& add) {
  const V numerator = -M::fma(z, last, before_last);
  if constexpr (i == Series::terms - 1) {
    add(i, numerator, M::splat(1.0 / i));  // one fused multiply-add, if the target has one
  } else {
    const V term = numerator * (1.0 / i);
    add(i, term, One{});
    add_series_terms<M, i + 1>(z, last, term, add);
  }
}

// z: (u - x) / alpha, clipped to gauss_limit. kernel: the weighted K(z). Calls add(i, x, y) with
// the i-th coefficient as a product x y. M: the Math of the recurrence.
template <class M, class V, class Add>
DDN_HOST_DEVICE void add_series_terms(V z, V kernel, const Add& add) {
  add(0, kernel, One{});
  add_series_terms<M, 1>(z, V{}, kernel, add);
}

}  // namespace ddn
