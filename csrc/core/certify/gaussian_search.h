// The global minimum of a penalty whose kernel density is a sum of Gaussians: by one descent in
// each run where the bounds prove the density concave, and by power series (core/certify/series.h)
// elsewhere.
#pragma once

#include "core/certify/grid_search.h"
#include "core/certify/series.h"

namespace ddn {

template <class P, class Set>
class GaussianSearch : public GridSearch<P, Set, GaussianSearch<P, Set>> {
  using Base = GridSearch<P, Set, GaussianSearch>;
  friend Base;
  using Base::bound_, Base::incomplete_, Base::floor_, Base::found_, Base::hi_, Base::it_,
      Base::lo_, Base::loss_, Base::passes_left_, Base::problem_, Base::set_, Base::table_,
      Base::total_, Base::u_;
  using Base::density_tolerance, Base::consider, Base::count_pass, Base::descend,
      Base::tie_tolerance, Base::discard_threshold, Base::loss_of, Base::range, Base::search,
      Base::settle, Base::stopped;
  using typename Base::Loss, typename Base::M, typename Base::Real, typename Base::V;

 public:
  DDN_HOST_DEVICE GaussianSearch(const Set& set, const SetStatistics& statistics,
                                 const Problem& problem, int64_t& passes_left)
      : Base(set, statistics, problem, passes_left) {}

  DDN_HOST_DEVICE Global run() {
    this->search_grid();
    return this->finish([&] { polish(); });
  }

 private:
  static constexpr int max_series = 8;      // each takes a pass over all points
  static constexpr int sorted_window = 16;  // in units of alpha
  // The points that contribute to a window, in alpha. Beyond 9 alpha a term is below the unit
  // roundoff of one; rounding to whole blocks, and a descent that continues past the end, may lead
  // 2 alpha out of the window.
  static constexpr double reach = 11;

  template <class View>
  DDN_NOINLINE bool resolve(const View& view, const Grid& grid, int first, int last,
                            double attained, bool sorted) {
    const double a = max(grid.left(first), lo_), b = min(grid.left(last + 1), hi_);
    constexpr int lanes = M::lanes;
    const Bins bins = set_.bins();
    const double h2 = grid.width * grid.width / (problem_.alpha * problem_.alpha);
    float most = static_cast<float>(-detail::infinity);
    const int cells = lanes * set_.places();  // of a group at a time
    for (int i = first + cells * set_.group(); i <= last; i += cells * set_.groups()) {
      const int cell = i + lanes * set_.place();
      const CellCurvatures<M> part =
          bound_curvature<M>(bins, table_, grid.bin_of_cell(cell), set_.share());
      const V derivative = M::absolute(set_.shared_sum(part.derivative));
      typename M::Scalar curvatures[lanes];
      M::store(curvatures, M::fma(M::splat(0.5), derivative, set_.shared_sum(part.value)));
      for (int l = 0; l < lanes && cell + l <= last; ++l) most = max(curvatures[l], most);
    }
    // The excess mass of the bins (bin_excess) could make the bound of D'' too negative.
    const double curvature = added(static_cast<double>(set_.largest(most)) / h2,
                                   table_.tail_curvature, view.total_weight()) +
                             view.bin_excess();
    if (curvature < 0) {
      const int top = set_.first_largest(first, last + 1, bins.upper);
      double start = vertex(grid, top);
      start = start > a && start < b ? start : added(0.5 * a, 0.5, b);
      detail::Iterate it = descend(view, start, a, b);
      const double alpha = problem_.alpha;
      const auto at_end = [&](double left, double right) {
        // A descent may stop this far from the end of its bracket.
        const double edge = max((sizeof(Real) == 8 ? 1e-9 : 4e-6) * alpha, 2e-15 * ::fabs(it.u));
        return !it.stopped &&
               ((it.u - left <= edge && left > lo_) || (right - it.u <= edge && right < hi_));
      };
      if (at_end(a, b)) {
        // The objective decreases outwards, so the minimum lies outside the run.
        if (sorted) {
          // The view has the points for one more alpha. A minimum further out belongs to the
          // next window, and the density in this run is below its density.
          const double left = max(a - alpha, lo_), right = min(b + alpha, hi_);
          it = descend(view, it.u, left, right);
          // Far from zero there may be no representable number between the two ends.
          if (left < a && b < right && at_end(left, right)) return true;
        } else {
          it = descend(set_, it.u, lo_, hi_);
        }
      }
      incomplete_ = incomplete_ || it.stopped;
      // The density is strongly concave in the run, hence exceeds its value at the answer by at
      // most D'^2 / (2 |D''|).
      const double rounding = it.in_double ? detail::rounding<double>() : detail::rounding<Real>();
      const double derivative = added(::fabs(it.at.psi) / alpha, 4 * rounding, view.total_weight());
      consider(view, it.u, loss_of(it), sorted, &it, derivative * derivative / (-2 * curvature));
      return true;
    }
    const int step = table_.per_alpha() / 2;
    if (!sorted && (series_ += (last - first) / step + 1) > max_series) return false;
    settle();
    for (int i = first; i <= last; i += step) {
      if (stopped()) return false;
      count_pass();
      const double centre = added(grid.left(i), 0.5 * step, grid.width);
      const Series series = view.series(centre, problem_.alpha);
      // A tied minimum left of the best candidate has to be found.
      const bool left = found_ && centre < u_;
      const double known =
          max(attained,
              left ? total_ - loss_.value - 2 * tie_tolerance(loss_.value) : discard_threshold());
      const Maximum at = maximise(series, Series::radius * (1 + 1e-9), known - 1e-14 * total_,
                                  left ? 4e-16 * total_ : density_tolerance());
      bound_ = max(added(at.bound, Series::remainder + 2e-15, total_), bound_);
      if (at.found) {
        const Maximum first =
            leftmost(series, Series::radius, at.value - tie_tolerance(total_ - at.value), at);
        const double u = added(centre, problem_.alpha, first.t);
        consider(view, max(min(u, hi_), lo_), {total_ - first.value, 0}, sorted, nullptr, 0);
      }
    }
    return true;
  }

  // The vertex of the parabola through the approximate densities of three neighbouring cells.
  DDN_HOST_DEVICE double vertex(const Grid& grid, int cell) const {
    const Bins bins = set_.bins();
    const int middle = cell < 1 ? 1 : cell > grid.cells - 2 ? grid.cells - 2 : cell;
    const auto known = [&](int i) { return bins.bounds[i >> table_.block_bits] > floor_; };
    if (!known(middle - 1) || !known(middle + 1)) return grid.centre(cell);
    const auto value = [&](int i) { return static_cast<double>(bins.centre[middle + i]); };
    const double left = value(-1), right = value(1),
                 curvature = added(left, -2.0, value(0)) + right;
    const double shift = curvature < 0 ? 0.5 * (left - right) / curvature : 0;
    return added(grid.centre(middle), grid.width, max(min(shift, 1.5), -1.5));
  }

  DDN_NOINLINE void search_sorted() {
    count_pass();
    const int64_t count = set_.sort();
    const auto list = set_.list();
    const auto at = [&](int64_t i) { return list.point(i); };
    const double alpha = problem_.alpha;
    double covered = -detail::infinity;
    int64_t i = 0, from = 0, to = 0;
    while (i < count && !stopped()) {
      const double a = max(at(i) - alpha, covered);
      double b = a + sorted_window * alpha;
      int64_t last = i;
      while (last + 1 < count && at(last + 1) <= b) ++last;
      b = min(at(last) + alpha, b);
      while (a - at(from) > reach * alpha) ++from;
      to = max(static_cast<double>(to), static_cast<double>(last));
      while (to < count && at(to) - b <= reach * alpha) ++to;
      settle();
      const auto view = set_.view(from, to - from);
      const double most = view.total_weight();
      if (!found_ || most > discard_threshold()) {
        if (!search(view, a, b, /*sorted=*/true)) incomplete_ = true;
      } else {
        bound_ = max(most, bound_);
      }
      covered = b;
      while (i < count && at(i) + alpha <= b) ++i;
    }
    incomplete_ = incomplete_ || i < count;
  }

  DDN_HOST_DEVICE void polish() {
    if (found_) {
      // Where the density is flat, a descent in single precision or without a bracket would drift.
      const double a = max(added(u_, -0.5, problem_.alpha), lo_);
      const double b = min(added(u_, 0.5, problem_.alpha), hi_);
      it_ = detail::descend<P, double>(set_, u_, {a, b, range()}, problem_, passes_left_);
      it_.in_double = true;
    } else {
      this->descend_to_answer();
    }
  }

  int series_ = 0;
};

}  // namespace ddn
