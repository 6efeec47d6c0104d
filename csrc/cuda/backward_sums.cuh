// The backward kernel of what takes sums over a set: the gradient of alpha, and second order.
#pragma once

#include "core/second_order.h"
#include "cuda/launch_limits.cuh"
#include "cuda/thread_group.cuh"

namespace ddn::cuda {

// The points of a set and their tangents, shared out among the threads of a group: the points that
// core/second_order.h sums over.
template <class T, class ThreadGroup>
struct GroupTangentPoints {
  using V = T;

  const BackwardArgs& args;
  int64_t set;

  static __device__ __forceinline__ int rank() { return ThreadGroup::rank(); }
  static __device__ __forceinline__ SetGradient<T> shared(const SetGradient<T>& gradient) {
    return gradient;
  }
  template <class Body>
  __device__ __forceinline__ void for_each(const Body& body) const {
    const int64_t n = args.layout.place(set).num_points;
    for (int64_t i = ThreadGroup::rank(); i < n; i += ThreadGroup::threads) body(i);
  }
  static __device__ __forceinline__ int64_t at(const SetLayout& layout, int64_t set, int64_t i) {
    return layout.place(set).first + layout.points.offset(i);
  }
  __device__ __forceinline__ MovingPoint<T> load(int64_t i) const {
    const PointArray& x_tangent = args.tangent_x;
    const PointArray& weight_tangent = args.tangent_weight;
    return {load_real<T>(args.x, args.dtype, at(args.layout, set, i)),
            args.weight == nullptr
                ? T(1)
                : load_weight<T>(args.weight, args.weight_dtype, at(args.weight_layout, set, i)),
            x_tangent.data == nullptr
                ? T(0)
                : load_real<T>(x_tangent.data, args.dtype, at(x_tangent.layout, set, i)),
            weight_tangent.data == nullptr
                ? T(0)
                : static_cast<const T*>(weight_tangent.data)[at(weight_tangent.layout, set, i)]};
  }
  template <int count, class Body>
  __device__ __forceinline__ void sum(double (&sums)[count], const Body& body) const {
    CompensatedSum<double> totals[count];
    for_each([&](int64_t i) {
      T terms[count];
      body(load(i), terms);
      for (int k = 0; k < count; ++k) totals[k].add(static_cast<double>(terms[k]));
    });
    for (int k = 0; k < count; ++k) sums[k] = totals[k].total();
    ThreadGroup::template reduce<Add>(sums);
  }
  template <class PointBody, class WeightBody>
  __device__ __forceinline__ void write(const PointBody& point_body,
                                        const WeightBody& weight_body) const {
    for_each([&](int64_t i) {
      const MovingPoint<T> point = load(i);
      if (args.grad_x.data != nullptr) {
        const T gradient = point_body(point);
        with_storage<T>(args.dtype, [&](auto zero) {
          using S = decltype(zero);
          static_cast<S*>(args.grad_x.data)[at(args.grad_x.layout, set, i)] =
              bounded_from_real<S>(gradient);
        });
      }
      if (args.grad_weight.data != nullptr) {
        static_cast<T*>(args.grad_weight.data)[at(args.grad_weight.layout, set, i)] =
            weight_body(point);
      }
    });
  }
};

// A thread group takes a set at a time.
template <class P, class T, class ThreadGroup>
__global__ void __launch_bounds__(block_threads, 1)
    backward_sums(const __grid_constant__ BackwardArgs args) {
  constexpr int thread_groups = block_threads / ThreadGroup::threads;
  const int64_t step = static_cast<int64_t>(gridDim.x) * thread_groups;
  for (int64_t set =
           static_cast<int64_t>(blockIdx.x) * thread_groups + threadIdx.x / ThreadGroup::threads;
       set < args.layout.num_sets; set += step) {
    const GroupTangentPoints<T, ThreadGroup> points{args, set};
    const SetGradient<T> shared = set_gradient<T>(args, set);
    if (args.is_second_order()) {
      write_second_order<P>(args, set, points, shared);
    } else {
      write_alpha_gradient<P>(args, set, points, shared);
    }
  }
}

}  // namespace ddn::cuda
