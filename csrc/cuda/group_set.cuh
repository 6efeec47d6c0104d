// A set of points as a thread group works on it: the `Set` of core/set.h on CUDA.
#pragma once

#include <type_traits>

#include "core/careful_statistics.h"
#include "core/certify/search.h"
#include "cuda/group_breakpoint_lister.cuh"
#include "cuda/group_collectives.cuh"
#include "cuda/group_points.cuh"
#include "cuda/group_search_points.cuh"

namespace ddn::cuda {

template <class T, class ThreadGroup, class Points>
class GroupSet : public GroupCollectives<ThreadGroup> {
 public:
  using Scalar = T;
  using Real = T;
  using BinMath = Math<float>;
  static constexpr bool weighted = Points::weighted;
  using Workspace = GroupWorkspace<T, weighted>;

  // weights: of weighted points. workspace: of the global search, or null.
  __device__ __forceinline__ GroupSet(Points points, int64_t n, const WeightStatistics& weights,
                                      const Workspace* workspace)
      : points_{points, static_cast<typename Points::Index>(n)},
        weights_(weights),
        workspace_(workspace) {}

  __device__ __forceinline__ int64_t points() const { return points_.n; }
  __device__ __forceinline__ double total_weight() const {
    return weighted ? weights_.total : static_cast<double>(points_.n);
  }
  __device__ __forceinline__ double unit() const { return weighted ? weights_.unit : 1; }

  __device__ __forceinline__ int max_cells() const { return Workspace::max_cells; }
  template <class P>
  __device__ __forceinline__ const KernelTable& table() const {
    return *workspace_->table;
  }
  __device__ __forceinline__ Bins bins() const {
    auto& fixed = Workspace::fixed();
    return {fixed.mass, fixed.moment, fixed.centre, fixed.upper, fixed.blocks, fixed.bounds};
  }
  __device__ __forceinline__ SortedList<T, weighted> list() const {
    return {workspace_->list, workspace_->list_weights};
  }
  __device__ __forceinline__ auto view(int64_t first, int64_t count) const {
    const T* const x = workspace_->list + first;
    if constexpr (weighted) {
      const T* const weights = workspace_->list_weights + first;
      double total[1] = {};
      for (int64_t i = ThreadGroup::rank(); i < count; i += ThreadGroup::threads) {
        total[0] += static_cast<double>(weights[i]);
      }
      ThreadGroup::template reduce<Add>(total);
      return GroupSet<T, ThreadGroup, WeightedSharedMemoryPoints<T>>(
          {x, weights}, count, {total[0], weights_.unit}, workspace_);
    } else {
      return GroupSet<T, ThreadGroup, SharedMemoryPoints<T>>({x}, count, {}, workspace_);
    }
  }
  __device__ __forceinline__ void bin(const Grid& grid, double) const { search().bin(grid); }
  __device__ __forceinline__ SweepInput gather(double centre, double half, double alpha) const {
    return search().gather_run(centre, half, alpha);
  }
  __device__ __forceinline__ int64_t sort() const { return search().sort_finite(); }
  __device__ __forceinline__ Series series(double centre, double alpha) const {
    return search().series(centre, alpha);
  }
  __device__ __forceinline__ double bin_excess() const {
    return weighted ? static_cast<double>(points_.n) * (1 / Counting<true>::one) : 0;
  }

  template <class P, class V>
  __device__ __forceinline__ auto sums(double u, double alpha) const {
    return points_.template sums<P>(u, alpha, points_.template alpha_in<V>(alpha));
  }
  // breakpoint: see Alpha.
  template <class P, class V>
  __device__ __forceinline__ auto sums(double u, double alpha, double breakpoint) const {
    return points_.template sums<P>(
        u, alpha,
        Alpha<V>{static_cast<V>(alpha), static_cast<V>(1 / alpha), static_cast<V>(breakpoint)});
  }
  template <class Cell>
  __device__ __forceinline__ void cell_sums(double centre, double radius, double alpha,
                                            double (&sums)[Cell::numbers]) const {
    points_.template cell_sums<Cell>(centre, radius, alpha, sums);
  }
  // Calls f with a function of u that returns the sums there.
  template <class P, class V, class F>
  __device__ __forceinline__ void with_sums(double alpha, const F& f) const {
    const Alpha<V> a = points_.template alpha_in<V>(alpha);
    if constexpr (P::has_breakpoints && Points::has_lists && std::is_same_v<V, T>) {
      using Lister = GroupBreakpointLister<T, ThreadGroup, Points>;
      f(BreakpointSums<P, Lister>({points_, alpha, a}, alpha, points_.n, known_));
    } else {
      f([&](double u) { return points_.template sums<P>(u, alpha, a); });
    }
  }

  template <class P>
  __device__ __forceinline__ double objective(double u, double alpha) const {
    const Split<T, double> at(u);
    const double base = static_cast<double>(at.base);
    CompensatedSum<double> sum;
    points_.for_each(
        [&](T x, auto weight) {
          const double z = residual(static_cast<double>(x), base, at.offset);
          sum.add(P::value(z, alpha) * weight_in<double>(weight));
        },
        [] {});
    double total[1] = {sum.total()};
    ThreadGroup::template reduce<Add>(total);
    return total[0];
  }

  template <bool>
  __device__ __forceinline__ SetStatistics statistics() const {
    const ThreadStatistics<T> own = thread_statistics();
    double total[1] = {own.sum};
    ThreadGroup::template reduce<Add>(total);
    const auto lo = static_cast<double>(this->largest(-own.lo));
    const auto hi = static_cast<double>(this->largest(own.hi));
    const double mean = total[0] / total_weight();
    return {mean, -lo, hi, total_weight(), 0, 0, 0, mean};
  }

  __device__ __forceinline__ SetStatistics careful_statistics() const {
    return compute_careful_statistics(*this);
  }
  template <class F>
  __device__ __forceinline__ void for_each_point(const F& f) const {
    points_.for_each(
        [&](T x, auto weight) { f(static_cast<double>(x), 1.0 * weight_in<double>(weight)); },
        [] {});
  }

  __device__ __forceinline__ Around around(double u, double radius) const {
    const Split<T, T> at(u);
    const T far = static_cast<T>(radius);
    double counts[2] = {};
    double ends[2] = {-detail::infinity, -detail::infinity};  // of below and -above
    points_.for_each(
        [&](T x, auto given) {
          const T z = residual(x, at.base, at.offset);
          const double weight = 1.0 * weight_in<double>(given);
          counts[0] += absolute(z) < far ? weight : 0;
          counts[1] += z >= far ? weight : 0;
          if (z >= far) ends[0] = max(static_cast<double>(x), ends[0]);
          if (-z >= far) ends[1] = max(-static_cast<double>(x), ends[1]);
        },
        [] {});
    ThreadGroup::template reduce<Add>(counts);
    ThreadGroup::template reduce<Max>(ends);
    return {counts[0], counts[1], ends[0], -ends[1]};
  }

 private:
  __device__ __forceinline__ ThreadStatistics<T> thread_statistics() const {
    StatisticsAccumulator<T, weighted> accumulator;
    points_.for_each([&](T x, auto weight) { accumulator.add(x, weight); },
                     [&] { accumulator.flush(); });
    return accumulator.statistics();
  }

  __device__ __forceinline__ GroupSearchPoints<T, ThreadGroup, Points> search() const {
    return {points_, *workspace_};
  }

  GroupPoints<T, ThreadGroup, Points> points_;
  WeightStatistics weights_;
  const Workspace* workspace_;
  mutable BreakpointPass known_;  // about the list in shared memory
};

}  // namespace ddn::cuda
