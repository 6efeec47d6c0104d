// AVX2 with FMA.
#pragma once

#include <immintrin.h>

#include "cpu/simd/portable.h"

namespace ddn {
inline namespace DDN_ISA {

// For each mask of 8 lanes: the indices of the selected lanes in ascending order, one in each byte.
struct CompressionTable {
  uint64_t lanes[256];
};
constexpr CompressionTable make_compression_table() {
  CompressionTable table{};
  for (unsigned bits = 0; bits < 256; ++bits) {
    int place = 0;
    for (unsigned lane = 0; lane < 8; ++lane) {
      if ((bits >> lane & 1) != 0) table.lanes[bits] |= uint64_t{lane} << (8 * place++);
    }
  }
  return table;
}
constexpr CompressionTable compression_table = make_compression_table();

struct InstructionSet : Portable<InstructionSet> {
  using Floats = Vector<float>;
  using Doubles = Vector<double>;

  template <class T>
  static DDN_HOST_DEVICE void store_non_temporal(T* p, Vector<T> x) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(x));
  }
  static DDN_HOST_DEVICE void fence() { _mm_sfence(); }

  template <class T>
  static DDN_HOST_DEVICE Vector<T> gather(const T* p, Integers<T> index) {
    if constexpr (sizeof(T) == 4) {
      return _mm256_i32gather_ps(p, reinterpret_cast<__m256i>(index), sizeof(T));
    } else {
      return _mm256_i64gather_pd(p, reinterpret_cast<__m256i>(index), sizeof(T));
    }
  }

  template <class T>
  static DDN_HOST_DEVICE unsigned bits(Mask<T> mask) {
    if constexpr (sizeof(T) == 4) {
      return static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
    } else {
      return static_cast<unsigned>(_mm256_movemask_pd(reinterpret_cast<__m256d>(mask)));
    }
  }
  template <class T>
  static DDN_HOST_DEVICE int store_selected(T* p, Vector<T> x, Mask<T>, unsigned bits) {
    // A double is two lanes of the permutation.
    const unsigned halves =
        sizeof(T) == 4 ? bits
                       : 3 * ((bits & 1) | (bits & 2) << 1 | (bits & 4) << 2 | (bits & 8) << 3);
    const auto lanes = static_cast<int64_t>(compression_table.lanes[halves]);
    const __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(lanes));
    const __m256 packed = _mm256_permutevar8x32_ps(reinterpret_cast<__m256>(x), order);
    memcpy(p, &packed, sizeof packed);
    return __builtin_popcount(bits);
  }

  static DDN_HOST_DEVICE Floats fused(Floats a, Floats b, Floats c) {
    return _mm256_fmadd_ps(a, b, c);
  }
  static DDN_HOST_DEVICE Doubles fused(Doubles a, Doubles b, Doubles c) {
    return _mm256_fmadd_pd(a, b, c);
  }
  // Intrinsics, since compilers do not select the single instructions.
  static DDN_HOST_DEVICE Floats min(Floats x, Floats bound) { return _mm256_min_ps(x, bound); }
  static DDN_HOST_DEVICE Floats max(Floats x, Floats bound) { return _mm256_max_ps(x, bound); }
  static DDN_HOST_DEVICE Doubles min(Doubles x, Doubles bound) { return _mm256_min_pd(x, bound); }
  static DDN_HOST_DEVICE Doubles max(Doubles x, Doubles bound) { return _mm256_max_pd(x, bound); }
  static DDN_HOST_DEVICE Floats sqrt(Floats x) { return _mm256_sqrt_ps(x); }
  static DDN_HOST_DEVICE Doubles sqrt(Doubles x) { return _mm256_sqrt_pd(x); }
};

}  // namespace DDN_ISA
}  // namespace ddn
