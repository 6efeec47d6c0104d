// The points of a set counted in bins, and what the counts prove about the density.
//
// The density of a non-convex penalty, D(u) = sum_i w_i K(u - x_i), falls as the objective rises
// (core/penalties.h). Points are counted in bins a fraction of alpha wide; each bin keeps its mass
// and the first moment of its points about its centre. A cell is a bin as a place for u.
//
// Note: [The bound on a cell]
// For u = c + d h in the cell about c and a point x = b + o h in the bin about b, with c - b = D
// and |d|, |o| <= 1/2 (h is the width of a bin),
//
//   K(u - x) = K(D) + K'(D) h (d - o) + r,    |r| <= h^2/2 max |K''| on [D - h, D + h].
//
// Summed over all bins: the density in the cell is at most
//
//   sum (m K(D) - M K'(D) h) + |sum m K'(D) h| / 2 + sum m |r|
//
// with the mass m and the moment M of each bin. Where K is not smooth (at the edge of the truncated
// quadratic) a bin's terms are replaced by an upper bound of K, a part of the remainder.
// docs/global.md derives all of it, with the rounding.
#pragma once

#include "core/penalties.h"

namespace ddn {

// Bin i of the arrays below: 0 holds all that lies further left, then `pad` bins, then the cells,
// then `pad` bins, then all that lies further right.
struct Grid {
  double origin;  // left end of the first cell
  double width;   // of a cell
  int cells;      // whole blocks of width alpha
  int pad;        // likewise

  DDN_HOST_DEVICE int bins() const { return cells + 2 * pad + 2; }
  DDN_HOST_DEVICE int bin_of_cell(int cell) const { return cell + pad + 1; }
  DDN_HOST_DEVICE double left(int cell) const {
    return added(origin, static_cast<double>(cell), width);
  }
  DDN_HOST_DEVICE double centre(int cell) const { return added(origin, cell + 0.5, width); }
};

// How far a point may lie from where its place, a fixed-point number of bins with ten binary digits
// or more, says, in bins: the rounding of single precision at the last of 2^11 bins, and half a
// unit of the fixed point.
constexpr double bin_doubt = 1.5e-3;

// Arrays of a thread group's working memory, of grid.bins() numbers each (and `bins_slack` spare
// ones). Bounds are as good in single precision, see bin_rounding.
struct Bins {
  float* mass;
  float* moment;  // in bin widths
  float* centre;  // by cell: about the density at its centre; nothing where its block was discarded
  float* upper;   // likewise: bound of the density in it, or `discarded`
  float* blocks;  // the mass of each block of width alpha, those of the pad first
  float* bounds;  // by block: bound of the density there, or `discarded`
};
constexpr int bins_slack = 16;
constexpr int least_block = 8;  // cells: blocks have a multiple, vectors a divisor of so many
constexpr float discarded = -1;

// Of sums over bins in single precision, relative to the sum of the terms' magnitudes: no number
// passes more than most + 11 roundings of 2^-24.
constexpr double bin_rounding = 4e-6;

// What a bin adds to the bounds on a cell, by the distance D = u - x between their centres, in
// bins.
struct KernelTable {
  static constexpr int most = 44;
  static constexpr int most_blocks = 6;
  static constexpr int most_per_alpha = 16;
  int block_bits;                // there are 2^block_bits bins per alpha: a block
  int reach;                     // in bins
  int block_reach;               // in blocks
  float value[most + 1];         // K(D)
  float slope[most + 1];         // K'(D) h
  float slack[most + 1];         // bound of |r|
  float bend[most + 1];          // of smooth penalties only: bound of K'' h^2 less its linear part,
  float d2psi[most + 1];         // K'''(D) h^3
  float block[most_blocks + 1];  // max K between two blocks
  double tail;                   // max K beyond the reach
  double tail_bend;              // max K'' there

  DDN_HOST_DEVICE int per_alpha() const { return 1 << block_bits; }
};

// The sums over bins below are for the cells whose bins are bin, bin + 1, ...; M is the Math of a
// number or of a SIMD vector of them. K is even, so that two bins at the same distance share their
// factors: even() and odd() are the sum and the difference of the masses of the one on the left and
// the one on the right.
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

// Several threads may share a sum over bins: each takes every `count`-th distance from that of its
// `rank` on, and the sums of all are added.
struct Share {
  int rank, count;
};

template <class M>
struct CellBounds {
  typename M::V value, slope, slack;
};
template <class M>
DDN_HOST_DEVICE CellBounds<M> bound_cells(const Bins& bins, const KernelTable& table, int bin,
                                          Share share) {
  using V = typename M::V;
  // Sums of their own for every product: none waits for another. At distance zero K' is zero.
  const V own = share.rank == 0 ? M::load(bins.mass + bin) : V{};
  V value = own * M::splat(table.value[0]), shift{}, slope{},
    slack = own * M::splat(table.slack[0]);
  for (int t = 1 + share.rank; t <= table.reach; t += share.count) {
    const BinPair<M> pair(bins, bin, t);
    const V factor = M::splat(table.slope[t]), even = pair.even();
    value = M::fma(even, M::splat(table.value[t]), value);
    slack = M::fma(even, M::splat(table.slack[t]), slack);
    slope = M::fma(pair.odd(), factor, slope);
    shift = M::fma(pair.odd_moment(), factor, shift);
  }
  return {value - shift, slope, slack};
}

// The expansion of Note [The bound on a cell] for K'' in the place of K, in units of h^2: a bound
// of D'' in the cells is value + |slope| / 2.
template <class M>
struct CellBends {
  typename M::V value, slope;
};
template <class M>
DDN_HOST_DEVICE CellBends<M> bend_cells(const Bins& bins, const KernelTable& table, int bin,
                                        Share share) {
  using V = typename M::V;
  const V own = share.rank == 0 ? M::load(bins.mass + bin) : V{};
  V value = own * M::splat(table.bend[0]), shift{}, slope{};
  for (int t = 1 + share.rank; t <= table.reach; t += share.count) {
    const BinPair<M> pair(bins, bin, t);
    const V factor = M::splat(table.d2psi[t]);
    value = M::fma(pair.even(), M::splat(table.bend[t]), value);
    shift = M::fma(pair.odd_moment(), factor, shift);
    slope = M::fma(pair.odd(), factor, slope);
  }
  return {value - shift, slope};
}

// A slack, and what rounding may add to the terms of which it is the slack: a moment is no more
// than 0.51 of its mass.
inline double with_rounding(double slack, double value, double slope) {
  return slack + bin_rounding * (slack + std::fabs(value) + 1.02 * std::fabs(slope));
}

// The table of K(z) = exp(-z^2/2).
inline void fill_gaussian_table(KernelTable& table, int reach_alpha) {
  const double h = 1.0 / table.per_alpha(), far = h * (1 + 2 * bin_doubt);
  table.reach = reach_alpha * table.per_alpha();
  table.block_reach = reach_alpha + 1;
  for (int t = 0; t <= table.reach; ++t) {
    // K and its derivatives: K^(n+1) = -(z K^(n) + n K^(n-1)).
    const double z = t * h;
    double d[6];
    d[0] = std::exp(-0.5 * z * z);
    d[1] = -z * d[0];
    for (int n = 1; n < 5; ++n) d[n + 1] = -(z * d[n] + n * d[n - 1]);
    const double slope = d[1] * h, bend = d[2] * h * h, d2psi = d[3] * h * h * h;
    // |K^(3)| <= 1.3802, |K^(5)| <= 5.7832.
    const double slack =
        0.5 * far * far * (std::fabs(d[2]) + 1.3802 * far) + std::fabs(slope) * bin_doubt;
    const double bend_slack =
        0.5 * h * h * far * far * (std::fabs(d[4]) + 5.7832 * far) + std::fabs(d2psi) * bin_doubt;
    table.value[t] = static_cast<float>(d[0]);
    table.slope[t] = static_cast<float>(slope);
    table.slack[t] = static_cast<float>(with_rounding(slack, d[0], slope));
    table.bend[t] = static_cast<float>(bend + with_rounding(bend_slack, bend, d2psi));
    table.d2psi[t] = static_cast<float>(d2psi);
  }
  for (int s = 0; s <= table.block_reach; ++s) {
    const double gap = s > 1 ? s - 1 - 2 * h * bin_doubt : 0;
    table.block[s] = static_cast<float>(std::exp(-0.5 * gap * gap));
  }
  const double beyond = reach_alpha - h;
  table.tail = std::exp(-0.5 * beyond * beyond);
  table.tail_bend = beyond * beyond * table.tail;
}

// The table of K(z) = max(0, 1 - z^2). A bin that the edge may cut counts with its upper bound.
inline void fill_parabola_table(KernelTable& table) {
  const double h = 1.0 / table.per_alpha();
  table.reach = table.per_alpha() + 1;
  table.block_reach = 2;
  for (int t = 0; t <= table.reach; ++t) {
    const double nearest = (t - 1 - 2 * bin_doubt) * h;
    const bool inside = t < table.per_alpha();
    const double value = inside ? 1 - t * h * (t * h) : 0, slope = inside ? -2 * t * h * h : 0;
    // Inside, K is its tangent less a square of at most (h/2)^2 at the centre of a cell.
    const double slack =
        inside ? 0.25 * h * h * 1.01 + 6 * h * bin_doubt : std::fmax(0, 1 - nearest * nearest);
    table.value[t] = static_cast<float>(value);
    table.slope[t] = static_cast<float>(slope);
    table.slack[t] = static_cast<float>(with_rounding(slack, value, slope));
    table.bend[t] = table.d2psi[t] = 0;
  }
  table.block[0] = table.block[1] = 1;
  table.block[2] = static_cast<float>(4 * h * bin_doubt);
  table.tail = table.tail_bend = 0;
}

template <class P>
inline KernelTable make_kernel_table() {
  KernelTable table{};
  static_assert(is_gaussian<P> || is_parabola<P>);
  constexpr int block_bits = is_gaussian<P> ? 3 : 4;  // docs/global.md, section 3
  static_assert((1 << block_bits) % least_block == 0 &&
                1 << block_bits <= KernelTable::most_per_alpha);
  table.block_bits = block_bits;
  if constexpr (is_gaussian<P>) {
    fill_gaussian_table(table, /*reach_alpha=*/5);
  } else {
    fill_parabola_table(table);
  }
  return table;
}

}  // namespace ddn
