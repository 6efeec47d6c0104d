// The exact global minimum of the truncated quadratic over sorted points.
//
// Note: [The sweep]
// As u moves right, points enter and leave the inliers in ascending order, so the inliers are a
// window of the sorted points. Let n be the total weight, c the weight of the window and SS the sum
// of squares of its points about their mean, in units of alpha. Then
//
//   loss = (n - c) + SS
//
// is the objective (times 2 / alpha^2) at the mean of the window if exactly its points are inliers
// there. For any other window the loss is at least the objective at its mean, where each point
// counts min(1, t^2). The two agree at the global minimum. Hence the smallest loss over all windows
// that occur for some u is the global minimum. At most two windows occur for each point.
// docs/global.md, section 7, has the proof.
#pragma once

#include "core/set.h"

namespace ddn {

// The input of a sweep over a run of places u, besides the sorted list of points.
struct SweepInput {
  int64_t count;     // of points in the list
  int64_t leaving;   // points [0, leaving) may leave the window
  int64_t entering;  // points [entering, count) may enter; `leaving`, or 0 if each point does both
  double base;       // the sums below are about this point
  double alpha;
  // Sums of w, w t and w t^2 over the points that are inliers throughout the run, with
  // t = (x - base) / alpha.
  double mass, s1, s2;
  // A bound of the density in the part of the run that narrowing has discarded; the maximum of the
  // run lies in the other part. -1 if nothing is discarded.
  double discarded_bound = -1;
};

struct Window {
  double u;
  double loss;
};

// The sums of a window. Counts of points are exact in double precision; sums of weights need
// compensation.
template <bool weighted>
class WindowSums {
 public:
  DDN_HOST_DEVICE WindowSums(const SweepInput& in, const CompensatedSum<double>& outside)
      : base_(in.base), inverse_(1 / in.alpha), outside_(outside) {
    mass_.sum = in.mass;
    s1_.sum = in.s1;
    s2_.sum = in.s2;
  }
  // Empties the window and sets the base of the points that are added next.
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
  // Adds `number` points with these sums of t and t^2 about the current base.
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

  // The mean of the window, and its loss.
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

// Losses of one sweep whose relative difference is smaller are ties, and the smallest u wins. The
// sums over the points that are inliers throughout may be less exact, as all losses share them.
constexpr double sweep_tie = 1e-14;

// Sums of t and t^2 over points without weights.
struct PointSums {
  CompensatedSum<double> s1, s2;

  DDN_HOST_DEVICE void add(double t) {
    s1.add(t);
    s2.add(t * t);
  }
};

// One sweep over the list. outside: the weight of the set that is not inside throughout. rebase:
// the base follows the window, otherwise it stays in.base. Each thread of the set's thread group
// takes a stretch of the points that leave.
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
    // The first window of the run holds all points that leave. The first window of a thread
    // differs from it by the changes of the threads of smaller rank, an exclusive scan.
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
      if (here.loss < added(best.loss, -sweep_tie, here.loss)) best = here;
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
  const bool tied = best.loss <= added(least, sweep_tie, least);
  return {-set.largest(tied ? -best.u : -detail::infinity), least};
}

// The points of a list from index `first` on.
template <class List>
struct Tail {
  const List& list;
  int64_t first;

  DDN_HOST_DEVICE double point(int64_t i) const { return list.point(first + i); }
  DDN_HOST_DEVICE double weight(int64_t i) const { return list.weight(first + i); }
};

// The index of the first point of a sorted list that is not below x; `count` if there is none.
template <class List>
DDN_HOST_DEVICE int64_t lower_bound_index(const List& list, int64_t count, double x) {
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

// The window with the smallest loss. total: the weight of the set.
//
// Note: [Losses far below the weight]
// If nearly all of the weight is inside, the loss is far smaller than the sums from which it is
// computed, and cancellation leaves few digits. The weight outside is therefore accumulated
// separately, and squares about the mean of the window itself do not cancel. If the smallest loss
// is below 1e-3 of the weight, a second sweep about the mean of its window separates the windows
// with similar losses: they share nearly all of their weight, and hence nearly their mean. These
// windows overlap the first one, so the second sweep is restricted to the points within 4 alpha,
// and squares much larger than theirs do not enter its sums.
template <class Set, class List>
DDN_HOST_DEVICE Window sweep(const Set& set, const List& list, const SweepInput& in, double total) {
  const bool all = in.entering < in.leaving;  // the list is the whole set
  CompensatedSum<double> outside;
  outside.sum = total - in.mass;
  if (Set::weighted && all) {
    // More exact than `total`.
    outside = {};
    for (int64_t i = 0; i < in.count; ++i) outside.add(list.weight(i));
  }
  const Window best = sweep_about(set, list, in, outside, all);
  if (!(Set::weighted && all && best.loss < 1e-3 * total)) return best;
  SweepInput about = in;
  about.base = best.u;
  const int64_t first = lower_bound_index(list, in.count, best.u - 4 * in.alpha);
  about.count = about.leaving = lower_bound_index(list, in.count, best.u + 4 * in.alpha) - first;
  const Window again = sweep_about(set, Tail<List>{list, first}, about, outside, false);
  return again.loss < detail::infinity ? again : best;
}

}  // namespace ddn
