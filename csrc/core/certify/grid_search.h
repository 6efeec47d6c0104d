// Branch and bound over the cells of a grid: bounds from the binned points discard the cells that
// cannot contain the minimum. docs/global.md derives the bounds.
//
// A grid has a limited number of cells. A wider set is searched in a window about the robust start,
// and the proof is complete if the mass outside is too small for a better minimum. Otherwise, and
// if too many cells survive, the points are sorted and searched window by window. The cost is
// O(n log n) for any set.
#pragma once

#include "core/certify/bins.h"
#include "core/certify/candidates.h"

namespace ddn {

// `Search`, derived from this class, resolves the surviving cells. It has
//
//   bool resolve(view, grid, first, last, attained, sorted)
//                         considers the minimum over the cells `first` to `last` as a candidate;
//                         returns false if that would take too many passes
//   void search_sorted()  finds the minimum after sorting the points
template <class P, class Set, class Search>
class GridSearch : protected Candidates<P, Set> {
  using Base = Candidates<P, Set>;

 protected:
  using Real = typename Set::Real;
  using M = typename Set::BinMath;
  using V = typename M::V;
  using Base::bound_, Base::ceiling_, Base::incomplete_, Base::found_, Base::hi_, Base::lo_,
      Base::loss_, Base::problem_, Base::set_, Base::start_;
  using Base::count_pass, Base::discard_threshold, Base::settle, Base::stopped;

  // Runs of surviving cells, each of which takes at least one pass over all points.
  static constexpr int max_runs = 4;

  DDN_HOST_DEVICE GridSearch(const Set& set, const SetStatistics& statistics,
                             const Problem& problem, int64_t& passes_left)
      : Base(set, statistics, problem, passes_left), table_(set.template table<P>()) {}

  DDN_HOST_DEVICE void search_grid() {
    const double window = set_.max_cells() * cell_width();
    // One more cell, so that the first cell with points has a left neighbour.
    const double a = max(lo_ - cell_width(), -Math<double>::largest());
    bool done;
    if (hi_ - a < window) {
      done = search(set_, a, hi_, /*sorted=*/false);
    } else {
      start_ = this->robust_start();
      done = search(set_, start_ - 0.5 * window, start_ + 0.5 * window, false);
    }
    if (!done && !stopped()) {
      self().search_sorted();
    } else if (!done) {
      incomplete_ = true;
    }
  }

  DDN_HOST_DEVICE double cell_width() const { return problem_.alpha / table_.per_alpha(); }

  // Searches all u in [a, b]; `view` has all points that contribute there. Returns false if that
  // would take too many passes or, unless `sorted`, if the rest of the line is not discarded.
  template <class View>
  DDN_NOINLINE bool search(const View& view, double a, double b, bool sorted) {
    Grid grid;
    grid.origin = a;
    grid.width = cell_width();
    grid.pad = table_.block_reach * table_.per_alpha();
    const double cells = (b - a) / grid.width;
    grid.cells = static_cast<int>(cells < set_.max_cells() - 1 ? cells : set_.max_cells() - 1);
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
    const double density = max(discard_threshold(), attained);
    if (beyond > density) return false;

    // The run about the highest bound comes first, because its minimum discards most others.
    for (int runs = 0, from = 0;;) {
      const float least = threshold(max(density, discard_threshold()));
      const auto out = [&](int cell) { return !(upper(bins, cell) > least); };
      const int within = runs == 0 ? top : next_above(grid, from, least);
      if (within == grid.cells || out(within)) break;
      if (!is_finite(loss_.error)) {
        settle();
        continue;
      }
      if (!sorted && runs == max_runs) return false;
      const int first = runs == 0 ? set_.last_where(0, top, out) + 1 : within;
      const int last = set_.first_where(within + 1, grid.cells, out) - 1;
      if (!self().resolve(view, grid, first, last, attained, sorted)) return false;
      // If max_iter ended resolve(), bounds may have been read since its last barrier.
      set_.sync();
      for (int i = first + set_.rank(); i <= last; i += set_.size()) bins.upper[i] = discarded;
      set_.sync();
      if (runs++ > 0) from = last + 1;
    }
    bound_ = max(max(largest_discarded(grid), beyond), bound_);
    return true;
  }

  // A single-precision number just below a density, so that every bound above the density exceeds
  // it.
  static DDN_HOST_DEVICE float threshold(double density) {
    return static_cast<float>(density * (1 - 0x1p-23));
  }

  // The bound of a cell. The cells of a discarded block have none; the block's bound counts.
  DDN_HOST_DEVICE float upper(const Bins& bins, int cell) const {
    return bins.bounds[cell >> table_.block_bits] > floor_ ? bins.upper[cell] : discarded;
  }

  // The first cell from `from` on whose bound is above `least`; grid.cells if there is none.
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

  // The largest bound of the cells that were not resolved.
  DDN_HOST_DEVICE double largest_discarded(const Grid& grid) const {
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

  // Computes bins.bounds for all blocks, and bins.upper and bins.centre for the cells of the blocks
  // whose bound is above floor_. Returns the largest density that is known to be attained.
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
    // min_block ensures that the vectors cover a block without a remainder.
    const auto bound_block = [&](int block) {
      V most = M::splat(discarded);
      for (int i = lanes * set_.place(); i < k; i += lanes * set_.places()) {
        const int cell = block * k + i;
        const CellBounds<M> part =
            bound_cells<M>(bins, table_, grid.bin_of_cell(cell), set_.share());
        const V value = set_.shared_sum(part.value), slack = set_.shared_sum(part.slack);
        const V derivative = M::absolute(set_.shared_sum(part.derivative));
        const V upper = rounded_up(M::fma(M::splat(0.5), derivative, value) + slack + margin);
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
    floor_ = threshold(max(attained(), discard_threshold()));
    if (first && set_.leads_group()) bins.bounds[top] = most;
    for (int b = set_.group(); b < blocks; b += set_.groups()) {
      if (b == top || !(bins.bounds[b] > floor_)) continue;
      const float bound = bound_block(b);
      set_.group_sync();  // no thread of the group still compares the old bound
      if (set_.leads_group()) bins.bounds[b] = bound;
    }
    return attained();
  }

  // At least the exact value of a rounded sum of positive numbers.
  static DDN_HOST_DEVICE V rounded_up(V x) { return x * M::splat(1 + bin_rounding); }

  // Bounds of the density in consecutive blocks; masses[0] is the mass of the first one, whose
  // neighbours lie on either side in the array.
  DDN_HOST_DEVICE V block_bounds(const float* masses) const {
    V sum = M::load(masses);
    for (int s = 1; s <= table_.block_reach; ++s) {
      const V sides = M::load(masses - s) + M::load(masses + s);
      sum = M::fma(sides, M::splat(table_.block[s]), sum);
    }
    return sum;
  }

  // The first cell with the largest bound. A search of a sorted window may discard every block;
  // the result is then the first cell of the block with the largest bound.
  DDN_HOST_DEVICE int top_cell(const Grid& grid) const {
    const Bins bins = set_.bins();
    const int bits = table_.block_bits;
    const int block = set_.first_largest(0, grid.cells >> bits, bins.bounds);
    if (!(bins.bounds[block] > floor_)) return block << bits;  // its cells have no bounds
    return set_.first_largest(block << bits, (block + 1) << bits, bins.upper);
  }

  // A bound of the density at any u left of the first cell or right of the last one: all mass
  // outside, and inside within the reach of K.
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

  const KernelTable& table_;
  float floor_ = discarded;  // blocks whose bound is not above it are discarded

 private:
  DDN_HOST_DEVICE Search& self() { return static_cast<Search&>(*this); }
};

}  // namespace ddn
