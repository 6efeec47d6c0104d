// The backward pass: over a tensor, over a range of its sets, and of one set.
#pragma once

#include <algorithm>
#include <type_traits>

#include "core/gradient.h"
#include "core/second_order.h"
#include "cpu/point_span.h"
#include "cpu/scheduling.h"
#include "cpu/staging.h"

namespace ddn {
inline namespace DDN_ISA {

// The points of a set and their tangents, a SIMD vector at a time: the points that
// core/second_order.h sums over.
template <class T>
struct VectorTangentPoints {
  using V = Vector<T>;
  static constexpr int lanes = VectorOf<T>::lanes;

  const T *x, *weight, *x_tangent, *weight_tangent;  // all but x may be null
  T *grad_x, *grad_weight;                           // outputs, or null
  int64_t n;

  static int rank() { return 0; }
  static SetGradient<V> shared(const SetGradient<T>& set) {
    return {splat(set.base),
            splat(set.offset),
            splat(set.inverse),
            splat(set.grad),
            {splat(set.alpha.alpha), splat(set.alpha.inverse)}};
  }
  // Lanes beyond the last point have no weight.
  MovingPoint<V> load(int64_t i, int count) const {
    const auto load_or_zero = [&](const T* p) __attribute__((always_inline)) {
      return p == nullptr ? V{} : load_up_to<T>(p + i, count);
    };
    const V one = first_lanes<T>(count) ? splat(T(1)) : V{};
    return {load_up_to<T>(x + i, count), weight == nullptr ? one : load_or_zero(weight),
            load_or_zero(x_tangent), load_or_zero(weight_tangent)};
  }
  template <class Body>
  void for_each(const Body& body) const {
    for (int64_t i = 0; i < n; i += lanes) {
      body(i, static_cast<int>(std::min<int64_t>(lanes, n - i)));
    }
  }
  template <int count, class Body>
  void sum(double (&sums)[count], const Body& body) const {
    DoublePair totals[count];
    V block[count] = {};
    int vectors = 0;
    const auto flush = [&]() __attribute__((always_inline)) {
      for (int k = 0; k < count; ++k) {
        totals[k].add(block[k]);
        block[k] = V{};
      }
    };
    for_each([&](int64_t i, int points) __attribute__((always_inline)) {
      V terms[count];
      body(load(i, points), terms);
      for (int k = 0; k < count; ++k) block[k] += terms[k];
      if (++vectors % block_vectors == 0) flush();
    });
    flush();
    for (int k = 0; k < count; ++k) sums[k] = totals[k].total();
  }
  template <class PointBody, class WeightBody>
  void write(const PointBody& point_body, const WeightBody& weight_body) const {
    for_each([&](int64_t i, int points) __attribute__((always_inline)) {
      const MovingPoint<V> at = load(i, points);
      if (grad_x != nullptr) store_up_to<T>(grad_x + i, point_body(at), points);
      if (grad_weight != nullptr) store_up_to<T>(grad_weight + i, weight_body(at), points);
    });
  }
};

// Whether the gradients exceed the caches. Non-temporal stores then save the read of each cache
// line before it is overwritten.
inline bool exceeds_caches(const SetLayout& layout, DType dtype) {
  constexpr int64_t caches = 32 << 20, min_set = 1 << 10;
  const int64_t bytes = layout.num_points * (dtype == DType::float64 ? 8 : 4);
  const bool staged = dtype == DType::float16 || dtype == DType::bfloat16;
  return !staged && layout.ptr == nullptr && layout.contiguous_points() && bytes >= min_set &&
         bytes * layout.num_sets >= caches;
}

// The first-order gradients of one set's points and weights, where they are wanted.
template <class P, class T>
void backward_set(const VectorTangentPoints<T>& points, const SetGradient<T>& one,
                  bool non_temporal) {
  const SetGradient<Vector<T>> set = points.shared(one);
  const T *const x = points.x, *const weight = points.weight;
  const auto write = [&](T* out, auto gradient) __attribute__((always_inline)) {
    constexpr int lanes = VectorOf<T>::lanes;
    const int64_t n = points.n;  // a copy: a store to `out` might change points.n
    int64_t i = 0;
    if (non_temporal && reinterpret_cast<uintptr_t>(out) % vector_bytes == 0) {
      constexpr int64_t page = 4096 / sizeof(T);  // where the hardware prefetcher stops
      for (; i + lanes <= n; i += lanes) {
        if constexpr (!P::is_mean) __builtin_prefetch(x + i + page);
        store_non_temporal<T>(out + i, gradient(i, lanes));
      }
    }
    for (; i + lanes <= n; i += lanes) store<T>(out + i, gradient(i, lanes));
    const int rest = static_cast<int>(n - i);
    if (rest > 0) store_first<T>(out + i, gradient(i, rest), rest);
  };
  const auto write_points = [&](auto ordinary) {
    constexpr bool is_ordinary = decltype(ordinary)::value;
    if (weight == nullptr) {
      write(points.grad_x, [&](int64_t i, int count) __attribute__((always_inline)) {
        return point_gradient<P, is_ordinary>(load_up_to<T>(x + i, count), One{}, set);
      });
    } else {
      write(points.grad_x, [&](int64_t i, int count) __attribute__((always_inline)) {
        return point_gradient<P, is_ordinary>(load_up_to<T>(x + i, count),
                                              load_up_to<T>(weight + i, count), set);
      });
    }
  };
  if (points.grad_x != nullptr && is_ordinary(one)) {
    write_points(std::true_type{});
  } else if (points.grad_x != nullptr) {
    write_points(std::false_type{});
  }
  if (points.grad_weight != nullptr) {
    write(points.grad_weight, [&](int64_t i, int count) __attribute__((always_inline)) {
      return weight_gradient<P>(load_up_to<T>(x + i, count), set);
    });
  }
}

template <class P, class T>
void backward_range(const BackwardArgs& args, int64_t begin, int64_t end) {
  StagedSets<T> x(args.x, args.dtype, args.layout, end);
  StagedSets<T> weight(args.weight, args.weight_dtype, args.weight_layout, end);
  StagedSets<T> x_tangent(args.tangent_x, args.dtype, end);
  StagedSets<T> weight_tangent(args.tangent_weight, real_dtype<T>, end);
  StagedSets<T> grad_x(args.grad_x, args.dtype, end);
  StagedSets<T> grad_weight(args.grad_weight, real_dtype<T>, end);
  const bool non_temporal = exceeds_caches(
      args.grad_x.data != nullptr ? args.grad_x.layout : args.grad_weight.layout, args.dtype);
  for (int64_t i = begin; i < end; ++i) {
    const VectorTangentPoints<T> points{x.read(i),
                                        weight.read(i),
                                        x_tangent.read(i),
                                        weight_tangent.read(i),
                                        grad_x.destination(i),
                                        grad_weight.destination(i),
                                        args.layout.place(i).num_points};
    const SetGradient<T> set = set_gradient<T>(args, i);
    if (args.is_second_order()) {
      write_second_order<P>(args, i, points, set);
    } else {
      backward_set<P>(points, set, non_temporal);
      write_alpha_gradient<P>(args, i, points, set);
    }
    grad_x.write_back(i);
    grad_weight.write_back(i);
  }
  if (non_temporal) non_temporal_fence();
}

inline void backward_tensor(const BackwardArgs& args, const cpu::ParallelFor& parallel_for) {
  using Range = void (*)(const BackwardArgs&, int64_t, int64_t);
  Range range = nullptr;
  with_penalty(args.penalty, [&](auto penalty) {
    with_real(args.dtype,
              [&](auto zero) { range = &backward_range<decltype(penalty), decltype(zero)>; });
  });
  for_each_range(args.layout, parallel_for,
                 [&](int64_t begin, int64_t end) { range(args, begin, end); });
}

}  // namespace DDN_ISA
}  // namespace ddn
