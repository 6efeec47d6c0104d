// The kernels over all sets of a tensor, compiled once per instruction set (kernels_*.cpp).
#pragma once

#include <memory>
#include <vector>

#include "core/second_order.h"
#include "cpu/lane_batch.h"
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
template <class S, class T>
void gather(const S* x, const Dims& points, T* buffer) {
  for_each_run(x, points, [&](const S* run, int64_t size, int64_t stride) {
    if (stride == 1) {
      for (int64_t i = 0; i < size; ++i) buffer[i] = static_cast<T>(to_real(run[i]));
    } else {
      for (int64_t i = 0; i < size; ++i) buffer[i] = static_cast<T>(to_real(run[i * stride]));
    }
    buffer += size;
  });
}
template <class S, class T>
void scatter(const T* buffer, S* x, const Dims& points) {
  for_each_run(x, points, [&](S* run, int64_t size, int64_t stride) {
    if (stride == 1) {
      for (int64_t i = 0; i < size; ++i) run[i] = bounded_from_real<S>(buffer[i]);
    } else {
      for (int64_t i = 0; i < size; ++i) run[i * stride] = bounded_from_real<S>(buffer[i]);
    }
    buffer += size;
  });
}

// The same of sets whose points lie side by side in memory, as many as a vector has lanes at most:
// to and from one row of a buffer each.
template <class S, class T>
void gather_rows(const S* x, int64_t stride, int64_t n, int sets, T* rows) {
  constexpr int lanes = VectorOf<T>::lanes;
  for (int64_t j = 0; j < n; j += lanes) {
    const int count = static_cast<int>(std::min<int64_t>(lanes, n - j));
    Vector<T> tile[lanes] = {};
    for (int k = 0; k < count; ++k) {
      const S* const points = x + (j + k) * stride;
      if constexpr (std::is_same_v<S, T>) {
        tile[k] = load_up_to<T>(points, sets);
      } else {
        T here[lanes] = {};
        for (int i = 0; i < sets; ++i) here[i] = static_cast<T>(to_real(points[i]));
        tile[k] = load<T>(here);
      }
    }
    transpose<T>(tile);
    for (int i = 0; i < sets; ++i) store_up_to<T>(rows + i * n + j, tile[i], count);
  }
}
template <class S, class T>
void scatter_rows(const T* rows, int64_t stride, int64_t n, int sets, S* x) {
  constexpr int lanes = VectorOf<T>::lanes;
  for (int64_t j = 0; j < n; j += lanes) {
    const int count = static_cast<int>(std::min<int64_t>(lanes, n - j));
    Vector<T> tile[lanes] = {};
    for (int i = 0; i < sets; ++i) tile[i] = load_up_to<T>(rows + i * n + j, count);
    transpose<T>(tile);
    for (int k = 0; k < count; ++k) {
      S* const points = x + (j + k) * stride;
      if constexpr (std::is_same_v<S, T>) {
        store_up_to<T>(points, tile[k], sets);
      } else {
        for (int i = 0; i < sets; ++i) points[i] = bounded_from_real<S>(tile[k][i]);
      }
    }
  }
}

// The dtype of the arithmetic, and of what belongs to alpha.
template <class T>
constexpr DType real_dtype = sizeof(T) == sizeof(double) ? DType::float64 : DType::float32;

// The numbers of one set after another in one stretch, as type T: where they lie if they lie so,
// else in a buffer, to which sets that lie side by side are brought together. The sets are asked
// for in order and up to `end`. A null tensor has none.
template <class T>
class Staged {
 public:
  Staged(const void* tensor, DType dtype, const SetLayout& layout, int64_t end)
      : tensor_(const_cast<void*>(tensor)),
        dtype_(dtype),
        layout_(layout),
        end_(end),
        in_place_(layout.contiguous_points() && dtype == real_dtype<T>) {}
  Staged(const PointArray& array, DType dtype, int64_t end)
      : Staged(array.data, dtype, array.layout, end) {}

  bool in_place() const { return in_place_; }
  // How far the points of the set `further` on lie from those of this one; zero where there is
  // none, or they are not read in place.
  int64_t ahead(int64_t set, int64_t further) const {
    if (!in_place_ || set + further >= layout_.num_sets) return 0;
    return layout_.place(set + further).first - layout_.place(set).first;
  }

  // Room for the set, for write() to put back.
  DDN_HOST_DEVICE T* room(int64_t set) {
    if (tensor_ == nullptr) return nullptr;
    return in_place_ ? static_cast<T*>(tensor_) + layout_.place(set).first : staged_room(set);
  }
  DDN_HOST_DEVICE const T* read(int64_t set) {
    return tensor_ == nullptr || in_place_ ? room(set) : gathered(set);
  }
  DDN_HOST_DEVICE void write(int64_t set) {
    if (tensor_ != nullptr && !in_place_ && set + 1 == past_) scatter_group();
  }

 private:
  DDN_NOINLINE T* staged_room(int64_t set) {
    if (set >= past_) begin_group(set);
    return buffer_.data() + (set - first_) * place_.num_points;
  }
  DDN_NOINLINE const T* gathered(int64_t set) {
    if (set >= past_) {
      begin_group(set);
      with_weight_storage(dtype_, [&](auto zero) {
        using S = decltype(zero);
        const S* const x = static_cast<const S*>(tensor_) + place_.first;
        if (past_ - first_ == 1) {
          gather(x, dims(), buffer_.data());
        } else {
          gather_rows(x, layout_.points.stride[0], place_.num_points,
                      static_cast<int>(past_ - first_), buffer_.data());
        }
      });
    }
    return staged_room(set);
  }
  DDN_NOINLINE void scatter_group() {
    with_storage<T>(dtype_, [&](auto zero) {
      using S = decltype(zero);
      S* const x = static_cast<S*>(tensor_) + place_.first;
      if (past_ - first_ == 1) {
        scatter(buffer_.data(), x, dims());
      } else {
        scatter_rows(buffer_.data(), layout_.points.stride[0], place_.num_points,
                     static_cast<int>(past_ - first_), x);
      }
    });
  }
  Dims dims() const {
    Dims points = layout_.points;
    if (layout_.ptr != nullptr) points.size[0] = place_.num_points;
    return points;
  }
  void begin_group(int64_t set) {
    constexpr int64_t most_points = 1 << 12;  // of a set, for a group to stay in the caches
    const Dims& sets = layout_.sets;
    int64_t count = 1;
    place_ = layout_.place(set);
    if (layout_.points.rank == 1 && sets.rank > 0 && sets.stride[sets.rank - 1] == 1 &&
        place_.num_points <= most_points) {
      const int64_t row = sets.size[sets.rank - 1], left = row - set % row;
      count = std::min<int64_t>({VectorOf<T>::lanes, left, end_ - set});
    }
    first_ = set;
    past_ = set + count;
    buffer_.resize(static_cast<size_t>(count * place_.num_points));
  }

  void* tensor_;
  DType dtype_;
  const SetLayout& layout_;
  int64_t end_;
  bool in_place_;
  int64_t first_ = 0, past_ = 0;  // the sets in the buffer
  Place place_{};                 // of the first of them
  std::vector<T> buffer_;
};

// Sets per task, so that a task is long against the cost of handing it to a thread.
inline int64_t grain(int64_t num_points) {
  return std::max<int64_t>(1, chunk_points / std::max<int64_t>(1, num_points));
}

// The points of positive weight and their weights in their unit.
template <class T>
class WeightedPoints {
 public:
  void read(const T* x, const T* weight, int64_t n) {
    points_.resize(static_cast<size_t>(n));
    weights_.resize(static_cast<size_t>(n));
    double largest = 0;
    bool valid = true;
    kept_ = 0;
    for (int64_t i = 0; i < n; ++i) {
      const T weight_here = weight[i];
      if (weight_here == 0) continue;
      valid = valid && weight_here > 0;  // false for NaN
      points_[static_cast<size_t>(kept_)] = x[i];
      weights_[static_cast<size_t>(kept_)] = weight_here;
      largest = max(static_cast<double>(weight_here), largest);
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

  // Whether the weights are equal, to the unit then. Such a set is solved as if it had none: a mask
  // gives the same bits as the points that it leaves.
  bool are_equal() const { return equal_; }
  const T* points() const { return points_.data(); }
  int64_t size() const { return kept_; }
  double unit() const { return unit_; }

  PointSet<T, true> set(const cpu::ParallelFor* parallel_for, Workspace<T>* workspace) const {
    return {{points_.data(), weights_.data(), kept_}, total_, unit_, parallel_for, workspace};
  }

 private:
  int64_t kept_ = 0;
  std::vector<T> points_, weights_;
  double total_ = 0;
  double unit_ = 1;
  bool equal_ = true;
};

template <class P, bool global, class T>
void forward_sets(const ForwardArgs& args, int64_t begin, int64_t end,
                  const cpu::ParallelFor* parallel_for) {
  Staged<T> x(args.x, args.dtype, args.layout, end);
  Staged<T> weight(args.weight, args.weight_dtype, args.weight_layout, end);
  WeightedPoints<T> weighted;
  Workspace<T> workspace(global);
  LaneBatch<T> lane_batch;
  const auto solve_alone = [&](int64_t i, const T* points, int64_t n, double unit, int64_t ahead,
                               bool takes_more) {
    const PointSet<T> set({points, nullptr, n, ahead}, static_cast<double>(n), unit, parallel_for,
                          &workspace);
    solve_and_write<P, global>(args, i, set, takes_more);
  };
  const auto solve_lane_batch = [&] {
    lane_batch.template solve<P, global>(
        args, [&](int64_t i, const T* points, int64_t n, double unit, bool takes_more) {
          solve_alone(i, points, n, unit, 0, takes_more);
        });
  };
  for (int64_t i = begin; i < end; ++i) {
    int64_t n = args.layout.place(i).num_points;
    const T* points = x.read(i);
    double unit = 1;
    bool stays = x.in_place();
    if (args.weight != nullptr) {
      weighted.read(points, weight.read(i), n);
      if (!weighted.are_equal()) {
        solve_and_write<P, global>(args, i, weighted.set(parallel_for, &workspace));
        continue;
      }
      points = weighted.points();
      n = weighted.size();
      unit = weighted.unit();
      stays = false;
    }
    const T alpha = set_alpha<T>(args, i);
    if (lane_batch.template takes<P, global>(n) && in_range<T>(alpha)) {
      constexpr int64_t few = 32;
      const int64_t ahead = stays && n >= few ? x.ahead(i, lane_batch.lanes) : 0;
      lane_batch.add(i, points, n, unit, alpha, stays, ahead);
      if (lane_batch.is_full()) solve_lane_batch();
    } else {
      constexpr int64_t few = 512;  // those the processor has fetched by itself
      solve_alone(i, points, n, unit, stays && n >= few ? x.ahead(i, 1) : 0, false);
    }
  }
  solve_lane_batch();
}

// The points of a set with what moves them, as core/second_order.h sums over them.
template <class T>
struct MovingPoints {
  using V = Vector<T>;
  static constexpr int lanes = VectorOf<T>::lanes;

  const T *x, *weight, *x_tangent, *weight_tangent;  // all but x may be null
  T *grad_x, *grad_weight;                           // where gradients go, or null
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

// Whether gradients exceed the caches: they then go past them, and memory is not read before it is
// overwritten.
inline bool exceeds_caches(const SetLayout& layout, DType dtype) {
  constexpr int64_t caches = 32 << 20, worthwhile = 1 << 10;
  const int64_t bytes = layout.num_points * (dtype == DType::float64 ? 8 : 4);
  const bool staged = dtype == DType::float16 || dtype == DType::bfloat16;
  return !staged && layout.ptr == nullptr && layout.contiguous_points() && bytes >= worthwhile &&
         bytes * layout.num_sets >= caches;
}

// The gradients of the points and of the weights of one set, where they are wanted.
template <class P, class T>
void first_order(const MovingPoints<T>& points, const SetGradient<T>& one, bool past_caches) {
  const SetGradient<Vector<T>> set = points.shared(one);
  const T *const x = points.x, *const weight = points.weight;
  const auto write = [&](T* out, auto gradient) __attribute__((always_inline)) {
    constexpr int lanes = VectorOf<T>::lanes;
    const int64_t n = points.n;  // what is written might be where it lies
    int64_t i = 0;
    if (past_caches && reinterpret_cast<uintptr_t>(out) % DDN_VECTOR_BYTES == 0) {
      constexpr int64_t ahead = 4096 / sizeof(T);  // a page, where the processor stops by itself
      for (; i + lanes <= n; i += lanes) {
        if constexpr (!P::is_mean) __builtin_prefetch(x + i + ahead);
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
void backward_sets(const BackwardArgs& args, int64_t begin, int64_t end) {
  Staged<T> x(args.x, args.dtype, args.layout, end);
  Staged<T> weight(args.weight, args.weight_dtype, args.weight_layout, end);
  Staged<T> x_tangent(args.tangent_x, args.dtype, end);
  Staged<T> weight_tangent(args.tangent_weight, real_dtype<T>, end);
  Staged<T> grad_x(args.grad_x, args.dtype, end);
  Staged<T> grad_weight(args.grad_weight, real_dtype<T>, end);
  const bool past_caches = exceeds_caches(
      args.grad_x.data != nullptr ? args.grad_x.layout : args.grad_weight.layout, args.dtype);
  for (int64_t i = begin; i < end; ++i) {
    const MovingPoints<T> points{x.read(i),
                                 weight.read(i),
                                 x_tangent.read(i),
                                 weight_tangent.read(i),
                                 grad_x.room(i),
                                 grad_weight.room(i),
                                 args.layout.place(i).num_points};
    const SetGradient<T> set = set_gradient<T>(args, i);
    if (args.is_second_order()) {
      write_second_order<P>(args, i, points, set);
    } else {
      first_order<P>(points, set, past_caches);
      write_alpha_gradient<P>(args, i, points, set);
    }
    grad_x.write(i);
    grad_weight.write(i);
  }
  if (past_caches) non_temporal_fence();
}

template <class F>
void with_type(DType dtype, F&& f) {
  if (dtype == DType::float64) {
    f(double{});
  } else {
    f(float{});
  }
}

// Calls body(begin, end) on stretches of the sets, several at a time. Segments are shared out by
// their points, so that a long one does not wait for its turn behind others.
inline void over_sets(const SetLayout& layout, const cpu::ParallelFor& parallel_for,
                      const cpu::Range& body) {
  if (layout.ptr == nullptr) {
    parallel_for(0, layout.num_sets, grain(layout.num_points), body);
    return;
  }
  const int64_t segments = layout.num_sets / layout.channels;
  const int64_t* const starts = layout.ptr;
  // A segment counts one more than its points, so that each begins somewhere else.
  const auto at = [&](int64_t segment) { return starts[segment] - starts[0] + segment; };
  const auto first_from = [&](int64_t place) {
    int64_t first = 0, past = segments;
    while (first < past) {
      const int64_t middle = first + (past - first) / 2;
      if (at(middle) < place) {
        first = middle + 1;
      } else {
        past = middle;
      }
    }
    return first;
  };
  parallel_for(0, at(segments), grain(layout.channels), [&](int64_t begin, int64_t end) {
    body(first_from(begin) * layout.channels, first_from(end) * layout.channels);
  });
}

// Sets of more points, if they are few, are taken one after the other, by all threads together.
constexpr int64_t shared_points = 2 * chunk_points;
constexpr int64_t few_sets = 64;

template <class P, bool global, class T>
void forward_all(const ForwardArgs& args, const cpu::ParallelFor& parallel_for) {
  const SetLayout& layout = args.layout;
  if (layout.num_points > shared_points && layout.num_sets < few_sets) {
    forward_sets<P, global, T>(args, 0, layout.num_sets, &parallel_for);
    return;
  }
  over_sets(layout, parallel_for, [&](int64_t begin, int64_t end) {
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
      over_sets(args.layout, parallel_for,
                [&](int64_t begin, int64_t end) { backward_sets<P, T>(args, begin, end); });
    });
  });
}

}  // namespace DDN_ISA
}  // namespace ddn
