// Points of a set by their numbers, as a thread group's threads find them, and what is seen of them
// on the way to the chip.
#pragma once

#include <type_traits>

#include "core/args.h"
#include "core/set.h"
#include "cuda/thread_group.cuh"

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

// A thread's part of a statistics.
template <class T>
struct ThreadStatistics {
  double sum;
  T lo, hi;
};

// What makes it, of points one after the other.
template <class T, bool weighted>
struct StatisticsAccumulator {
  // Products with weights are added in double precision, for the accuracy of a weighted mean.
  using V = std::conditional_t<weighted, double, T>;
  V sum = 0;
  // Doubles have digits enough for the errors of sums in single precision.
  std::conditional_t<sizeof(V) == sizeof(double), CompensatedSum<double>, PlainSum> sums;
  T lo = static_cast<T>(detail::infinity), hi = -static_cast<T>(detail::infinity);

  template <class Weight>
  __device__ __forceinline__ void add(T x, Weight weight) {
    sum = added(sum, static_cast<V>(x), weight_in<V>(weight));
    lo = min(x, lo);
    hi = max(x, hi);
  }
  // After every `run` of them and at the end.
  __device__ __forceinline__ void flush() {
    sums.add(static_cast<double>(sum));
    sum = 0;
  }
  __device__ __forceinline__ ThreadStatistics<T> seen() const { return {sums.total(), lo, hi}; }
};

// Points of a set by their numbers. Those that a tensor has may lie in several dims, and then the
// places take divisions; where they lie in line, `batch` reads several.

// Points that lie one after the other, in shared memory.
template <class T>
struct SharedMemoryPoints {
  static constexpr bool weighted = false, in_place = false, has_statistics = false, listing = false;
  using Index = int;  // enough for points in shared memory
  const T* x;
  __device__ __forceinline__ T operator[](int64_t i) const { return x[i]; }
  __device__ __forceinline__ One weight(int64_t) const { return {}; }
};

// The same, has_statistics on the way there.
template <class T>
struct Staged : SharedMemoryPoints<T> {
  static constexpr bool has_statistics = true;
  ThreadStatistics<T> seen;
};

// The same with room for a list of points near their breakpoints, of each warp of the thread group.
template <class T>
struct Listing : Staged<T> {
  static constexpr bool listing = true;
  T* lists;

  // Of one of the warps of a thread group: a quarter of its points, as no more lie near the
  // breakpoints of most sets. A multiple of the warp's size.
  static constexpr DDN_HOST_DEVICE int room(int64_t points, int warps) {
    const auto own = static_cast<int>((points + warps - 1) / warps);
    return (own + 4 * warp_size - 1) / (4 * warp_size) * warp_size;
  }
};

// The same with weights, in their unit.
template <class T>
struct WeightedSharedMemoryPoints {
  static constexpr bool weighted = true, in_place = false, has_statistics = false, listing = false;
  using Index = int;  // enough for points in shared memory
  const T* x;
  const T* weights;
  __device__ __forceinline__ T operator[](int64_t i) const { return x[i]; }
  __device__ __forceinline__ T weight(int64_t i) const { return weights[i]; }
};

// Points that a thread loads together, with their weights.
template <class T, class Weight, int count>
struct Batch {
  T x[count];
  Weight weights[count];
};

// Points where the tensor has them, in global memory.
template <class T>
struct GlobalMemoryPoints {
  static constexpr bool weighted = false, in_place = true, has_statistics = false, listing = false;
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

  // Numbers i, i + step, ... of those in line, with their loads in flight together; unless `whole`,
  // 0 for those from n on. with_type: calls its argument with the type that is stored.
  template <bool whole, int count, class WithType>
  __device__ __forceinline__ void load(int64_t i, int step, int64_t n, T (&numbers)[count],
                                       const WithType& with_type) const {
    const int64_t stride = dims->stride[0];
    with_type([&](auto zero) {
      const auto* at = static_cast<const decltype(zero)*>(x) + first + i * stride;
#pragma unroll
      for (int k = 0; k < count; ++k, at += step * stride) {
        numbers[k] = whole || i + k * step < n ? static_cast<T>(to_real(*at)) : T(0);
      }
    });
  }
  template <bool whole, int count>
  __device__ __forceinline__ Batch<T, One, count> batch(int64_t i, int step, int64_t n) const {
    Batch<T, One, count> batch;
    load<whole>(i, step, n, batch.x, [&](const auto& f) { with_storage<T>(dtype, f); });
    return batch;
  }
};

template <class T>
struct WeightedGlobalMemoryPoints {
  static constexpr bool weighted = true, in_place = true, has_statistics = false, listing = false;
  using Index = int64_t;
  GlobalMemoryPoints<T> points;
  GlobalMemoryPoints<T> weights;  // not in their unit
  double inverse_unit;
  __device__ __forceinline__ T operator[](int64_t i) const { return points[i]; }
  __device__ __forceinline__ T given(int64_t i) const {
    return load_weight<T>(weights.x, weights.dtype, weights.first + weights.dims->offset(i));
  }
  __device__ __forceinline__ T in_unit(T given) const {
    return static_cast<T>(static_cast<double>(given) * inverse_unit);
  }
  __device__ __forceinline__ T weight(int64_t i) const { return in_unit(given(i)); }
  __device__ __forceinline__ bool lies_in_line() const {
    return points.lies_in_line() && weights.lies_in_line();
  }
  template <bool whole, int count>
  __device__ __forceinline__ void load_given(int64_t i, int step, int64_t n,
                                             T (&given)[count]) const {
    weights.template load<whole>(i, step, n, given,
                                 [&](const auto& f) { with_weight_storage(weights.dtype, f); });
  }
  template <bool whole, int count>
  __device__ __forceinline__ Batch<T, T, count> batch(int64_t i, int step, int64_t n) const {
    Batch<T, T, count> batch;
    points.template load<whole>(i, step, n, batch.x,
                                [&](const auto& f) { with_storage<T>(points.dtype, f); });
    load_given<whole>(i, step, n, batch.weights);
#pragma unroll
    for (int k = 0; k < count; ++k) batch.weights[k] = in_unit(batch.weights[k]);
    return batch;
  }
  // Calls body(weight as it was given) for each point of this thread.
  template <class ThreadGroup, class Body>
  __device__ __forceinline__ void for_each_given(int64_t n, const Body& body) const {
    if (!weights.lies_in_line()) {
      for (int64_t i = ThreadGroup::rank(); i < n; i += ThreadGroup::threads) body(given(i));
      return;
    }
    for (int64_t first = 0; first < n; first += run * ThreadGroup::threads) {
      const int64_t i = first + ThreadGroup::rank();
      T given[run];
      load_given<false>(i, ThreadGroup::threads, n, given);
#pragma unroll
      for (int k = 0; k < run; ++k) {
        if (i + k * ThreadGroup::threads < n) body(given[k]);
      }
    }
  }
};

// What the weights of a set come to.
struct Weights {
  double total;  // NaN when one is negative or not finite
  double unit;
};

// for_each(body): calls body(weight) for each point of this thread, with the weight as it was
// given.
template <class ThreadGroup, class T, class ForEach>
__device__ __forceinline__ Weights weight_statistics(const ForEach& for_each) {
  double ends[2] = {0, 0};  // the largest; whether one is no weight
  for_each([&](T given) {
    const double weight = static_cast<double>(given);
    ends[0] = max(weight, ends[0]);
    if (!(weight >= 0 && is_finite(weight))) ends[1] = 1;
  });
  ThreadGroup::template reduce<Max>(ends);
  if (ends[1] > 0) return {__builtin_nan(""), 1};
  const double unit = weight_unit(ends[0]), inverse = 1 / unit;
  CompensatedSum<double> sum;
  for_each([&](T given) {
    sum.add(static_cast<double>(static_cast<T>(static_cast<double>(given) * inverse)));
  });
  double total[1] = {sum.total()};
  ThreadGroup::template reduce<Add>(total);
  return {total[0], unit};
}

}  // namespace ddn::cuda
