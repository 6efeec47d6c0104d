// Lists the points that enter or leave the inliers in a run of places, for the sweep of the
// truncated quadratic (core/certify/sweep.h).
#pragma once

#include "core/certify/run_edges.h"
#include "cpu/binning.h"
#include "cpu/sorting.h"

namespace ddn {
inline namespace DDN_ISA {

// Lists those of the points that leave or enter where |u - centre| <= half, and adds the sums of
// those that are inside throughout to `in`. The points may lie in the list.
template <class T, bool weighted>
void list_run(const PointSpan<T, weighted>& points, double centre, double half,
              SearchWorkspace<T>& workspace, SweepInput& in) {
  using Lanes = Vector<T>;
  constexpr int lanes = VectorOf<T>::lanes;
  T* const list = workspace.list.data();
  T* const list_weights = workspace.list_weights.data();
  const RunEdges<Math<Lanes>> run(centre, half, in.alpha);
  const Lanes shift = splat(static_cast<T>((centre - in.base) / in.alpha)), zero{};
  Lanes s1{}, s2{};
  DoublePair s1s, s2s;
  CompensatedSum<double> mass;
  int64_t inside_count = 0, left = 0, size = 0;
  for_each_vector<T>(
      points,
      [&](Lanes x, auto weights, auto mask) __attribute__((always_inline)) {
        const Lanes z = run.from_centre(x), distance = absolute(z);
        const auto all = selection<T>(mask), inside = all & at_most<T>(distance, run.inner);
        const auto edge = (all & at_most<T>(distance, run.outer)).without(inside);
        const Lanes t = inside.keep(shift - z * run.inverse);
        s1 += t * weights;
        s2 = added(s2, t * weights, t);
        left += edge.without(at_most<T>(z, zero)).count();
        if constexpr (weighted) {
          store_selected<T>(list_weights + size, weights, edge);
          // The loss is the total less this mass: every digit of it counts.
          const Lanes kept = inside.keep(weights);
          for (int lane = 0; lane < lanes; ++lane) mass.add(static_cast<double>(kept[lane]));
        } else {
          inside_count += inside.count();
        }
        size += store_selected<T>(list + size, x, edge);
      },
      [&]() __attribute__((always_inline)) {
        s1s.add(s1);
        s2s.add(s2);
        s1 = s2 = zero;
      });
  in.count = size;
  in.leaving = in.entering = left;
  in.mass += weighted ? mass.total() : static_cast<double>(inside_count);
  in.s1 += s1s.total();
  in.s2 += s2s.total();
}

// The sorted list for the sweep over |u - centre| <= half, or over what narrowing leaves of it.
template <class T, bool weighted>
SweepInput gather_run(const PointSpan<T, weighted>& points, double total_weight, double centre,
                      double half, double alpha, SearchWorkspace<T>& workspace) {
  workspace.list.resize(static_cast<size_t>(points.n + 2 * VectorOf<T>::lanes));
  if (weighted) workspace.list_weights.resize(workspace.list.size());
  SweepInput in{0, 0, 0, centre, alpha, 0, 0, 0};
  list_run(points, centre, half, workspace, in);
  T* const list = workspace.list.data();
  if constexpr (!weighted) {
    narrow_run<T, Vector<double>>(
        in, centre, half, total_weight,
        [&](int64_t count, double middle, double reach) {
          return count_breakpoints(workspace, count, middle, reach, alpha);
        },
        [&](int64_t count, double middle, double reach) {
          list_run(PointSpan<T, false>{list, nullptr, count}, middle, reach, workspace, in);
        });
  }
  sort_list(list, weighted ? workspace.list_weights.data() : nullptr, in.count);
  return in;
}

// Lists all finite points, sorted, and returns their number.
template <class T, bool weighted>
int64_t sort_finite(const PointSpan<T, weighted>& points, SearchWorkspace<T>& workspace) {
  workspace.list.clear();
  workspace.list_weights.clear();
  for (int64_t i = 0; i < points.n; ++i) {
    if (!is_finite(points.point(i))) continue;
    workspace.list.push_back(points.x[i]);
    if (weighted) workspace.list_weights.push_back(points.weights[i]);
  }
  const auto size = static_cast<int64_t>(workspace.list.size());
  sort_list(workspace.list.data(), weighted ? workspace.list_weights.data() : nullptr, size);
  return size;
}

}  // namespace DDN_ISA
}  // namespace ddn
