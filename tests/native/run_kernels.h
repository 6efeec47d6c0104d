// Runs the kernels of a device on a drawn case.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "cpu/robust_pool_cpu.h"
#include "cuda/robust_pool_cuda.h"
#include "cuda_shim.h"
#include "drawn_case.h"

namespace native {

// [sets, points] in an allocation of exactly its size, so that the sanitizer sees every access
// outside.
template <class T>
struct Tensor {
  std::unique_ptr<T[]> data;
  std::unique_ptr<int64_t[]> ptr;
  ddn::SetLayout layout;

  Tensor(const Case& c, int sets, int order) {
    const int64_t n = c.num_points;
    layout.num_sets = sets;
    layout.num_points = n;
    int64_t size = sets * n;
    const auto dims = [](int64_t count, int64_t stride) {
      ddn::Dims dims;
      if (count == 1) return dims;
      dims.rank = 1;
      dims.size[0] = count;
      dims.stride[0] = stride;
      return dims;
    };
    switch (order) {
      case 1:  // points apart
        layout.sets = dims(sets, 1);
        layout.points = dims(n, sets);
        break;
      case 2:  // gaps between both
        size = sets * n * 6;
        layout.sets = dims(sets, n * 6);
        layout.points = dims(n, 3);
        break;
      case 3:
        if (n % 4 == 0 && n > 4) {  // points in two dims
          layout.points.rank = 2;
          layout.points.size[0] = 4;
          layout.points.stride[0] = sets * (n / 4);
          layout.points.size[1] = n / 4;
          layout.points.stride[1] = 1;
          layout.sets = dims(sets, n / 4);
          break;
        }
        [[fallthrough]];
      case segments:
        if (order == segments) {
          ptr.reset(new int64_t[static_cast<size_t>(sets) + 1]);
          for (int i = 0; i <= sets; ++i) ptr[static_cast<size_t>(i)] = i * n;
          layout.ptr = ptr.get();
          layout.num_points = sets * n;
          layout.points.rank = 1;
          layout.points.size[0] = layout.num_points;
          layout.points.stride[0] = 1;
          break;
        }
        [[fallthrough]];
      default:
        layout.sets = dims(sets, n);
        layout.points = dims(n, 1);
    }
    data.reset(new T[static_cast<size_t>(size)]);
    std::fill_n(data.get(), size,
                std::is_integral_v<T> ? T(1) : std::numeric_limits<T>::quiet_NaN());
  }
  T& at(int64_t set, int64_t point) {
    return data[static_cast<size_t>(layout.place(set).first + layout.points.offset(point))];
  }
  template <class From>
  void fill(const From* rows) {
    for (int64_t i = 0; i < layout.num_sets; ++i) {
      const int64_t n = layout.place(i).num_points;
      for (int64_t j = 0; j < n; ++j) at(i, j) = static_cast<T>(*rows++);
    }
  }
};

// A layout other than `order`, except that segments stay segments.
inline int other_layout(int order, int by) {
  return order == segments ? order : (order + by) % segments;
}

enum class Device { cpu, cuda };

template <class T>
struct Answers {
  std::vector<T> y, remainder, curvature;
  std::vector<T> grad_x, grad_weight;  // [sets, points]
  std::vector<int64_t> iterations, status;
  std::vector<double> residual, second, objective, gap;

  explicit Answers(size_t sets)
      : y(sets),
        remainder(sets),
        curvature(sets),
        iterations(sets),
        status(sets),
        residual(sets),
        second(sets),
        objective(sets),
        gap(sets) {}
};

inline void run_here(int64_t begin, int64_t end, int64_t, const ddn::cpu::Range& body) {
  // Pieces of any size are allowed.
  const int64_t middle = begin + (end - begin) / 3;
  if (begin < middle) body(begin, middle);
  if (middle < end) body(middle, end);
}

inline void launch(Device device, ddn::ForwardArgs args) {
  if (device == Device::cpu) return ddn::cpu::robust_pool_forward(args, run_here);
  const auto bytes = static_cast<size_t>(ddn::cuda::robust_pool_workspace_bytes(args));
  const std::unique_ptr<unsigned char[]> workspace(new unsigned char[bytes]);
  args.workspace = workspace.get();
  if (ddn::cuda::robust_pool_forward(args, nullptr) == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cuda_shim::error());
  std::abort();
}
inline void launch(Device device, const ddn::BackwardArgs& args) {
  if (device == Device::cpu) return ddn::cpu::robust_pool_backward(args, run_here);
  if (ddn::cuda::robust_pool_backward(args, nullptr) == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cuda_shim::error());
  std::abort();
}

// Solves `sets` sets; x and weights are [sets, points], alphas [sets]. weights may be null.
template <class T>
Answers<T> solve(const Case& c, Device device, int sets, const T* x, const T* weights,
                 const T* alphas) {
  Answers<T> out(static_cast<size_t>(sets));
  Tensor<T> points(c, sets, c.layout), given(c, sets, other_layout(c.layout, 1));
  points.fill(x);
  Tensor<uint8_t> mask(c, sets, other_layout(c.layout, 1));
  if (weights != nullptr) given.fill(weights);
  const bool masked = weights != nullptr && c.weights == Weights::mask &&
                      std::all_of(weights, weights + sets * c.num_points,
                                  [](T weight) { return weight == 0 || weight == 1; });
  if (masked) mask.fill(weights);
  ddn::ForwardArgs args{};
  args.dtype = sizeof(T) == 8 ? ddn::DType::float64 : ddn::DType::float32;
  args.penalty = c.penalty;
  args.global = c.global;
  args.layout = points.layout;
  args.x = points.data.get();
  args.y = out.y.data();
  args.remainder = out.remainder.data();
  args.curvature = out.curvature.data();
  args.alpha = c.alpha_each ? alphas : nullptr;
  args.alpha_value = c.alpha;
  if (weights != nullptr) {
    args.weight = given.data.get();
    args.weight_dtype = args.dtype;
    args.weight_layout = given.layout;
    if (masked) {
      args.weight = mask.data.get();
      args.weight_dtype = ddn::DType::boolean;
    }
  }
  args.max_iter = c.max_iter;
  args.tolerance = c.tolerance;
  args.info = {out.iterations.data(), out.residual.data(), out.second.data(),
               out.objective.data(),  out.gap.data(),      out.status.data()};
  launch(device, args);
  const std::vector<T> grad(static_cast<size_t>(sets), T(1));
  ddn::BackwardArgs back{};
  static_cast<ddn::PoolArgs&>(back) = args;
  back.y = args.y;
  back.remainder = args.remainder;
  back.curvature = args.curvature;
  back.grad = grad.data();
  for (const bool of_weights : {false, true}) {
    Tensor<T> gradient(c, sets, other_layout(c.layout, 2));
    ddn::BackwardArgs first = back;
    (of_weights ? first.grad_weight : first.grad_x) =
        ddn::PointArray{gradient.data.get(), gradient.layout};
    launch(device, first);
    std::vector<T>& rows = of_weights ? out.grad_weight : out.grad_x;
    for (int i = 0; i < sets; ++i) {
      for (int j = 0; j < c.num_points; ++j) rows.push_back(gradient.at(i, j));
    }
  }
  // The other derivatives are only checked for memory accesses.
  std::vector<T> each(static_cast<size_t>(sets));
  ddn::BackwardArgs of_alpha = back;
  of_alpha.grad_alpha = each.data();
  launch(device, of_alpha);
  Tensor<T> moved_x(c, sets, other_layout(c.layout, 3)), moved_w(c, sets, c.layout);
  moved_x.fill(x);
  moved_w.fill(weights != nullptr ? weights : x);
  back.tangent_x = ddn::PointArray{moved_x.data.get(), moved_x.layout};
  back.tangent_weight = ddn::PointArray{moved_w.data.get(), moved_w.layout};
  back.tangent_alpha = alphas;
  ddn::BackwardArgs tangent = back;
  tangent.tangent_y = each.data();
  launch(device, tangent);
  Tensor<T> second_x(c, sets, other_layout(c.layout, 1)), second_w(c, sets, c.layout);
  back.grad_x = ddn::PointArray{second_x.data.get(), second_x.layout};
  back.grad_weight = ddn::PointArray{second_w.data.get(), second_w.layout};
  back.grad_alpha = each.data();
  launch(device, back);
  return out;
}

}  // namespace native
