// The statistics of sets whose points are not finite or whose mean overflows.
#pragma once

#include "core/set.h"

namespace ddn {

// A set has, besides what core/set.h lists,
//
//   void for_each_point(f)   calls f(x, weight) for the points of a thread, in double precision
//   void largest(values)     maxima over the threads, for each element of an array
template <class Set>
DDN_HOST_DEVICE SetStatistics compute_careful_statistics(const Set& set) {
  double weights[4] = {};                                   // of +inf, -inf, NaN and finite points
  double ends[2] = {-detail::infinity, -detail::infinity};  // of the finite points: -lo, hi
  set.for_each_point([&](double x, double weight) {
    if (is_finite(x)) {
      weights[3] += weight;
      ends[0] = max(-x, ends[0]);
      ends[1] = max(x, ends[1]);
    } else {
      weights[0] += x > 0 ? weight : 0;
      weights[1] += x < 0 ? weight : 0;
      weights[2] += x != x ? weight : 0;
    }
  });
  set.sum(weights);
  set.largest(ends);
  // Weights are divided by their sum first, because the sum of the points may overflow where the
  // mean does not.
  const double finite = weights[3];
  CompensatedSum<double> sum;
  set.for_each_point([&](double x, double weight) {
    if (is_finite(x)) sum.add(x * (weight / finite));
  });
  double mean[1] = {sum.total()};
  set.sum(mean);
  return {mean[0], -ends[0], ends[1], finite, weights[0], weights[1], weights[2], mean[0]};
}

}  // namespace ddn
