// The forward pass: over a tensor, over a range of its sets, and of one set.
#pragma once

#include "cpu/lane_batch.h"
#include "cpu/point_set.h"
#include "cpu/scheduling.h"
#include "cpu/staging.h"
#include "cpu/weighted_points.h"

namespace ddn {
inline namespace DDN_ISA {

// A set that no lane batch takes. takes_more: see solve_and_write().
template <class P, bool global, class T, bool weighted>
DDN_HOST_DEVICE void forward_set(const ForwardArgs& args, int64_t index,
                                 const PointSpan<T, weighted>& points, double total_weight,
                                 double unit, const cpu::ParallelFor* parallel_for,
                                 SearchWorkspace<T>* workspace, bool takes_more = false) {
  const PointSet<T, weighted> set(points, total_weight, unit, parallel_for, workspace);
  solve_and_write<P, global>(args, index, set, takes_more);
}

// With a parallel_for, the threads share the points of each set; else this thread works alone.
template <class P, bool global, class T>
void forward_range(const ForwardArgs& args, int64_t begin, int64_t end,
                   const cpu::ParallelFor* parallel_for) {
  // From so many points on, the next set is prefetched; the hardware prefetcher fetches the others.
  constexpr int64_t min_prefetched = 512, min_prefetched_in_batch = 32;
  StagedSets<T> x(args.x, args.dtype, args.layout, end);
  StagedSets<T> weight(args.weight, args.weight_dtype, args.weight_layout, end);
  WeightedPoints<T> weighted;
  SearchWorkspace<T> workspace(global);
  LaneBatch<T> lane_batch;
  const auto forward_alone = [&](int64_t i, const T* points, int64_t n, double unit,
                                 int64_t next_set, bool takes_more) {
    forward_set<P, global>(args, i, PointSpan<T, false>{points, nullptr, n, next_set},
                           static_cast<double>(n), unit, parallel_for, &workspace, takes_more);
  };
  const auto forward_lane_batch = [&] {
    lane_batch.template solve<P, global>(
        args, [&](int64_t i, const T* points, int64_t n, double unit, bool takes_more) {
          forward_alone(i, points, n, unit, 0, takes_more);
        });
  };
  for (int64_t i = begin; i < end; ++i) {
    int64_t n = args.layout.place(i).num_points;
    const T* points = x.read(i);
    double unit = 1;
    bool in_place = x.in_place();
    if (args.weight != nullptr) {
      weighted.read(points, weight.read(i), n);
      points = weighted.points();
      n = weighted.size();
      unit = weighted.unit();
      in_place = false;
      if (!weighted.are_equal()) {
        forward_set<P, global>(args, i, PointSpan<T, true>{points, weighted.weights(), n},
                               weighted.total_weight(), unit, parallel_for, &workspace);
        continue;
      }
    }
    const T alpha = set_alpha<T>(args, i);
    if (lane_batch.template takes<P, global>(n) && in_range<T>(alpha)) {
      const bool prefetches = in_place && n >= min_prefetched_in_batch;
      const int64_t next_set = prefetches ? x.offset_to_later(i, lane_batch.lanes) : 0;
      lane_batch.add(i, points, n, unit, alpha, in_place, next_set);
      if (lane_batch.is_full()) forward_lane_batch();
    } else {
      const bool prefetches = in_place && n >= min_prefetched;
      forward_alone(i, points, n, unit, prefetches ? x.offset_to_later(i, 1) : 0, false);
    }
  }
  forward_lane_batch();
}

// Where sets are fewer than so many and have more points than that, all threads work on one after
// the other together.
constexpr int64_t fewest_parallel_sets = 64;
constexpr int64_t max_points_alone = 2 * chunk_points;

inline void forward_tensor(const ForwardArgs& args, const cpu::ParallelFor& parallel_for) {
  using Range = void (*)(const ForwardArgs&, int64_t, int64_t, const cpu::ParallelFor*);
  Range range = nullptr;
  with_penalty(args.penalty, [&](auto penalty) {
    with_real(args.dtype, [&](auto zero) {
      using P = decltype(penalty);
      using T = decltype(zero);
      range = !is_convex<P> && args.global ? &forward_range<P, !is_convex<P>, T>
                                           : &forward_range<P, false, T>;
    });
  });
  const SetLayout& layout = args.layout;
  if (layout.num_points > max_points_alone && layout.num_sets < fewest_parallel_sets) {
    range(args, 0, layout.num_sets, &parallel_for);
  } else {
    for_each_range(layout, parallel_for,
                   [&](int64_t begin, int64_t end) { range(args, begin, end, nullptr); });
  }
}

}  // namespace DDN_ISA
}  // namespace ddn
