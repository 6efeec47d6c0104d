// Sums and the Math of SIMD vectors. Includes all of cpu/simd/.
#pragma once

#include "cpu/simd/instruction_set.h"

namespace ddn {
inline namespace DDN_ISA {

// Sums in double precision: of float vectors, whose halves go to one vector each, or of double
// vectors, with the rounding errors in the second one.
struct DoublePair {
  Vector<double> low{}, high{};

  DDN_HOST_DEVICE void add(Vector<float> x) {
    Vector<double> halves[2];
    InstructionSet::widen(x, halves);
    low += halves[0];
    high += halves[1];
  }
  DDN_HOST_DEVICE void add(Vector<double> x) {
    CompensatedSum<Vector<double>> compensated{low, high};
    compensated.add(x);
    low = compensated.sum;
    high = compensated.error;
  }

  DDN_HOST_DEVICE double total() const {
    return by_halves(low + high, [](auto a, auto b) { return a + b; });
  }
};

// exp(-square / 2) = 2^y for squares up to gauss_limit^2, where nothing underflows: y = n + f with
// |f| <= 1/2, and a polynomial for 2^f.
//
// The polynomial in single precision has the least relative error of its degree that is one at
// zero, 1.1e-7 with its coefficients rounded.
DDN_HOST_DEVICE Vector<float> gauss(Vector<float> square) {
  const auto fused = [](auto a, auto b, auto c)
                         __attribute__((always_inline)) { return InstructionSet::fused(a, b, c); };
  const Vector<float> y = square * -0.72134752044448170368f;
  const InstructionSet::NearestInteger<float> n(y);
  const Vector<float> f = y - n.value(), f2 = f * f;
  const Vector<float> low = fused(f, splat(0.6931470036506653f), splat(1.0f)),
                      middle = fused(f, splat(0.05550733953714371f), splat(0.24022242426872253f)),
                      high = fused(f, splat(0.001326472032815218f), splat(0.009671512991189957f));
  return n.scale(fused(fused(high, f2, middle), f2, low));
}

// In double precision, Taylor's polynomial of exp to the degree at which its remainder is below
// half an ulp.
DDN_HOST_DEVICE Vector<double> gauss(Vector<double> square) {
  constexpr int degree = 13;
  const Vector<double> x = square * -0.5;
  const InstructionSet::NearestInteger<double> nearest(x * 1.4426950408889634);
  const Vector<double> n = nearest.value();
  const Vector<double> r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  double factorial = 1;
  for (int i = 2; i <= degree; ++i) factorial *= i;
  Vector<double> p = splat(1 / factorial);
  for (int i = degree; i > 0; --i) {
    factorial /= i;
    p = InstructionSet::fused(p, r, splat(1 / factorial));
  }
  return nearest.scale(p);
}

template <class T>
struct VectorMath {
  using Scalar = T;
  using V = Vector<T>;
  using Mask = decltype(V{} < V{});
  using Integers = ddn::Integers<T>;
  static constexpr int lanes = VectorOf<T>::lanes;
  static DDN_HOST_DEVICE bool any(Mask mask) { return selection<T>(mask).bits() != 0; }
  static DDN_HOST_DEVICE V load(const T* p) { return ddn::load<T>(p); }
  static DDN_HOST_DEVICE void store(T* p, V x) { ddn::store<T>(p, x); }
  static DDN_HOST_DEVICE T sum(V x) {
    return by_halves(x, [](auto a, auto b) { return a + b; });
  }
  static DDN_HOST_DEVICE T largest_of(V x) {
    return by_halves(x, [](auto a, auto b) { return a > b ? a : b; });
  }
  static DDN_HOST_DEVICE V splat(double c) { return ddn::splat(static_cast<T>(c)); }
  static DDN_HOST_DEVICE V largest() { return ddn::splat(Math<T>::largest()); }
  static DDN_HOST_DEVICE V absolute(V x) { return without_sign<T>(x); }
  static DDN_HOST_DEVICE V min(V x, V bound) { return InstructionSet::min(x, bound); }
  static DDN_HOST_DEVICE V max(V x, V bound) { return InstructionSet::max(x, bound); }
  // x is the second operand of both, which propagates NaN.
  static DDN_HOST_DEVICE V clamp(V x, V bound) { return max(-bound, min(bound, x)); }
  static DDN_HOST_DEVICE V fma(V a, V b, V c) { return InstructionSet::fused(a, b, c); }
  static constexpr double gauss_limit = Math<T>::gauss_limit;
  static DDN_HOST_DEVICE V gauss(V square) { return ddn::gauss(square); }
  static DDN_HOST_DEVICE V approximate_rsqrt(V x) { return InstructionSet::approximate_rsqrt(x); }
  static DDN_HOST_DEVICE V rsqrt(V x) { return InstructionSet::rsqrt(x); }
  static DDN_HOST_DEVICE V sqrt(V x) { return InstructionSet::sqrt(x); }
};

// Without fused operations: rounds the product as well.
template <class V>
struct UnfusedMath : Math<V> {
  static DDN_HOST_DEVICE V fma(V a, V b, V c) { return a * b + c; }
};

// The Math of bins: vectors of floats with at most as many lanes as a block has cells.
struct FloatMath {
  using Scalar = float;
  static constexpr int bytes = vector_bytes > 32 ? 32 : vector_bytes;
  static constexpr int lanes = bytes / 4;
  typedef float V __attribute__((vector_size(bytes)));
  typedef int32_t Bits __attribute__((vector_size(bytes)));

  static DDN_HOST_DEVICE V splat(double c) { return static_cast<float>(c) - V{}; }
  static DDN_HOST_DEVICE V load(const float* p) {
    V x;
    memcpy(&x, p, sizeof x);
    return x;
  }
  static DDN_HOST_DEVICE void store(float* p, V x) { memcpy(p, &x, sizeof x); }
  static DDN_HOST_DEVICE V absolute(V x) {
    Bits bits;
    memcpy(&bits, &x, sizeof x);
    bits &= INT32_MAX;
    memcpy(&x, &bits, sizeof x);
    return x;
  }
  static DDN_HOST_DEVICE V fma(V a, V b, V c) { return InstructionSet::fused(a, b, c); }
  static DDN_HOST_DEVICE V max(V x, V bound) { return x > bound ? x : bound; }
  static DDN_HOST_DEVICE float sum(V x) {
    return by_halves(x, [](auto a, auto b) { return a + b; });
  }
  static DDN_HOST_DEVICE float largest_of(V x) {
    return by_halves(x, [](auto a, auto b) { return a > b ? a : b; });
  }
};

}  // namespace DDN_ISA

template <>
struct Math<Vector<float>> : VectorMath<float> {};
template <>
struct Math<Vector<double>> : VectorMath<double> {};

}  // namespace ddn
