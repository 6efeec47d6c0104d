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

#include "core/global.h"
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

// Working memory of one thread for the global search. A bin's points are counted in one integer:
// their number above, the sum of their fixed-point places in the bin below bit `count_shift`, so
// that points can be added in any order, `bin_points` of them without overflow.
template <class T>
struct Workspace {
  static constexpr int most_cells = 2048;
  static constexpr int size =
      most_cells + 2 * Taps::most_blocks * Taps::most_per_alpha + 2 + bins_slack;
  static constexpr int count_shift = 40;
  static constexpr int64_t bin_points = 1 << 23;

  std::vector<uint64_t> counted = std::vector<uint64_t>(size);
  std::vector<double> mass = std::vector<double>(size), moment = std::vector<double>(size);
  std::vector<float> upper = std::vector<float>(size), blocks = std::vector<float>(size);
  std::vector<T> list;
};

// The terms of the power series of the Welsch depth; see core/series.h.
template <class T>
Series chunk_series(const T* x, int64_t n, double u, double alpha) {
  using Lanes = Vector<double>;
  constexpr int terms = Series::terms;
  const Split<T, double> at(u);
  const Lanes base = splat(static_cast<double>(at.base)), offset = splat(at.offset), zero{};
  const Lanes far = splat(40.0), inverse = splat(1 / alpha);
  Lanes sums[terms] = {};
  DoublePair totals[terms];
  for_each_vector<double>(
      x, n,
      [&](Lanes points, auto mask) __attribute__((always_inline)) {
        const Lanes z = clip(residual(points, base, offset) * inverse, far);
        Lanes before = zero, term = Math<Lanes>::exp(z * z * -0.5);
        for (int i = 0; i < terms; ++i) {
          sums[i] += mask ? term : zero;
          const Lanes next = -(z * term + before) * (1.0 / (i + 1));
          before = term;
          term = next;
        }
      },
      [&]() __attribute__((always_inline)) {
        for (int i = 0; i < terms; ++i) {
          totals[i].add(sums[i]);
          sums[i] = zero;
        }
      });
  Series series;
  for (int i = 0; i < terms; ++i) series.c[i] = totals[i].total();
  return series;
}

template <class T>
class PointSet {
 public:
  using Scalar = T;
  using Real = T;
  using Lanes = Vector<double>;

  // With a parallel_for, the chunks of one set are shared out among the threads. The workspace is
  // for the global search.
  PointSet(const T* x, int64_t n, const cpu::ParallelFor* parallel_for,
           Workspace<T>* workspace = nullptr)
      : x_(x), n_(n), parallel_for_(parallel_for), workspace_(workspace) {}

  double count() const { return static_cast<double>(n_); }

  int rank() const { return 0; }
  int size() const { return 1; }
  void sync() const {}
  double largest(double x) const { return x; }
  int most_cells() const { return Workspace<T>::most_cells; }
  template <class P>
  static const Taps& taps() {
    static const Taps table = make_taps<P>(P::is_smooth ? 8 : 32);
    return table;
  }
  Bins bins() const {
    return {workspace_->mass.data(), workspace_->moment.data(), workspace_->upper.data(),
            workspace_->blocks.data()};
  }
  const T* list() const { return workspace_->list.data(); }
  PointSet view(int64_t first, int64_t count) const {
    return PointSet(list() + first, count, parallel_for_, workspace_);
  }

  void bin(const Grid& grid, double /*alpha*/) const {
    using Fixed = typename LanesOf<int32_t, T>::type;
    constexpr int lanes = VectorOf<T>::lanes;
    using Space = Workspace<T>;
    const int size = grid.bins();
    std::fill_n(workspace_->mass.data(), size, 0.0);
    std::fill_n(workspace_->moment.data(), size, 0.0);
    const double one = 1 << bin_fraction_bits;
    const Split<T, T> at(grid.origin);
    const Vector<T> base = splat(at.base), offset = splat(at.offset);
    const Vector<T> scale = splat(static_cast<T>(one / grid.width));
    const Vector<T> shift = splat(static_cast<T>((grid.pad + 1) * one)), zero{};
    const Vector<T> limit = splat(static_cast<T>((size - 1) * one + one / 2));
    uint64_t* const counted = workspace_->counted.data();
    for (int64_t begin = 0; begin < n_; begin += Space::bin_points) {
      const int64_t end = std::min(n_, begin + Space::bin_points);
      std::fill_n(counted, size, 0);
      const auto count = [&](Vector<T> x, int points) __attribute__((always_inline)) {
        const Vector<T> place = shift - residual(x, base, offset) * scale;
        const Fixed fixed = __builtin_convertvector(larger(smaller(place, limit), zero), Fixed);
        int32_t places[lanes];
        memcpy(places, &fixed, sizeof fixed);
        for (int i = 0; i < points; ++i) {
          counted[places[i] >> bin_fraction_bits] +=
              (uint64_t{1} << Space::count_shift) +
              static_cast<uint64_t>(places[i] & bin_fraction_mask);
        }
      };
      int64_t i = begin;
      for (; i + lanes <= end; i += lanes) count(load<T>(x_ + i), lanes);
      if (i < end) {
        count(load_first<T>(x_ + i, static_cast<int>(end - i)), static_cast<int>(end - i));
      }
      for (int b = 0; b < size; ++b) {
        const auto points = static_cast<double>(counted[b] >> Space::count_shift);
        const uint64_t places = counted[b] & ((uint64_t{1} << Space::count_shift) - 1);
        workspace_->mass[b] += points;
        workspace_->moment[b] += static_cast<double>(places) * (1 / one) - 0.5 * points;
      }
    }
  }

  SweepInput gather(double centre, double half, double alpha) const {
    using Lanes = Vector<T>;
    constexpr int lanes = VectorOf<T>::lanes;
    std::vector<T>& list = workspace_->list;
    list.resize(static_cast<size_t>(n_ + 2 * lanes));
    const Split<T, T> at(centre);
    const Lanes base = splat(at.base), offset = splat(at.offset), zero{}, one = splat(T(1));
    const Lanes inner = splat(static_cast<T>(alpha - half)),
                inverse = splat(static_cast<T>(1 / alpha));
    const Lanes outer = splat(static_cast<T>(alpha + half));
    Lanes count{}, s1{}, s2{}, left{};
    DoublePair counts, s1s, s2s, lefts;
    int64_t size = 0;
    for_each_vector<T>(
        x_, n_,
        [&](Lanes points, auto mask) __attribute__((always_inline)) {
          const Lanes z = residual(points, base, offset), distance = absolute(z), t = -z * inverse;
          const auto inside = mask & (distance <= inner);
          const auto edge = mask & (distance > inner) & (distance <= outer);
          count += inside ? one : zero;
          s1 += inside ? t : zero;
          s2 += inside ? t * t : zero;
          left += edge & (z > zero) ? one : zero;
          size += store_selected<T>(list.data() + size, points, edge);
        },
        [&]() __attribute__((always_inline)) {
          counts.add(count);
          s1s.add(s1);
          s2s.add(s2);
          lefts.add(left);
          count = s1 = s2 = left = zero;
        });
    std::sort(list.data(), list.data() + size);
    const auto leaving = static_cast<int64_t>(lefts.total());
    return {size, leaving, leaving, centre, alpha, counts.total(), s1s.total(), s2s.total()};
  }

  int64_t sort() const {
    std::vector<T>& list = workspace_->list;
    list.clear();
    for (int64_t i = 0; i < n_; ++i) {
      if (is_finite(static_cast<double>(x_[i]))) list.push_back(x_[i]);
    }
    std::sort(list.data(), list.data() + list.size());
    return static_cast<int64_t>(list.size());
  }

  Series series(double centre, double alpha) const {
    return over_chunks<Series>(
        [=](const T* x, int64_t n) { return chunk_series(x, n, centre, alpha); },
        [](Series& all, const Series& one) {
          for (int i = 0; i < Series::terms; ++i) all.c[i] += one.c[i];
        });
  }

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

  template <class P>
  double objective(double u, double alpha) const {
    return over_chunks<CompensatedSum<double>>(
               [=](const T* x, int64_t n) {
                 CompensatedSum<double> sum;
                 const Split<T, double> at(u);
                 const auto base = static_cast<double>(at.base);
                 for (int64_t i = 0; i < n; ++i) {
                   sum.add(P::value(residual(static_cast<double>(x[i]), base, at.offset), alpha));
                 }
                 return sum;
               },
               [](CompensatedSum<double>& all, const CompensatedSum<double>& one) {
                 all.add(one.total());
               })
        .total();
  }

  Survey survey() const {
    const ChunkSurvey all =
        over_chunks<ChunkSurvey>([](const T* x, int64_t n) { return chunk_survey(x, n); },
                                 [](ChunkSurvey& all, const ChunkSurvey& one) {
                                   all.sum.add(one.sum.sum);
                                   all.lo = smaller(one.lo, all.lo);
                                   all.hi = larger(one.hi, all.hi);
                                 });
    return {all.sum.total() / count(), all.lo, all.hi, count(), 0, 0, 0};
  }

  Survey careful_survey() const {
    Survey survey{0, detail::infinity, -detail::infinity, 0, 0, 0, 0};
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
    const double finite =
        count() - survey.positive_infinities - survey.negative_infinities - survey.nans;
    survey.finite = finite;
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
  Workspace<T>* workspace_;
};

}  // namespace DDN_ISA
}  // namespace ddn
