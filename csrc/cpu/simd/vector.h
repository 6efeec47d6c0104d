// SIMD vectors as the compiler's own vector types: arithmetic, comparisons and `mask ? a : b` come
// with them on every architecture. The includer defines DDN_VECTOR_BYTES (16, 32 or 64) and
// DDN_ISA, the namespace that keeps what is compiled for one instruction set apart from the others.
#pragma once

#include <cstring>
#include <type_traits>
#include <utility>

#include "core/math.h"

namespace ddn {
inline namespace DDN_ISA {

constexpr int vector_bytes = DDN_VECTOR_BYTES;

template <class T>
struct VectorOf {
  static constexpr int lanes = vector_bytes / sizeof(T);
  typedef T type __attribute__((vector_size(vector_bytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;

// As many lanes as Vector<V>, of another type.
template <class T, class V>
struct LanesOf {
  typedef T type __attribute__((vector_size(VectorOf<V>::lanes * sizeof(T))));
};

// The signed integer of the size of a T, and a vector of as many of them as of a T.
template <class T>
using Integer = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
template <class T>
using Integers = typename LanesOf<Integer<T>, T>::type;

template <class T>
DDN_HOST_DEVICE Vector<T> splat(T x) {
  return x - Vector<T>{};  // exact for every x, -0 included, and compiled to a broadcast alone
}

// Lanes of type V from memory of type T, of any alignment.
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

// The mask of which every lane is set. Where a mask is unset, select() gives zero, or `other`.
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

// The lower and the upper halves of two vectors, interleaved.
template <class V, int... i>
DDN_HOST_DEVICE V interleave_lower(V a, V b, std::integer_sequence<int, i...>) {
  constexpr int lanes = sizeof...(i);
  return __builtin_shufflevector(a, b, (i / 2 + (i % 2) * lanes)...);
}
template <class V, int... i>
DDN_HOST_DEVICE V interleave_upper(V a, V b, std::integer_sequence<int, i...>) {
  constexpr int lanes = sizeof...(i);
  return __builtin_shufflevector(a, b, (lanes / 2 + i / 2 + (i % 2) * lanes)...);
}
// Transposes a square of numbers, one row a vector.
template <class T>
DDN_HOST_DEVICE void transpose(Vector<T>* rows) {
  constexpr int lanes = VectorOf<T>::lanes;
  constexpr auto all = std::make_integer_sequence<int, lanes>{};
  for (int round = 1; round < lanes; round *= 2) {
    Vector<T> next[lanes];
    for (int i = 0; i < lanes / 2; ++i) {
      next[2 * i] = interleave_lower(rows[i], rows[i + lanes / 2], all);
      next[2 * i + 1] = interleave_upper(rows[i], rows[i + lanes / 2], all);
    }
    for (int i = 0; i < lanes; ++i) rows[i] = next[i];
  }
}

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

// The sign bit cleared.
template <class T>
DDN_HOST_DEVICE Vector<T> without_sign(Vector<T> x) {
  Integers<T> bits;
  memcpy(&bits, &x, sizeof x);
  bits &= ~(Integer<T>{1} << (8 * sizeof(T) - 1));
  memcpy(&x, &bits, sizeof x);
  return x;
}

}  // namespace DDN_ISA
}  // namespace ddn
