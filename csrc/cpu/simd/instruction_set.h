// Selects the InstructionSet that this source is compiled for, and wraps its operations.
#pragma once

#if DDN_VECTOR_BYTES == 64
#include "cpu/simd/avx512.h"
#elif DDN_VECTOR_BYTES == 32
#include "cpu/simd/avx2.h"
#elif defined(__SSE2__)
#include "cpu/simd/sse2.h"
#else
#include "cpu/simd/portable.h"
namespace ddn {
inline namespace DDN_ISA {
struct InstructionSet : Portable<InstructionSet> {};
}  // namespace DDN_ISA
}  // namespace ddn
#endif

namespace ddn {
inline namespace DDN_ISA {

// Stores past the caches. p is aligned to whole vectors. Before another thread reads the memory,
// the thread that stored calls non_temporal_fence().
template <class T>
DDN_HOST_DEVICE void store_non_temporal(T* p, Vector<T> x) {
  InstructionSet::store_non_temporal<T>(p, x);
}
DDN_HOST_DEVICE void non_temporal_fence() { InstructionSet::fence(); }

// Loads the first `count` lanes, fewer than all; the others are zero.
template <class V, class T>
DDN_HOST_DEVICE Vector<V> load_first(const T* p, int count) {
  return InstructionSet::load_first<V>(p, count);
}
// The same, where `count` may be the number of lanes.
template <class V, class T>
DDN_HOST_DEVICE Vector<V> load_up_to(const T* p, int count) {
  return count == VectorOf<V>::lanes ? load<V>(p) : load_first<V>(p, count);
}
// Loads p[index] in each lane.
template <class T>
DDN_HOST_DEVICE Vector<T> gathered(const T* p, Integers<T> index) {
  return InstructionSet::gather<T>(p, index);
}

// Some of the lanes of a vector, in the instruction set's own representation.
template <class T>
struct Selection {
  using Mask = InstructionSet::Mask<T>;
  Mask mask;

  friend DDN_HOST_DEVICE Selection operator&(Selection a, Selection b) {
    return {static_cast<Mask>(a.mask & b.mask)};
  }
  DDN_HOST_DEVICE Selection without(Selection other) const {
    return {static_cast<Mask>(mask & ~other.mask)};
  }
  // A bit for each lane, the lowest one that of the first lane.
  DDN_HOST_DEVICE unsigned bits() const { return InstructionSet::bits<T>(mask); }
  DDN_HOST_DEVICE int count() const {
    // Up to four bits are counted by a table, without a popcnt instruction.
    if constexpr (VectorOf<T>::lanes <= 4) return 0x4332322132212110 >> (4 * bits()) & 15;
    return __builtin_popcount(bits());
  }
  // The other lanes are zero.
  DDN_HOST_DEVICE Vector<T> keep(Vector<T> x) const { return InstructionSet::keep<T>(mask, x); }
};

// The lanes where a <= b.
template <class T>
DDN_HOST_DEVICE Selection<T> at_most(Vector<T> a, Vector<T> b) {
  return {InstructionSet::at_most<T>(a, b)};
}
template <class T>
DDN_HOST_DEVICE Selection<T> selection(AllLanes) {
  return {InstructionSet::all_lanes<T>()};
}
template <class T, class Mask>
DDN_HOST_DEVICE Selection<T> selection(Mask mask) {
  return at_most<T>(mask ? Vector<T>{} : splat(T(1)), Vector<T>{});
}

// Writes the selected lanes of x to p, contiguously, and returns their number. p has room for all
// lanes.
template <class T>
DDN_HOST_DEVICE int store_selected(T* p, Vector<T> x, Selection<T> selected) {
  return InstructionSet::store_selected<T>(p, x, selected.mask, selected.bits());
}

}  // namespace DDN_ISA
}  // namespace ddn
