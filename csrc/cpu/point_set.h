// A set of points in memory, summed over with SIMD: the CPU's `Set` (see core/solve.h).
//
// Note: [The order of summation]
// It depends on the number of points alone. Points are cut into chunks of `chunk_points`; a chunk
// into blocks of `block_vectors` SIMD vectors, whose terms are added lane by lane in the precision
// of the terms and then, once a block, to sums in double precision; the lanes are added by halves,
// and the chunks from first to last. Long sums of doubles keep their rounding errors. So the seven
// additions within a block decide the error of a mean: below 3.5 eps of the mean magnitude, however
// large the set.
#pragma once

#include <algorithm>
#include <vector>

#include "core/gradient.h"
#include "cpu/robust_pool_cpu.h"
#include "cpu/simd.h"

namespace ddn {
inline namespace DDN_ISA {

constexpr int64_t chunk_points = 1 << 14;
constexpr int block_vectors = 8;

// Calls body(vector, mask) for the vectors of [0, n): mask is `all` but for the last, partial one;
// flush() after each block.
template <class V, class T, class Body, class Flush>
DDN_HD void for_each_vector(const T* x, int64_t n, Body&& body, Flush&& flush) {
  constexpr int lanes = VectorOf<V>::lanes;
  const auto all = first_lanes<V>(lanes);
  int64_t i = 0;
  for (; i + block_vectors * lanes <= n; i += block_vectors * lanes) {
    for (int k = 0; k < block_vectors; ++k) body(load<V>(x + i + k * lanes), all);
    flush();
  }
  for (; i + lanes <= n; i += lanes) body(load<V>(x + i), all);
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    body(load_first<V>(x + i, rest), first_lanes<V>(rest));
  }
  flush();
}

template <class P, class V, class T>
Sums chunk_sums(const T* x, int64_t n, double u, double alpha) {
  using Lanes = Vector<V>;
  const Split<T, V> at(u);
  const Lanes base = splat(static_cast<V>(at.base)), offset = splat(at.offset), zero{};
  const Alpha<Lanes> a{splat(static_cast<V>(alpha)), splat(static_cast<V>(1 / alpha))};
  Lanes slope{}, curvature{}, depth{}, absolute_curvature{};
  DoublePair slopes, curvatures, depths, absolute_curvatures;
  for_each_vector<V>(
      x, n,
      [&](Lanes points, auto mask) __attribute__((always_inline)) {
        const Terms<Lanes> t = P::terms(residual(points, base, offset), a);
        slope += mask ? t.slope : zero;
        curvature += mask ? t.curvature : zero;
        if constexpr (P::has_depth) depth += mask ? t.depth : zero;
        if constexpr (!P::convex) {
          absolute_curvature += mask ? absolute(t.curvature) : zero;
        }
      },
      [&]() __attribute__((always_inline)) {
        slopes.add(slope);
        curvatures.add(curvature);
        slope = curvature = zero;
        if constexpr (P::has_depth) {
          depths.add(depth);
          depth = zero;
        }
        if constexpr (!P::convex) {
          absolute_curvatures.add(absolute_curvature);
          absolute_curvature = zero;
        }
      });
  return {slopes.total(), curvatures.total(), depths.total(), absolute_curvatures.total()};
}

struct ChunkSurvey {
  CompensatedSum<double> sum;
  double lo, hi;
};

template <class T>
ChunkSurvey chunk_survey(const T* x, int64_t n) {
  using Lanes = Vector<T>;
  const T infinity = static_cast<T>(detail::infinity);
  const Lanes zero{}, upmost = splat(infinity), downmost = splat(-infinity);
  Lanes sum{}, lo = upmost, hi = downmost;
  DoublePair total;
  for_each_vector<T>(
      x, n,
      [&](Lanes points, auto mask) __attribute__((always_inline)) {
        sum += mask ? points : zero;
        lo = smaller(mask ? points : upmost, lo);
        hi = larger(mask ? points : downmost, hi);
      },
      [&]() __attribute__((always_inline)) {
        total.add(sum);
        sum = zero;
      });
  ChunkSurvey survey{{total.total(), 0}, detail::infinity, -detail::infinity};
  for (int lane = 0; lane < VectorOf<T>::lanes; ++lane) {
    survey.lo = smaller(static_cast<double>(lo[lane]), survey.lo);
    survey.hi = larger(static_cast<double>(hi[lane]), survey.hi);
  }
  return survey;
}

// The counts are at most chunk_points: exact in single precision.
template <class T>
Around chunk_around(const T* x, int64_t n, double u, double radius) {
  using Lanes = Vector<T>;
  const Split<T, T> at(u);
  const T infinity = static_cast<T>(detail::infinity);
  const Lanes base = splat(at.base), offset = splat(at.offset), zero{}, one = splat(T(1));
  const Lanes far = splat(static_cast<T>(radius));
  const Lanes upmost = splat(infinity), downmost = splat(-infinity);
  Lanes nearer{}, left{}, below = downmost, above = upmost;
  for_each_vector<T>(
      x, n,
      [&](Lanes points, auto mask) __attribute__((always_inline)) {
        const Lanes z = residual(points, base, offset);
        nearer += mask && absolute(z) < far ? one : zero;
        left += mask && z >= far ? one : zero;
        below = larger(mask && z >= far ? points : downmost, below);
        above = smaller(mask && -z >= far ? points : upmost, above);
      },
      [] {});
  Around around{0, 0, -detail::infinity, detail::infinity};
  for (int lane = 0; lane < VectorOf<T>::lanes; ++lane) {
    around.nearer += nearer[lane];
    around.left += left[lane];
    around.below = larger(static_cast<double>(below[lane]), around.below);
    around.above = smaller(static_cast<double>(above[lane]), around.above);
  }
  return around;
}

template <class T>
class PointSet {
 public:
  using Scalar = T;
  using Real = T;

  // With a parallel_for, the chunks of one set are shared out among the threads.
  PointSet(const T* x, int64_t n, const cpu::ParallelFor* parallel_for)
      : x_(x), n_(n), parallel_for_(parallel_for) {}

  double count() const { return static_cast<double>(n_); }

  template <class P, class V>
  Sums sums(double u, double alpha) const {
    return over_chunks<Sums>(
        [=](const T* x, int64_t n) { return chunk_sums<P, V>(x, n, u, alpha); },
        [](Sums& all, const Sums& one) {
          all.slope += one.slope;
          all.curvature += one.curvature;
          all.depth += one.depth;
          all.absolute_curvature += one.absolute_curvature;
        });
  }

  Survey survey() const {
    const ChunkSurvey all =
        over_chunks<ChunkSurvey>([](const T* x, int64_t n) { return chunk_survey(x, n); },
                                 [](ChunkSurvey& all, const ChunkSurvey& one) {
                                   all.sum.add(one.sum.sum);
                                   all.lo = smaller(one.lo, all.lo);
                                   all.hi = larger(one.hi, all.hi);
                                 });
    return {all.sum.total() / count(), all.lo, all.hi, 0, 0, 0};
  }

  Survey careful_survey() const {
    Survey survey{0, detail::infinity, -detail::infinity, 0, 0, 0};
    for (int64_t i = 0; i < n_; ++i) {
      const double x = static_cast<double>(x_[i]);
      survey.nans += x != x;
      survey.positive_infinities += x == detail::infinity;
      survey.negative_infinities += x == -detail::infinity;
      if (!is_finite(x)) continue;
      survey.lo = smaller(x, survey.lo);
      survey.hi = larger(x, survey.hi);
    }
    // Divided first: the sum may overflow where the mean does not.
    const double finite = count() - survey.positive_infinities - survey.negative_infinities;
    CompensatedSum<double> mean;
    for (int64_t i = 0; i < n_; ++i) {
      const double x = static_cast<double>(x_[i]);
      if (is_finite(x)) mean.add(x / finite);
    }
    survey.mean = mean.total();
    return survey;
  }

  Around around(double u, double radius) const {
    return over_chunks<Around>([=](const T* x, int64_t n) { return chunk_around(x, n, u, radius); },
                               [](Around& all, const Around& one) {
                                 all.nearer += one.nearer;
                                 all.left += one.left;
                                 all.below = larger(one.below, all.below);
                                 all.above = smaller(one.above, all.above);
                               });
  }

 private:
  template <class Part, class Compute, class Combine>
  Part over_chunks(const Compute& compute, const Combine& combine) const {
    if (n_ <= chunk_points) return compute(x_, n_);
    const int64_t chunks = (n_ + chunk_points - 1) / chunk_points;
    const auto part = [&](int64_t i) {
      return compute(x_ + i * chunk_points, std::min(chunk_points, n_ - i * chunk_points));
    };
    if (parallel_for_ == nullptr) {
      Part all = part(0);
      for (int64_t i = 1; i < chunks; ++i) combine(all, part(i));
      return all;
    }
    std::vector<Part> parts(static_cast<size_t>(chunks));
    (*parallel_for_)(0, chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) parts[static_cast<size_t>(i)] = part(i);
    });
    Part all = parts[0];
    for (size_t i = 1; i < parts.size(); ++i) combine(all, parts[i]);
    return all;
  }

  const T* x_;
  int64_t n_;
  const cpu::ParallelFor* parallel_for_;
};

}  // namespace DDN_ISA
}  // namespace ddn
