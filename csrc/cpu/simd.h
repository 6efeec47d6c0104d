// SIMD vectors as the compiler's own vector types: arithmetic, comparisons and `mask ? a : b` come
// with them on every architecture. The includer defines DDN_VECTOR_BYTES (16, 32 or 64) and
// DDN_ISA, the namespace that keeps what is compiled for one instruction set apart from the others.
#pragma once

#include <cstring>
#include <type_traits>
#include <utility>

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

// Signed integers of the size of a T, and a vector of as many of them as of a T.
template <class T>
using Integer = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
template <class T>
using Integers = typename LanesOf<Integer<T>, T>::type;

template <class T>
DDN_HOST_DEVICE Vector<T> splat(T x) {
  return x - Vector<T>{};  // which is x to the last bit: nothing is left to compute
}

// Lanes of type V from memory of type T; no alignment is asked for.
template <class V, class T>
DDN_HOST_DEVICE Vector<V> load(const T* p) {
  typename LanesOf<T, V>::type raw;
  memcpy(&raw, p, sizeof raw);
  return __builtin_convertvector(raw, Vector<V>);
}
template <class V, class T>
DDN_HOST_DEVICE void store(T* p, Vector<V> x) {
  const auto raw = __builtin_convertvector(x, typename LanesOf<T, V>::type);
  memcpy(p, &raw, sizeof raw);
}
// Past the caches, to where a whole vector is aligned. Before another thread may read it,
// non_temporal_fence() is called.
template <class T>
DDN_HOST_DEVICE void store_non_temporal(T* p, Vector<T> x) {
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
DDN_HOST_DEVICE void non_temporal_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}
// The first `count` lanes; the others are zero.
template <class V, class T>
DDN_HOST_DEVICE Vector<V> load_first(const T* p, int count) {
#if DDN_VECTOR_BYTES == 64
  const auto lanes = (1u << count) - 1;
  if constexpr (sizeof(T) == 8) {
    return reinterpret_cast<Vector<V>>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), p));
  } else if constexpr (sizeof(V) == 4) {
    return reinterpret_cast<Vector<V>>(_mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), p));
  } else {
    const __m256 raw = _mm256_maskz_loadu_ps(static_cast<__mmask8>(lanes), p);
    return reinterpret_cast<Vector<V>>(_mm512_cvtps_pd(raw));
  }
#else
  T buffer[VectorOf<V>::lanes] = {};
  for (int i = 0; i < count; ++i) buffer[i] = p[i];
  return load<V>(buffer);
#endif
}
// The same where `count` may be all of them.
template <class V, class T>
DDN_HOST_DEVICE Vector<V> load_up_to(const T* p, int count) {
  return count == VectorOf<V>::lanes ? load<V>(p) : load_first<V>(p, count);
}
template <class V, class T>
DDN_HOST_DEVICE void store_first(T* p, Vector<V> x, int count) {
  T buffer[VectorOf<V>::lanes];
  store<V>(buffer, x);
  for (int i = 0; i < count; ++i) p[i] = buffer[i];
}
template <class V, class T>
DDN_HOST_DEVICE void store_up_to(T* p, Vector<V> x, int count) {
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
DDN_HOST_DEVICE V select(AllLanes, V x) {
  return x;
}
template <class V>
DDN_HOST_DEVICE V select(AllLanes, V x, V) {
  return x;
}
template <class Mask, class V>
DDN_HOST_DEVICE V select(Mask mask, V x, V other = V{}) {
  return mask ? x : other;
}
template <class Mask>
DDN_HOST_DEVICE Mask operator&(AllLanes, Mask mask) {
  return mask;
}
// All bits set in the first `count` lanes.
template <class V>
DDN_HOST_DEVICE auto first_lanes(int count) {
  Vector<V> index;
  for (int i = 0; i < VectorOf<V>::lanes; ++i) index[i] = static_cast<V>(i);
  return index < static_cast<V>(count);
}

// Some of the lanes of a vector.
template <class T>
struct Selection {
#if DDN_VECTOR_BYTES == 64
  using Mask = std::conditional_t<sizeof(T) == 4, __mmask16, __mmask8>;
#else
  using Mask = decltype(Vector<T>{} < Vector<T>{});
#endif
  Mask mask;

  friend DDN_HOST_DEVICE Selection operator&(Selection a, Selection b) {
    return {static_cast<Mask>(a.mask & b.mask)};
  }
  DDN_HOST_DEVICE Selection without(Selection other) const {
    return {static_cast<Mask>(mask & ~other.mask)};
  }
  // A bit for each lane, the first one's the lowest.
  DDN_HOST_DEVICE unsigned bits() const {
#if DDN_VECTOR_BYTES == 64
    return mask;
#elif DDN_VECTOR_BYTES == 32
    if constexpr (sizeof(T) == 4) {
      return static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
    } else {
      return static_cast<unsigned>(_mm256_movemask_pd(reinterpret_cast<__m256d>(mask)));
    }
#elif defined(__SSE2__)
    if constexpr (sizeof(T) == 4) {
      return static_cast<unsigned>(_mm_movemask_ps(reinterpret_cast<__m128>(mask)));
    } else {
      return static_cast<unsigned>(_mm_movemask_pd(reinterpret_cast<__m128d>(mask)));
    }
#else
    unsigned bits = 0;
    for (int i = 0; i < VectorOf<T>::lanes; ++i) bits |= (mask[i] != 0 ? 1u : 0u) << i;
    return bits;
#endif
  }
  DDN_HOST_DEVICE int count() const {
    // Without an instruction that counts bits: those of four, in digits of base 16.
    if constexpr (VectorOf<T>::lanes <= 4) return 0x4332322132212110 >> (4 * bits()) & 15;
    return __builtin_popcount(bits());
  }
  // The other lanes are zero.
  DDN_HOST_DEVICE Vector<T> keep(Vector<T> x) const {
#if DDN_VECTOR_BYTES == 64
    if constexpr (sizeof(T) == 4) {
      return reinterpret_cast<Vector<T>>(_mm512_maskz_mov_ps(mask, reinterpret_cast<__m512>(x)));
    } else {
      return reinterpret_cast<Vector<T>>(_mm512_maskz_mov_pd(mask, reinterpret_cast<__m512d>(x)));
    }
#else
    return mask ? x : Vector<T>{};
#endif
  }
};

// The lanes where a <= b.
template <class T>
DDN_HOST_DEVICE Selection<T> at_most(Vector<T> a, Vector<T> b) {
#if DDN_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    return {
        _mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_LE_OQ)};
  } else {
    return {
        _mm512_cmp_pd_mask(reinterpret_cast<__m512d>(a), reinterpret_cast<__m512d>(b), _CMP_LE_OQ)};
  }
#else
  return {a <= b};
#endif
}
template <class T>
DDN_HOST_DEVICE Selection<T> selection(AllLanes) {
#if DDN_VECTOR_BYTES == 64
  return {static_cast<typename Selection<T>::Mask>(-1)};
#else
  return {Vector<T>{} == Vector<T>{}};
#endif
}
template <class T, class Mask>
DDN_HOST_DEVICE Selection<T> selection(Mask mask) {
  return at_most<T>(mask ? Vector<T>{} : splat(T(1)), Vector<T>{});
}

#if DDN_VECTOR_BYTES == 32
// Of each selection of 8 lanes the numbers of those selection, one after the other, a byte each.
struct Compressed {
  uint64_t lanes[256];
};
constexpr Compressed make_compressed() {
  Compressed table{};
  for (unsigned bits = 0; bits < 256; ++bits) {
    int place = 0;
    for (unsigned lane = 0; lane < 8; ++lane) {
      if ((bits >> lane & 1) != 0) table.lanes[bits] |= uint64_t{lane} << (8 * place++);
    }
  }
  return table;
}
constexpr Compressed compressed = make_compressed();
#endif

// Writes the lanes of x that are selection to p, one after the other, and returns how many. p has
// room for all lanes. (Compressing in a register first: straight to memory it is slow on some.)
template <class T>
DDN_HOST_DEVICE int store_selected(T* p, Vector<T> x, Selection<T> some) {
#if DDN_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    _mm512_storeu_ps(p, _mm512_maskz_compress_ps(some.mask, reinterpret_cast<__m512>(x)));
  } else {
    _mm512_storeu_pd(p, _mm512_maskz_compress_pd(some.mask, reinterpret_cast<__m512d>(x)));
  }
  return some.count();
#elif DDN_VECTOR_BYTES == 32
  const unsigned bits = some.bits();
  // A double is two lanes of the permutation.
  const unsigned halves =
      sizeof(T) == 4 ? bits
                     : 3 * ((bits & 1) | (bits & 2) << 1 | (bits & 4) << 2 | (bits & 8) << 3);
  const __m256i order =
      _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(compressed.lanes[halves])));
  const __m256 packed = _mm256_permutevar8x32_ps(reinterpret_cast<__m256>(x), order);
  memcpy(p, &packed, sizeof packed);
  return __builtin_popcount(bits);
#else
  constexpr int lanes = VectorOf<T>::lanes;
  T all[lanes];
  memcpy(all, &x, sizeof x);
  const unsigned bits = some.bits();
  int count = 0;
  for (int i = 0; i < lanes; ++i) {
    p[count] = all[i];
    count += static_cast<int>(bits >> i & 1);
  }
  return count;
#endif
}

// In each lane the number of memory with that index.
template <class T>
DDN_HOST_DEVICE Vector<T> gathered(const T* p, Integers<T> index) {
#if DDN_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    return reinterpret_cast<Vector<T>>(
        _mm512_i32gather_ps(reinterpret_cast<__m512i>(index), p, sizeof(T)));
  } else {
    return reinterpret_cast<Vector<T>>(
        _mm512_i64gather_pd(reinterpret_cast<__m512i>(index), p, sizeof(T)));
  }
#elif DDN_VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) {
    return reinterpret_cast<Vector<T>>(
        _mm256_i32gather_ps(p, reinterpret_cast<__m256i>(index), sizeof(T)));
  } else {
    return reinterpret_cast<Vector<T>>(
        _mm256_i64gather_pd(p, reinterpret_cast<__m256i>(index), sizeof(T)));
  }
#else
  Vector<T> x;
  for (int i = 0; i < VectorOf<T>::lanes; ++i) x[i] = p[index[i]];
  return x;
#endif
}

// The lower and the upper halves of two vectors, their lanes by turns.
template <class V, int... i>
DDN_HOST_DEVICE V lower_by_turns(V a, V b, std::integer_sequence<int, i...>) {
  constexpr int lanes = sizeof...(i);
  return __builtin_shufflevector(a, b, (i / 2 + (i % 2) * lanes)...);
}
template <class V, int... i>
DDN_HOST_DEVICE V upper_by_turns(V a, V b, std::integer_sequence<int, i...>) {
  constexpr int lanes = sizeof...(i);
  return __builtin_shufflevector(a, b, (lanes / 2 + i / 2 + (i % 2) * lanes)...);
}
// Rows become columns: what was in lane j of row i is in lane i of row j then.
template <class T>
DDN_HOST_DEVICE void transpose(Vector<T>* rows) {
  constexpr int lanes = VectorOf<T>::lanes;
  constexpr auto all = std::make_integer_sequence<int, lanes>{};
  for (int round = 1; round < lanes; round *= 2) {
    Vector<T> next[lanes];
    for (int i = 0; i < lanes / 2; ++i) {
      next[2 * i] = lower_by_turns(rows[i], rows[i + lanes / 2], all);
      next[2 * i + 1] = upper_by_turns(rows[i], rows[i + lanes / 2], all);
    }
    for (int i = 0; i < lanes; ++i) rows[i] = next[i];
  }
}

// a b + c, rounded once where the instruction set can.
DDN_HOST_DEVICE Vector<float> fused(Vector<float> a, Vector<float> b, Vector<float> c) {
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
DDN_HOST_DEVICE Vector<double> fused(Vector<double> a, Vector<double> b, Vector<double> c) {
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

// min and max; `bound` where x is NaN. Compilers do not find the one instruction for them.
#if DDN_VECTOR_BYTES == 64
#define DDN_MM(name) _mm512_##name
typedef __m512 FloatRegister;
typedef __m512d DoubleRegister;
#elif DDN_VECTOR_BYTES == 32
#define DDN_MM(name) _mm256_##name
typedef __m256 FloatRegister;
typedef __m256d DoubleRegister;
#elif defined(__SSE2__)
#define DDN_MM(name) _mm_##name
typedef __m128 FloatRegister;
typedef __m128d DoubleRegister;
#endif
#if defined(DDN_MM)
DDN_HOST_DEVICE Vector<float> vector_min(Vector<float> x, Vector<float> bound) {
  return reinterpret_cast<Vector<float>>(
      DDN_MM(min_ps)(reinterpret_cast<FloatRegister>(x), reinterpret_cast<FloatRegister>(bound)));
}
DDN_HOST_DEVICE Vector<float> vector_max(Vector<float> x, Vector<float> bound) {
  return reinterpret_cast<Vector<float>>(
      DDN_MM(max_ps)(reinterpret_cast<FloatRegister>(x), reinterpret_cast<FloatRegister>(bound)));
}
DDN_HOST_DEVICE Vector<double> vector_min(Vector<double> x, Vector<double> bound) {
  return reinterpret_cast<Vector<double>>(
      DDN_MM(min_pd)(reinterpret_cast<DoubleRegister>(x), reinterpret_cast<DoubleRegister>(bound)));
}
DDN_HOST_DEVICE Vector<double> vector_max(Vector<double> x, Vector<double> bound) {
  return reinterpret_cast<Vector<double>>(
      DDN_MM(max_pd)(reinterpret_cast<DoubleRegister>(x), reinterpret_cast<DoubleRegister>(bound)));
}
#undef DDN_MM
#else
template <class V>
DDN_HOST_DEVICE V vector_min(V x, V bound) {
  return x < bound ? x : bound;
}
template <class V>
DDN_HOST_DEVICE V vector_max(V x, V bound) {
  return x > bound ? x : bound;
}
#endif

// a + b where multiplications take place: there is room beside minima and maxima.
DDN_HOST_DEVICE Vector<float> added_by_fma(Vector<float> a, Vector<float> b) {
#if DDN_VECTOR_BYTES == 64
  Vector<float> one = splat(1.0f);
  asm("" : "+v"(one));  // not known to be one
  return fused(b, one, a);
#else
  return a + b;
#endif
}
DDN_HOST_DEVICE Vector<double> added_by_fma(Vector<double> a, Vector<double> b) { return a + b; }

// The sign bit cleared.
template <class T>
DDN_HOST_DEVICE Vector<T> without_sign(Vector<T> x) {
  Integers<T> bits;
  memcpy(&bits, &x, sizeof x);
  bits &= ~(Integer<T>{1} << (8 * sizeof(T) - 1));
  memcpy(&x, &bits, sizeof x);
  return x;
}

// The integer n nearest to x, and y 2^n. Without an instruction for either, adding 1.5 times two to
// the number of mantissa bits rounds, and leaves n in the low bits.
template <class T>
class NearestInteger {
  using V = Vector<T>;
  static constexpr int mantissa_bits = sizeof(T) == 8 ? 52 : 23;
  static constexpr T magic = T(Integer<T>{3} << (mantissa_bits - 1));

 public:
#if DDN_VECTOR_BYTES == 64
  explicit DDN_HOST_DEVICE NearestInteger(V x) {
    constexpr int to_nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    if constexpr (sizeof(T) == 4) {
      n_ = reinterpret_cast<V>(_mm512_roundscale_ps(reinterpret_cast<__m512>(x), to_nearest));
    } else {
      n_ = reinterpret_cast<V>(_mm512_roundscale_pd(reinterpret_cast<__m512d>(x), to_nearest));
    }
  }
  DDN_HOST_DEVICE V value() const { return n_; }
  DDN_HOST_DEVICE V scale(V y) const {
    if constexpr (sizeof(T) == 4) {
      return reinterpret_cast<V>(
          _mm512_scalef_ps(reinterpret_cast<__m512>(y), reinterpret_cast<__m512>(n_)));
    } else {
      return reinterpret_cast<V>(
          _mm512_scalef_pd(reinterpret_cast<__m512d>(y), reinterpret_cast<__m512d>(n_)));
    }
  }

 private:
  V n_;
#else
  explicit DDN_HOST_DEVICE NearestInteger(V x) : shifted_(x + magic) {}
  DDN_HOST_DEVICE V value() const { return shifted_ - magic; }
  DDN_HOST_DEVICE V scale(V y) const {
    Integers<T> bits, exponent;
    memcpy(&bits, &y, sizeof y);
    memcpy(&exponent, &shifted_, sizeof shifted_);
    bits += exponent << mantissa_bits;
    memcpy(&y, &bits, sizeof y);
    return y;
  }

 private:
  V shifted_;
#endif
};

// All lanes combined, by halves.
template <class V, class Combine>
DDN_HOST_DEVICE auto by_halves(V x, const Combine& combine) {
  using T = std::remove_reference_t<decltype(x[0])>;
  if constexpr (sizeof(V) == 2 * sizeof(T)) {
    return combine(x[0], x[1]);
  } else {
    typedef T Half __attribute__((vector_size(sizeof(V) / 2)));
    Half half[2];
    memcpy(half, &x, sizeof x);
    return by_halves(combine(half[0], half[1]), combine);
  }
}

// Sums in double precision: of float vectors, whose halves go to one vector each, or of double
// vectors, with the rounding errors in the second one.
struct DoublePair {
  Vector<double> low{}, high{};

  DDN_HOST_DEVICE void add(Vector<float> x) {
#if DDN_VECTOR_BYTES == 64
    const __m512 all = reinterpret_cast<__m512>(x);
    const __m256 upper = _mm512_extractf32x8_ps(all, 1);
    low += reinterpret_cast<Vector<double>>(_mm512_cvtps_pd(_mm512_castps512_ps256(all)));
    high += reinterpret_cast<Vector<double>>(_mm512_cvtps_pd(upper));
#else
    typename LanesOf<float, double>::type half[2];
    memcpy(half, &x, sizeof x);
    low += __builtin_convertvector(half[0], Vector<double>);
    high += __builtin_convertvector(half[1], Vector<double>);
#endif
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
  const Vector<float> y = square * -0.72134752044448170368f;
  const NearestInteger<float> n(y);
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
  const NearestInteger<double> nearest(x * 1.4426950408889634);
  const Vector<double> n = nearest.value();
  const Vector<double> r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  double factorial = 1;
  for (int i = 2; i <= degree; ++i) factorial *= i;
  Vector<double> p = splat(1 / factorial);
  for (int i = degree; i > 0; --i) {
    factorial /= i;
    p = fused(p, r, splat(1 / factorial));
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
  static DDN_HOST_DEVICE V min(V x, V bound) { return vector_min(x, bound); }
  static DDN_HOST_DEVICE V max(V x, V bound) { return vector_max(x, bound); }
  // A NaN is the second operand.
  static DDN_HOST_DEVICE V clamp(V x, V bound) { return vector_max(-bound, vector_min(bound, x)); }
  static DDN_HOST_DEVICE V fma(V a, V b, V c) { return fused(a, b, c); }
  static constexpr double gauss_limit = Math<T>::gauss_limit;
  static DDN_HOST_DEVICE V gauss(V square) { return ddn::gauss(square); }

  static DDN_HOST_DEVICE V approximate_rsqrt(V x) {
#if DDN_VECTOR_BYTES == 64
    if constexpr (sizeof(T) == 4) {
      return reinterpret_cast<V>(_mm512_rsqrt14_ps(reinterpret_cast<__m512>(x)));
    }
#endif
    return rsqrt(x);
  }
  static DDN_HOST_DEVICE V rsqrt(V x) {
#if DDN_VECTOR_BYTES == 64
    if constexpr (sizeof(T) == 4) {
      // The estimate is good to 2^-14, a step of Newton's method to the last bit but one.
      const V estimate = approximate_rsqrt(x);
      const V error = fused(x * estimate, -estimate, splat(1));
      return fused(error * estimate, splat(0.5), estimate);
    }
#endif
    return static_cast<T>(1) / sqrt(x);
  }

  static DDN_HOST_DEVICE V sqrt(V x) {
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

// The Math of bins: of floats, no more at once than a block has cells.
struct FloatMath {
  using Scalar = float;
  static constexpr int bytes = DDN_VECTOR_BYTES > 32 ? 32 : DDN_VECTOR_BYTES;
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
  static DDN_HOST_DEVICE V fma(V a, V b, V c) {
#if DDN_VECTOR_BYTES >= 32
    return reinterpret_cast<V>(_mm256_fmadd_ps(
        reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
    return a * b + c;
#endif
  }
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
