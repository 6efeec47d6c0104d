// SSE2, which every x86-64 has.
#pragma once

#include <immintrin.h>

#include "cpu/simd/portable.h"

namespace ddn {
inline namespace DDN_ISA {

struct InstructionSet : Portable<InstructionSet> {
  using Floats = Vector<float>;
  using Doubles = Vector<double>;

  template <class T>
  static DDN_HOST_DEVICE void store_non_temporal(T* p, Vector<T> x) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), reinterpret_cast<__m128i>(x));
  }
  static DDN_HOST_DEVICE void fence() { _mm_sfence(); }

  template <class T>
  static DDN_HOST_DEVICE unsigned bits(Mask<T> mask) {
    if constexpr (sizeof(T) == 4) {
      return static_cast<unsigned>(_mm_movemask_ps(reinterpret_cast<__m128>(mask)));
    } else {
      return static_cast<unsigned>(_mm_movemask_pd(reinterpret_cast<__m128d>(mask)));
    }
  }

  // Compilers do not find the one instruction for a minimum or maximum.
  static DDN_HOST_DEVICE Floats min(Floats x, Floats bound) { return _mm_min_ps(x, bound); }
  static DDN_HOST_DEVICE Floats max(Floats x, Floats bound) { return _mm_max_ps(x, bound); }
  static DDN_HOST_DEVICE Doubles min(Doubles x, Doubles bound) { return _mm_min_pd(x, bound); }
  static DDN_HOST_DEVICE Doubles max(Doubles x, Doubles bound) { return _mm_max_pd(x, bound); }
  static DDN_HOST_DEVICE Floats sqrt(Floats x) { return _mm_sqrt_ps(x); }
  static DDN_HOST_DEVICE Doubles sqrt(Doubles x) { return _mm_sqrt_pd(x); }
};

}  // namespace DDN_ISA
}  // namespace ddn
