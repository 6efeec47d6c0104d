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
  // density, less than in that part.
  double left_out = -1;
};

// Note: [Narrowing a run]
// A run of places u is cut into `breakpoint_cells` cells. As u moves right, each point near its
// ends of the run leaves or enters once, in the cell of its breakpoint x + alpha or x - alpha.
// Within a cell, the points that neither leave nor enter there and are inside make a parabola: its
// maximum over the cell is a density that is attained or exceeded, for the others add no less than
// nothing; and as those are within a cell of their breakpoints, they add 1 - (1 - g)^2 < 2 g at
// most, g being the width of a cell in units of alpha. So the cells are known far better than those
// of a grid of bins, from one look at the points that leave or enter.
constexpr int breakpoint_cells = 64;
constexpr int breakpoint_place_bits = 10;  // binary digits of a place in a cell, at least

// Points without weights by the cells of their breakpoints, first those that leave and then those
// that enter: their numbers, and the sums of how far right of the middle of their cell the
// breakpoints lie, in cells.
struct Breakpoints {
  double number[2 * breakpoint_cells];
  double offset[2 * breakpoint_cells];
};

// Cells first to last of a run, and a bound of the density in the others.
struct NarrowRun {
  int first, last;
  double left_out;
};

// half: of the width of the run about in.base, in units of alpha. margin: densities that differ by
// less are not told apart. V: double, or a SIMD vector of them.
template <class V>
DDN_HOST_DEVICE NarrowRun narrow(const SweepInput& in, const Breakpoints& breakpoints, double half,
                                 double margin) {
  using M = Math<V>;
  constexpr int lanes = M::lanes;
  const double g = 2 * half / breakpoint_cells;
  // The squares of the offsets are left out; offsets are known to the last digit of a place, and to
  // 1e-6 alpha.
  const double slack =
      static_cast<double>(in.count) * (g * g / 4 + g * 4.0 / (1 << breakpoint_place_bits) + 2e-6) +
      margin;

  // Sums of 1, t and t^2 of the points that leave in a cell, with t of a breakpoint `side` away;
  // after one cell of nothing, of those that enter.
  double left[3][breakpoint_cells], entered[3][1 + breakpoint_cells];
  V places;  // the middles of cells
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

  // The same of those inside throughout a cell.
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
    const V moving =
        M::load(breakpoints.number + i) + M::load(breakpoints.number + breakpoint_cells + i);
    M::store(bound + i, M::fma(moving, M::splat(2.01 * g), density + M::splat(slack)));
    attained = max(density, attained);
    middle += M::splat(lanes * g);
  }
  const double lower = M::largest_of(attained) - slack - margin;
  NarrowRun run{0, breakpoint_cells - 1, -1};
  while (run.first < run.last && bound[run.first] < lower) {
    run.left_out = max(bound[run.first++], run.left_out);
  }
  while (run.last > run.first && bound[run.last] < lower) {
    run.left_out = max(bound[run.last--], run.left_out);
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
  DDN_HOST_DEVICE WindowSums(const SweepInput& in, const CompensatedSum<double>& outside)
      : base_(in.base), inverse_(1 / in.alpha), outside_(outside) {
    mass_.sum = in.mass;
    s1_.sum = in.s1;
    s2_.sum = in.s2;
  }
  // Sums about another base: of the points that are added from now on.
  DDN_HOST_DEVICE void clear(double base) {
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
  // `number` points with these sums of t and t^2, about the base that there is.
  DDN_HOST_DEVICE void add_sums(double number, double s1, double s2) {
    mass_.sum += number;
    outside_.sum -= number;
    s1_.add(s1);
    s2_.add(s2);
  }
  DDN_HOST_DEVICE void add(double x, double weight) { change(x, weight); }
  DDN_HOST_DEVICE void remove(double x, double weight) { change(x, -weight); }
  DDN_HOST_DEVICE double mass() const { return weighted ? mass_.total() : mass_.sum; }
  DDN_HOST_DEVICE double base() const { return base_; }

  // The window's mean, and its loss.
  DDN_HOST_DEVICE Window window(double alpha) const {
    const double s1 = s1_.total(), mean = s1 / mass();
    const double squares = added(s2_.total(), -s1, mean);
    return {added(base_, alpha, mean), outside_.total() + (squares > 0 ? squares : 0)};
  }

 private:
  DDN_HOST_DEVICE void change(double x, double weight) {
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

// Sums of t and t^2 of points without weights.
struct PointSums {
  CompensatedSum<double> s1, s2;

  DDN_HOST_DEVICE void add(double t) {
    s1.add(t);
    s2.add(t * t);
  }
};

// outside: of the set, all that is not inside throughout. With `rebase` the base follows the
// window, else it is in.base.
template <class Set, class List>
DDN_HOST_DEVICE Window sweep_about(const Set& set, const List& list, const SweepInput& in,
                                   const CompensatedSum<double>& outside, bool rebase) {
  const double reach = 2 * in.alpha;
  const auto at = [&](int64_t i) { return list.point(i); };

  const int64_t share = (in.leaving + set.size()) / set.size();
  const int64_t begin = share * set.rank();
  const int64_t end = begin + share <= in.leaving + 1 ? begin + share : in.leaving + 1;
  int64_t entered = in.entering;
  if (begin > 0 && begin < end) {
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
  if (!Set::weighted && !rebase && set.size() > 1) {
    // The first window holds all points that leave; each thread's begins with what those before it
    // have changed.
    PointSums leave, enter;
    const auto t = [&](int64_t i) { return (at(i) - in.base) * (1 / in.alpha); };
    for (int64_t i = begin; i < end && i < in.leaving; ++i) leave.add(t(i));
    if (begin < end && end <= in.leaving) {
      for (int64_t i = entered; i < in.count && at(i) - at(end - 1) <= reach; ++i) enter.add(t(i));
    }
    double all[2] = {leave.s1.total(), leave.s2.total()};
    double before[2] = {enter.s1.total() - all[0], enter.s2.total() - all[1]};
    set.sum(all);
    set.exclusive_scan(before);
    if (begin < end) {
      const auto number = static_cast<double>(entered - begin);
      sums.add_sums(number, all[0] + before[0], all[1] + before[1]);
    }
  } else if (begin < end) {
    if (rebase && begin < in.count) sums.clear(at(begin));
    for (int64_t i = begin; i < entered; ++i) sums.add(at(i), list.weight(i));
  }
  Window best{0, detail::infinity};
  if (begin < end) {
    const auto consider = [&] {
      if (!(sums.mass() > 0)) return;
      const Window here = sums.window(in.alpha);
      if (here.loss < added(best.loss, -sweep_doubt, here.loss)) best = here;
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
  const bool tied = best.loss <= added(least, sweep_doubt, least);
  return {-set.largest(tied ? -best.u : -detail::infinity), least};
}

// Points from the first-th of a list on.
template <class List>
struct Tail {
  const List& list;
  int64_t first;

  DDN_HOST_DEVICE double point(int64_t i) const { return list.point(first + i); }
  DDN_HOST_DEVICE double weight(int64_t i) const { return list.weight(first + i); }
};

// The first point of a list of `count` that is not below x.
template <class List>
DDN_HOST_DEVICE int64_t first_from(const List& list, int64_t count, double x) {
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

// Every thread of a set's thread group takes a stretch of the points that leave.
//
// Note: [Weights that all but vanish]
// Where nearly all of the weight is inside, the loss is far smaller than the sums that it is found
// from. The weight outside keeps its own account; the squares lose no digits when they are taken
// about the window's own mean. So when the least loss is that small, a second sweep about the mean
// of its window tells its like apart, which share nearly all of the weight and thus the mean. Such
// windows overlap with it: no point is looked at from which squares far larger than theirs would
// come.
template <class Set, class List>
DDN_HOST_DEVICE Window sweep(const Set& set, const List& list, const SweepInput& in, double total) {
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
