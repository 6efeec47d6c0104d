// Numbers of several sets, one set in each SIMD lane.
#pragma once

#include "cpu/simd/vector_math.h"

namespace ddn {
inline namespace DDN_ISA {

// A number in double precision for each lane of a Vector<T>.
template <class T>
struct PerLane {
  static constexpr int parts = static_cast<int>(sizeof(double) / sizeof(T));
  static constexpr int part_lanes = VectorOf<double>::lanes;
  using Part = Vector<double>;
  Part part[parts];

  double operator[](int lane) const { return part[lane / part_lanes][lane % part_lanes]; }
  void set(int lane, double x) { part[lane / part_lanes][lane % part_lanes] = x; }
};
template <class T>
DDN_HOST_DEVICE Vector<T> narrowed(const PerLane<T>& x) {
  if constexpr (PerLane<T>::parts == 1) {
    return x.part[0];
  } else {
    using Half = typename LanesOf<T, double>::type;
    const Half half[2] = {__builtin_convertvector(x.part[0], Half),
                          __builtin_convertvector(x.part[1], Half)};
    Vector<T> all;
    memcpy(&all, half, sizeof all);
    return all;
  }
}
template <class T>
DDN_HOST_DEVICE PerLane<T> widened(Vector<T> x) {
  if constexpr (PerLane<T>::parts == 1) {
    return {{x}};
  } else {
    DoublePair both;
    both.add(x);
    return {{both.low, both.high}};
  }
}
// The sums of each lane.
DDN_HOST_DEVICE PerLane<float> lane_totals(const DoublePair& sums, float) {
  return {{sums.low, sums.high}};
}
DDN_HOST_DEVICE PerLane<double> lane_totals(const DoublePair& sums, double) {
  return {{sums.low + sums.high}};
}

// Receives the moments of one point of each set from add_moments() of a penalty.
template <class T, class Mask>
struct LaneAdder {
  Vector<T>* moments;
  Mask mask;

  template <class Factor>
  DDN_HOST_DEVICE void operator()(int k, Vector<T> x, Factor y) const {
    moments[k] = added(moments[k], select(mask, x), y);
  }
  DDN_HOST_DEVICE void count(int k, Vector<T> a, Vector<T> b) const {
    moments[k] += (selection<T>(mask) & at_most<T>(a, b)).keep(splat(T(1)));
  }
};

}  // namespace DDN_ISA
}  // namespace ddn
