// The points of a set, visited and summed over by the threads of a group.
//
// Note: [The order of summation]
// It depends on the number of points and, above 8,192, on whether the shared memory of the device
// holds the set; on nothing else. Thread r of a thread group of t takes the points r, r + t, r +
// 2t, ...; it adds `run` of their terms in the precision of the terms and then those sums in double
// precision (approximate sums of points in shared memory only once, in the end); the thread group's
// reduction adds the threads. Which points are near a breakpoint, and are added apart from the
// others, depends on the points alone.
#pragma once

#include <type_traits>

#include "core/certify/cells.h"
#include "core/penalties.h"
#include "core/set.h"
#include "cuda/points.cuh"
#include "cuda/thread_group.cuh"

namespace ddn::cuda {

// Adds the moments of a penalty for one point.
template <class V, class Weight>
struct PointMomentAdder {
  V* moments;
  Weight weight;

  template <class Factor>
  __device__ __forceinline__ void operator()(int k, V x, Factor y) const {
    if constexpr (std::is_same_v<Factor, One>) {
      moments[k] = added(moments[k], x, weight);
    } else {
      moments[k] = added(moments[k], x * weight, y);
    }
  }
  __device__ __forceinline__ void count(int k, V a, V b) const {
    moments[k] += a <= b ? V(1) * weight : V(0);
  }
};

template <class T, class ThreadGroup, class Points>
struct GroupPoints {
  using Index = typename Points::Index;
  static constexpr bool weighted = Points::weighted;

  Points points;
  Index n;

  __device__ __forceinline__ GroupPoints(const Points& points, Index n) : points(points), n(n) {}
  // Member by member: the copy that the compiler would make reads the padding as well.
  __device__ __forceinline__ GroupPoints(const GroupPoints& other)
      : points(other.points), n(other.n) {}

  // Calls body(point, weight) for this thread's points, and flush() after every `run` of them and
  // at the end. A weight is a T, or One. Points of zero weight are skipped; or, without branches,
  // the body gets them, too.
  template <bool branches = true, class Body, class Flush>
  __device__ __forceinline__ void for_each(Body&& body, Flush&& flush) const {
    const auto visit = [&](T x, auto weight) {
      if constexpr (weighted && branches) {
        if (!(weight > 0)) return;
      }
      body(x, weight);
    };
    // All threads leave the loop over whole runs together, so that no warp diverges.
    constexpr int run_points = run * ThreadGroup::threads;
    if constexpr (Points::in_global_memory) {
      if (!points.in_one_dim()) {
        // The divisions take longest: more loads in flight would gain nothing.
        int visited = 0;
#pragma unroll 1
        for (Index i = ThreadGroup::rank(); i < n; i += ThreadGroup::threads) {
          visit(points[i], points.weight(i));
          if (++visited % run == 0) flush();
        }
        flush();
        return;
      }
      // As many loads in flight as leave the sums their registers.
      constexpr int loads = 8 * sizeof(float) / sizeof(T) / (weighted ? 2 : 1);
      static_assert(run % loads == 0);
      Index first = 0;
      const auto visit_run = [&](auto whole) {
        constexpr bool is_whole = decltype(whole)::value;
#pragma unroll 1
        for (int j = 0; j < run; j += loads) {
          const Index i = first + j * ThreadGroup::threads + ThreadGroup::rank();
          const auto batch = points.template batch<is_whole, loads>(i, ThreadGroup::threads, n);
#pragma unroll
          for (int k = 0; k < loads; ++k) {
            if (is_whole || i + k * ThreadGroup::threads < n) visit(batch.x[k], batch.weights[k]);
          }
        }
        flush();
      };
      for (; first + run_points <= n; first += run_points) visit_run(std::true_type{});
      if (first < n) visit_run(std::false_type{});
    } else {
      Index i = ThreadGroup::rank();
      for (; i - ThreadGroup::rank() + run_points <= n; i += run_points) {
#pragma unroll
        for (int k = 0; k < run; ++k) {
          visit(points[i + k * ThreadGroup::threads], points.weight(i + k * ThreadGroup::threads));
        }
        flush();
      }
      for (; i < n; i += ThreadGroup::threads) visit(points[i], points.weight(i));
      flush();
    }
  }

  template <class V>
  __device__ __forceinline__ Alpha<V> alpha_in(double alpha) const {
    return {static_cast<V>(alpha), static_cast<V>(1 / alpha),
            static_cast<V>(alpha * breakpoint_margin(n))};
  }

  // Sums over the points that visit(body, flush) visits as for_each() does. Total: the type in
  // which runs and threads are added.
  template <class P, class Total, class V, class Visit>
  __device__ __forceinline__ auto sums_of(double u, double alpha, const Alpha<V>& a,
                                          const Visit& visit) const {
    // A thread has no more than 64 points in shared memory: their number is exact in any precision.
    constexpr bool counts = !weighted && !Points::in_global_memory;
    const Split<T, V> at(u);
    const Residuals<P, V> residual(static_cast<V>(at.base), at.offset, a);
    V moments[P::moments] = {};
    // The approximate sums of points in shared memory are added up in the end only.
    const auto is_approximate = [](int k) {
      return !Points::in_global_memory && k >= P::first_approximate &&
             (counts || k < P::first_count);
    };
    Total totals[P::moments] = {};
    visit(
        [&](T x, auto given) {
          const auto weight = weight_in<V>(given);
          if constexpr (weighted) x = weight > 0 ? x : at.base;  // it adds nothing
          const PointMomentAdder<V, decltype(weight)> add{moments, weight};
          if constexpr (P::is_smooth) {
            P::template add_moments</*bounded=*/false>(residual(static_cast<V>(x)), a, add);
          } else {
            P::add_moments(residual(static_cast<V>(x)), a, add);
          }
        },
        [&] {
#pragma unroll
          for (int k = 0; k < P::moments; ++k) {
            if (is_approximate(k)) continue;
            totals[k] += static_cast<Total>(moments[k]);
            moments[k] = 0;
          }
        });
    constexpr int first_number = counts ? P::first_count : P::moments;
    constexpr int last_numbers = P::moments - first_number;
    Total sums[first_number];
    int numbers[last_numbers > 0 ? last_numbers : 1];
#pragma unroll
    for (int k = 0; k < first_number; ++k) {
      sums[k] = is_approximate(k) ? static_cast<Total>(moments[k]) : totals[k];
    }
#pragma unroll
    for (int k = 0; k < last_numbers; ++k) {
      numbers[k] = static_cast<int>(moments[first_number + k]);
    }
    ThreadGroup::template reduce<Add>(sums);
    if constexpr (last_numbers > 0) ThreadGroup::sum(numbers);
    double all[P::moments];
#pragma unroll
    for (int k = 0; k < P::moments; ++k) {
      all[k] = k < first_number ? static_cast<double>(sums[k])
                                : static_cast<double>(numbers[k - first_number]);
    }
    return P::sums(all, alpha);
  }

  template <class P, class V>
  __device__ __forceinline__ auto sums(double u, double alpha, const Alpha<V>& a) const {
    return sums_of<P, double>(u, alpha, a, [&](const auto& body, const auto& flush) {
      for_each</*branches=*/false>(body, flush);
    });
  }

  // Sums over a cell |u - centre| <= radius; see core/certify/cells.h.
  template <class Cell>
  __device__ __forceinline__ void cell_sums(double centre, double radius, double alpha,
                                            double (&sums)[Cell::numbers]) const {
    const Split<T, double> at(centre);
    const double base = static_cast<double>(at.base), inverse = 1 / alpha;
    for (double& sum : sums) sum = 0;
    for_each(
        [&](T x, auto weight) {
          Cell::template add<Math<double>>(
              residual(static_cast<double>(x), base, at.offset) * inverse, radius * inverse,
              weight_in<double>(weight),
              [&](int i, double a, auto b) { sums[i] = added(sums[i], a, b); });
        },
        [] {});
    ThreadGroup::template reduce<Add>(sums);
  }
};

}  // namespace ddn::cuda
