// The certified global minimum of a non-convex objective. docs/global.md derives it.
//
// The points are counted in bins; bounds on the density in every cell (core/certify/bins.h) discard
// those that cannot hold the minimum; what is left is resolved without a gap: the truncated
// quadratic by an exact sweep over the points that enter or leave there (core/certify/sweep.h),
// Welsch by one descent where the bounds prove the objective convex and by a power series elsewhere
// (core/certify/series.h).
//
// A grid of bins spans a limited number of alphas. Sets that reach further are searched about the
// robust start; when the points outside are too few to matter, that is the proof. Otherwise, and
// when too much survives, the set is sorted and then taken window by window: n log n for any set.
#pragma once

#include "core/certify/bins.h"
#include "core/certify/series.h"
#include "core/certify/sweep.h"
#include "core/local_minimum.h"

namespace ddn {

// How a search ended.
struct Global {
  detail::Iterate it;
  // No u has a density above both `bound` and the answer's own plus `slack`.
  double bound;
  double slack;
};

template <class P, class Set>
class GlobalSearch {
 public:
  using Real = typename Set::Real;
  using M = typename Set::BinMath;
  using V = typename M::V;

  DDN_HOST_DEVICE GlobalSearch(const Set& set, const SetStatistics& statistics,
                               const Problem& problem, int64_t& passes_left)
      : set_(set),
        table_(set.template table<P>()),
        lo_(statistics.lo),
        hi_(statistics.hi),
        middle_(statistics.middle),
        total_(statistics.finite),
        problem_(problem),
        passes_left_(passes_left) {}

  DDN_HOST_DEVICE Global run() {
    if (!P::is_smooth && set_.points() <= small_set) {
      take_sorted();
    } else {
      const double window = set_.most_cells() * cell_width();
      // One cell more, so that the first one with points has a neighbour on its left.
      const double a = max(lo_ - cell_width(), -Math<double>::largest());
      bool done;
      if (hi_ - a < window) {
        done = search(set_, a, hi_, /*sorted=*/false);
      } else {
        start_ = robust_start();
        done = search(set_, start_ - 0.5 * window, start_ + 0.5 * window, false);
      }
      if (!done && !stopped()) {
        take_sorted();
      } else if (!done) {
        cut_ = true;
      }
    }
    return finish();
  }

 private:
  // That of a candidate, known to within `error`.
  struct Loss {
    double value;
    double error;
  };
  // Errors in units of the weight: of sums of losses in single precision, and of what a last step
  // that is not looked at changes.
  static constexpr double single_precision = 4e-6;
  static constexpr double last_step_single = 1e-9;
  static constexpr double last_step_double = 1e-12;

  static constexpr int small_set = 64;
  static constexpr int most_runs = 4;       // by one pass over all points each
  static constexpr int most_series = 8;     // likewise
  static constexpr int sorted_window = 16;  // in units of alpha
  // Beyond 9 alpha the terms are below the rounding of one; whole blocks and the descent from an
  // end may lead two alpha out of a stretch.
  static constexpr double reach = 11;

  DDN_NOINLINE double robust_start() {
    return detail::robust_start(set_, max(min(middle_, hi_), lo_), {lo_, hi_, range()}, problem_,
                                passes_left_);
  }
  template <class View>
  DDN_NOINLINE detail::Iterate descend(const View& view, double start, double lo, double hi,
                                       const SumsOf<P>* at_start = nullptr) {
    return detail::descend_to_accuracy<P>(view, start, {lo, hi, range()}, problem_, passes_left_,
                                          at_start);
  }
  DDN_HOST_DEVICE double range() const { return hi_ - lo_; }
  DDN_HOST_DEVICE double cell_width() const { return problem_.alpha / table_.per_alpha(); }
  DDN_HOST_DEVICE bool stopped() const { return passes_left_ == 0; }
  DDN_HOST_DEVICE void count_pass() {
    if (passes_left_ != 0) --passes_left_;
  }

  // Depths up to this one need not be looked at.
  DDN_HOST_DEVICE double enough() const {
    return found_ ? max(total_ - (loss_.value + loss_.error) + allowed(), -1.0) : -1;
  }
  // A quarter of the promised excess, in units of the density; the rest is for what follows.
  DDN_HOST_DEVICE double allowed() const {
    const double least = found_ ? max(loss_.value - loss_.error, 0.0) : 0;
    const double promised = 0.25 * (sizeof(Real) == 8 ? 1e-12 : 1e-6) * least;
    const double rounding = 4e-16 * total_;
    return max(promised, rounding);
  }

  static DDN_HOST_DEVICE double loss_rounding() { return sizeof(Real) == 8 ? 1e-14 : 2e-7; }

  // Losses that differ by less are not told apart.
  DDN_HOST_DEVICE double doubt(double loss) const {
    return max(loss_rounding() * loss, 4e-16 * total_);
  }

  // Looks at all u in [a, b]; with `view` all points that matter there. False when it would take
  // too many passes, or nothing is proved about the u outside [a, b] (unless `sorted`).
  template <class View>
  DDN_NOINLINE bool search(const View& view, double a, double b, bool sorted) {
    Grid grid;
    grid.origin = a;
    grid.width = cell_width();
    grid.pad = table_.block_reach * table_.per_alpha();
    const double cells = (b - a) / grid.width;
    grid.cells = static_cast<int>(cells < set_.most_cells() - 1 ? cells : set_.most_cells() - 1);
    grid.cells = ((grid.cells >> table_.block_bits) + 1) << table_.block_bits;  // whole blocks
    if (!sorted) count_pass();
    view.bin(grid, problem_.alpha);
    const Bins bins = set_.bins();
    const double tail = (1 + bin_rounding) * table_.tail * view.total_weight();
    const double attained = bound_grid(grid, tail, view.bin_excess());
    const int top = top_cell(grid);
    const double beyond = sorted ? -1 : outside(grid) + tail;
    if (!sorted) {
      ceiling_ = max(max(static_cast<double>(upper(bins, top)), beyond), bound_);
    }
    if (!found_) start_ = grid.centre(top);
    if (stopped()) return false;
    const double density = max(enough(), attained);
    if (beyond > density) return false;

    // The run about the highest bound first: its minimum discards most others.
    for (int runs = 0, from = 0;;) {
      const float least = threshold(max(density, enough()));
      const auto out = [&](int cell) { return !(upper(bins, cell) > least); };
      const int within = runs == 0 ? top : next_above(grid, from, least);
      if (within == grid.cells || out(within)) break;
      if (!is_finite(loss_.error)) {
        settle();
        continue;
      }
      if (!sorted && runs == most_runs) return false;
      const int first = runs == 0 ? set_.last_where(0, top, out) + 1 : within;
      const int last = set_.first_where(within + 1, grid.cells, out) - 1;
      if (!resolve(view, grid, first, last, attained, sorted)) return false;
      // Where no pass was left, resolve() may have read bounds since its last barrier.
      set_.sync();
      for (int i = first + set_.rank(); i <= last; i += set_.size()) bins.upper[i] = discarded;
      set_.sync();
      if (runs++ > 0) from = last + 1;
    }
    bound_ = max(max(largest_left(grid), beyond), bound_);
    return true;
  }

  // A number in single precision just below a density: bounds above the density are above it.
  static DDN_HOST_DEVICE float threshold(double density) {
    return static_cast<float>(density * (1 - 0x1p-23));
  }

  // The bound of a cell; of one in a discarded block the block's counts.
  DDN_HOST_DEVICE float upper(const Bins& bins, int cell) const {
    return bins.bounds[cell >> table_.block_bits] > floor_ ? bins.upper[cell] : discarded;
  }

  // The first cell from `from` on whose bound is above `least`, or grid.cells.
  DDN_HOST_DEVICE int next_above(const Grid& grid, int from, float least) const {
    const Bins bins = set_.bins();
    const int bits = table_.block_bits, blocks = grid.cells >> bits;
    const auto above = [&](int b) { return bins.bounds[b] > least; };
    for (int b = from >> bits; (b = set_.first_where(b, blocks, above)) < blocks; ++b) {
      const int begin = from > b << bits ? from : b << bits, end = (b + 1) << bits;
      const int cell = set_.first_where(begin, end, [&](int i) { return bins.upper[i] > least; });
      if (cell < end) return cell;
    }
    return grid.cells;
  }

  // The largest bound of all cells that were not resolved.
  DDN_HOST_DEVICE double largest_left(const Grid& grid) const {
    constexpr int lanes = M::lanes;
    const Bins bins = set_.bins();
    const int k = table_.per_alpha();
    float most = discarded;
    V cells = M::splat(discarded);
    for (int b = set_.group(); b < grid.cells >> table_.block_bits; b += set_.groups()) {
      if (!(bins.bounds[b] > floor_)) {
        most = max(bins.bounds[b], most);
        continue;
      }
      for (int i = lanes * set_.place(); i < k; i += lanes * set_.places()) {
        cells = M::max(M::load(bins.upper + b * k + i), cells);
      }
    }
    return static_cast<double>(set_.largest(max(M::largest_of(cells), most)));
  }

  // Fills in bins.bounds, the largest bound in each block, and of those blocks where it is above
  // floor_ also bins.upper and bins.centre; returns the largest density that is known to be
  // attained.
  DDN_NOINLINE double bound_grid(const Grid& grid, double tail, double excess) {
    constexpr int lanes = M::lanes;
    const Bins bins = set_.bins();
    const int k = table_.per_alpha();
    const int blocks = grid.cells / k;
    const int pad_blocks = table_.block_reach;
    for (int i = set_.rank(); i < blocks + 2 * pad_blocks; i += set_.size()) {
      V sum{};
      for (int j = 0; j < k; j += lanes) sum += M::load(bins.mass + 1 + i * k + j);
      bins.blocks[i] = M::sum(rounded_up(sum));
    }
    set_.sync();
    const V margin = M::splat(tail);
    for (int b = lanes * set_.rank(); b < blocks; b += lanes * set_.size()) {
      M::store(bins.bounds + b, rounded_up(block_bounds(bins.blocks + b + pad_blocks) + margin));
    }
    set_.sync();
    const int top = set_.first_largest(0, blocks, bins.bounds);
    V lower = M::splat(-1);
    // No rest: see least_block.
    const auto bound_block = [&](int block) {
      V most = M::splat(discarded);
      for (int i = lanes * set_.place(); i < k; i += lanes * set_.places()) {
        const int cell = block * k + i;
        const CellBounds<M> part =
            bound_cells<M>(bins, table_, grid.bin_of_cell(cell), set_.share());
        const V value = set_.shared_sum(part.value), slack = set_.shared_sum(part.slack);
        const V slope = M::absolute(set_.shared_sum(part.slope));
        const V upper = rounded_up(M::fma(M::splat(0.5), slope, value) + slack + margin);
        if (set_.share().rank == 0) {
          M::store(bins.centre + cell, value);
          M::store(bins.upper + cell, upper);
        }
        most = M::max(upper, most);
        lower = M::max(value - slack, lower);
      }
      return set_.group_largest(M::largest_of(most));
    };
    const auto attained = [&] {  // also a barrier
      return max(static_cast<double>(set_.largest(M::largest_of(lower))) - excess, -1.0);
    };
    const bool first = set_.group() == 0;
    const float most = first ? bound_block(top) : discarded;
    floor_ = threshold(max(attained(), enough()));
    if (first && set_.leads_group()) bins.bounds[top] = most;
    for (int b = set_.group(); b < blocks; b += set_.groups()) {
      if (b == top || !(bins.bounds[b] > floor_)) continue;
      const float bound = bound_block(b);
      set_.group_sync();  // all threads of the group have compared the old bound
      if (set_.leads_group()) bins.bounds[b] = bound;
    }
    return attained();
  }

  // No less, whatever rounding took from a sum of positive numbers.
  static DDN_HOST_DEVICE V rounded_up(V x) { return x * M::splat(1 + bin_rounding); }

  // masses: of the first block and of those about it.
  DDN_HOST_DEVICE V block_bounds(const float* masses) const {
    V sum = M::load(masses);
    for (int s = 1; s <= table_.block_reach; ++s) {
      const V sides = M::load(masses - s) + M::load(masses + s);
      sum = M::fma(sides, M::splat(table_.block[s]), sum);
    }
    return sum;
  }

  // The first cell with the largest bound. In a search of a sorted window every block may be
  // discarded: then the first cell of the block with the largest bound, itself discarded.
  DDN_HOST_DEVICE int top_cell(const Grid& grid) const {
    const Bins bins = set_.bins();
    const int bits = table_.block_bits;
    const int block = set_.first_largest(0, grid.cells >> bits, bins.bounds);
    if (!(bins.bounds[block] > floor_)) return block << bits;  // without bounds on its cells
    return set_.first_largest(block << bits, (block + 1) << bits, bins.upper);
  }

  // Bound of the density at any u left of the first cell or right of the last one: all the mass
  // that is not further inside than the reach of K.
  DDN_HOST_DEVICE double outside(const Grid& grid) const {
    const Bins bins = set_.bins();
    const int end = grid.bins() - 1, within = grid.pad + table_.reach;
    double left = 0, right = 0;
    if (grid.origin > lo_) {
      for (int i = 0; i <= within && i <= end; ++i) left += bins.mass[i];
    }
    if (grid.left(grid.cells) < hi_) {
      for (int i = 0; i <= within && i <= end; ++i) right += bins.mass[end - i];
    }
    return max(left, right) * (1 + bin_rounding);
  }

  // Finds the least objective on the cells first to last, if it is below what is known.
  template <class View>
  DDN_HOST_DEVICE bool resolve(const View& view, const Grid& grid, int first, int last,
                               double floor, bool sorted) {
    const double a = max(grid.left(first), lo_);
    const double b = min(grid.left(last + 1), hi_);
    if constexpr (P::is_smooth) {
      return resolve_smooth(view, grid, first, last, a, b, floor, sorted);
    } else {
      const double half = added(added(-0.5 * a, 0.5, b), 2e-6, problem_.alpha);
      if (half >= 0.5 * problem_.alpha || stopped()) return false;
      count_pass();
      const SweepInput in = view.gather(added(0.5 * a, 0.5, b), half, problem_.alpha);
      const Window window = sweep(set_, set_.list(), in, total_);
      // A loss that is that small needs the digits of all points; see core/certify/sweep.h.
      if (Set::weighted && window.loss < 1e-3 * total_) return false;
      bound_ = max(in.left_out, bound_);
      consider(window, in.s2);
      return true;
    }
  }

  template <class View>
  DDN_NOINLINE bool resolve_smooth(const View& view, const Grid& grid, int first, int last,
                                   double a, double b, double floor, bool sorted) {
    constexpr int lanes = M::lanes;
    const Bins bins = set_.bins();
    const double h2 = grid.width * grid.width / (problem_.alpha * problem_.alpha);
    float most = static_cast<float>(-detail::infinity);
    const int cells = lanes * set_.places();  // that a group takes at a time
    for (int i = first + cells * set_.group(); i <= last; i += cells * set_.groups()) {
      const int cell = i + lanes * set_.place();
      const CellBends<M> part = bend_cells<M>(bins, table_, grid.bin_of_cell(cell), set_.share());
      const V slope = M::absolute(set_.shared_sum(part.slope));
      typename M::Scalar bends[lanes];
      M::store(bends, M::fma(M::splat(0.5), slope, set_.shared_sum(part.value)));
      for (int l = 0; l < lanes && cell + l <= last; ++l) most = max(bends[l], most);
    }
    // Heavier bins may only seem to bend it down.
    const double bend =
        added(static_cast<double>(set_.largest(most)) / h2, table_.tail_bend, view.total_weight()) +
        view.bin_excess();
    if (bend < 0) {
      const int top = set_.first_largest(first, last + 1, bins.upper);
      double start = vertex(grid, top);
      start = start > a && start < b ? start : added(0.5 * a, 0.5, b);
      detail::Iterate it = descend(view, start, a, b);
      const double alpha = problem_.alpha;
      const auto at_end = [&](double left, double right) {
        // A descent in a bracket may stop that far from its end.
        const double edge = max((sizeof(Real) == 8 ? 1e-9 : 4e-6) * alpha, 2e-15 * ::fabs(it.u));
        return !it.stopped &&
               ((it.u - left <= edge && left > lo_) || (right - it.u <= edge && right < hi_));
      };
      if (at_end(a, b)) {
        // The minimum lies beyond.
        if (sorted) {
          // Of a stretch the points for one alpha more are at hand. What lies further is found
          // from the next stretch, and no higher than that is the density here.
          const double left = max(a - alpha, lo_), right = min(b + alpha, hi_);
          it = descend(view, it.u, left, right);
          // Far from zero there may be no number between the ends of both.
          if (left < a && b < right && at_end(left, right)) return true;
        } else {
          it = descend(set_, it.u, lo_, hi_);
        }
      }
      cut_ = cut_ || it.stopped;
      // Strongly concave: above the answer by at most slope^2 / (2 |bend|).
      const double rounding = it.in_double ? detail::rounding<double>() : detail::rounding<Real>();
      const double slope = added(::fabs(it.at.psi) / alpha, 4 * rounding, view.total_weight());
      consider(view, it.u, loss_of(it), sorted, &it, slope * slope / (-2 * bend));
      return true;
    }
    const int step = table_.per_alpha() / 2;
    if (!sorted && (series_ += (last - first) / step + 1) > most_series) return false;
    settle();
    for (int i = first; i <= last; i += step) {
      if (stopped()) return false;
      count_pass();
      const double centre = added(grid.left(i), 0.5 * step, grid.width);
      const Series series = view.series(centre, problem_.alpha);
      // What lies left of the best may be as good as it is, and is then to be found.
      const bool left = found_ && centre < u_;
      const double known =
          max(floor, left ? total_ - loss_.value - 2 * doubt(loss_.value) : enough());
      const Maximum at = maximise(series, Series::radius * (1 + 1e-9), known - 1e-14 * total_,
                                  left ? 4e-16 * total_ : allowed());
      bound_ = max(added(at.bound, Series::remainder + 2e-15, total_), bound_);
      if (at.found) {
        const Maximum first =
            leftmost(series, Series::radius, at.value - doubt(total_ - at.value), at);
        const double u = added(centre, problem_.alpha, first.t);
        consider(view, max(min(u, hi_), lo_), {total_ - first.value, 0}, sorted, nullptr, 0);
      }
    }
    return true;
  }

  // The top of the parabola through the estimated densities of three neighbouring cells.
  DDN_HOST_DEVICE double vertex(const Grid& grid, int cell) const {
    const Bins bins = set_.bins();
    const int middle = cell < 1 ? 1 : cell > grid.cells - 2 ? grid.cells - 2 : cell;
    const auto known = [&](int i) { return bins.bounds[i >> table_.block_bits] > floor_; };
    if (!known(middle - 1) || !known(middle + 1)) return grid.centre(cell);
    const auto value = [&](int i) { return static_cast<double>(bins.centre[middle + i]); };
    const double left = value(-1), right = value(1), bend = added(left, -2.0, value(0)) + right;
    const double shift = bend < 0 ? 0.5 * (left - right) / bend : 0;
    return added(grid.centre(middle), grid.width, max(min(shift, 1.5), -1.5));
  }

  // Of sums in single precision; docs/global.md, section 9.
  DDN_HOST_DEVICE double single_error(double u) const {
    return added(single_precision, 0x1p-48, ::fabs(u) / problem_.alpha) * total_;
  }
  // The loss where a descent ended, from the sums before its last step.
  DDN_HOST_DEVICE Loss loss_of(const detail::Iterate& it) const {
    if (it.stopped || problem_.tolerance >= 0) return {0, detail::infinity};
    double error = (sizeof(Real) == 8 ? last_step_double : last_step_single) * total_;
    if (sizeof(Real) < 8 && !it.in_double) error = single_error(it.u);
    return {total_ - it.at.density, error};
  }

  // Takes a candidate when it is better; of equally good ones the smallest. slack: of the density
  // near it above its own.
  template <class View>
  DDN_HOST_DEVICE void consider(const View& view, double u, Loss loss, bool sorted,
                                const detail::Iterate* it, double slack) {
    // In a stretch of the sorted points it costs less than later.
    if (sorted && loss.error > 0) loss = {loss_at(view, u), 0};
    if (found_) {
      const double errors = loss.error + loss_.error;
      if (errors > 0 && !(::fabs(loss.value - loss_.value) > errors + doubt(loss.value))) {
        settle();
        if (loss.error > 0) loss = {loss_at(view, u), 0};
      }
      const bool better = loss.value < loss_.value - doubt(loss.value);
      const bool tied = !better && loss.value <= loss_.value + doubt(loss.value);
      const bool taken = better || (tied && u < u_);
      // Of two that are not told apart the one left out may be the deeper one.
      const Loss& left = taken ? loss_ : loss;
      bound_ = max(total_ - (left.value - left.error) + (taken ? slack_ : slack), bound_);
      if (!taken) return;
    }
    slack_ = slack;
    found_ = true;
    u_ = u;
    loss_ = loss;
    polished_ = it != nullptr;
    if (polished_) it_ = *it;
  }

  // squares: what was summed in the arithmetic of the points.
  DDN_HOST_DEVICE void consider(const Window& window, double squares) {
    const double error = 2 * loss_rounding() * (window.loss + squares);
    bound_ = max(total_ - window.loss + error, bound_);
    const bool exact = sizeof(Real) == sizeof(double) || squares == 0;
    const Loss loss{window.loss, exact ? 0 : single_error(window.u)};
    consider(set_, window.u, loss, /*sorted=*/false, nullptr, 0);
  }

  // Makes the loss of the best candidate known.
  DDN_HOST_DEVICE void settle() {
    if (loss_.error > 0) loss_ = {loss_at(set_, u_), 0};
  }
  template <class View>
  DDN_NOINLINE double loss_at(const View& view, double u) {
    count_pass();
    return total_ - view.template sums<P, double>(u, problem_.alpha).density;
  }

  DDN_NOINLINE void take_sorted() {
    count_pass();
    const int64_t count = set_.sort();
    const auto list = set_.list();
    if constexpr (!P::is_smooth) {
      found_ = false;  // what follows is exact, and no window is left out
      const SweepInput all{count, count, 0, list.point(0), problem_.alpha, 0, 0, 0};
      consider(sweep(set_, list, all, total_), 0);
    } else {
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
        if (!found_ || most > enough()) {
          if (!search(view, a, b, /*sorted=*/true)) cut_ = true;
        } else {
          bound_ = max(most, bound_);
        }
        covered = b;
        while (i < count && at(i) + alpha <= b) ++i;
      }
      cut_ = cut_ || i < count;
    }
  }

  DDN_HOST_DEVICE Global finish() {
    // The middle of a cell may lie beyond the points, and rounding may carry a mean past them.
    u_ = max(min(found_ ? u_ : start_, hi_), lo_);
    const bool cut = cut_;
    if (!cut && !polished_) {
      if (P::is_smooth && found_) {
        // Where the density is flat, a descent in single precision or without bounds would stray.
        const double a = max(added(u_, -0.5, problem_.alpha), lo_);
        const double b = min(added(u_, 0.5, problem_.alpha), hi_);
        it_ = detail::descend<P, double>(set_, u_, {a, b, range()}, problem_, passes_left_);
        it_.in_double = true;
      } else if (stopped()) {
        it_ = {u_, {}, true, true};
      } else {
        // A sweep's window is stationary up to rounding: one pass shows it.
        count_pass();
        const SumsOf<P> at = set_.template sums<P, Real>(u_, problem_.alpha);
        it_ = descend(set_, u_, lo_, hi_, &at);
      }
    }
    if (cut) it_ = {u_, {}, true, true};
    return {it_, cut ? min(ceiling_, total_) : bound_, slack_};
  }

  const Set& set_;
  const KernelTable& table_;
  double lo_, hi_, middle_;
  double total_;
  Problem problem_;
  int64_t& passes_left_;

  bool found_ = false;
  bool polished_ = false;  // it_ belongs to u_
  bool cut_ = false;       // the passes ran out before all was looked at
  double u_ = 0;
  Loss loss_{};
  double start_ = 0;  // where to begin when nothing was found
  detail::Iterate it_{};
  double bound_ = -1;  // of the density in all that was left out though it might be above the best
  double ceiling_ = detail::infinity;  // of the density anywhere, once the bins are counted
  double slack_ = 0;                   // of the density near the answer above its own
  float floor_ = discarded;            // blocks with bounds no vector_max than that are discarded
  int series_ = 0;
};

}  // namespace ddn
