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
  if (points.rank == 0) return body(x, 1, 1);
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

// The points of positive weight and their weights in their unit.
template <class T>
class WeightedPoints {
 public:
  explicit WeightedPoints(int64_t n)
      : n_(n), points_(static_cast<size_t>(n)), weights_(static_cast<size_t>(n)) {}

  void read(const T* x, const Dims& x_dims, const T* weight, const Dims& weight_dims) {
    gather(x, x_dims, points_.data());
    gather(weight, weight_dims, weights_.data());
    double largest = 0;
    bool valid = true;
    kept_ = 0;
    for (int64_t i = 0; i < n_; ++i) {
      const T weight_here = weights_[static_cast<size_t>(i)];
      if (weight_here == 0) continue;
      valid = valid && weight_here > 0;  // false for NaN
      points_[static_cast<size_t>(kept_)] = points_[static_cast<size_t>(i)];
      weights_[static_cast<size_t>(kept_)] = weight_here;
      largest = larger(static_cast<double>(weight_here), largest);
      ++kept_;
    }
    valid = valid && is_finite(largest);
    equal_ = valid;
    for (int64_t i = 0; i < kept_; ++i) {
      equal_ = equal_ && static_cast<double>(weights_[static_cast<size_t>(i)]) == largest;
    }
    unit_ = equal_ ? largest : weight_unit(largest);
    CompensatedSum<double> total;
    for (int64_t i = 0; i < kept_ && !equal_; ++i) {
      T& here = weights_[static_cast<size_t>(i)];
      here = static_cast<T>(static_cast<double>(here) / unit_);
      total.add(static_cast<double>(here));
    }
    total_ = equal_ ? static_cast<double>(kept_) : total.total();
    if (!valid) total_ = __builtin_nan("");
  }

  // Calls f with the set. One whose weights are equal is solved as if it had none: a mask gives the
  // same bits as the points that it leaves.
  template <class F>
  void visit(const cpu::ParallelFor* parallel_for, Workspace<T>* workspace, const F& f) const {
    if (equal_) {
      f(PointSet<T>({points_.data(), nullptr, kept_}, total_, unit_, parallel_for, workspace));
    } else {
      f(PointSet<T, true>({points_.data(), weights_.data(), kept_}, total_, unit_, parallel_for,
                          workspace));
    }
  }

 private:
  int64_t n_;
  int64_t kept_ = 0;
  std::vector<T> points_, weights_;
  double total_ = 0;
  double unit_ = 1;
  bool equal_ = true;
};

template <class P, bool global, class T>
void forward_sets(const ForwardArgs& args, int64_t begin, int64_t end,
                  const cpu::ParallelFor* parallel_for) {
  const SetLayout& layout = args.layout;
  const auto points_of = [&](int64_t i) {
    return static_cast<const T*>(args.x) + layout.sets.offset(i);
  };
  std::unique_ptr<Workspace<T>> workspace;
  if constexpr (global) workspace = std::make_unique<Workspace<T>>();
  if (args.weight != nullptr) {
    WeightedPoints<T> points(layout.num_points);
    for (int64_t i = begin; i < end; ++i) {
      const T* const weight =
          static_cast<const T*>(args.weight) + args.weight_layout.sets.offset(i);
      points.read(points_of(i), layout.points, weight, args.weight_layout.points);
      points.visit(parallel_for, workspace.get(),
                   [&](const auto& set) { solve_and_write<P, global>(args, i, set); });
    }
    return;
  }
  const int64_t n = layout.num_points;
  const bool contiguous = layout.contiguous_points();
  std::vector<T> buffer(contiguous ? 0 : static_cast<size_t>(n));
  for (int64_t i = begin; i < end; ++i) {
    const T* x = points_of(i);
    if (!contiguous) {
      gather(x, layout.points, buffer.data());
      x = buffer.data();
    }
    const PointSet<T> set({x, nullptr, n}, static_cast<double>(n), 1, parallel_for,
                          workspace.get());
    solve_and_write<P, global>(args, i, set);
  }
}

// The gradients of the points and, where their pointers are not null, of the weights of one set;
// all of them lie one after the other.
template <class P, class T>
void backward_set(const BackwardArgs& args, int64_t i, const T* x, const T* weight, T* grad_x,
                  T* grad_weight) {
  const SetGradient<T> one = set_gradient<T, T>(args, i);
  const SetGradient<Vector<T>> set{splat(one.base),
                                   splat(one.offset),
                                   splat(one.inverse),
                                   splat(one.grad),
                                   {splat(one.alpha.alpha), splat(one.alpha.inverse)}};
  constexpr int lanes = VectorOf<T>::lanes;
  const int64_t n = args.layout.num_points;
  const auto write = [&](T* out, auto gradient) __attribute__((always_inline)) {
    int64_t j = 0;
    // What exceeds the caches goes past them: memory is then not read before it is overwritten.
    constexpr int64_t caches = 32 << 20, worthwhile = 1 << 10;
    const int64_t bytes = n * static_cast<int64_t>(sizeof(T));
    if (bytes >= worthwhile && bytes * args.layout.num_sets >= caches &&
        args.grad_layout.contiguous_points() &&
        reinterpret_cast<uintptr_t>(out) % DDN_VECTOR_BYTES == 0) {
      for (; j + lanes <= n; j += lanes) stream<T>(out + j, gradient(j, lanes));
      streamed();
    }
    for (; j + lanes <= n; j += lanes) store<T>(out + j, gradient(j, lanes));
    const int rest = static_cast<int>(n - j);
    if (rest > 0) store_first<T>(out + j, gradient(j, rest), rest);
  };
  if (grad_x != nullptr && weight == nullptr) {
    write(grad_x, [&](int64_t j, int count) __attribute__((always_inline)) {
      return point_gradient<P>(load_up_to<T>(x + j, count), One{}, set);
    });
  } else if (grad_x != nullptr) {
    write(grad_x, [&](int64_t j, int count) __attribute__((always_inline)) {
      return point_gradient<P>(load_up_to<T>(x + j, count), load_up_to<T>(weight + j, count), set);
    });
  }
  if (grad_weight != nullptr) {
    write(grad_weight, [&](int64_t j, int count) __attribute__((always_inline)) {
      return weight_gradient<P>(load_up_to<T>(x + j, count), set);
    });
  }
}

// The points of one set after another in one stretch: where they lie if they lie so, else in a
// buffer.
template <class T>
class Staged {
 public:
  Staged(T* tensor, const SetLayout& layout)
      : tensor_(tensor),
        layout_(layout),
        buffer_(tensor == nullptr || layout.contiguous_points()
                    ? 0
                    : static_cast<size_t>(layout.num_points)) {}

  T* place(int64_t set) {
    if (tensor_ == nullptr) return nullptr;
    return layout_.contiguous_points() ? at(set) : buffer_.data();
  }
  T* read(int64_t set) {
    if (!buffer_.empty()) gather(at(set), layout_.points, buffer_.data());
    return place(set);
  }
  void write(int64_t set) {
    if (!buffer_.empty()) scatter(buffer_.data(), at(set), layout_.points);
  }

 private:
  T* at(int64_t set) { return tensor_ + layout_.sets.offset(set); }

  T* tensor_;
  const SetLayout& layout_;
  std::vector<std::remove_const_t<T>> buffer_;
};

template <class P, class T>
void backward_sets(const BackwardArgs& args, int64_t begin, int64_t end) {
  Staged<const T> x(static_cast<const T*>(args.x), args.layout);
  Staged<const T> weight(static_cast<const T*>(args.weight), args.weight_layout);
  Staged<T> grad_x(static_cast<T*>(args.grad_x), args.grad_layout);
  Staged<T> grad_weight(static_cast<T*>(args.grad_weight), args.grad_layout);
  for (int64_t i = begin; i < end; ++i) {
    backward_set<P, T>(args, i, x.read(i), weight.read(i), grad_x.place(i), grad_weight.place(i));
    grad_x.write(i);
    grad_weight.write(i);
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
