// Narrows the run of a sweep before its points are sorted.
#pragma once

#include "core/certify/residual_from.h"
#include "core/certify/sweep.h"

namespace ddn {

// Note: [Narrowing a run]
// A run of places u is cut into `breakpoint_cells` cells of width g, in units of alpha. As u moves
// right, each listed point enters or leaves the inliers once, in the cell of its breakpoint
// x - alpha or x + alpha. In a cell, the inliers whose breakpoints lie in other cells sum to a
// parabola. The other points have their breakpoints in the cell, hence are within g of them, and
// each adds between 0 and 1 - (1 - g)^2 < 2 g. The maximum of the parabola over the cell is
// therefore a lower bound of the largest density there, and with 2 g for each breakpoint an upper
// bound. One pass over the listed points gives much tighter bounds than the bins of a grid.
constexpr int breakpoint_cells = 64;
constexpr int breakpoint_place_bits = 10;  // least number of binary digits of a place in a cell

// Counts of breakpoints by cell, and sums of their offsets from the middle of the cell (positive to
// the right, in cells). The first half of each array is for the points that leave, the second for
// those that enter. The points have no weights.
struct Breakpoints {
  double number[2 * breakpoint_cells];
  double offset[2 * breakpoint_cells];
};

// The cells that may contain the maximum, `first` to `last`, and a bound of the density in the
// other cells of the run.
struct NarrowRun {
  int first, last;
  double discarded_bound;
};

// Discards cells at both ends of the run |u - in.base| <= half alpha. margin: the rounding of a
// density. V: double, or a SIMD vector of doubles.
template <class V>
DDN_HOST_DEVICE NarrowRun narrow(const SweepInput& in, const Breakpoints& breakpoints, double half,
                                 double margin) {
  using M = Math<V>;
  constexpr int lanes = M::lanes;
  const double g = 2 * half / breakpoint_cells;
  // Covers the squares of the offsets, which the sums neglect, and the errors of the offsets: the
  // last digit of a place, and 1e-6 alpha of rounding.
  const double slack =
      static_cast<double>(in.count) * (g * g / 4 + g * 4.0 / (1 << breakpoint_place_bits) + 2e-6) +
      margin;

  // Sums of 1, t and t^2 over the points that leave in each cell, and over those that enter. A
  // point lies at its breakpoint plus `side`. `entered` is shifted by one cell, because a point
  // that enters in a cell is an inlier throughout only from the next cell on.
  double left[3][breakpoint_cells], entered[3][1 + breakpoint_cells];
  V places;  // the middles of the first `lanes` cells
  {
    double first[lanes];
    for (int l = 0; l < lanes; ++l) first[l] = (l + 0.5) * g - half;
    places = M::load(first);
  }
  V middle = places, all_left[3] = {};
  for (int i = 0; i < breakpoint_cells; i += lanes) {
    const auto sums = [&](int cell, double side, V(&sum)[3]) {
      const V number = M::load(breakpoints.number + cell), place = middle + M::splat(side);
      const V moment = M::splat(g) * M::load(breakpoints.offset + cell), mean = number * place;
      sum[0] = number;
      sum[1] = mean + moment;
      sum[2] = (mean + (moment + moment)) * place;
    };
    V leave[3], enter[3];
    sums(i, -1, leave);
    sums(i + breakpoint_cells, 1, enter);
    for (int k = 0; k < 3; ++k) {
      all_left[k] += leave[k];
      M::store(left[k] + i, leave[k]);
      M::store(entered[k] + 1 + i, enter[k]);
    }
    middle += M::splat(lanes * g);
  }

  // The same sums over the inliers throughout each cell.
  double inside[3][breakpoint_cells], here[3] = {in.mass, in.s1, in.s2};
  for (int k = 0; k < 3; ++k) {
    here[k] += M::sum(all_left[k]);
    entered[k][0] = 0;
    for (int i = 0; i < breakpoint_cells; i += lanes) {
      const V change = M::load(entered[k] + i) - M::load(left[k] + i);
      M::store(inside[k] + i, change);
    }
  }
  for (int i = 0; i < breakpoint_cells; ++i) {
    for (int k = 0; k < 3; ++k) inside[k][i] = here[k] += inside[k][i];
  }

  double bound[breakpoint_cells];
  V attained = M::splat(-1);
  middle = places;
  for (int i = 0; i < breakpoint_cells; i += lanes) {
    const V mass = M::load(inside[0] + i), s1 = M::load(inside[1] + i);
    const V mean = s1 / max(mass, M::splat(0.5)), edge = M::splat(0.5 * g);
    const V v = max(min(mean, middle + edge), middle - edge);
    const V squares = M::load(inside[2] + i) - v * (s1 + s1 - mass * v);
    const V density = mass - squares;
    const V crossing =
        M::load(breakpoints.number + i) + M::load(breakpoints.number + breakpoint_cells + i);
    M::store(bound + i, M::fma(crossing, M::splat(2.01 * g), density + M::splat(slack)));
    attained = max(density, attained);
    middle += M::splat(lanes * g);
  }
  const double lower = M::largest_of(attained) - slack - margin;
  NarrowRun run{0, breakpoint_cells - 1, -1};
  while (run.first < run.last && bound[run.first] < lower) {
    run.discarded_bound = max(bound[run.first++], run.discarded_bound);
  }
  while (run.last > run.first && bound[run.last] < lower) {
    run.discarded_bound = max(bound[run.last--], run.discarded_bound);
  }
  return run;
}

// The largest number of points that are sorted and swept without narrowing.
constexpr int64_t max_swept = 32;

// The cells of the breakpoints of listed points in the run |u - centre| <= half, in fixed point:
// the number of the cell, followed by `place_bits` binary digits of the place in the cell. A
// point left of the centre leaves at x + alpha. A point right of it enters at x - alpha, in the
// second half of the cells. M: the Math of the points.
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

// Narrows the run |u - centre| <= half of `in`. count(n, centre, half) returns the Breakpoints of
// the first n listed points in a run. gather(n, centre, half) keeps those of the first n listed
// points that enter or leave in a run, which is part of the run before, and updates `in`. total:
// the weight of the set. V: double, or a SIMD vector of doubles.
template <class Real, class V, class Count, class Gather>
DDN_HOST_DEVICE void narrow_run(SweepInput& in, double centre, double half, double total,
                                const Count& count, const Gather& gather) {
  const double margin = total * (sizeof(Real) == 8 ? 4e-14 : 2e-6);
  double middle = centre, reach = half;
  // Each round except the last one halves the list.
  while (in.count > max_swept) {
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
    in.discarded_bound = max(run.discarded_bound, in.discarded_bound);
    middle += 0.5 * cell * (run.first + run.last + 1) - reach;
    reach = next_reach;
    const int64_t before = in.count;
    gather(before, middle, reach);
    if (in.count > before / 2) break;
  }
}

}  // namespace ddn
