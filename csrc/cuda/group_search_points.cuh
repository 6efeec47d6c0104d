// What the global search builds from a set's points: bins, sorted lists, power series.
#pragma once

#include "core/certify/bin_places.h"
#include "core/certify/run_edges.h"
#include "core/certify/series.h"
#include "core/certify/sweep.h"
#include "cuda/group_points.cuh"
#include "cuda/group_workspace.cuh"
#include "cuda/sort_list.cuh"

namespace ddn::cuda {

template <class T, class ThreadGroup, class Points>
class GroupSearchPoints {
 public:
  static constexpr bool weighted = Points::weighted;
  using Workspace = GroupWorkspace<T, weighted>;

  __device__ __forceinline__ GroupSearchPoints(const GroupPoints<T, ThreadGroup, Points>& set,
                                               const Workspace& workspace)
      : set_(set), workspace_(workspace) {}

  __device__ __forceinline__ void bin(const Grid& grid) const {
    auto& fixed = Workspace::fixed();
    const int size = grid.bins();
    using Count = typename Workspace::Count;
    constexpr double one = 1 << Workspace::place_bits;
    const BinPlaces<Math<T>> place(grid, Workspace::place_bits, /*round=*/false);
    for (int64_t begin = 0; begin < set_.n; begin += Workspace::bin_points) {
      for (int b = ThreadGroup::rank(); b < size; b += ThreadGroup::threads) {
        fixed.counts[b] = fixed.places[b] = 0;
      }
      __syncthreads();
      const int64_t rest = set_.n - begin;
      const int64_t end = begin + (rest < Workspace::bin_points ? rest : Workspace::bin_points);
      // bin_points is a multiple of the thread group: each thread meets its own points.
      for (int64_t i = begin + ThreadGroup::rank(); i < end; i += ThreadGroup::threads) {
        const int digits = static_cast<int>(place(set_.points[i]));
        const int b = digits >> Workspace::place_bits;
        const Count count = Counting<weighted>::count(set_.points.weight(i));
        atomicAdd(&fixed.counts[b], count);
        atomicAdd(&fixed.places[b],
                  count * static_cast<Count>(digits & ((1 << Workspace::place_bits) - 1)));
      }
      __syncthreads();
      for (int b = ThreadGroup::rank(); b < size; b += ThreadGroup::threads) {
        constexpr double unit = 1 / Counting<weighted>::one;
        double points = static_cast<double>(fixed.counts[b]) * unit;
        double moment = added(-0.5 * points, static_cast<double>(fixed.places[b]), unit / one);
        if (set_.n > Workspace::bin_points) {
          fixed.masses[b] = points += begin == 0 ? 0 : fixed.masses[b];
          fixed.moments[b] = moment += begin == 0 ? 0 : fixed.moments[b];
        }
        fixed.mass[b] = static_cast<float>(points);
        fixed.moment[b] = static_cast<float>(moment);
      }
    }
    __syncthreads();
  }

  __device__ __forceinline__ SweepInput gather_run(double centre, double half, double alpha) const {
    const RunEdges<Math<T>> run(centre, half, alpha);
    T s1 = 0, s2 = 0;
    double totals[4] = {};  // mass, s1, s2, points that leave
    clear_list();
    set_.for_each(
        [&](T x, auto weight) {
          const T z = run.from_centre(x), distance = absolute(z), t = -z * run.inverse;
          if (distance <= run.inner) {
            totals[0] += 1.0 * weight_in<double>(weight);
            s1 = added(s1, t, weight);
            s2 = added(s2, t * weight, t);
          } else if (distance <= run.outer) {
            totals[3] += z > 0;
            append(x, weight);
          }
        },
        [&] {
          totals[1] += static_cast<double>(s1);
          totals[2] += static_cast<double>(s2);
          s1 = s2 = 0;
        });
    ThreadGroup::template reduce<Add>(totals);
    const int64_t size = Workspace::fixed().size;
    sort_list<ThreadGroup, weighted>(workspace_.list, workspace_.list_weights,
                                     static_cast<typename Points::Index>(size));
    const auto leaving = static_cast<int64_t>(totals[3]);
    return {size, leaving, leaving, centre, alpha, totals[0], totals[1], totals[2]};
  }

  __device__ __forceinline__ int64_t sort_finite() const {
    clear_list();
    set_.for_each(
        [&](T x, auto weight) {
          if (is_finite(static_cast<double>(x))) append(x, weight);
        },
        [] {});
    __syncthreads();
    const int64_t size = Workspace::fixed().size;
    sort_list<ThreadGroup, weighted>(workspace_.list, workspace_.list_weights,
                                     static_cast<typename Points::Index>(size));
    return size;
  }

  __device__ __forceinline__ Series series(double centre, double alpha) const {
    Series series;
    set_.template cell_sums<SeriesCell>(centre, Series::radius, alpha, series.c);
    return series;
  }

 private:
  // The order in which points arrive varies; the list is sorted before it is read.
  template <class W>
  __device__ __forceinline__ void append(T x, W weight) const {
    const unsigned at = atomicAdd(&Workspace::fixed().size, 1u);
    workspace_.list[at] = x;
    if constexpr (weighted) workspace_.list_weights[at] = weight;
  }
  // No barrier is needed before the size is cleared: every thread read the size of the last list
  // before the barriers of sort_list(). The barrier after it also keeps append() from overwriting a
  // list that another thread still reads.
  __device__ __forceinline__ void clear_list() const {
    if (ThreadGroup::rank() == 0) Workspace::fixed().size = 0;
    __syncthreads();
  }

  const GroupPoints<T, ThreadGroup, Points>& set_;
  const Workspace& workspace_;
};

}  // namespace ddn::cuda
