// The global minimum of a penalty whose kernel density is a sum of clipped parabolas: by an exact
// sweep over the points that enter or leave the inliers (core/certify/sweep.h).
#pragma once

#include "core/certify/grid_search.h"
#include "core/certify/sweep.h"

namespace ddn {

template <class P, class Set>
class ParabolaSearch : public GridSearch<P, Set, ParabolaSearch<P, Set>> {
  using Base = GridSearch<P, Set, ParabolaSearch>;
  friend Base;
  using Base::bound_, Base::found_, Base::hi_, Base::lo_, Base::problem_, Base::set_, Base::total_;
  using Base::count_pass, Base::loss_rounding, Base::single_error, Base::stopped;
  using typename Base::Loss, typename Base::Real;

 public:
  DDN_HOST_DEVICE ParabolaSearch(const Set& set, const SetStatistics& statistics,
                                 const Problem& problem, int64_t& passes_left)
      : Base(set, statistics, problem, passes_left) {}

  DDN_HOST_DEVICE Global run() {
    if (set_.points() <= small_set) {
      search_sorted();
    } else {
      this->search_grid();
    }
    return this->finish([&] { this->descend_to_answer(); });
  }

 private:
  static constexpr int small_set = 64;

  template <class View>
  DDN_HOST_DEVICE bool resolve(const View& view, const Grid& grid, int first, int last,
                               double /*attained*/, bool /*sorted*/) {
    const double a = max(grid.left(first), lo_), b = min(grid.left(last + 1), hi_);
    const double half = added(added(-0.5 * a, 0.5, b), 2e-6, problem_.alpha);
    if (half >= 0.5 * problem_.alpha || stopped()) return false;
    count_pass();
    const SweepInput in = view.gather(added(0.5 * a, 0.5, b), half, problem_.alpha);
    const Window window = sweep(set_, set_.list(), in, total_);
    // Note [Losses far below the weight] needs a sweep over all points.
    if (Set::weighted && window.loss < 1e-3 * total_) return false;
    bound_ = max(in.discarded_bound, bound_);
    consider(window, in.s2);
    return true;
  }

  // squares: the part of the loss that was summed in the precision of the points.
  DDN_HOST_DEVICE void consider(const Window& window, double squares) {
    const double error = 2 * loss_rounding() * (window.loss + squares);
    bound_ = max(total_ - window.loss + error, bound_);
    const bool exact = sizeof(Real) == sizeof(double) || squares == 0;
    const Loss loss{window.loss, exact ? 0 : single_error(window.u)};
    Base::consider(set_, window.u, loss, /*sorted=*/false, nullptr, 0);
  }

  DDN_NOINLINE void search_sorted() {
    count_pass();
    const int64_t count = set_.sort();
    const auto list = set_.list();
    found_ = false;  // the sweep over all points is exact and covers all windows
    const SweepInput all{count, count, 0, list.point(0), problem_.alpha, 0, 0, 0};
    consider(sweep(set_, list, all, total_), 0);
  }
};

}  // namespace ddn
