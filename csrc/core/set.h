// The interface between the solvers and the points of a set.
//
// A `Set` computes sums over the points of one set. On CUDA all threads of a thread group (a warp
// or a block) call these functions together and get the same results; a CPU thread calls them
// alone. Members:
//
//   using Scalar, Real             type of the points, and of the arithmetic on them
//   int64_t points()               number of points
//   double  total_weight()         sum of the weights; NaN if a weight is negative or not finite
//   double  unit()                 the power of two by which weights are divided, see below
//   SetStatistics statistics<middle>()
//                                  of all points; middle: whether `middle` is computed
//   SetStatistics careful_statistics()
//                                  the same, exact if points are not finite or sums overflow
//   Sums    sums<P, V>(u, alpha)   at u, in arithmetic of type V
//   Sums    sums<P, V>(u, alpha, breakpoint)
//                                  the same, with the given margin of breakpoints (see Alpha)
//   void    with_sums<P, V>(alpha, f)
//                                  calls f(sums), where sums(u) may be called for a sequence of
//                                  nearby u and reuses earlier passes if it can
//   Around  around(u, radius)      see Around
//   double  objective<P>(u, alpha) sum of w phi
//   int     rank(), size()         of a thread in the thread group of the set
//
// For the global search alone (core/certify/search.h):
//
//   using BinMath                  the Math of numbers in bins, or of SIMD vectors of them
//   void    sync()                 a barrier of the thread group, for its working memory
//   double  largest(double x)      the maximum over the threads; also a sync()
//   float   largest(float x)       likewise
//   void    sum(values)            sums over the threads, for each element of an array; also a
//                                  sync()
//   void    exclusive_scan(values) sums over the threads of smaller rank, for each element; also a
//                                  sync(). Two such calls must be separated by a sum()
//   int     group(), groups()      of a thread; groups of threads share the blocks of cells
//   bool    leads_group()          whether the thread writes the results of its group
//   void    group_sync()           orders the group's accesses to working memory
//   float   group_largest(x)       the maximum over the group
//   int     place(), places()      index of the thread's cell, or vector of cells, among those that
//                                  a group takes at a time, and their number
//   Share   share()                the thread's part of a sum over bins (core/certify/bins.h)
//   V       shared_sum(x)          the sum of these parts
//   int     first_where(begin, end, f)
//                                  the first i in [begin, end) with f(i); end if there is none
//   int     last_where(begin, end, f)
//                                  the last such i; begin - 1 if there is none
//   int     first_largest(begin, end, x)
//                                  the first i with the largest x[i]
//   KernelTable table<P>()         the kernel table of a penalty
//   int     max_cells()            the largest number of cells of a grid
//   Bins    bins()                 working memory for a grid
//   void    bin(grid, alpha)       counts the points in bins(); also a sync()
//   double  bin_excess()           by how much the mass of the bins may exceed the total weight
//   SweepInput gather(centre, half, alpha)
//                                  for a sweep of the run |u - centre| <= half, or of the part that
//                                  narrowing leaves (core/certify/sweep.h); list() then has the
//                                  points that enter or leave, sorted
//   int64_t sort()                 puts the finite points into list(), sorted; returns their number
//   List    list()                 with point(i) and weight(i)
//   Set     view(first, count)     a range of list() as a set
//   Series  series(centre, alpha)  see core/certify/series.h
//   void    cell_sums<Cell>(centre, radius, alpha, sums)
//                                  the sums of a cell of the distributed search, and those that
//                                  series() is made of
//
// All sums are weighted. Weights are divided by a power of two, the unit, such that the largest
// lies in [1, 2); hence no sum overflows or underflows because of the scale of the weights. A point
// of zero weight is excluded, whatever its value. `weighted` is false if all weights are one.
#pragma once

#include "core/args.h"
#include "core/math.h"
#include "core/penalties.h"

namespace ddn {

namespace detail {
constexpr double infinity = __builtin_huge_val();
}

struct SetStatistics {
  double mean;    // of the finite points; from statistics() of all, not finite if a point is not
  double lo, hi;  // of the finite points
  double finite;  // weight of the finite points; from statistics() of all
  // Weights of the other points, from careful_statistics() only.
  double positive_infinities, negative_infinities, nans;
  // A start for a descent, if requested: the mean, or a less outlier-sensitive location that the
  // same pass yields.
  double middle;
};

// The distribution of the points about u. nearer: the weight of the points nearer than the radius.
// Of the other points, left: the weight of those left of u; below, above: the nearest one on each
// side (-inf, +inf if there is none).
struct Around {
  double nearer;
  double left;
  double below, above;
};

// Converts a weight to the arithmetic type V; One stays One.
template <class V, class T>
DDN_HOST_DEVICE V weight_in(T weight) {
  return static_cast<V>(weight);
}
template <class V>
DDN_HOST_DEVICE One weight_in(One weight) {
  return weight;
}

// The unit of weights whose maximum is `largest`.
DDN_HOST_DEVICE double weight_unit(double largest) {
  const int exponent = largest > 0 ? ::ilogb(largest) : 0;
  return ::ldexp(1.0, exponent > -1022 ? exponent : -1022);
}

// A place u as the nearest number of type Scalar and a remainder, so that u - x keeps its relative
// accuracy however far from zero the set lies.
template <class Scalar, class V>
struct Split {
  Scalar base;
  V offset;
  explicit DDN_HOST_DEVICE Split(double u)
      : base(static_cast<Scalar>(u)), offset(static_cast<V>(u - static_cast<double>(base))) {
    if (!is_finite(static_cast<double>(base))) offset = 0;
  }
};

template <class V>
DDN_HOST_DEVICE V residual(V x, V base, V offset) {
  return (base - x) + offset;
}

// The argument of a penalty's functions: z = u - x, or t = z / alpha for a smooth penalty. A
// subnormal t (below 1e-38 in single precision) loses digits of psi, far below the accuracy of an
// answer, which is relative to alpha.
template <class P, class V>
class Residuals {
 public:
  DDN_HOST_DEVICE Residuals(V base, V offset, const Alpha<V>& alpha)
      : base_(base), offset_(offset), inverse_(alpha.inverse) {
    // Clipped, since two infinite terms of opposite sign would sum to NaN. The value beyond the
    // clip is irrelevant: either x == base, and the point is far away in any case, or |base - x| is
    // no smaller than the offset.
    if constexpr (P::is_smooth) offset_ = clip(offset * alpha.inverse, Math<V>::splat(1e18));
  }
  DDN_HOST_DEVICE V operator()(V x) const {
    if constexpr (P::is_smooth) {
      return Math<V>::fma(base_ - x, inverse_, offset_);
    } else {
      return residual(x, base_, offset_);
    }
  }

 private:
  V base_, offset_, inverse_;
};

}  // namespace ddn
