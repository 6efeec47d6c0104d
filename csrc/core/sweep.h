// The exact global minimum of the truncated quadratic over sorted points.
//
// Note: [The sweep]
// As u moves right, points leave the inliers in their order and enter in their order, so the
// inliers are a window of the sorted points. With the weight c of all n inside and SS the sum of
// squares of the points inside about their mean, in units of alpha,
//
//   loss = (n - c) + SS
//
// is the objective (times 2 / alpha^2) of that choice of inliers at its mean, and for any window at
// least the objective there, since points outside the window may lie nearer than alpha. At the
// global minimum the two agree. So the least loss over all windows that occur for some u is the
// global minimum; there are at most two for each point.
#pragma once

#include "core/set.h"

namespace ddn {

// What is known about the points besides those in the list.
struct SweepInput {
  int64_t count;     // points in the list, in ascending order
  int64_t leaving;   // the first so many may leave the window
  int64_t entering;  // those from here on may enter; `leaving`, or 0 when all do both
  double base;       // sums are about this point
  double alpha;
  // Of the points that are inside throughout, sums of w, w t and w t^2, with t = (x - base) /
  // alpha.
  double mass, s1, s2;
  // The windows are those of u in a part of what was asked for; elsewhere there is at most this
  // depth, less than in that part.
  double left_out = -1;
};

// Note: [Narrowing a run]
// A run of places u is cut into `kink_cells` cells. As u moves right, each point near its ends of
// the run leaves or enters once, in the cell of its kink x + alpha or x - alpha. Within a cell, the
// points that neither leave nor enter there and are inside make a parabola: its maximum over the
// cell is a depth that is attained or exceeded, for the others add no less than nothing; and as
// those are within a cell of their kinks, they add 1 - (1 - g)^2 < 2 g at most, g being the width
// of a cell in units of alpha. So the cells are known far better than those of a grid of bins, from
// one look at the points that leave or enter.
constexpr int kink_cells = 64;

// Points without weights by the cells of their kinks: their numbers, and the sums of how far right
// of the middle of their cell the kinks lie, in cells.
struct Kinks {
  double leaving[kink_cells], leaving_offset[kink_cells];
  double entering[kink_cells], entering_offset[kink_cells];
};

// Cells first to last of a run, and a bound of the depth in the others.
struct NarrowRun {
  int first, last;
  double left_out;
};

// half: of the width of the run about in.base, in units of alpha. margin: depths that differ by
// less are not told apart.
DDN_HD NarrowRun narrow(const SweepInput& in, const Kinks& kinks, double half, double margin) {
  const double g = 2 * half / kink_cells;
  // The squares of the offsets are left out; offsets are known to 2^-16, and to 1e-6 alpha.
  const double slack = static_cast<double>(in.count) * (g * g / 4 + g * 0x1p-14 + 2e-6) + margin;
  double mass[kink_cells], s1[kink_cells], s2[kink_cells];
  double mass_here = in.mass, s1_here = in.s1, s2_here = in.s2;
  // Sums of t and t^2 of points whose kinks lie in cell i, and which are `side` away from it.
  const auto add = [&](int i, double sign, double number, double offset, double side) {
    const double middle = side + ((i + 0.5) * g - half), moment = g * offset;
    mass_here += sign * number;
    s1_here += sign * (number * middle + moment);
    s2_here += sign * (number * middle * middle + 2 * middle * moment);
  };
  for (int i = 0; i < kink_cells; ++i) add(i, 1, kinks.leaving[i], kinks.leaving_offset[i], -1);
  for (int i = 0; i < kink_cells; ++i) {
    add(i, -1, kinks.leaving[i], kinks.leaving_offset[i], -1);
    mass[i] = mass_here;
    s1[i] = s1_here;
    s2[i] = s2_here;
    add(i, 1, kinks.entering[i], kinks.entering_offset[i], 1);
  }
  double depth[kink_cells], bound[kink_cells], lower = -1;
  for (int i = 0; i < kink_cells; ++i) {
    const double left = i * g - half;
    const double mean = s1[i] / larger(mass[i], 0.5);
    const double v = larger(smaller(mean, left + g), left);
    depth[i] = mass[i] - (s2[i] - 2 * s1[i] * v + mass[i] * v * v);
    bound[i] = depth[i] + 2.01 * g * (kinks.leaving[i] + kinks.entering[i]) + slack;
  }
  for (int i = 0; i < kink_cells; ++i) lower = larger(depth[i], lower);
  lower -= slack + margin;
  NarrowRun run{0, kink_cells - 1, -1};
  while (run.first < run.last && bound[run.first] < lower) {
    run.left_out = larger(bound[run.first++], run.left_out);
  }
  while (run.last > run.first && bound[run.last] < lower) {
    run.left_out = larger(bound[run.last--], run.left_out);
  }
  return run;
}

struct Window {
  double u;
  double loss;
};

// Numbers of points add up without an error; weights do not.
template <bool weighted>
class WindowSums {
 public:
  DDN_HD WindowSums(const SweepInput& in, const CompensatedSum<double>& outside)
      : base_(in.base), inverse_(1 / in.alpha), outside_(outside) {
    mass_.sum = in.mass;
    s1_.sum = in.s1;
    s2_.sum = in.s2;
  }
  // Sums about another base: of the points that are added from now on.
  DDN_HD void clear(double base) {
    if (weighted) {
      outside_.add(mass_.sum);
      outside_.add(mass_.error);
    } else {
      outside_.sum += mass_.sum;
    }
    base_ = base;
    mass_ = {};
    s1_ = {};
    s2_ = {};
  }
  DDN_HD void add(double x, double weight) { change(x, weight); }
  DDN_HD void remove(double x, double weight) { change(x, -weight); }
  DDN_HD double mass() const { return weighted ? mass_.total() : mass_.sum; }
  DDN_HD double base() const { return base_; }

  // The window's mean, and its loss.
  DDN_HD Window window(double alpha) const {
    const double s1 = s1_.total(), mean = s1 / mass();
    const double squares = s2_.total() - s1 * mean;
    return {base_ + alpha * mean, outside_.total() + (squares > 0 ? squares : 0)};
  }

 private:
  DDN_HD void change(double x, double weight) {
    const double t = (x - base_) * inverse_;
    if (weighted) {
      mass_.add(weight);
      outside_.add(-weight);
    } else {
      mass_.sum += weight;
      outside_.sum -= weight;
    }
    s1_.add(weight * t);
    s2_.add(weight * t * t);
  }

  double base_, inverse_;
  CompensatedSum<double> outside_, mass_, s1_, s2_;
};

// Losses of one sweep that differ by less are not told apart: the smallest u is taken. What they
// have in common, the sums of the points that are inside throughout, may be less exact.
constexpr double sweep_doubt = 1e-14;

// outside: of the set, all that is not inside throughout. With `rebase` the base follows the
// window, else it is in.base.
template <class Set, class List>
DDN_HD Window sweep_about(const Set& set, const List& list, const SweepInput& in,
                          const CompensatedSum<double>& outside, bool rebase) {
  const double reach = 2 * in.alpha;
  const auto at = [&](int64_t i) { return list.point(i); };

  const int64_t share = (in.leaving + set.size()) / set.size();
  const int64_t begin = share * set.rank();
  const int64_t end = begin + share <= in.leaving + 1 ? begin + share : in.leaving + 1;
  Window best{0, detail::infinity};
  if (begin < end) {
    int64_t entered = in.entering;
    if (begin > 0) {
      int64_t past = in.count;
      while (entered < past) {
        const int64_t middle = entered + (past - entered) / 2;
        if (at(middle) - at(begin - 1) <= reach) {
          entered = middle + 1;
        } else {
          past = middle;
        }
      }
    }
    WindowSums<Set::weighted> sums(in, outside);
    if (rebase && begin < in.count) sums.clear(at(begin));
    for (int64_t i = begin; i < entered; ++i) sums.add(at(i), list.weight(i));
    const auto consider = [&] {
      if (!(sums.mass() > 0)) return;
      const Window here = sums.window(in.alpha);
      if (here.loss < best.loss - sweep_doubt * here.loss) best = here;
    };
    for (int64_t first = begin; first < end; ++first) {
      const bool last = first == in.leaving;
      if (rebase && !last && ::fabs(at(first) - sums.base()) > in.alpha) {
        sums.clear(at(first));
        for (int64_t i = first; i < entered; ++i) sums.add(at(i), list.weight(i));
      }
      consider();
      while (entered < in.count && (last || at(entered) - at(first) <= reach)) {
        sums.add(at(entered), list.weight(entered));
        ++entered;
        consider();
      }
      if (!last) sums.remove(at(first), list.weight(first));
    }
  }
  const double least = -set.largest(-best.loss);
  const bool tied = best.loss <= least + sweep_doubt * least;
  return {-set.largest(tied ? -best.u : -detail::infinity), least};
}

// Points from the first-th of a list on.
template <class List>
struct Tail {
  const List& list;
  int64_t first;

  DDN_HD double point(int64_t i) const { return list.point(first + i); }
  DDN_HD double weight(int64_t i) const { return list.weight(first + i); }
};

// The first point of a list of `count` that is not below x.
template <class List>
DDN_HD int64_t first_from(const List& list, int64_t count, double x) {
  int64_t first = 0, past = count;
  while (first < past) {
    const int64_t middle = first + (past - first) / 2;
    if (list.point(middle) < x) {
      first = middle + 1;
    } else {
      past = middle;
    }
  }
  return first;
}

// Every thread of a set's team takes a stretch of the points that leave.
//
// Note: [Weights that all but vanish]
// Where nearly all of the weight is inside, the loss is far smaller than the sums that it is found
// from. The weight outside keeps its own account; the squares lose no digits when they are taken
// about the window's own mean. So when the least loss is that small, a second sweep about the mean
// of its window tells its like apart, which share nearly all of the weight and thus the mean. Such
// windows overlap with it: no point is looked at from which squares far larger than theirs would
// come.
template <class Set, class List>
DDN_HD Window sweep(const Set& set, const List& list, const SweepInput& in, double total) {
  const bool all = in.entering < in.leaving;  // the list is the whole set, the window moves far
  CompensatedSum<double> outside;
  outside.sum = total - in.mass;
  if (Set::weighted && all) {
    // To more digits than the total has.
    outside = {};
    for (int64_t i = 0; i < in.count; ++i) outside.add(list.weight(i));
  }
  const Window best = sweep_about(set, list, in, outside, all);
  if (!(Set::weighted && all && best.loss < 1e-3 * total)) return best;
  SweepInput about = in;
  about.base = best.u;
  const int64_t first = first_from(list, in.count, best.u - 4 * in.alpha);
  about.count = about.leaving = first_from(list, in.count, best.u + 4 * in.alpha) - first;
  const Window again = sweep_about(set, Tail<List>{list, first}, about, outside, false);
  return again.loss < detail::infinity ? again : best;
}

}  // namespace ddn
