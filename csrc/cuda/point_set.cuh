// A set of points as a team sums over it: CUDA's `Set` (see core/solve.h).
//
// Note: [The order of summation]
// It depends on the number of points alone: thread r of a team of t takes the points r, r + t,
// r + 2t, ...; it adds `run` of their terms in the precision of the terms and then those sums in
// double precision; the threads are added by the team's reduction.
#pragma once

#include "core/args.h"
#include "core/gradient.h"
#include "cuda/team.cuh"

namespace ddn::cuda {

constexpr int run = 8;

// Points that lie one after the other, in shared memory.
template <class T>
struct Consecutive {
  const T* x;
  __device__ __forceinline__ T operator[](int64_t i) const { return x[i]; }
};

// Points where the tensor has them, in global memory.
template <class T>
struct InPlace {
  const T* x;
  const Dims* dims;
  __device__ __forceinline__ T operator[](int64_t i) const { return x[dims->offset(i)]; }
};

template <class T, class Team, class Points>
class PointSet {
 public:
  using Scalar = T;
  using Real = T;

  __device__ __forceinline__ PointSet(Points points, int64_t n) : points_(points), n_(n) {}

  __device__ __forceinline__ double count() const { return static_cast<double>(n_); }

  template <class P, class V>
  __device__ __forceinline__ Sums sums(double u, double alpha) const {
    const Split<T, V> at(u);
    const V base = static_cast<V>(at.base);
    const Alpha<V> a{static_cast<V>(alpha), static_cast<V>(1 / alpha)};
    V slope = 0, curvature = 0, depth = 0, absolute_curvature = 0;
    double totals[P::convex ? (P::has_depth ? 3 : 2) : 4] = {};
    for_each(
        [&](T x) {
          const Terms<V> t = P::terms(residual(static_cast<V>(x), base, at.offset), a);
          slope += t.slope;
          curvature += t.curvature;
          if constexpr (P::has_depth) depth += t.depth;
          if constexpr (!P::convex) {
            absolute_curvature += absolute(t.curvature);
          }
        },
        [&] {
          totals[0] += static_cast<double>(slope);
          totals[1] += static_cast<double>(curvature);
          slope = curvature = 0;
          if constexpr (P::has_depth) {
            totals[2] += static_cast<double>(depth);
            depth = 0;
          }
          if constexpr (!P::convex) {
            totals[3] += static_cast<double>(absolute_curvature);
            absolute_curvature = 0;
          }
        });
    Team::template reduce<Add>(totals);
    Sums sums;
    sums.slope = totals[0];
    sums.curvature = totals[1];
    if constexpr (P::has_depth) sums.depth = totals[2];
    if constexpr (!P::convex) sums.absolute_curvature = totals[3];
    return sums;
  }

  __device__ __forceinline__ Survey survey() const {
    T sum = 0;
    CompensatedSum<double> sums;
    double ends[2] = {-detail::infinity, -detail::infinity};  // of -lo and hi
    for_each(
        [&](T x) {
          sum += x;
          ends[0] = larger(-static_cast<double>(x), ends[0]);
          ends[1] = larger(static_cast<double>(x), ends[1]);
        },
        [&] {
          sums.add(static_cast<double>(sum));
          sum = 0;
        });
    double total[1] = {sums.total()};
    Team::template reduce<Add>(total);
    Team::template reduce<Larger>(ends);
    return {total[0] / count(), -ends[0], ends[1], 0, 0, 0};
  }

  __device__ __forceinline__ Survey careful_survey() const {
    double counts[3] = {};
    double ends[2] = {-detail::infinity, -detail::infinity};
    for_each(
        [&](T point) {
          const double x = static_cast<double>(point);
          counts[0] += x == detail::infinity;
          counts[1] += x == -detail::infinity;
          counts[2] += x != x;
          if (!is_finite(x)) return;
          ends[0] = larger(-x, ends[0]);
          ends[1] = larger(x, ends[1]);
        },
        [] {});
    Team::template reduce<Add>(counts);
    Team::template reduce<Larger>(ends);
    // Divided first: the sum may overflow where the mean does not.
    const double finite = count() - counts[0] - counts[1];
    CompensatedSum<double> sums;
    for_each(
        [&](T point) {
          const double x = static_cast<double>(point);
          if (is_finite(x)) sums.add(x / finite);
        },
        [] {});
    double mean[1] = {sums.total()};
    Team::template reduce<Add>(mean);
    return {mean[0], -ends[0], ends[1], counts[0], counts[1], counts[2]};
  }

  __device__ __forceinline__ Around around(double u, double radius) const {
    const Split<T, T> at(u);
    const T far = static_cast<T>(radius);
    double counts[2] = {};
    double ends[2] = {-detail::infinity, -detail::infinity};  // of below and -above
    for_each(
        [&](T x) {
          const T z = residual(x, at.base, at.offset);
          counts[0] += absolute(z) < far;
          counts[1] += z >= far;
          if (z >= far) ends[0] = larger(static_cast<double>(x), ends[0]);
          if (-z >= far) ends[1] = larger(-static_cast<double>(x), ends[1]);
        },
        [] {});
    Team::template reduce<Add>(counts);
    Team::template reduce<Larger>(ends);
    return {counts[0], counts[1], ends[0], -ends[1]};
  }

 private:
  // Calls body for this thread's points, and flush after every `run` of them and at the end.
  template <class Body, class Flush>
  __device__ __forceinline__ void for_each(Body&& body, Flush&& flush) const {
    int64_t i = Team::rank();
    for (; i + (run - 1) * Team::threads < n_; i += run * Team::threads) {
#pragma unroll
      for (int k = 0; k < run; ++k) body(points_[i + k * Team::threads]);
      flush();
    }
    for (; i < n_; i += Team::threads) body(points_[i]);
    flush();
  }

  Points points_;
  int64_t n_;
};

}  // namespace ddn::cuda
