// SIMD vectors as the compiler's own vector types: arithmetic, comparisons and `mask ? a : b` come
// with them on every architecture. The includer defines DDN_VECTOR_BYTES (16, 32 or 64) and
// DDN_ISA, the namespace that keeps what is compiled for one instruction set apart from the others.
#pragma once

#include <cstring>

#include "core/math.h"

#if DDN_VECTOR_BYTES > 16 || defined(__SSE2__)
#include <immintrin.h>
#endif

namespace ddn {
inline namespace DDN_ISA {

template <class T>
struct VectorOf {
  static constexpr int lanes = DDN_VECTOR_BYTES / sizeof(T);
  typedef T type __attribute__((vector_size(DDN_VECTOR_BYTES)));
};
template <class T>
using Vector = typename VectorOf<T>::type;

// The same number of lanes as Vector<V>, of another type.
template <class T, class V>
struct LanesOf {
  typedef T type __attribute__((vector_size(VectorOf<V>::lanes * sizeof(T))));
};

template <class T>
DDN_HD Vector<T> splat(T x) {
  return Vector<T>{} + x;
}

// Lanes of type V from memory of type T; no alignment is asked for.
template <class V, class T>
DDN_HD Vector<V> load(const T* p) {
  typename LanesOf<T, V>::type raw;
  memcpy(&raw, p, sizeof raw);
  return __builtin_convertvector(raw, Vector<V>);
}
template <class V, class T>
DDN_HD void store(T* p, Vector<V> x) {
  const auto raw = __builtin_convertvector(x, typename LanesOf<T, V>::type);
  memcpy(p, &raw, sizeof raw);
}
// The first `count` lanes; the others are zero.
template <class V, class T>
DDN_HD Vector<V> load_first(const T* p, int count) {
  T buffer[VectorOf<V>::lanes] = {};
  for (int i = 0; i < count; ++i) buffer[i] = p[i];
  return load<V>(buffer);
}
// The same where `count` may be all of them.
template <class V, class T>
DDN_HD Vector<V> load_up_to(const T* p, int count) {
  return count == VectorOf<V>::lanes ? load<V>(p) : load_first<V>(p, count);
}
template <class V, class T>
DDN_HD void store_first(T* p, Vector<V> x, int count) {
  T buffer[VectorOf<V>::lanes];
  store<V>(buffer, x);
  for (int i = 0; i < count; ++i) p[i] = buffer[i];
}
template <class V, class T>
DDN_HD void store_up_to(T* p, Vector<V> x, int count) {
  if (count == VectorOf<V>::lanes) {
    store<V>(p, x);
  } else {
    store_first<V>(p, x, count);
  }
}
// All bits set in the first `count` lanes.
template <class V>
DDN_HD auto first_lanes(int count) {
  Vector<V> index;
  for (int i = 0; i < VectorOf<V>::lanes; ++i) index[i] = static_cast<V>(i);
  return index < static_cast<V>(count);
}

// Writes the lanes of x that the mask selects to p, one after the other, and returns how many. p
// has room for all lanes.
template <class T, class Mask>
DDN_HD int store_selected(T* p, Vector<T> x, Mask mask) {
#if DDN_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    const __mmask16 bits = _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
    _mm512_mask_compressstoreu_ps(p, bits, reinterpret_cast<__m512>(x));
    return __builtin_popcount(bits);
  } else {
    const __mmask8 bits = _mm512_movepi64_mask(reinterpret_cast<__m512i>(mask));
    _mm512_mask_compressstoreu_pd(p, bits, reinterpret_cast<__m512d>(x));
    return __builtin_popcount(bits);
  }
#else
  int count = 0;
  for (int i = 0; i < VectorOf<T>::lanes; ++i) {
    p[count] = x[i];
    count += mask[i] != 0;
  }
  return count;
#endif
}

// Sums in double precision: of float vectors, whose halves go to one vector each, or of double
// vectors, with the rounding errors in the second one.
struct DoublePair {
  Vector<double> low{}, high{};

  DDN_HD void add(Vector<float> x) {
    typename LanesOf<float, double>::type half[2];
    memcpy(half, &x, sizeof x);
    low += __builtin_convertvector(half[0], Vector<double>);
    high += __builtin_convertvector(half[1], Vector<double>);
  }
  DDN_HD void add(Vector<double> x) {
    CompensatedSum<Vector<double>> compensated{low, high};
    compensated.add(x);
    low = compensated.sum;
    high = compensated.error;
  }

  // In a fixed order.
  DDN_HD double total() const {
    const Vector<double> both = low + high;
    double sum[VectorOf<double>::lanes];
    memcpy(sum, &both, sizeof both);
    for (int width = VectorOf<double>::lanes / 2; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) sum[i] += sum[i + width];
    }
    return sum[0];
  }
};

// exp for -inf < x <= 0: x = n ln 2 + r with |r| <= ln(2)/2, the Taylor polynomial of exp(r) to the
// degree at which its remainder is below half an ulp, and n added to the exponent. Arguments whose
// result would be subnormal give zero.
template <class T, class Integer, int degree>
DDN_HD Vector<T> exp_of_negative(Vector<T> x, double lowest, double magic, Integer shift) {
  using I = typename LanesOf<Integer, T>::type;
  constexpr double ln2_high = sizeof(T) == 8 ? 6.93147180369123816490e-01 : 0.693359375;
  constexpr double ln2_low = sizeof(T) == 8 ? 1.90821492927058770002e-10 : -2.12194440e-4;
  const auto underflows = x < splat(static_cast<T>(lowest));
  x = underflows ? splat(static_cast<T>(lowest)) : x;
  // Adding 1.5 * 2^(mantissa bits) rounds to the nearest integer and leaves it in the low bits.
  const Vector<T> shifted = x * static_cast<T>(1.4426950408889634) + static_cast<T>(magic);
  const Vector<T> n = shifted - static_cast<T>(magic);
  const Vector<T> r = (x - n * static_cast<T>(ln2_high)) - n * static_cast<T>(ln2_low);
  double factorial = 1;
  for (int i = 2; i <= degree; ++i) factorial *= i;
  Vector<T> p = splat(static_cast<T>(1 / factorial));
  for (int i = degree; i > 0; --i) {
    factorial /= i;
    p = p * r + static_cast<T>(1 / factorial);
  }
  I bits, exponent;
  memcpy(&bits, &p, sizeof p);
  memcpy(&exponent, &shifted, sizeof p);
  bits += exponent << shift;
  memcpy(&p, &bits, sizeof p);
  return underflows ? splat(T(0)) : p;
}

template <class T>
struct VectorMath {
  using Scalar = T;
  using V = Vector<T>;
  static constexpr int lanes = VectorOf<T>::lanes;
  static DDN_HD V load(const T* p) { return ddn::load<T>(p); }
  static DDN_HD void store(T* p, V x) { ddn::store<T>(p, x); }
  static DDN_HD V splat(double c) { return ddn::splat(static_cast<T>(c)); }
  static DDN_HD V largest() { return ddn::splat(Math<T>::largest()); }
  static DDN_HD V rsqrt(V x) { return static_cast<T>(1) / sqrt(x); }

  static DDN_HD V sqrt(V x) {
    if constexpr (sizeof(T) == 4) {
#if DDN_VECTOR_BYTES == 64
      return reinterpret_cast<V>(_mm512_sqrt_ps(reinterpret_cast<__m512>(x)));
#elif DDN_VECTOR_BYTES == 32
      return reinterpret_cast<V>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
#elif defined(__SSE2__)
      return reinterpret_cast<V>(_mm_sqrt_ps(reinterpret_cast<__m128>(x)));
#endif
    } else {
#if DDN_VECTOR_BYTES == 64
      return reinterpret_cast<V>(_mm512_sqrt_pd(reinterpret_cast<__m512d>(x)));
#elif DDN_VECTOR_BYTES == 32
      return reinterpret_cast<V>(_mm256_sqrt_pd(reinterpret_cast<__m256d>(x)));
#elif defined(__SSE2__)
      return reinterpret_cast<V>(_mm_sqrt_pd(reinterpret_cast<__m128d>(x)));
#endif
    }
    for (int i = 0; i < VectorOf<T>::lanes; ++i) x[i] = ::sqrt(x[i]);
    return x;
  }
};

}  // namespace DDN_ISA

template <>
struct Math<Vector<float>> : VectorMath<float> {
  static DDN_HD V exp(V x) { return exp_of_negative<float, int32_t, 7>(x, -87.0, 12582912.0, 23); }
};
template <>
struct Math<Vector<double>> : VectorMath<double> {
  static DDN_HD V exp(V x) {
    return exp_of_negative<double, int64_t, 13>(x, -708.0, 6755399441055744.0, 52);
  }
};

}  // namespace ddn
