// AVX-512 (F, DQ, BW, VL), whose masks have registers of their own.
#pragma once

#include <immintrin.h>

#include "cpu/simd/portable.h"

namespace ddn {
inline namespace DDN_ISA {

struct InstructionSet : Portable<InstructionSet> {
  using Floats = Vector<float>;
  using Doubles = Vector<double>;
  typedef float Float8 __attribute__((vector_size(32)));

  template <class T>
  using Mask = std::conditional_t<sizeof(T) == 4, __mmask16, __mmask8>;

  template <class T>
  static DDN_HOST_DEVICE void store_non_temporal(T* p, Vector<T> x) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), reinterpret_cast<__m512i>(x));
  }
  static DDN_HOST_DEVICE void fence() { _mm_sfence(); }

  template <class V, class T>
  static DDN_HOST_DEVICE Vector<V> load_first(const T* p, int count) {
    const auto lanes = (1u << count) - 1;
    if constexpr (sizeof(T) == 8) {
      return _mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), p);
    } else if constexpr (sizeof(V) == 4) {
      return _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), p);
    } else {
      return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(static_cast<__mmask8>(lanes), p));
    }
  }
  template <class T>
  static DDN_HOST_DEVICE Vector<T> gather(const T* p, Integers<T> index) {
    if constexpr (sizeof(T) == 4) {
      return _mm512_i32gather_ps(reinterpret_cast<__m512i>(index), p, sizeof(T));
    } else {
      return _mm512_i64gather_pd(reinterpret_cast<__m512i>(index), p, sizeof(T));
    }
  }

  template <class T>
  static DDN_HOST_DEVICE Mask<T> all_lanes() {
    return static_cast<Mask<T>>(-1);
  }
  template <class T>
  static DDN_HOST_DEVICE Mask<T> at_most(Vector<T> a, Vector<T> b) {
    if constexpr (sizeof(T) == 4) {
      return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
    } else {
      return _mm512_cmp_pd_mask(a, b, _CMP_LE_OQ);
    }
  }
  template <class T>
  static DDN_HOST_DEVICE unsigned bits(Mask<T> mask) {
    return mask;
  }
  template <class T>
  static DDN_HOST_DEVICE Vector<T> keep(Mask<T> mask, Vector<T> x) {
    if constexpr (sizeof(T) == 4) {
      return _mm512_maskz_mov_ps(mask, x);
    } else {
      return _mm512_maskz_mov_pd(mask, x);
    }
  }
  // Compressed in a register first: some processors are slow at compressing to memory.
  template <class T>
  static DDN_HOST_DEVICE int store_selected(T* p, Vector<T> x, Mask<T> mask, unsigned bits) {
    if constexpr (sizeof(T) == 4) {
      _mm512_storeu_ps(p, _mm512_maskz_compress_ps(mask, x));
    } else {
      _mm512_storeu_pd(p, _mm512_maskz_compress_pd(mask, x));
    }
    return __builtin_popcount(bits);
  }

  static DDN_HOST_DEVICE Float8 fused(Float8 a, Float8 b, Float8 c) {
    return _mm256_fmadd_ps(a, b, c);
  }
  static DDN_HOST_DEVICE Floats fused(Floats a, Floats b, Floats c) {
    return _mm512_fmadd_ps(a, b, c);
  }
  static DDN_HOST_DEVICE Doubles fused(Doubles a, Doubles b, Doubles c) {
    return _mm512_fmadd_pd(a, b, c);
  }
  // Compilers do not find the one instruction for a minimum or maximum.
  static DDN_HOST_DEVICE Floats min(Floats x, Floats bound) { return _mm512_min_ps(x, bound); }
  static DDN_HOST_DEVICE Floats max(Floats x, Floats bound) { return _mm512_max_ps(x, bound); }
  static DDN_HOST_DEVICE Doubles min(Doubles x, Doubles bound) { return _mm512_min_pd(x, bound); }
  static DDN_HOST_DEVICE Doubles max(Doubles x, Doubles bound) { return _mm512_max_pd(x, bound); }
  static DDN_HOST_DEVICE Floats sqrt(Floats x) { return _mm512_sqrt_ps(x); }
  static DDN_HOST_DEVICE Doubles sqrt(Doubles x) { return _mm512_sqrt_pd(x); }

  // The estimate is good to 2^-14; one Newton step makes it right to the last bit but one.
  static DDN_HOST_DEVICE Floats approximate_rsqrt(Floats x) { return _mm512_rsqrt14_ps(x); }
  static DDN_HOST_DEVICE Doubles approximate_rsqrt(Doubles x) { return rsqrt(x); }
  static DDN_HOST_DEVICE Floats rsqrt(Floats x) {
    const Floats estimate = approximate_rsqrt(x);
    const Floats error = fused(x * estimate, -estimate, splat(1.0f));
    return fused(error * estimate, splat(0.5f), estimate);
  }
  static DDN_HOST_DEVICE Doubles rsqrt(Doubles x) { return 1.0 / sqrt(x); }

  static DDN_HOST_DEVICE Floats add_beside_minima(Floats a, Floats b) {
    Floats one = splat(1.0f);
    asm("" : "+v"(one));  // hides from the compiler that it is one
    return fused(b, one, a);
  }
  static DDN_HOST_DEVICE Doubles add_beside_minima(Doubles a, Doubles b) { return a + b; }
  static DDN_HOST_DEVICE void widen(Floats x, Doubles (&halves)[2]) {
    halves[0] = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
    halves[1] = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
  }

  template <class T>
  class NearestInteger {
    using V = Vector<T>;

   public:
    explicit DDN_HOST_DEVICE NearestInteger(V x) {
      constexpr int to_nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
      if constexpr (sizeof(T) == 4) {
        n_ = _mm512_roundscale_ps(x, to_nearest);
      } else {
        n_ = _mm512_roundscale_pd(x, to_nearest);
      }
    }
    DDN_HOST_DEVICE V value() const { return n_; }
    DDN_HOST_DEVICE V scale(V y) const {
      if constexpr (sizeof(T) == 4) {
        return _mm512_scalef_ps(y, n_);
      } else {
        return _mm512_scalef_pd(y, n_);
      }
    }

   private:
    V n_;
  };
};

}  // namespace DDN_ISA
}  // namespace ddn
