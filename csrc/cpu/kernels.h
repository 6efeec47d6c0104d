// The kernels over all sets of a tensor, compiled once per instruction set (kernels_*.cpp).
#pragma once

#include <memory>
#include <vector>

#include "cpu/point_set.h"

namespace ddn {
inline namespace DDN_ISA {

// Copies the points of a set between a tensor and a buffer in the order of the pooled dims. The
// innermost dim is a plain loop; the others are counted like an odometer.
template <class Tensor, class Body>
void for_each_run(Tensor* x, const Dims& points, const Body& body) {
  const int inner = points.rank - 1;
  int64_t index[Dims::max_rank] = {};
  for (;;) {
    body(x, points.size[inner], points.stride[inner]);
    int d = inner - 1;
    for (; d >= 0; --d) {
      x += points.stride[d];
      if (++index[d] < points.size[d]) break;
      x -= points.stride[d] * points.size[d];
      index[d] = 0;
    }
    if (d < 0) return;
  }
}
template <class T>
void gather(const T* x, const Dims& points, T* buffer) {
  for_each_run(x, points, [&](const T* run, int64_t size, int64_t stride) {
    for (int64_t i = 0; i < size; ++i) *buffer++ = run[i * stride];
  });
}
template <class T>
void scatter(const T* buffer, T* x, const Dims& points) {
  for_each_run(x, points, [&](T* run, int64_t size, int64_t stride) {
    for (int64_t i = 0; i < size; ++i) run[i * stride] = *buffer++;
  });
}

// Sets per task, so that a task is long against the cost of handing it to a thread.
inline int64_t grain(int64_t num_points) {
  return std::max<int64_t>(1, chunk_points / std::max<int64_t>(1, num_points));
}

template <class P, bool global, class T>
void forward_sets(const ForwardArgs& args, int64_t begin, int64_t end,
                  const cpu::ParallelFor* parallel_for) {
  const SetLayout& layout = args.layout;
  const bool contiguous = layout.contiguous_points();
  std::vector<T> buffer(contiguous ? 0 : static_cast<size_t>(layout.num_points));
  std::unique_ptr<Workspace<T>> workspace;
  if constexpr (global) workspace = std::make_unique<Workspace<T>>();
  for (int64_t i = begin; i < end; ++i) {
    const T* x = static_cast<const T*>(args.x) + layout.sets.offset(i);
    if (!contiguous) {
      gather(x, layout.points, buffer.data());
      x = buffer.data();
    }
    const PointSet<T> set(x, layout.num_points, parallel_for, workspace.get());
    solve_and_write<P, global>(args, i, set);
  }
}

template <class P, class T>
void backward_set(const BackwardArgs& args, int64_t i, const T* x, T* grad_x) {
  const SetGradient<T> one = set_gradient<T, T>(args, i);
  const SetGradient<Vector<T>> set{splat(one.base),
                                   splat(one.offset),
                                   splat(one.inverse),
                                   splat(one.grad),
                                   {splat(one.alpha.alpha), splat(one.alpha.inverse)}};
  constexpr int lanes = VectorOf<T>::lanes;
  const int64_t n = args.layout.num_points;
  int64_t j = 0;
  for (; j + lanes <= n; j += lanes) {
    store<T>(grad_x + j, point_gradient<P>(load<T>(x + j), set));
  }
  const int rest = static_cast<int>(n - j);
  if (rest > 0) {
    store_first<T>(grad_x + j, point_gradient<P>(load_first<T>(x + j, rest), set), rest);
  }
}

template <class P, class T>
void backward_sets(const BackwardArgs& args, int64_t begin, int64_t end) {
  const bool x_contiguous = args.layout.contiguous_points();
  const bool grad_contiguous = args.grad_layout.contiguous_points();
  const auto n = static_cast<size_t>(args.layout.num_points);
  std::vector<T> x_buffer(x_contiguous ? 0 : n), grad_buffer(grad_contiguous ? 0 : n);
  for (int64_t i = begin; i < end; ++i) {
    const T* x = static_cast<const T*>(args.x) + args.layout.sets.offset(i);
    T* grad_x = static_cast<T*>(args.grad_x) + args.grad_layout.sets.offset(i);
    if (!x_contiguous) {
      gather(x, args.layout.points, x_buffer.data());
      x = x_buffer.data();
    }
    backward_set<P, T>(args, i, x, grad_contiguous ? grad_x : grad_buffer.data());
    if (!grad_contiguous) scatter(grad_buffer.data(), grad_x, args.grad_layout.points);
  }
}

template <class F>
void with_type(DType dtype, F&& f) {
  if (dtype == DType::float64) {
    f(double{});
  } else {
    f(float{});
  }
}

template <class P, bool global, class T>
void forward_all(const ForwardArgs& args, const cpu::ParallelFor& parallel_for) {
  const SetLayout& layout = args.layout;
  // A few large sets: the threads share each of them.
  if (layout.num_points > 2 * chunk_points && layout.num_sets < 64) {
    forward_sets<P, global, T>(args, 0, layout.num_sets, &parallel_for);
    return;
  }
  parallel_for(0, layout.num_sets, grain(layout.num_points), [&](int64_t begin, int64_t end) {
    forward_sets<P, global, T>(args, begin, end, nullptr);
  });
}

void forward(const ForwardArgs& args, const cpu::ParallelFor& parallel_for) {
  with_penalty(args.penalty, [&](auto penalty) {
    with_type(args.dtype, [&](auto zero) {
      using P = decltype(penalty);
      using T = decltype(zero);
      if (!P::convex && args.global) {
        forward_all<P, !P::convex, T>(args, parallel_for);
      } else {
        forward_all<P, false, T>(args, parallel_for);
      }
    });
  });
}

void backward(const BackwardArgs& args, const cpu::ParallelFor& parallel_for) {
  with_penalty(args.penalty, [&](auto penalty) {
    with_type(args.dtype, [&](auto zero) {
      using P = decltype(penalty);
      using T = decltype(zero);
      parallel_for(0, args.layout.num_sets, grain(args.layout.num_points),
                   [&](int64_t begin, int64_t end) { backward_sets<P, T>(args, begin, end); });
    });
  });
}

}  // namespace DDN_ISA
}  // namespace ddn
