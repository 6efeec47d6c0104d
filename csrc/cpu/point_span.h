// Points one after the other in memory, taken a SIMD vector at a time.
//
// Note: [The order of summation]
// It depends on the number of points alone. Points are cut into chunks of `chunk_points`; a chunk
// into blocks of `block_vectors` SIMD vectors, whose terms are added lane by lane in the precision
// of the terms and then, once a block, to sums in double precision; the lanes are added by halves,
// and the chunks from first to last. Long sums of doubles keep their rounding errors. So the seven
// additions within a block decide the error of a mean: below 3.5 eps of the mean magnitude, however
// large the set. Approximate sums are moved to double precision once in `approximate_vectors` only.
#pragma once

#include "cpu/simd/vector_math.h"

namespace ddn {
inline namespace DDN_ISA {

constexpr int64_t chunk_points = 1 << 14;
constexpr int block_vectors = 8;
constexpr int approximate_vectors = 64;  // of approximate sums; a multiple of a block

// Points one after the other and, if `weighted`, their weights.
template <class T, bool weighted>
struct PointSpan {
  static constexpr bool is_weighted = weighted;
  const T* x;
  const T* weights;  // null unless `weighted`
  int64_t n;
  int64_t next_set = 0;  // offset of the points to prefetch meanwhile, those of the next set

  DDN_HOST_DEVICE double point(int64_t i) const { return static_cast<double>(x[i]); }
  DDN_HOST_DEVICE double weight(int64_t i) const {
    return weighted ? static_cast<double>(weights[i]) : 1.0;
  }
  DDN_HOST_DEVICE PointSpan part(int64_t first, int64_t count) const {
    return {x + first, weighted ? weights + first : nullptr, count, next_set};
  }
  template <class V>
  DDN_HOST_DEVICE auto load_weights(int64_t i) const {
    if constexpr (weighted) {
      return load<V>(weights + i);
    } else {
      return One{};
    }
  }
  template <class V>
  DDN_HOST_DEVICE auto load_first_weights(int64_t i, int count) const {
    if constexpr (weighted) {
      return load_first<V>(weights + i, count);
    } else {
      return One{};
    }
  }
};

// Calls body(points, weights, mask) for the vectors of the points: the weights are a vector or One,
// the mask is AllLanes except for a last, partial vector; flush() after each block.
//
// The next set is prefetched meanwhile: the hardware prefetcher would fetch it only from its start.
template <class V, class T, bool weighted, class Body, class Flush>
DDN_HOST_DEVICE void for_each_vector(const PointSpan<T, weighted>& points, Body&& body,
                                     Flush&& flush) {
  constexpr int lanes = VectorOf<V>::lanes;
  const int64_t n = points.n;
  const auto whole = [&](int64_t i) __attribute__((always_inline)) {
    body(load<V>(points.x + i), points.template load_weights<V>(i), AllLanes{});
  };
  int64_t i = 0;
  for (; i + block_vectors * lanes <= n; i += block_vectors * lanes) {
    for (int k = 0; k < block_vectors; ++k) {
      __builtin_prefetch(points.x + i + k * lanes + points.next_set);
      whole(i + k * lanes);
    }
    flush();
  }
  for (; i + lanes <= n; i += lanes) whole(i);
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    body(load_first<V>(points.x + i, rest), points.template load_first_weights<V>(i, rest),
         first_lanes<V>(rest));
  }
  flush();
}

}  // namespace DDN_ISA
}  // namespace ddn
