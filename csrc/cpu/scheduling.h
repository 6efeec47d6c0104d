// Shares the sets of a tensor out among threads.
#pragma once

#include <algorithm>

#include "core/args.h"
#include "cpu/point_span.h"
#include "cpu/robust_pool_cpu.h"

namespace ddn {
inline namespace DDN_ISA {

// Sets per task: a task takes much longer than handing it to a thread.
inline int64_t grain(int64_t num_points) {
  return std::max<int64_t>(1, chunk_points / std::max<int64_t>(1, num_points));
}

// Calls body(begin, end) on ranges of the sets, in parallel. Segments are shared out by their
// points, so that the threads finish together although segments differ in length.
inline void for_each_range(const SetLayout& layout, const cpu::ParallelFor& parallel_for,
                           const cpu::Range& body) {
  if (layout.ptr == nullptr) {
    parallel_for(0, layout.num_sets, grain(layout.num_points), body);
    return;
  }
  const int64_t segments = layout.num_sets / layout.channels;
  const int64_t* const starts = layout.ptr;
  // A segment counts one more than its points, so that no two segments begin at the same place.
  const auto start = [&](int64_t segment) { return starts[segment] - starts[0] + segment; };
  const auto first_segment_from = [&](int64_t place) {
    int64_t first = 0, past = segments;
    while (first < past) {
      const int64_t middle = first + (past - first) / 2;
      if (start(middle) < place) {
        first = middle + 1;
      } else {
        past = middle;
      }
    }
    return first;
  };
  parallel_for(0, start(segments), grain(layout.channels), [&](int64_t begin, int64_t end) {
    body(first_segment_from(begin) * layout.channels, first_segment_from(end) * layout.channels);
  });
}

// Calls f(T{}) with the type of the arithmetic.
template <class F>
void with_real(DType dtype, F&& f) {
  if (dtype == DType::float64) {
    f(double{});
  } else {
    f(float{});
  }
}

}  // namespace DDN_ISA
}  // namespace ddn
