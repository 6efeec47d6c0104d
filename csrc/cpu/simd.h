// SIMD vectors as the compiler's own vector types: arithmetic, comparisons and `mask ? a : b` come
// with them on every architecture. The includer defines DDN_VECTOR_BYTES (16, 32 or 64) and
// DDN_ISA, the namespace that keeps what is compiled for one instruction set apart from the others.
#pragma once

#include <cstring>
#include <type_traits>

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
  return x - Vector<T>{};  // which is x to the last bit: nothing is left to compute
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
// Past the caches, to where a whole vector is aligned. Before another thread may read it,
// streamed() is called.
template <class T>
DDN_HD void stream(T* p, Vector<T> x) {
#if DDN_VECTOR_BYTES == 64
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), reinterpret_cast<__m512i>(x));
#elif DDN_VECTOR_BYTES == 32
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(x));
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), reinterpret_cast<__m128i>(x));
#else
  store<T>(p, x);
#endif
}
DDN_HD void streamed() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
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
// The mask of vectors of which every lane counts, and masks in general: where it is unset, x is
// zero, or `other`.
struct AllLanes {};
template <class V>
DDN_HD V kept_by(AllLanes, V x) {
  return x;
}
template <class V>
DDN_HD V kept_by(AllLanes, V x, V) {
  return x;
}
template <class Mask, class V>
DDN_HD V kept_by(Mask mask, V x, V other = V{}) {
  return mask ? x : other;
}
template <class Mask>
DDN_HD Mask operator&(AllLanes, Mask mask) {
  return mask;
}
// All bits set in the first `count` lanes.
template <class V>
DDN_HD auto first_lanes(int count) {
  Vector<V> index;
  for (int i = 0; i < VectorOf<V>::lanes; ++i) index[i] = static_cast<V>(i);
  return index < static_cast<V>(count);
}

// Writes the lanes of x that the mask selects to p, one after the other, and returns how many. p
// has room for all lanes. (Compressing in a register first: straight to memory it is slow on some.)
template <class T, class Mask>
DDN_HD int store_selected(T* p, Vector<T> x, Mask mask) {
#if DDN_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    const __mmask16 bits = _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
    _mm512_storeu_ps(p, _mm512_maskz_compress_ps(bits, reinterpret_cast<__m512>(x)));
    return __builtin_popcount(bits);
  } else {
    const __mmask8 bits = _mm512_movepi64_mask(reinterpret_cast<__m512i>(mask));
    _mm512_storeu_pd(p, _mm512_maskz_compress_pd(bits, reinterpret_cast<__m512d>(x)));
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

// a b + c, rounded once where the instruction set can.
DDN_HD Vector<float> fused(Vector<float> a, Vector<float> b, Vector<float> c) {
#if DDN_VECTOR_BYTES == 64
  return reinterpret_cast<Vector<float>>(_mm512_fmadd_ps(
      reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif DDN_VECTOR_BYTES == 32
  return reinterpret_cast<Vector<float>>(_mm256_fmadd_ps(
      reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
  return a * b + c;
#endif
}
DDN_HD Vector<double> fused(Vector<double> a, Vector<double> b, Vector<double> c) {
#if DDN_VECTOR_BYTES == 64
  return reinterpret_cast<Vector<double>>(_mm512_fmadd_pd(
      reinterpret_cast<__m512d>(a), reinterpret_cast<__m512d>(b), reinterpret_cast<__m512d>(c)));
#elif DDN_VECTOR_BYTES == 32
  return reinterpret_cast<Vector<double>>(_mm256_fmadd_pd(
      reinterpret_cast<__m256d>(a), reinterpret_cast<__m256d>(b), reinterpret_cast<__m256d>(c)));
#else
  return a * b + c;
#endif
}

// The sign bit cleared.
template <class T, class Integer>
DDN_HD Vector<T> without_sign(Vector<T> x) {
  using I = typename LanesOf<Integer, T>::type;
  I bits;
  memcpy(&bits, &x, sizeof x);
  bits &= ~(Integer{1} << (8 * sizeof(T) - 1));
  memcpy(&x, &bits, sizeof x);
  return x;
}

// x 2^n for an integer n that lies in the low bits of `shifted`.
template <class Integer, class V>
DDN_HD V exponent_added(V x, V shifted, int mantissa_bits) {
  typedef Integer I __attribute__((vector_size(sizeof(V))));
  I bits, exponent;
  memcpy(&bits, &x, sizeof x);
  memcpy(&exponent, &shifted, sizeof x);
  bits += exponent << mantissa_bits;
  memcpy(&x, &bits, sizeof x);
  return x;
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

  // The lanes by halves.
  DDN_HD double total() const { return sum_by_halves(low + high); }

 private:
  template <class V>
  static DDN_HD double sum_by_halves(V x) {
    if constexpr (sizeof(V) == 2 * sizeof(double)) {
      return x[0] + x[1];
    } else {
      typedef double Half __attribute__((vector_size(sizeof(V) / 2)));
      Half half[2];
      memcpy(half, &x, sizeof x);
      return sum_by_halves(half[0] + half[1]);
    }
  }
};

// exp for -inf < x <= 0: x = n ln 2 + r with |r| <= ln(2)/2, a polynomial for exp(r), and n added
// to the exponent.
//
// In single precision the logarithm is that to base two: the product's rounding is no more than
// that of x, which is a rounded square itself. The polynomial has the least relative error of its
// degree that is one at zero, 2e-9.
DDN_HD Vector<float> exp_of_negative(Vector<float> x) {
  constexpr float factors[] = {0.0001535336202934366f,
                               0.0013398874650758495f,
                               0.009618437359130488f,
                               0.0555033247053527f,
                               0.2402264791360053f,
                               0.6931472028553373f,
                               1.0f};
  Vector<float> y = x * 1.4426950408889634f;
#if DDN_VECTOR_BYTES == 64
  const Vector<float> n =
      reinterpret_cast<Vector<float>>(_mm512_roundscale_ps(reinterpret_cast<__m512>(y), 8));
#else
  // Results that would be subnormal are zero. Adding 1.5 * 2^23 rounds to the nearest integer and
  // leaves it in the low bits.
  const auto underflows = y < splat(-125.5f);
  y = underflows ? splat(0.0f) : y;
  const Vector<float> shifted = y + 12582912.0f, n = shifted - 12582912.0f;
#endif
  const Vector<float> f = y - n;
  Vector<float> p = splat(factors[0]);
  for (int i = 1; i < 7; ++i) p = fused(p, f, splat(factors[i]));
#if DDN_VECTOR_BYTES == 64
  return reinterpret_cast<Vector<float>>(
      _mm512_scalef_ps(reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(n)));
#else
  return underflows ? splat(0.0f) : exponent_added<int32_t>(p, shifted, 23);
#endif
}

// In double precision, Taylor's polynomial to the degree at which its remainder is below half an
// ulp. Results that would be subnormal are zero.
DDN_HD Vector<double> exp_of_negative(Vector<double> x) {
  constexpr int degree = 13;
  constexpr double lowest = -708.0, magic = 6755399441055744.0;
  const auto underflows = x < splat(lowest);
  x = underflows ? splat(lowest) : x;
  const Vector<double> shifted = x * 1.4426950408889634 + magic, n = shifted - magic;
  const Vector<double> r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  double factorial = 1;
  for (int i = 2; i <= degree; ++i) factorial *= i;
  Vector<double> p = splat(1 / factorial);
  for (int i = degree; i > 0; --i) {
    factorial /= i;
    p = fused(p, r, splat(1 / factorial));
  }
  return underflows ? splat(0.0) : exponent_added<int64_t>(p, shifted, 52);
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
  static DDN_HD V absolute(V x) {
    return without_sign<T, std::conditional_t<sizeof(T) == 8, int64_t, int32_t>>(x);
  }
  static DDN_HD V fma(V a, V b, V c) { return fused(a, b, c); }
  static DDN_HD V exp(V x) { return exp_of_negative(x); }

  static DDN_HD V rsqrt(V x) {
#if DDN_VECTOR_BYTES == 64
    if constexpr (sizeof(T) == 4) {
      // The estimate is good to 2^-14, a step of Newton's method to the last bit but one.
      const V estimate = reinterpret_cast<V>(_mm512_rsqrt14_ps(reinterpret_cast<__m512>(x)));
      const V error = fused(x * estimate, -estimate, splat(1));
      return fused(error * estimate, splat(0.5), estimate);
    }
#endif
    return static_cast<T>(1) / sqrt(x);
  }

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
struct Math<Vector<float>> : VectorMath<float> {};
template <>
struct Math<Vector<double>> : VectorMath<double> {};

}  // namespace ddn
