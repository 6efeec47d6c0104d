// Lists the points near their breakpoints, for core/breakpoints.h.
#pragma once

#include "core/breakpoints.h"
#include "cpu/passes.h"

namespace ddn {
inline namespace DDN_ISA {

// The `Lister` of BreakpointSums.
template <class V, class T>
struct BreakpointLister {
  static constexpr bool bounded = false;

  PointSpan<T, false> set;
  double alpha, breakpoint;
  T* list;  // of set.n + lanes numbers: whole vectors are stored

  template <bool squares, bool beyond>
  DDN_HOST_DEVICE BreakpointPass collect(double u, double inner_distance,
                                         double outer_distance) const {
    using Lanes = Vector<V>;
    const Split<T, V> at(u);
    const Lanes base = splat(static_cast<V>(at.base)), offset = splat(at.offset), zero{};
    const Lanes inner = splat(static_cast<V>(inner_distance)),
                outer = splat(static_cast<V>(outer_distance));
    Lanes sum{}, square{};
    DoublePair sums, all_squares;
    int64_t inside = 0, size = 0;
    int64_t left = 0;  // points beyond their breakpoints, on the left of u
    for_each_vector<V>(
        set,
        [&](Lanes points, One, auto mask) __attribute__((always_inline)) {
          const Lanes z = residual(points, base, offset), distance = absolute(z);
          const auto all = selection<V>(mask);
          const auto within = all & at_most<V>(distance, inner);
          const auto about = all & at_most<V>(distance, outer);
          const Lanes kept = within.keep(z);
          sum += kept;
          if constexpr (beyond) left += (all & at_most<V>(zero, z)).without(about).count();
          if constexpr (squares) square = added(square, kept, kept);
          inside += within.count();
          size += store_selected<T>(list + size, points, about.without(within));
        },
        [&]() __attribute__((always_inline)) {
          sums.add(sum);
          sum = zero;
          if constexpr (squares) {
            all_squares.add(square);
            square = zero;
          }
        });
    const FixedSums others{static_cast<double>(inside), sums.total(), all_squares.total(),
                           static_cast<double>(2 * left - (set.n - inside - size))};
    return {u, 0, others, static_cast<int>(size), squares, beyond};
  }

  template <class P>
  DDN_HOST_DEVICE Sums listed(double u, const BreakpointPass& known) const {
    const Moments<P::moments> sums = chunk_moments<P, V, false>(
        PointSpan<T, false>{list, nullptr, known.size}, u, alpha, breakpoint);
    return P::sums(sums.m, alpha);
  }
};

}  // namespace DDN_ISA
}  // namespace ddn
