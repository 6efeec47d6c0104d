// What the solvers see of a set.
//
// A `Set` is whatever lets its points be summed over: all lanes of a warp or all threads of a block
// call these functions together and get the same numbers; a CPU thread calls them alone. It has
//
//   using Scalar, Real                     type of the points, and of the arithmetic on them
//   int64_t points()                       their number
//   double  total_weight()                 sum of their weights; NaN when these are no weights
//   double  unit()                         what a weight of one stands for; see below
//   SetStatistics  statistics<middle>()               of all points; whether with where a descent
//   may begin SetStatistics  careful_statistics()               the same, exact when points are not
//   finite or overflow Sums    sums<P, V>(u, alpha)           at u, in arithmetic of type V void
//   with_sums<P, V>(alpha, f)      calls f(sums) with what gives sums(u) at one u after
//                                          another, each near the one before if it can be
//   Around  around(u, radius)              see there
//   double  objective<P>(u, alpha)         sum of w phi
//   int     rank(), size()                 of a thread among those that work on the set
//
// and, for the global search alone (core/certify/search.h),
//
//   using BinMath                          the Math of numbers in bins, or of SIMD vectors of them
//   void    sync()                         what they wrote to working memory is seen by all
//   double  largest(double x)              of their numbers; also a sync()
//   float   largest(float x)               likewise
//   void    sum(values)                    of their numbers, for each of an array; likewise
//   void    exclusive_scan(values)             of those of threads of smaller rank; likewise. Only
//                                          after sum(), which separates two such calls
//   int     group(), groups()              of a thread; groups take blocks of cells
//   bool    leads_group()                  whether it writes what is of its group
//   void    group_sync()                   orders the group's accesses to working memory
//   float   group_largest(x)               of the group's numbers
//   int     place(), places()              of a thread's cell, or vector of cells, among those
//                                          that a group takes at a time
//   Share   share()                        of the thread in a sum over bins (core/certify/bins.h),
//   and V       shared_sum(x)                  of the shares int     first_where(begin, end, f) the
//   first i in [begin, end) with f(i), else end int     last_where(begin, end, f)      the last
//   one, else begin - 1 int     first_largest(begin, end, x)   the first i of the largest x[i]
//   KernelTable    table<P>()                      the table of a penalty
//   int     most_cells()                   of a grid
//   Bins    bins()                         working memory for a grid
//   void    bin(grid, alpha)               counts the points in bins(); also a sync()
//   double  bin_excess()                   by how much the bins may hold more than the set weighs
//   SweepInput gather(centre, half, alpha) for a sweep of |u - centre| <= half or what a bound
//                                          leaves of it (core/certify/sweep.h): the points that
//                                          enter or leave are then in list(), sorted
//   int64_t sort()                         the finite points in list(), sorted; their number
//   List    list()                         with point(i) and weight(i)
//   Set     view(first, count)             a stretch of list() as a set
//   Series  series(centre, alpha)          see core/certify/series.h
//
// All sums are weighted. Weights are divided by a power of two, the unit, that brings the largest
// one to [1, 2): no sum over- or underflows because of them. A point of zero weight is no point of
// the set, whatever its value; `weighted` says whether the weights are not simply all one.
#pragma once

#include "core/args.h"
#include "core/math.h"
#include "core/penalties.h"

namespace ddn {

namespace detail {
constexpr double infinity = __builtin_huge_val();
}

struct SetStatistics {
  double mean;    // of the finite points (statistics(): of all, so that it tells of the others)
  double lo, hi;  // of the finite points
  double finite;  // their weight (statistics(): of all points)
  // Weights of points, from careful_statistics() only.
  double positive_infinities, negative_infinities, nans;
  // Where a descent may begin, if that was asked for: the mean, or what can be had with it and
  // follows outliers less.
  double middle;
};

// How the points lie about u: the weight nearer than the radius; of the points at least as far
// away, the weight on the left and the nearest one on each side (-inf, +inf where there is none).
struct Around {
  double nearer;
  double left;
  double below, above;
};

// A weight in the arithmetic of type V.
template <class V, class T>
DDN_HOST_DEVICE V weight_in(T weight) {
  return static_cast<V>(weight);
}
template <class V>
DDN_HOST_DEVICE One weight_in(One weight) {
  return weight;
}

// The unit of weights of which the largest is `largest`.
DDN_HOST_DEVICE double weight_unit(double largest) {
  const int exponent = largest > 0 ? ::ilogb(largest) : 0;
  return ::ldexp(1.0, exponent > -1022 ? exponent : -1022);
}

// A point u as a number of type Scalar and what remains: so that u - x keeps its relative accuracy
// however far from zero the set lies.
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

// What a penalty is given of a point: z = u - x, or t = z / alpha where it is smooth. (Where all z
// are so small beside alpha that t is subnormal, below 1e-38 in single precision, slopes lose
// digits: far below the accuracy of an answer, which is in units of alpha.)
template <class P, class V>
class Residuals {
 public:
  DDN_HOST_DEVICE Residuals(V base, V offset, const Alpha<V>& alpha)
      : base_(base), offset_(offset), inverse_(alpha.inverse) {
    // Bounded, or it might become an infinity beside another one of the other sign. What it is
    // beyond that does not matter: u - x is either no less or all that there is of z.
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
