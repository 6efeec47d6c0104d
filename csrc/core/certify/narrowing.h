// Narrows the run of a sweep before its points are sorted; see Note [Narrowing a run] in
// core/certify/sweep.h.
#pragma once

#include "core/certify/residual_from.h"
#include "core/certify/sweep.h"

namespace ddn {

// As few points are sorted and swept without narrowing.
constexpr int64_t most_swept = 32;

// The cells of the breakpoints of listed points in the run |u - centre| <= half, in fixed point:
// the number of the cell, followed by `place_bits` binary digits of the place in the cell. Of a
// point that leaves the breakpoint is x + alpha; the others enter at x - alpha, in the second half
// of the cells. M: the Math of the points.
template <class M>
class BreakpointPlaces {
 public:
  using V = typename M::V;

  DDN_HOST_DEVICE BreakpointPlaces(double centre, double half, double alpha, int place_bits)
      : from_centre_(centre) {
    const double one = 1 << place_bits;
    scale_ = M::splat(one * breakpoint_cells / (2 * half));
    to_leave_ = M::splat(half + alpha);
    to_enter_ = M::splat(half - alpha);
    last_ = M::splat(breakpoint_cells * one - 1);
    second_half_ = M::splat(breakpoint_cells * one);
  }
  DDN_HOST_DEVICE V operator()(V x) const {
    const V z = from_centre_(x), zero{};
    const auto leaves = z > zero;
    const V place = ((leaves ? to_leave_ : to_enter_) - z) * scale_;
    const V kept = max(min(place, last_), zero);
    return leaves ? kept : kept + second_half_;
  }

 private:
  ResidualFrom<M> from_centre_;
  V scale_, to_leave_, to_enter_, last_, second_half_;
};

// in: of the run |u - centre| <= half. count(points, centre, half): the Breakpoints of so many
// listed points in that run. gather(points, centre, half): leaves of so many listed points those in
// the list that leave or enter in that run, which lies in the run before, and updates `in`.
// total: the weight of the set. V: double, or a SIMD vector of them.
template <class Real, class V, class Count, class Gather>
DDN_HOST_DEVICE void narrow_run(SweepInput& in, double centre, double half, double total,
                                const Count& count, const Gather& gather) {
  const double margin = total * (sizeof(Real) == 8 ? 4e-14 : 2e-6);
  double middle = centre, reach = half;
  // Each round halves the list, or is the last one.
  while (in.count > most_swept) {
    SweepInput about_middle = in;
    const double shift = (middle - centre) / in.alpha;
    about_middle.base = middle;
    about_middle.s1 -= shift * in.mass;
    about_middle.s2 += shift * (shift * in.mass - 2 * in.s1);
    const NarrowRun run =
        narrow<V>(about_middle, count(in.count, middle, reach), reach / in.alpha, margin);
    const double cell = 2 * reach / breakpoint_cells;
    const double next_reach = 0.5 * cell * (run.last + 1 - run.first) + 2e-6 * in.alpha;
    if (!(next_reach < 0.5 * reach)) break;
    in.left_out = max(run.left_out, in.left_out);
    middle += 0.5 * cell * (run.first + run.last + 1) - reach;
    reach = next_reach;
    const int64_t before = in.count;
    gather(before, middle, reach);
    if (in.count > before / 2) break;
  }
}

}  // namespace ddn
