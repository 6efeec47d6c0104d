// One pass over a chunk of points: moments of a penalty, statistics, the surroundings of a place,
// and the density on a cell.
#pragma once

#include <algorithm>
#include <type_traits>

#include "core/certify/cells.h"
#include "core/penalties.h"
#include "cpu/point_span.h"

namespace ddn {
inline namespace DDN_ISA {

template <int count>
struct Moments {
  double m[count];
};

// Adds the moments of a penalty for one vector of points.
template <class V, class Weights, class Mask>
struct VectorMomentAdder {
  Vector<V>* moments;
  int64_t* counts;  // replace moments that count points without weights
  Weights weights;
  Mask mask;

  template <class Factor>
  DDN_HOST_DEVICE void operator()(int k, Vector<V> x, Factor y) const {
    moments[k] = added(moments[k], select(mask, x * weights), y);
  }
  DDN_HOST_DEVICE void count(int k, Vector<V> a, Vector<V> b) const {
    const Selection<V> counted = selection<V>(mask) & at_most<V>(a, b);
    if constexpr (std::is_same_v<Weights, One>) {
      counts[k] += counted.count();
    } else {
      moments[k] += counted.keep(weights);
    }
  }
};

// bounded: no point is further from u than most_bounded alpha.
template <class P, class V, bool bounded, class T, bool weighted>
Moments<P::moments> chunk_moments(const PointSpan<T, weighted>& set, double u, double alpha,
                                  double breakpoint) {
  using Lanes = Vector<V>;
  const Split<T, V> at(u);
  const Lanes zero{};
  const Alpha<Lanes> a{splat(static_cast<V>(alpha)), splat(static_cast<V>(1 / alpha)),
                       splat(static_cast<V>(breakpoint))};
  const Residuals<P, Lanes> residual(splat(static_cast<V>(at.base)), splat(at.offset), a);
  constexpr int count = P::moments;
  Lanes moments[count] = {};
  int64_t counts[count] = {};
  DoublePair totals[count];
  const auto is_approximate = [](int k) { return k >= P::first_approximate && k < P::first_count; };
  constexpr bool has_approximate = P::first_approximate < P::first_count;
  const int64_t step = has_approximate ? approximate_vectors * VectorOf<V>::lanes : set.n;
  for (int64_t begin = 0; begin < set.n; begin += step) {
    for_each_vector<V>(
        has_approximate ? set.part(begin, std::min(step, set.n - begin)) : set,
        [&](Lanes points, auto weights, auto mask) __attribute__((always_inline)) {
          const VectorMomentAdder<V, decltype(weights), decltype(mask)> add{moments, counts,
                                                                            weights, mask};
          if constexpr (P::is_smooth) {
            P::template add_moments<bounded>(residual(points), a, add);
          } else {
            P::add_moments(residual(points), a, add);
          }
        },
        [&]() __attribute__((always_inline)) {
          for (int k = 0; k < (weighted ? count : P::first_count); ++k) {
            if (is_approximate(k)) continue;
            totals[k].add(moments[k]);
            moments[k] = zero;
          }
        });
    for (int k = P::first_approximate; k < P::first_count; ++k) {
      totals[k].add(moments[k]);
      moments[k] = zero;
    }
  }
  Moments<count> result;
  for (int k = 0; k < count; ++k) {
    result.m[k] =
        weighted || k < P::first_count ? totals[k].total() : static_cast<double>(counts[k]);
  }
  return result;
}

template <class V>
DDN_HOST_DEVICE V median(V a, V b, V c) {
  const V low = min(a, b), high = max(a, b);
  return max(low, min(high, c));
}

struct ChunkStatistics {
  CompensatedSum<double> sum;
  double lo, hi;
  double medians;  // sum of the medians of groups of points
  double groups;   // number of the groups
};

// Products with weights are added in double precision, for the accuracy of a weighted mean.
template <bool middle, class T, bool weighted>
ChunkStatistics chunk_statistics(const PointSpan<T, weighted>& set) {
  using V = std::conditional_t<weighted, double, T>;
  using Lanes = Vector<V>;
  const V infinity = static_cast<V>(detail::infinity);
  const Lanes zero{}, upmost = splat(infinity), downmost = splat(-infinity);
  Lanes sum{}, lo = upmost, hi = downmost, medians{};
  DoublePair total;
  // Of a block without weights, each lane gives a median of medians of three.
  Lanes block[block_vectors];
  int count = 0;
  double groups = 0;
  for_each_vector<V>(
      set,
      [&](Lanes points, auto weights, auto mask) __attribute__((always_inline)) {
        sum = InstructionSet::add_beside_minima(sum, select(mask, points * weights));
        lo = min(select(mask, points, upmost), lo);
        hi = max(select(mask, points, downmost), hi);
        constexpr bool whole = std::is_same_v<decltype(mask), AllLanes>;
        if constexpr (middle && !weighted && whole) block[count++ % block_vectors] = points;
      },
      [&]() __attribute__((always_inline)) {
        total.add(sum);
        sum = zero;
        if (middle && !weighted && count == block_vectors) {
          medians +=
              median(median(block[0], block[1], block[2]), median(block[3], block[4], block[5]),
                     median(block[6], block[7], block[0]));
          groups += VectorOf<V>::lanes;
        }
        count = 0;
      });
  ChunkStatistics statistics{{total.total(), 0}, detail::infinity, -detail::infinity, 0, groups};
  statistics.medians =
      static_cast<double>(by_halves(medians, [](auto a, auto b) { return a + b; }));
  statistics.lo = static_cast<double>(by_halves(lo, [](auto a, auto b) { return a < b ? a : b; }));
  statistics.hi = static_cast<double>(by_halves(hi, [](auto a, auto b) { return a > b ? a : b; }));
  return statistics;
}

template <class T, bool weighted>
Around chunk_around(const PointSpan<T, weighted>& set, double u, double radius) {
  using Lanes = Vector<T>;
  const Split<T, T> at(u);
  const T infinity = static_cast<T>(detail::infinity);
  const Lanes base = splat(at.base), offset = splat(at.offset), zero{}, one = splat(T(1));
  const Lanes far = splat(static_cast<T>(radius));
  const Lanes upmost = splat(infinity), downmost = splat(-infinity);
  Lanes nearer{}, left{}, below = downmost, above = upmost;
  DoublePair weight_nearer, weight_left;
  for_each_vector<T>(
      set,
      [&](Lanes points, auto weights, auto mask) __attribute__((always_inline)) {
        const Lanes z = residual(points, base, offset);
        const auto on_left = mask & (z >= far), on_right = mask & (-z >= far);
        nearer += select(mask & (absolute(z) < far), one * weights);
        left += select(on_left, one * weights);
        below = max(on_left ? points : downmost, below);
        above = min(on_right ? points : upmost, above);
      },
      [&]() __attribute__((always_inline)) {
        weight_nearer.add(nearer);
        weight_left.add(left);
        nearer = left = zero;
      });
  Around around{weight_nearer.total(), weight_left.total(), -detail::infinity, detail::infinity};
  for (int lane = 0; lane < VectorOf<T>::lanes; ++lane) {
    around.below = max(static_cast<double>(below[lane]), around.below);
    around.above = min(static_cast<double>(above[lane]), around.above);
  }
  return around;
}

// Sums over a cell |u - centre| <= radius; see core/certify/cells.h.
template <class Cell, class T, bool weighted>
Moments<Cell::numbers> chunk_cell(const PointSpan<T, weighted>& set, double centre, double radius,
                                  double alpha) {
  using Lanes = Vector<double>;
  constexpr int count = Cell::numbers;
  const Split<T, double> at(centre);
  const Lanes base = splat(static_cast<double>(at.base)), offset = splat(at.offset), zero{};
  const Lanes inverse = splat(1 / alpha), reach = splat(radius / alpha);
  Lanes sums[count] = {};
  DoublePair totals[count];
  for_each_vector<double>(
      set,
      [&](Lanes points, auto weights, auto mask) __attribute__((always_inline)) {
        Cell::template add<UnfusedMath<Lanes>>(
            residual(points, base, offset) * inverse, reach, weights,
            [&](int i, Lanes x, auto y)
                __attribute__((always_inline)) { sums[i] += select(mask, x * y); });
      },
      [&]() __attribute__((always_inline)) {
        for (int i = 0; i < count; ++i) {
          totals[i].add(sums[i]);
          sums[i] = zero;
        }
      });
  Moments<count> result;
  for (int i = 0; i < count; ++i) result.m[i] = totals[i].total();
  return result;
}

}  // namespace DDN_ISA
}  // namespace ddn
