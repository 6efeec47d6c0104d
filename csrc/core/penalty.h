// What a penalty phi(z; alpha), z = u - x, has to say of itself. core/penalties.h has the
// penalties; docs/adding_a_penalty.md says how to add one.
//
// Everything is divided by phi''(0), so that sums over a set are free of the penalty's scale:
//
//   psi(z)      = phi'(z) / phi''(0)           in the units of z
//   dpsi(z)     = psi'(z)                      a number; 1 at z = 0
//   d2psi(z)    = alpha psi''(z)               of the smooth penalties
//   density(z)  = (phi(inf) - phi(z)) / (phi(inf) - phi(0))
//                                              of the non-convex penalties, which saturate: 1 at z
//                                              = 0, 0 far away. A larger sum, the kernel density,
//                                              is a smaller objective, and unlike the objective it
//                                              loses no digits to the points far away.
//   dpsi_dalpha(z) = d psi / d alpha           free of cancellation
//
// A Newton step is then -sum(psi) / sum(dpsi) and the implicit gradient dpsi(z_i) / sum(dpsi), for
// every penalty. psi is alpha times a function of t = z / alpha alone, so that d2psi and
// dpsi_dalpha give all second derivatives by z and alpha (core/second_order.h).
//
// A penalty P is a struct with
//
//   name, alias                 what Python calls it
//   tuning                      alpha over the standard deviation of normal points with which the
//                               pool has the variance of a mean of 95% of the points
//   certificate                 what proves its minimum: see Certificate
//   is_mean                     whether its minimiser is the mean
//   is_smooth                   whether psi' is: a descent then ends with a step of known outcome
//                               (core/newton.h). Smooth penalties are given t in the place of z
//   has_breakpoints             whether it is a parabola up to |z| = alpha and linear or
//                               constant beyond
//   has_flat_minima             whether its minimisers can fill an interval
//   terms(z, alpha)             psi, dpsi and d2psi of one point
//   add_moments(z, alpha, add)  the numbers that the solvers sum over a set, from which sums()
//                               makes the sums of psi, dpsi, density and d2psi: add(k, a, b) adds a
//                               b, two factors that one instruction multiplies and adds, to the
//                               k-th of `moments` sums; add.count(k, a, b) counts the points with a
//                               <= b in one of those from `first_count` on. The sums from
//                               `first_approximate` on to those need only some digits. Of a smooth
//                               penalty add_moments<true> is told that |t| is at most
//                               `most_bounded`
//   dpsi_dalpha(z, alpha)
//   value(z, alpha)             phi(z) itself, free of cancellation
//   second(alpha)               phi''(0)
//   limit(alpha)                phi(inf) of a non-convex penalty. Its psi(z) / z must be at most
//                               density(z) everywhere, or at most dpsi(z): the descent relies on it
//                               (core/newton.h)
//
// and, if it is smooth,
//
//   max_d2psi                   bound on |d2psi|
//   degree, max_rest            sums() has the Taylor polynomial of psi(u + alpha t) / alpha up to
//                               t^degree, and no point's next derivative exceeds max_rest
//   Approximate                 optional: the penalty whose sums a first step may take instead
//   AndHuber, Far               of Certificate::gaussian: the penalties of its first pass, which
//                               also sums Huber's, and of its descent from far away
//                               (core/local_minimum.h)
//
// or, if it has breakpoints,
//
//   moved(sums, shift, alpha)   the sums of the points that pass none as u moves
//   moves_squares, moves_beyond whether a pass has to fill those members of FixedSums
#pragma once

#include <type_traits>

#include "core/math.h"

namespace ddn {

// What proves that a minimum is global.
enum class Certificate {
  convex,    // the objective is convex: core/newton.h finds its minimum
  gaussian,  // the kernel density is a sum of Gaussians: core/certify/gaussian_search.h
  parabola,  // it is a sum of clipped parabolas: core/certify/parabola_search.h
};
template <class P>
constexpr bool is_convex = P::certificate == Certificate::convex;
template <class P>
constexpr bool is_gaussian = P::certificate == Certificate::gaussian;
template <class P>
constexpr bool is_parabola = P::certificate == Certificate::parabola;

// alpha and its reciprocal in the type of the computation.
template <class V>
struct Alpha {
  V alpha;
  V inverse;
  V breakpoint{};  // a distance from a breakpoint, for Huber
};

// That distance for a set of so many points, in units of alpha: such that usually none is nearer.
DDN_HOST_DEVICE double breakpoint_margin(int64_t points) {
  const double distance = 0.2 / static_cast<double>(points);
  return distance < 1e-5 ? 1e-5 : (distance < 2e-3 ? distance : 2e-3);
}

// Up to this |t|, powers of t times exp(-t^2 / 2), cut off at gauss_limit, are negligible far away.
constexpr double most_bounded = 1e3;

template <class V>
struct Terms {
  V psi;
  V dpsi;
  V d2psi;
};

// Sums over a set at one point u. V: double, or a SIMD vector with those of a set in each lane.
template <class V>
struct SumsIn {
  V psi{};
  V dpsi{};
  V density{};  // of the non-convex penalties; for Huber, see there
  V d2psi{};    // of the smooth penalties
};
using Sums = SumsIn<double>;
// Of those whose `degree` is above two, with the Taylor coefficients from the third on.
struct SeriesSums : Sums {
  double higher[4];
};

// Points that pass no breakpoint as u moves by `shift`, as they were before: the number of those
// between the breakpoints with the sums of z and z^2, and of those beyond, the left of u minus the
// right. A penalty that `has_breakpoints` tells their sums after the move.
struct FixedSums {
  double inside, sum, squares, beyond;
};

// What P::sums returns.
template <class P>
using SumsOf = decltype(P::sums(static_cast<const double*>(nullptr), 0.0));

namespace detail {
template <class P, class = void>
struct Approximation {
  using type = P;
};
template <class P>
struct Approximation<P, std::void_t<typename P::Approximate>> {
  using type = typename P::Approximate;
};
}  // namespace detail

// The penalty whose sums the first step of a descent may take in the place of P's.
template <class P>
using ApproximateOf = typename detail::Approximation<P>::type;

}  // namespace ddn
