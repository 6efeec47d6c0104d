// Math<V>: the elementary functions that the penalties and solvers need, for scalars. V is a type
// with arithmetic, comparisons and `mask ? a : b`: float, double, or a SIMD vector of them, whose
// Math is in cpu/simd/vector_math.h.
//
// fma(a, b, c) is a b + c, rounded once where that is faster, and always in device code. Compilers
// may not contract anything else (build_config.py), so a result does not depend on the kernel or
// the copy of a function that computes it. gauss(t^2) is exp(-t^2 / 2) for |t| up to gauss_limit,
// within which it does not underflow. approximate_rsqrt has at least four digits and may be cheaper
// than rsqrt. sum and largest_of reduce over the lanes.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/macros.h"

namespace ddn {

template <class V>
struct Math;

template <>
struct Math<float> {
  using Scalar = float;
  using V = float;
  static DDN_HOST_DEVICE float splat(double c) { return static_cast<float>(c); }
  static constexpr int lanes = 1;
  static DDN_HOST_DEVICE float load(const float* p) { return *p; }
  static DDN_HOST_DEVICE void store(float* p, float x) { *p = x; }
  static DDN_HOST_DEVICE float sum(float x) { return x; }
  static DDN_HOST_DEVICE float largest_of(float x) { return x; }
  static DDN_HOST_DEVICE float largest() { return 3.402823466e+38f; }
  static DDN_HOST_DEVICE float absolute(float x) { return ::fabsf(x); }
#if defined(__CUDA_ARCH__)
  static DDN_HOST_DEVICE float min(float x, float bound) { return ::fminf(x, bound); }
  static DDN_HOST_DEVICE float max(float x, float bound) { return ::fmaxf(x, bound); }
#else
  static DDN_HOST_DEVICE float min(float x, float bound) { return x < bound ? x : bound; }
  static DDN_HOST_DEVICE float max(float x, float bound) { return x > bound ? x : bound; }
#endif
  static DDN_HOST_DEVICE float clamp(float x, float bound) {
    return x > bound ? bound : (x < -bound ? -bound : x);
  }
#if defined(__CUDA_ARCH__)
  static DDN_HOST_DEVICE float fma(float a, float b, float c) { return ::__fmaf_rn(a, b, c); }
#else
  static DDN_HOST_DEVICE float fma(float a, float b, float c) { return a * b + c; }
#endif
  static constexpr double gauss_limit = 13;
#if defined(__CUDA_ARCH__)
  // Neither meets a subnormal number, for which exp2f and rsqrtf have instructions of their own.
  static DDN_HOST_DEVICE float gauss(float square) {
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(square * -0.72134752f));
    return e;
  }
  static DDN_HOST_DEVICE float rsqrt(float x) {
    float r;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
  }
#else
  static DDN_HOST_DEVICE float gauss(float square) { return ::exp2f(square * -0.72134752f); }
  static DDN_HOST_DEVICE float rsqrt(float x) { return 1.0f / ::sqrtf(x); }
#endif
  static DDN_HOST_DEVICE float approximate_rsqrt(float x) { return rsqrt(x); }
};

template <>
struct Math<double> {
  using Scalar = double;
  using V = double;
  using Mask = bool;
  using Integers = int64_t;
  static DDN_HOST_DEVICE bool any(bool mask) { return mask; }
  static DDN_HOST_DEVICE double splat(double c) { return c; }
  static constexpr int lanes = 1;
  static DDN_HOST_DEVICE double load(const double* p) { return *p; }
  static DDN_HOST_DEVICE void store(double* p, double x) { *p = x; }
  static DDN_HOST_DEVICE double sum(double x) { return x; }
  static DDN_HOST_DEVICE double largest_of(double x) { return x; }
  static DDN_HOST_DEVICE double largest() { return 1.7976931348623157e308; }
  static DDN_HOST_DEVICE double absolute(double x) { return ::fabs(x); }
  static DDN_HOST_DEVICE double min(double x, double bound) { return x < bound ? x : bound; }
  static DDN_HOST_DEVICE double max(double x, double bound) { return x > bound ? x : bound; }
  static DDN_HOST_DEVICE double clamp(double x, double bound) {
    return x > bound ? bound : (x < -bound ? -bound : x);
  }
#if defined(__CUDA_ARCH__)
  static DDN_HOST_DEVICE double fma(double a, double b, double c) { return ::__fma_rn(a, b, c); }
#else
  static DDN_HOST_DEVICE double fma(double a, double b, double c) { return a * b + c; }
#endif
  static constexpr double gauss_limit = 37;
  static DDN_HOST_DEVICE double gauss(double square) { return ::exp(square * -0.5); }
#if defined(__CUDA_ARCH__)
  static DDN_HOST_DEVICE double rsqrt(double x) { return ::rsqrt(x); }
#else
  static DDN_HOST_DEVICE double rsqrt(double x) { return 1.0 / ::sqrt(x); }
#endif
  static DDN_HOST_DEVICE double approximate_rsqrt(double x) { return rsqrt(x); }
};

template <class V>
DDN_HOST_DEVICE V absolute(V x) {
  return Math<V>::absolute(x);
}

// min and max. If x is NaN the result is `bound`, which must not be NaN.
template <class V>
DDN_HOST_DEVICE V min(V x, V bound) {
  return Math<V>::min(x, bound);
}
template <class V>
DDN_HOST_DEVICE V max(V x, V bound) {
  return Math<V>::max(x, bound);
}
template <class V>
DDN_HOST_DEVICE V clip(V x, V bound) {
  return max(min(x, bound), -bound);
}

// Like clip, but keeps NaN.
template <class V>
DDN_HOST_DEVICE V clamp(V x, V bound) {
  return Math<V>::clamp(x, bound);
}

// The factor one, known at compile time; for example the weight of each point of a set without
// weights.
struct One {};
template <class V>
DDN_HOST_DEVICE V operator*(V x, One) {
  return x;
}

// sum + a b
template <class V>
DDN_HOST_DEVICE V added(V sum, V a, V b) {
  return Math<V>::fma(a, b, sum);
}
template <class V>
DDN_HOST_DEVICE V added(V sum, V a, One) {
  return sum + a;
}

DDN_HOST_DEVICE bool is_finite(double x) { return ::fabs(x) <= Math<double>::largest(); }

// A compensated sum: the rounding error of each addition (Knuth's TwoSum) is accumulated and added
// at the end, so the error does not grow with the number of terms. V: double, or a SIMD vector of
// doubles. If x is a product, it must not be contracted with the addition, or `next` and the error
// would round different terms. The flags of both compilers prevent contraction (build_config.py).
template <class V>
struct CompensatedSum {
  V sum{}, error{};

  DDN_HOST_DEVICE void add(V x) {
    const V next = sum + x;
    const V part = next - sum;
    error += (sum - (next - part)) + (x - part);
    sum = next;
  }
  DDN_HOST_DEVICE V total() const { return sum + error; }
};

// The double halfway between two doubles, counted in representable numbers.
template <class V>
DDN_HOST_DEVICE V halfway(V a, V b) {
  // Maps doubles to integers in the same order; neighbours differ by one, as do -0 and +0.
  using Integers = typename Math<V>::Integers;
  Integers i, j;
  memcpy(&i, &a, sizeof i);
  memcpy(&j, &b, sizeof j);
  i = i >= 0 ? i : INT64_MIN - i - 1;
  j = j >= 0 ? j : INT64_MIN - j - 1;
  const Integers middle = (i & j) + ((i ^ j) >> 1);  // without an overflow
  const Integers bits = middle >= 0 ? middle : INT64_MIN - middle - 1;
  memcpy(&a, &bits, sizeof bits);
  return a;
}

}  // namespace ddn
