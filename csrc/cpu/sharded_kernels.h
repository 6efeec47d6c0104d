// The passes over sets whose points several ranks share, on the CPU.
#pragma once

#include "core/sharded_pass.h"
#include "cpu/forward.h"

namespace ddn {
inline namespace DDN_ISA {

// Requests begin to end. With a parallel_for, the threads share the points of each set.
template <class Pass, class T>
void sharded_range(const ShardedArgs& args, int64_t begin, int64_t end,
                   const cpu::ParallelFor* parallel_for) {
  StagedSets<T> x(args.x, args.dtype, args.layout, args.layout.num_sets);
  StagedSets<T> weight(args.weight, args.weight_dtype, args.weight_layout, args.layout.num_sets);
  WeightedPoints<T> weighted;
  SearchWorkspace<T> workspace(/*global=*/false);
  const int64_t n = args.layout.num_points;
  // All requests for the set of the first of them.
  const auto run = [&](const auto& points, double total_weight, double unit) {
    const PointSet<T, std::decay_t<decltype(points)>::is_weighted> set(points, total_weight, unit,
                                                                       parallel_for, &workspace);
    for (const int64_t of = args.sets[begin]; begin < end && args.sets[begin] == of; ++begin) {
      run_pass<Pass>(set, args.parameters[begin], args.numbers + begin * Pass::numbers);
    }
  };
  while (begin < end) {
    const int64_t set = args.sets[begin];
    const T* const points = x.read(set);
    if (args.weight == nullptr) {
      run(PointSpan<T, false>{points, nullptr, n}, static_cast<double>(n), 1);
      continue;
    }
    weighted.read(points, weight.read(set), n);
    const double total = weighted.total_weight(), unit = weighted.unit();
    if (weighted.are_equal()) {
      run(PointSpan<T, false>{weighted.points(), nullptr, weighted.size()}, total, unit);
    } else {
      run(PointSpan<T, true>{weighted.points(), weighted.weights(), weighted.size()}, total, unit);
    }
  }
}

inline void sharded_tensor(const ShardedArgs& args, const cpu::ParallelFor& parallel_for) {
  using Range = void (*)(const ShardedArgs&, int64_t, int64_t, const cpu::ParallelFor*);
  Range range = nullptr;
  with_sharded_pass(args.pass, args.penalty, [&](auto pass) {
    with_real(args.dtype,
              [&](auto zero) { range = &sharded_range<decltype(pass), decltype(zero)>; });
  });
  if (args.layout.num_points > max_points_alone && args.requests < fewest_parallel_sets) {
    range(args, 0, args.requests, &parallel_for);
  } else {
    parallel_for(0, args.requests, grain(args.layout.num_points),
                 [&](int64_t begin, int64_t end) { range(args, begin, end, nullptr); });
  }
}

}  // namespace DDN_ISA
}  // namespace ddn
