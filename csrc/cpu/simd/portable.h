// The operations for which instruction sets have instructions of their own, in plain C++. The
// header of an instruction set derives its struct from this one and replaces what the set does
// better. All structs thus have the same functions, and no code above them asks which one it is
// compiled for.
#pragma once

#include "cpu/simd/vector.h"

namespace ddn {
inline namespace DDN_ISA {

// Self: the derived struct.
template <class Self>
struct Portable {
  template <class T>
  using Mask = decltype(Vector<T>{} < Vector<T>{});

  // To an address that whole vectors are aligned at. fence() orders these stores before later ones.
  template <class T>
  static DDN_HOST_DEVICE void store_non_temporal(T* p, Vector<T> x) {
    store<T>(p, x);
  }
  static DDN_HOST_DEVICE void fence() {}

  template <class V, class T>
  static DDN_HOST_DEVICE Vector<V> load_first(const T* p, int count) {
    T buffer[VectorOf<V>::lanes] = {};
    for (int i = 0; i < count; ++i) buffer[i] = p[i];
    return load<V>(buffer);
  }
  template <class T>
  static DDN_HOST_DEVICE Vector<T> gather(const T* p, Integers<T> index) {
    Vector<T> x;
    for (int i = 0; i < VectorOf<T>::lanes; ++i) x[i] = p[index[i]];
    return x;
  }

  template <class T>
  static DDN_HOST_DEVICE Mask<T> all_lanes() {
    return Vector<T>{} == Vector<T>{};
  }
  template <class T>
  static DDN_HOST_DEVICE Mask<T> at_most(Vector<T> a, Vector<T> b) {
    return a <= b;
  }
  // A bit for each lane, the lowest one that of the first lane.
  template <class T>
  static DDN_HOST_DEVICE unsigned bits(Mask<T> mask) {
    unsigned bits = 0;
    for (int i = 0; i < VectorOf<T>::lanes; ++i) bits |= (mask[i] != 0 ? 1u : 0u) << i;
    return bits;
  }
  template <class T>
  static DDN_HOST_DEVICE Vector<T> keep(Mask<T> mask, Vector<T> x) {
    return mask ? x : Vector<T>{};
  }
  // The lanes of x in the mask, whose bits are given, one after the other; p has room for all.
  template <class T>
  static DDN_HOST_DEVICE int store_selected(T* p, Vector<T> x, Mask<T>, unsigned bits) {
    constexpr int lanes = VectorOf<T>::lanes;
    T all[lanes];
    memcpy(all, &x, sizeof x);
    int count = 0;
    for (int i = 0; i < lanes; ++i) {
      p[count] = all[i];
      count += static_cast<int>(bits >> i & 1);
    }
    return count;
  }

  // a b + c, rounded once where the instruction set has that.
  template <class V>
  static DDN_HOST_DEVICE V fused(V a, V b, V c) {
    return a * b + c;
  }
  // `bound` where x is NaN.
  template <class V>
  static DDN_HOST_DEVICE V min(V x, V bound) {
    return x < bound ? x : bound;
  }
  template <class V>
  static DDN_HOST_DEVICE V max(V x, V bound) {
    return x > bound ? x : bound;
  }
  template <class V>
  static DDN_HOST_DEVICE V sqrt(V x) {
    for (size_t i = 0; i < sizeof x / sizeof x[0]; ++i) x[i] = ::sqrt(x[i]);
    return x;
  }
  template <class V>
  static DDN_HOST_DEVICE V rsqrt(V x) {
    return static_cast<std::remove_reference_t<decltype(x[0])>>(1) / Self::sqrt(x);
  }
  // To four digits or more.
  template <class V>
  static DDN_HOST_DEVICE V approximate_rsqrt(V x) {
    return Self::rsqrt(x);
  }
  // a + b on a unit other than that of minima and maxima where the two would compete for one.
  template <class V>
  static DDN_HOST_DEVICE V add_beside_minima(V a, V b) {
    return a + b;
  }
  static DDN_HOST_DEVICE void widen(Vector<float> x, Vector<double> (&halves)[2]) {
    typename LanesOf<float, double>::type half[2];
    memcpy(half, &x, sizeof x);
    for (int i = 0; i < 2; ++i) halves[i] = __builtin_convertvector(half[i], Vector<double>);
  }

  // The integer n nearest to x, and y 2^n. Adding 1.5 times two to the number of mantissa bits
  // rounds x and leaves n in the low bits.
  template <class T>
  class NearestInteger {
    using V = Vector<T>;
    static constexpr int mantissa_bits = sizeof(T) == 8 ? 52 : 23;
    static constexpr T magic = T(Integer<T>{3} << (mantissa_bits - 1));

   public:
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
  };
};

}  // namespace DDN_ISA
}  // namespace ddn
