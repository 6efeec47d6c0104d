// The penalties, one struct each: the only place with their formulas. core/penalty.h lists the
// members of a struct.
//
// Sources: S. Gould, R. Hartley, D. Campbell, "Deep Declarative Networks", IEEE TPAMI 44(8), 2022,
// section 5.2 (the five penalties); P. J. Huber, Ann. Math. Statist. 35, 1964 (huber); J. E.
// Dennis, R. E. Welsch, Comm. Statist. B7, 1978 (welsch). `tuning`: P. W. Holland, R. E. Welsch,
// Comm. Statist. A6(9), 1977 (huber 1.345; welsch 2.985, over sqrt(2), as theirs is exp(-(z / c)^2)
// and here it is exp(-z^2 / (2 alpha^2)); truncated_quadratic 2.795, Talwar's function);
// pseudo_huber found numerically (tests/core/test_scale.py).
#pragma once

#include "core/penalty.h"

namespace ddn {

struct Quadratic {
  static constexpr const char* name = "quadratic";
  static constexpr const char* alias = "Q";
  static constexpr double tuning = 1;  // alpha has no effect
  static constexpr Certificate certificate = Certificate::convex;
  static constexpr bool is_mean = true;
  static constexpr bool is_smooth = false;
  static constexpr bool has_breakpoints = false;
  static constexpr bool has_flat_minima = false;

  template <class V>
  static DDN_HOST_DEVICE Terms<V> terms(V z, const Alpha<V>&) {
    return {z, Math<V>::splat(1), Math<V>::splat(0)};
  }
  static constexpr int moments = 2, first_approximate = 1, first_count = 1;
  template <class V, class Add>
  static DDN_HOST_DEVICE void add_moments(V z, const Alpha<V>&, const Add& add) {
    add(0, z, One{});
    add.count(1, Math<V>::splat(0), Math<V>::splat(0));
  }
  template <class V>
  static DDN_HOST_DEVICE SumsIn<V> sums(const V* m, V) {
    return {m[0], m[1]};
  }
  template <class V>
  static DDN_HOST_DEVICE V dpsi_dalpha(V, const Alpha<V>&) {
    return Math<V>::splat(0);
  }
  static DDN_HOST_DEVICE double value(double z, double) { return 0.5 * z * z; }
  static DDN_HOST_DEVICE double second(double) { return 1; }
};

struct PseudoHuberApproximate;

struct PseudoHuber {
  using Approximate = PseudoHuberApproximate;
  static constexpr const char* name = "pseudo_huber";
  static constexpr const char* alias = "PH";
  static constexpr double tuning = 1.287;
  static constexpr Certificate certificate = Certificate::convex;
  static constexpr bool is_mean = false;
  static constexpr bool is_smooth = true;
  static constexpr bool has_breakpoints = false;
  static constexpr double max_d2psi = 0.86;
  static constexpr int degree = 2;
  static constexpr double max_rest = 3;
  static constexpr bool has_flat_minima = false;

  // The limit to which t is clipped: psi equals alpha to the last bit there (exactly alpha for an
  // infinite point), psi' underflows to zero, and t^2 does not overflow.
  template <class V>
  static DDN_HOST_DEVICE V limit() {
    return Math<V>::splat(sizeof(typename Math<V>::Scalar) == 8 ? 1e150 : 1e18);
  }
  template <class V>
  static DDN_HOST_DEVICE Terms<V> terms(V t, const Alpha<V>& a) {
    const V most = limit<V>(), near = clip(t, most);
    const V r = Math<V>::rsqrt(min(Math<V>::fma(t, t, Math<V>::splat(1)), most * most));
    const V square = r * r, cube = square * r;
    return {near * r * a.alpha, cube, Math<V>::splat(-3) * near * square * cube};
  }
  static constexpr int moments = 3, first_approximate = 3, first_count = 3;
  template <bool bounded, class V, class Add>
  static DDN_HOST_DEVICE void add_moments(V t, const Alpha<V>&, const Add& add) {
    if constexpr (!bounded) t = clip(t, limit<V>());
    add_with(t, Math<V>::rsqrt(Math<V>::fma(t, t, Math<V>::splat(1))), add);
  }
  template <class V, class Add>
  static DDN_HOST_DEVICE void add_with(V t, V r, const Add& add) {
    const V square = r * r, cube = square * r;
    add(0, t, r);
    add(1, cube, One{});
    add(2, t * square, cube);
  }
  template <class V>
  static DDN_HOST_DEVICE SumsIn<V> sums(const V* m, V alpha) {
    return {m[0] * alpha, m[1], V{}, -3.0 * m[2]};
  }
  template <class V>
  static DDN_HOST_DEVICE V dpsi_dalpha(V t, const Alpha<V>&) {
    t = clip(t, limit<V>());
    const V sine = t * Math<V>::rsqrt(Math<V>::fma(t, t, Math<V>::splat(1)));
    return sine * sine * sine;
  }
  static DDN_HOST_DEVICE double value(double z, double alpha) {
    // For large t the square would overflow; the quotient is 1 there.
    const double t = ::fabs(z / alpha);
    return alpha * ::fabs(z) * (t < 1e150 ? t / (1 + ::sqrt(added(1.0, t, t))) : 1);
  }
  static DDN_HOST_DEVICE double second(double) { return 1; }
};

// PseudoHuber with an approximate square root, for a first step.
struct PseudoHuberApproximate : PseudoHuber {
  template <bool bounded, class V, class Add>
  static DDN_HOST_DEVICE void add_moments(V t, const Alpha<V>&, const Add& add) {
    if constexpr (!bounded) t = clip(t, limit<V>());
    add_with(t, Math<V>::approximate_rsqrt(Math<V>::fma(t, t, Math<V>::splat(1))), add);
  }
};

struct Huber {
  static constexpr const char* name = "huber";
  static constexpr const char* alias = "H";
  static constexpr double tuning = 1.345;
  static constexpr Certificate certificate = Certificate::convex;
  static constexpr bool is_mean = false;
  static constexpr bool is_smooth = false;
  static constexpr bool has_breakpoints = true;
  static constexpr bool has_flat_minima = true;

  // A point at a distance of exactly alpha is inside.
  template <class V>
  static DDN_HOST_DEVICE Terms<V> terms(V z, const Alpha<V>& a) {
    const V zero = Math<V>::splat(0), one = Math<V>::splat(1);
    return {clip(z, a.alpha), absolute(z) <= a.alpha ? one : zero, zero};
  }
  // The field `density` has the weight of the points near a breakpoint, on either side of it: a
  // small step may move them across.
  static constexpr int moments = 3, first_approximate = 1, first_count = 1;
  template <class V, class Add>
  static DDN_HOST_DEVICE void add_moments(V z, const Alpha<V>& a, const Add& add) {
    const V distance = absolute(z);
    add(0, clip(z, a.alpha), One{});
    add.count(1, distance, a.alpha);
    add.count(2, absolute(distance - a.alpha), a.breakpoint);
  }
  template <class V>
  static DDN_HOST_DEVICE SumsIn<V> sums(const V* m, V) {
    return {m[0], m[1], m[2]};
  }
  static constexpr bool moves_squares = false, moves_beyond = true;
  static DDN_HOST_DEVICE Sums moved(const FixedSums& s, double shift, double alpha) {
    return {added(added(s.sum, s.inside, shift), s.beyond, alpha), s.inside, 0, 0};
  }
  template <class V>
  static DDN_HOST_DEVICE V dpsi_dalpha(V z, const Alpha<V>& a) {
    const V zero = Math<V>::splat(0), one = Math<V>::splat(1);
    const V sign = z < zero ? -one : one;
    return absolute(z) > a.alpha ? sign : zero;
  }
  static DDN_HOST_DEVICE double value(double z, double alpha) {
    const double distance = ::fabs(z);
    return distance <= alpha ? 0.5 * z * z : alpha * (distance - 0.5 * alpha);
  }
  static DDN_HOST_DEVICE double second(double) { return 1; }
};

// Huber for a descent that another one at the same alpha follows, such that they can share a pass
// over the breakpoints.
struct HuberFirst : Huber {
  static constexpr bool moves_squares = true;
};

struct WelschFar;
struct WelschAndHuber;

struct Welsch {
  using Far = WelschFar;
  using AndHuber = WelschAndHuber;
  static constexpr const char* name = "welsch";
  static constexpr const char* alias = "W";
  static constexpr double tuning = 2.985 / 1.4142135623730951;
  static constexpr Certificate certificate = Certificate::gaussian;
  static constexpr bool is_mean = false;
  static constexpr bool has_flat_minima = false;
  static constexpr bool is_smooth = true;
  static constexpr bool has_breakpoints = false;
  static constexpr double max_d2psi = 1.3802;
  static constexpr int degree = 2;
  static constexpr double max_rest = 3;

  // Beyond this |t| the exponential is at most 2e-37, negligible next to that of a point within
  // alpha.
  template <class V>
  static DDN_HOST_DEVICE V limit() {
    return Math<V>::splat(Math<V>::gauss_limit);
  }
  template <class V>
  static DDN_HOST_DEVICE Terms<V> terms(V t, const Alpha<V>& a) {
    const V near = clip(t, limit<V>()), most = limit<V>() * limit<V>();
    const V square = min(t * t, most);
    const V e = square < most ? Math<V>::gauss(square) : Math<V>::splat(0);
    const V curvature = Math<V>::fma(-square, e, e);
    return {near * e * a.alpha, curvature, -near * (curvature + (e + e))};
  }
  // t^2, clipped at the limit. If |t| is bounded (core/penalty.h) t itself need not be clipped: the
  // exponential at the limit outweighs any power of t in the moments.
  template <bool bounded, class V>
  static DDN_HOST_DEVICE V clipped_square(V& t) {
    if constexpr (bounded) return min(t * t, limit<V>() * limit<V>());
    t = clip(t, limit<V>());
    return t * t;
  }
  static constexpr int moments = 4, first_approximate = 4, first_count = 4;
  template <bool bounded, class V, class Add>
  static DDN_HOST_DEVICE void add_moments(V t, const Alpha<V>&, const Add& add) {
    const V square = clipped_square<bounded>(t);
    const V e = Math<V>::gauss(square);
    add(0, t, e);
    add(1, e, One{});
    add(2, Math<V>::fma(-square, e, e), One{});  // as in `terms`, so that gradients sum to one
    add(3, square * e, t);
  }
  template <class V>
  static DDN_HOST_DEVICE SumsIn<V> sums(const V* m, V alpha) {
    return {m[0] * alpha, m[2], m[1], added(m[3], Math<V>::splat(-3), m[0])};
  }
  template <class V>
  static DDN_HOST_DEVICE V dpsi_dalpha(V t, const Alpha<V>&) {
    const V near = clip(t, limit<V>()), square = near * near;
    return absolute(t) < limit<V>() ? square * near * Math<V>::gauss(square) : Math<V>::splat(0);
  }
  static DDN_HOST_DEVICE double value(double z, double alpha) {
    const double t = clip(z / alpha, 1e3);
    return -::expm1(-0.5 * t * t);
  }
  static DDN_HOST_DEVICE double second(double alpha) { return 1 / alpha / alpha; }
  static DDN_HOST_DEVICE double limit(double) { return 1; }
};

// Welsch with a longer Taylor series, for starts that may be far from the minimum.
struct WelschFar : Welsch {
  static constexpr int degree = 6;
  static constexpr double max_rest = 105;
  static constexpr int moments = 8, first_approximate = 4, first_count = 8;
  template <bool bounded, class V, class Add>
  static DDN_HOST_DEVICE void add_moments(V t, const Alpha<V>&, const Add& add) {
    const V square = clipped_square<bounded>(t);
    const V e = Math<V>::gauss(square);
    const V lost = square * e, fourth = square * lost, sixth = square * fourth;
    add(0, t, e);
    add(1, e, One{});
    add(2, Math<V>::fma(-square, e, e), One{});
    add(3, lost, t);
    add(4, fourth, One{});
    add(5, fourth, t);
    add(6, sixth, One{});
    add(7, sixth, t);
  }
  // The n-th derivative of t exp(-t^2/2) is (-1)^n He_(n+1)(t) exp(-t^2/2), with the probabilists'
  // Hermite polynomials.
  static DDN_HOST_DEVICE SeriesSums sums(const double* m, double alpha) {
    const double lost = m[1] - m[2];
    const double third = added(added(-m[4], -3.0, m[1]), 6.0, lost);
    const double fourth = added(added(m[5], -10.0, m[3]), 15.0, m[0]);
    const double fifth = added(added(added(-m[6], 15.0, m[1]), -45.0, lost), 15.0, m[4]);
    const double sixth = added(added(added(m[7], -21.0, m[5]), 105.0, m[3]), -105.0, m[0]);
    return {{m[0] * alpha, m[2], m[1], added(m[3], -3.0, m[0])},
            {third * (1.0 / 6), fourth * (1.0 / 24), fifth * (1.0 / 120), sixth * (1.0 / 720)}};
  }
};

// WelschFar and the sums of Huber's objective in one pass; see core/local_minimum.h.
struct WelschAndHuber : WelschFar {
  static constexpr int moments = 10, first_approximate = 4, first_count = 9;
  struct JointSums {
    SeriesSums own;
    double huber_psi;  // sum of Huber's psi
    double least;      // lower bound of the sum of Huber's psi' while u moves by at most alpha / 4
  };
  template <bool bounded, class V, class Add>
  static DDN_HOST_DEVICE void add_moments(V t, const Alpha<V>& a, const Add& add) {
    WelschFar::add_moments<bounded>(t, a, add);
    add(8, clip(t, Math<V>::splat(1)), One{});
    add.count(9, absolute(t), Math<V>::splat(0.75 - 1e-5));
  }
  static DDN_HOST_DEVICE JointSums sums(const double* m, double alpha) {
    return {WelschFar::sums(m, alpha), m[8] * alpha, m[9]};
  }
};

struct TruncatedQuadratic {
  static constexpr const char* name = "truncated_quadratic";
  static constexpr const char* alias = "TQ";
  static constexpr double tuning = 2.795;
  static constexpr Certificate certificate = Certificate::parabola;
  static constexpr bool is_mean = false;
  static constexpr bool has_flat_minima = false;
  static constexpr bool is_smooth = false;
  static constexpr bool has_breakpoints = true;

  // A point at a distance of exactly alpha is inside.
  template <class V>
  static DDN_HOST_DEVICE Terms<V> terms(V z, const Alpha<V>& a) {
    const V zero = Math<V>::splat(0), one = Math<V>::splat(1);
    const auto inside = absolute(z) <= a.alpha;
    return {inside ? z : zero, inside ? one : zero, zero};
  }
  static constexpr int moments = 3, first_approximate = 2, first_count = 2;
  template <class V, class Add>
  static DDN_HOST_DEVICE void add_moments(V z, const Alpha<V>& a, const Add& add) {
    const V distance = absolute(z), zero = Math<V>::splat(0);
    z = distance <= a.alpha ? z : zero;
    const V t = z * a.inverse;
    add(0, z, One{});
    add(1, t, t);
    add.count(2, distance, a.alpha);
  }
  template <class V>
  static DDN_HOST_DEVICE SumsIn<V> sums(const V* m, V) {
    return {m[0], m[2], m[2] - m[1]};
  }
  static constexpr bool moves_squares = true, moves_beyond = false;
  static DDN_HOST_DEVICE Sums moved(const FixedSums& s, double shift, double alpha) {
    const double sum = added(s.sum, s.inside, shift), inverse = 1 / alpha;
    const double squares = added(s.squares, shift, s.sum + sum);
    return {sum, s.inside, added(s.inside, -squares * inverse, inverse), 0};
  }
  template <class V>
  static DDN_HOST_DEVICE V dpsi_dalpha(V, const Alpha<V>&) {
    return Math<V>::splat(0);
  }
  static DDN_HOST_DEVICE double value(double z, double alpha) {
    const double distance = min(::fabs(z), alpha);
    return 0.5 * distance * distance;
  }
  static DDN_HOST_DEVICE double second(double) { return 1; }
  static DDN_HOST_DEVICE double limit(double alpha) { return 0.5 * alpha * alpha; }
};

template <class... P>
struct TypeList {
  static constexpr int size = sizeof...(P);
};

// The number of a penalty is its index in this list.
// clang-format off
using Penalties = TypeList<
    Quadratic,
    PseudoHuber,
    Huber,
    Welsch,
    TruncatedQuadratic>;
// clang-format on

template <class P, class First, class... Rest>
constexpr int number_of(TypeList<First, Rest...>) {
  if constexpr (std::is_same_v<P, First>) {
    return 0;
  } else {
    return 1 + number_of<P>(TypeList<Rest...>{});
  }
}

// Calls f(P{}) with the penalty P of the given number.
template <class F, class First, class... Rest>
inline void with_penalty(int number, F&& f, TypeList<First, Rest...>) {
  if constexpr (sizeof...(Rest) == 0) {
    f(First{});
  } else {
    if (number == 0) {
      f(First{});
    } else {
      with_penalty(number - 1, static_cast<F&&>(f), TypeList<Rest...>{});
    }
  }
}
template <class F>
inline void with_penalty(int number, F&& f) {
  with_penalty(number, static_cast<F&&>(f), Penalties{});
}

}  // namespace ddn
