// Points of a set by their numbers, as a team's threads find them, and what is seen of them on the
// way to the chip.
#pragma once

#include <type_traits>

#include "core/args.h"
#include "core/set.h"
#include "cuda/team.cuh"

namespace ddn::cuda {

// Points of a thread whose terms are added in their own precision; see Note [The order of
// summation] in point_set.cuh.
constexpr int run = 8;

// In place of a CompensatedSum.
struct PlainSum {
  double sum = 0;
  __device__ __forceinline__ void add(double x) { sum += x; }
  __device__ __forceinline__ double total() const { return sum; }
};

// A thread's part of a survey.
template <class T>
struct Seen {
  double sum;
  T lo, hi;
};

// What makes it, of points one after the other.
template <class T, bool weighted>
struct Surveyor {
  // Products with weights are added in double precision, for the accuracy of a weighted mean.
  using V = std::conditional_t<weighted, double, T>;
  V sum = 0;
  // Doubles have digits enough for the errors of sums in single precision.
  std::conditional_t<sizeof(V) == sizeof(double), CompensatedSum<double>, PlainSum> sums;
  T lo = static_cast<T>(detail::infinity), hi = -static_cast<T>(detail::infinity);

  template <class Weight>
  __device__ __forceinline__ void add(T x, Weight weight) {
    sum = added(sum, static_cast<V>(x), weight_in<V>(weight));
    lo = smaller(x, lo);
    hi = larger(x, hi);
  }
  // After every `run` of them and at the end.
  __device__ __forceinline__ void flush() {
    sums.add(static_cast<double>(sum));
    sum = 0;
  }
  __device__ __forceinline__ Seen<T> seen() const { return {sums.total(), lo, hi}; }
};

// Points of a set by their numbers. Those that a tensor has may lie in several dims, and then the
// places take divisions; `in_line` and `in_line_weight` read where they are known not to.

// Points that lie one after the other, in shared memory.
template <class T>
struct Consecutive {
  static constexpr bool weighted = false, in_place = false, surveyed = false, listing = false;
  using Index = int;  // enough for points in shared memory
  const T* x;
  __device__ __forceinline__ T operator[](int64_t i) const { return x[i]; }
  __device__ __forceinline__ One weight(int64_t) const { return {}; }
  __device__ __forceinline__ T in_line(int64_t i) const { return x[i]; }
  __device__ __forceinline__ One in_line_weight(int64_t) const { return {}; }
};

// The same, surveyed on the way there.
template <class T>
struct Staged : Consecutive<T> {
  static constexpr bool surveyed = true;
  Seen<T> seen;
};

// The same with room for a list of points near their kinks, of each warp of the team.
template <class T>
struct Listing : Staged<T> {
  static constexpr bool listing = true;
  T* lists;

  // Of one of the warps of a team: a quarter of its points, as no more lie near the kinks of most
  // sets. A multiple of the warp's size.
  static constexpr DDN_HD int room(int64_t points, int warps) {
    const auto own = static_cast<int>((points + warps - 1) / warps);
    return (own + 4 * warp_size - 1) / (4 * warp_size) * warp_size;
  }
};

// The same with weights, in their unit.
template <class T>
struct WeightedConsecutive {
  static constexpr bool weighted = true, in_place = false, surveyed = false, listing = false;
  using Index = int;  // enough for points in shared memory
  const T* x;
  const T* weights;
  __device__ __forceinline__ T operator[](int64_t i) const { return x[i]; }
  __device__ __forceinline__ T weight(int64_t i) const { return weights[i]; }
  __device__ __forceinline__ T in_line(int64_t i) const { return x[i]; }
  __device__ __forceinline__ T in_line_weight(int64_t i) const { return weights[i]; }
};

// Points where the tensor has them, in global memory.
template <class T>
struct InPlace {
  static constexpr bool weighted = false, in_place = true, surveyed = false, listing = false;
  using Index = int64_t;
  const void* x;
  DType dtype;
  int64_t first;
  const Dims* dims;
  __device__ __forceinline__ T operator[](int64_t i) const {
    return load_real<T>(x, dtype, first + dims->offset(i));
  }
  __device__ __forceinline__ One weight(int64_t) const { return {}; }
  __device__ __forceinline__ bool lies_in_line() const { return dims->rank <= 1; }
  __device__ __forceinline__ T in_line(int64_t i) const {
    return load_real<T>(x, dtype, first + i * dims->stride[0]);
  }
  __device__ __forceinline__ One in_line_weight(int64_t) const { return {}; }
};

template <class T>
struct WeightedInPlace {
  static constexpr bool weighted = true, in_place = true, surveyed = false, listing = false;
  using Index = int64_t;
  InPlace<T> points;
  InPlace<T> weights;  // not in their unit
  double inverse_unit;
  __device__ __forceinline__ T operator[](int64_t i) const { return points[i]; }
  __device__ __forceinline__ T given(int64_t i) const {
    return load_weight<T>(weights.x, weights.dtype, weights.first + weights.dims->offset(i));
  }
  __device__ __forceinline__ T weight(int64_t i) const {
    return static_cast<T>(static_cast<double>(given(i)) * inverse_unit);
  }
  __device__ __forceinline__ bool lies_in_line() const {
    return points.lies_in_line() && weights.lies_in_line();
  }
  __device__ __forceinline__ T in_line(int64_t i) const { return points.in_line(i); }
  __device__ __forceinline__ T in_line_weight(int64_t i) const {
    const T given =
        load_weight<T>(weights.x, weights.dtype, weights.first + i * weights.dims->stride[0]);
    return static_cast<T>(static_cast<double>(given) * inverse_unit);
  }
};

// What the weights of a set come to.
struct Weights {
  double total;  // NaN when one is negative or not finite
  double unit;
};

// at(i): the i-th weight as it was given.
template <class Team, class T, class At>
__device__ __forceinline__ Weights survey_weights(int64_t n, const At& at) {
  double ends[2] = {0, 0};  // the largest; whether one is no weight
  for (int64_t i = Team::rank(); i < n; i += Team::threads) {
    const double weight = static_cast<double>(at(i));
    ends[0] = larger(weight, ends[0]);
    if (!(weight >= 0 && is_finite(weight))) ends[1] = 1;
  }
  Team::template reduce<Larger>(ends);
  if (ends[1] > 0) return {__builtin_nan(""), 1};
  const double unit = weight_unit(ends[0]), inverse = 1 / unit;
  CompensatedSum<double> sum;
  for (int64_t i = Team::rank(); i < n; i += Team::threads) {
    sum.add(static_cast<double>(static_cast<T>(static_cast<double>(at(i)) * inverse)));
  }
  double total[1] = {sum.total()};
  Team::template reduce<Add>(total);
  return {total[0], unit};
}

}  // namespace ddn::cuda
