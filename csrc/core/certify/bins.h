// The points of a set counted in bins, and the bounds of the kernel density from the counts.
//
// The kernel density of a non-convex penalty, D(u) = sum_i w_i K(u - x_i), falls as the objective
// rises (core/penalty.h). Points are counted in bins whose width is a fraction of alpha. Each bin
// keeps its mass and the first moment of its points about its centre. The same intervals serve as
// cells, the intervals of u.
//
// Note: [The bound on a cell]
// For u = c + d h in the cell about c and a point x = b + o h in the bin about b, with c - b = D
// and |d|, |o| <= 1/2 (h is the width of a bin),
//
//   K(u - x) = K(D) + K'(D) h (d - o) + r,    |r| <= h^2/2 max |K''| on [D - h, D + h].
//
// Summed over all bins, with the mass m and the moment M of each, the density in the cell is at
// most
//
//   sum (m K(D) - M K'(D) h) + |sum m K'(D) h| / 2 + sum m |r|.
//
// Where K is not smooth (at the edge of the truncated quadratic), an upper bound of K replaces the
// expansion and is counted as remainder. docs/global.md, section 4, derives the bound with its
// rounding.
#pragma once

#include "core/penalties.h"

namespace ddn {

// The layout of the bins: one bin for all points further left, `pad` bins, the bins of the cells,
// `pad` bins, and one bin for all points further right.
struct Grid {
  double origin;  // left end of the first cell
  double width;   // of a cell
  int cells;      // whole blocks of width alpha
  int pad;        // bins on either side of the cells, whole blocks

  DDN_HOST_DEVICE int bins() const { return cells + 2 * pad + 2; }
  DDN_HOST_DEVICE int bin_of_cell(int cell) const { return cell + pad + 1; }
  DDN_HOST_DEVICE double left(int cell) const {
    return added(origin, static_cast<double>(cell), width);
  }
  DDN_HOST_DEVICE double centre(int cell) const { return added(origin, cell + 0.5, width); }
};

// The largest error of a point's place, in bins. The place is a fixed-point number with at least
// ten binary digits after the point; the error consists of the rounding of single precision at the
// last of 2^11 bins and of half a unit of the fixed point.
constexpr double bin_place_error = 1.5e-3;

// Arrays in the working memory of a thread group, with grid.bins() elements each and `bins_slack`
// spare ones. Single precision suffices, see bin_rounding.
struct Bins {
  float* mass;
  float* moment;  // in bin widths
  float* centre;  // by cell: approximate density at its centre; unset if its block is discarded
  float* upper;   // by cell: bound of its density, or `discarded`; unset likewise
  float* blocks;  // by block of width alpha, from the first of the pad on: its mass
  float* bounds;  // by block of cells: bound of its density, or `discarded`
};
constexpr int bins_slack = 16;
constexpr int min_block = 8;  // in cells: divides every block, a multiple of the SIMD width
constexpr float discarded = -1;

// The rounding of a sum over bins in single precision, relative to the sum of the magnitudes of its
// terms: no term undergoes more than max_reach + 11 roundings of 2^-24.
constexpr double bin_rounding = 4e-6;

// The kernel table: the factors with which a bin enters the bounds on a cell, by the distance
// D = u - x of their centres, in bins.
struct KernelTable {
  static constexpr int max_reach = 44;
  static constexpr int max_block_reach = 6;
  static constexpr int max_per_alpha = 16;
  int block_bits;                    // a block of width alpha has 2^block_bits bins
  int reach;                         // in bins
  int block_reach;                   // in blocks
  float value[max_reach + 1];        // K(D)
  float derivative[max_reach + 1];   // K'(D) h
  float slack[max_reach + 1];        // bound of |r|
  float curvature[max_reach + 1];    // smooth penalties: K''(D) h^2 plus the bound of its remainder
  float third[max_reach + 1];        // K'''(D) h^3
  float block[max_block_reach + 1];  // max K between two blocks
  double tail;                       // max K beyond the reach
  double tail_curvature;             // max K'' beyond the reach

  DDN_HOST_DEVICE int per_alpha() const { return 1 << block_bits; }
};

// Two bins at the same distance from a cell, left and right of it. K is even, so they share their
// factors up to the sign: even() is the sum of their masses, odd() the difference. With a SIMD
// vector, lane i is for the cell of bin `bin` + i. M: the Math of a scalar or of a SIMD vector.
template <class M>
struct BinPair {
  using V = typename M::V;
  V left_mass, right_mass, left_moment, right_moment;

  DDN_HOST_DEVICE BinPair(const Bins& bins, int bin, int distance)
      : left_mass(M::load(bins.mass + bin - distance)),
        right_mass(M::load(bins.mass + bin + distance)),
        left_moment(M::load(bins.moment + bin - distance)),
        right_moment(M::load(bins.moment + bin + distance)) {}
  DDN_HOST_DEVICE V even() const { return left_mass + right_mass; }
  DDN_HOST_DEVICE V odd() const { return left_mass - right_mass; }
  DDN_HOST_DEVICE V odd_moment() const { return left_moment - right_moment; }
};

// The part of a sum over bins that one thread takes: the distances from `rank` on with stride
// `count`. The sums of all threads are added.
struct Share {
  int rank, count;
};

template <class M>
struct CellBounds {
  typename M::V value, derivative, slack;
};
template <class M>
DDN_HOST_DEVICE CellBounds<M> bound_cells(const Bins& bins, const KernelTable& table, int bin,
                                          Share share) {
  using V = typename M::V;
  // Four independent accumulators hide the latency of the additions. At distance zero K' is zero.
  const V own = share.rank == 0 ? M::load(bins.mass + bin) : V{};
  V value = own * M::splat(table.value[0]), shift{}, derivative{},
    slack = own * M::splat(table.slack[0]);
  for (int t = 1 + share.rank; t <= table.reach; t += share.count) {
    const BinPair<M> pair(bins, bin, t);
    const V factor = M::splat(table.derivative[t]), even = pair.even();
    value = M::fma(even, M::splat(table.value[t]), value);
    slack = M::fma(even, M::splat(table.slack[t]), slack);
    derivative = M::fma(pair.odd(), factor, derivative);
    shift = M::fma(pair.odd_moment(), factor, shift);
  }
  return {value - shift, derivative, slack};
}

// The expansion of Note [The bound on a cell] with K'' in place of K, in units of h^2. A bound of
// the second derivative of the density in the cells is value + |derivative| / 2.
template <class M>
struct CellCurvatures {
  typename M::V value, derivative;
};
template <class M>
DDN_HOST_DEVICE CellCurvatures<M> bound_curvature(const Bins& bins, const KernelTable& table,
                                                  int bin, Share share) {
  using V = typename M::V;
  const V own = share.rank == 0 ? M::load(bins.mass + bin) : V{};
  V value = own * M::splat(table.curvature[0]), shift{}, derivative{};
  for (int t = 1 + share.rank; t <= table.reach; t += share.count) {
    const BinPair<M> pair(bins, bin, t);
    const V factor = M::splat(table.third[t]);
    value = M::fma(pair.even(), M::splat(table.curvature[t]), value);
    shift = M::fma(pair.odd_moment(), factor, shift);
    derivative = M::fma(pair.odd(), factor, derivative);
  }
  return {value - shift, derivative};
}

// A slack plus a bound of the rounding of the terms to which it belongs. The moment of a bin is at
// most 0.51 of its mass, so the two terms with K' are at most 1.02 |derivative| per unit of mass.
inline double with_rounding(double slack, double value, double derivative) {
  return slack + bin_rounding * (slack + std::fabs(value) + 1.02 * std::fabs(derivative));
}

// The kernel table of K(z) = exp(-z^2/2).
inline void fill_gaussian_table(KernelTable& table, int reach_alpha) {
  const double h = 1.0 / table.per_alpha(), far = h * (1 + 2 * bin_place_error);
  table.reach = reach_alpha * table.per_alpha();
  table.block_reach = reach_alpha + 1;
  for (int t = 0; t <= table.reach; ++t) {
    // K and its derivatives: K^(n+1) = -(z K^(n) + n K^(n-1)).
    const double z = t * h;
    double d[6];
    d[0] = std::exp(-0.5 * z * z);
    d[1] = -z * d[0];
    for (int n = 1; n < 5; ++n) d[n + 1] = -(z * d[n] + n * d[n - 1]);
    const double derivative = d[1] * h, curvature = d[2] * h * h, third = d[3] * h * h * h;
    // |K^(3)| <= Welsch::max_d2psi, since psi = -alpha K'; |K^(5)| <= 5.7832.
    const double slack = 0.5 * far * far * (std::fabs(d[2]) + Welsch::max_d2psi * far) +
                         std::fabs(derivative) * bin_place_error;
    const double curvature_slack = 0.5 * h * h * far * far * (std::fabs(d[4]) + 5.7832 * far) +
                                   std::fabs(third) * bin_place_error;
    table.value[t] = static_cast<float>(d[0]);
    table.derivative[t] = static_cast<float>(derivative);
    table.slack[t] = static_cast<float>(with_rounding(slack, d[0], derivative));
    table.curvature[t] =
        static_cast<float>(curvature + with_rounding(curvature_slack, curvature, third));
    table.third[t] = static_cast<float>(third);
  }
  for (int s = 0; s <= table.block_reach; ++s) {
    const double gap = s > 1 ? s - 1 - 2 * h * bin_place_error : 0;
    table.block[s] = static_cast<float>(std::exp(-0.5 * gap * gap));
  }
  const double beyond = reach_alpha - h;
  table.tail = std::exp(-0.5 * beyond * beyond);
  table.tail_curvature = beyond * beyond * table.tail;
}

// The kernel table of K(z) = max(0, 1 - z^2). A bin at the edge of the kernel counts with an upper
// bound.
inline void fill_parabola_table(KernelTable& table) {
  const double h = 1.0 / table.per_alpha();
  table.reach = table.per_alpha() + 1;
  table.block_reach = 2;
  for (int t = 0; t <= table.reach; ++t) {
    const double nearest = (t - 1 - 2 * bin_place_error) * h;
    const bool inside = t < table.per_alpha();
    const double value = inside ? 1 - t * h * (t * h) : 0, derivative = inside ? -2 * t * h * h : 0;
    // Inside, K is its tangent minus a square that is at most (h/2)^2 at the centre of a cell.
    const double slack = inside ? 0.25 * h * h * 1.01 + 6 * h * bin_place_error
                                : std::fmax(0, 1 - nearest * nearest);
    table.value[t] = static_cast<float>(value);
    table.derivative[t] = static_cast<float>(derivative);
    table.slack[t] = static_cast<float>(with_rounding(slack, value, derivative));
    table.curvature[t] = table.third[t] = 0;
  }
  table.block[0] = table.block[1] = 1;
  table.block[2] = static_cast<float>(4 * h * bin_place_error);
  table.tail = table.tail_curvature = 0;
}

template <class P>
inline KernelTable make_kernel_table() {
  KernelTable table{};
  static_assert(is_gaussian<P> || is_parabola<P>);
  constexpr int block_bits = is_gaussian<P> ? 3 : 4;  // docs/global.md, section 3
  static_assert((1 << block_bits) % min_block == 0 &&
                1 << block_bits <= KernelTable::max_per_alpha);
  table.block_bits = block_bits;
  if constexpr (is_gaussian<P>) {
    fill_gaussian_table(table, /*reach_alpha=*/5);
  } else {
    fill_parabola_table(table);
  }
  return table;
}

}  // namespace ddn
