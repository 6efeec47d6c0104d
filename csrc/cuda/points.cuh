// Where the threads of a group find the points of a set, and statistics of points and weights.
#pragma once

#include <type_traits>

#include "core/args.h"
#include "core/set.h"
#include "cuda/thread_group.cuh"

namespace ddn::cuda {

// Points of a thread whose terms are added in their own precision; see Note [The order of
// summation] in group_points.cuh.
constexpr int run = 8;

// The most points of a thread in shared memory.
constexpr int max_thread_points = 64;

// Has the interface of CompensatedSum.
struct PlainSum {
  double sum = 0;
  __device__ __forceinline__ void add(double x) { sum += x; }
  __device__ __forceinline__ double total() const { return sum; }
};

// The statistics of one thread's points.
template <class T>
struct ThreadStatistics {
  double sum;
  T lo, hi;
};

// Computes the statistics of one thread's points.
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
  // To be called after every `run` of points and at the end.
  __device__ __forceinline__ void flush() {
    sums.add(static_cast<double>(sum));
    sum = 0;
  }
  __device__ __forceinline__ ThreadStatistics<T> statistics() const {
    return {sums.total(), lo, hi};
  }
};

// The structs below give the points of a set by their index. Points in global memory may lie in
// several dims, where finding one takes divisions; points in one dim can be read in batches.

// Points one after the other in shared memory.
template <class T>
struct SharedMemoryPoints {
  static constexpr bool weighted = false, in_global_memory = false, has_lists = false;
  using Index = int;  // enough for points in shared memory
  const T* x;
  __device__ __forceinline__ T operator[](int64_t i) const { return x[i]; }
  __device__ __forceinline__ One weight(int64_t) const { return {}; }
};

// The same, with memory for lists of points near their breakpoints: one for each warp, or for the
// group if it is smaller.
template <class T>
struct ListingPoints : SharedMemoryPoints<T> {
  static constexpr bool has_lists = true;
  T* lists;

  // Points in the list of one of `warps` warps: a quarter of the warp's points, which is enough for
  // most sets, rounded up to a multiple of the warp size.
  static constexpr DDN_HOST_DEVICE int list_capacity(int64_t points, int warps) {
    const auto own = static_cast<int>((points + warps - 1) / warps);
    return (own + 4 * warp_size - 1) / (4 * warp_size) * warp_size;
  }
};

// Points and their weights, which are divided by the unit.
template <class T>
struct WeightedSharedMemoryPoints {
  static constexpr bool weighted = true, in_global_memory = false, has_lists = false;
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

// Points in global memory, where the tensor has them.
template <class T>
struct GlobalMemoryPoints {
  static constexpr bool weighted = false, in_global_memory = true, has_lists = false;
  using Index = int64_t;
  const void* x;
  DType dtype;
  int64_t first;
  const Dims* dims;
  __device__ __forceinline__ T operator[](int64_t i) const {
    return load_real<T>(x, dtype, first + dims->offset(i));
  }
  __device__ __forceinline__ One weight(int64_t) const { return {}; }
  __device__ __forceinline__ bool in_one_dim() const { return dims->rank <= 1; }

  // Points i, i + step, ... of one dim, with their loads in flight together; unless `whole`, 0 for
  // those from n on. with_type calls its argument with the type that is stored.
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
  static constexpr bool weighted = true, in_global_memory = true, has_lists = false;
  using Index = int64_t;
  GlobalMemoryPoints<T> points;
  GlobalMemoryPoints<T> weights;  // undivided
  double inverse_unit;
  __device__ __forceinline__ T operator[](int64_t i) const { return points[i]; }
  __device__ __forceinline__ T given(int64_t i) const {
    return load_weight<T>(weights.x, weights.dtype, weights.first + weights.dims->offset(i));
  }
  __device__ __forceinline__ T divided(T given) const {
    return static_cast<T>(static_cast<double>(given) * inverse_unit);
  }
  __device__ __forceinline__ T weight(int64_t i) const { return divided(given(i)); }
  __device__ __forceinline__ bool in_one_dim() const {
    return points.in_one_dim() && weights.in_one_dim();
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
    for (int k = 0; k < count; ++k) batch.weights[k] = divided(batch.weights[k]);
    return batch;
  }
  // Calls body(undivided weight) for each point of this thread.
  template <class ThreadGroup, class Body>
  __device__ __forceinline__ void for_each_given(int64_t n, const Body& body) const {
    if (!weights.in_one_dim()) {
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

// The statistics of a set's weights.
struct WeightStatistics {
  double total;  // NaN when one is negative or not finite
  double unit;
};

// for_each(body) calls body(weight) with the undivided weight of each point of this thread.
template <class ThreadGroup, class T, class ForEach>
__device__ __forceinline__ WeightStatistics weight_statistics(const ForEach& for_each) {
  double ends[2] = {0, 0};  // the largest; 1 if one is negative or not finite
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
