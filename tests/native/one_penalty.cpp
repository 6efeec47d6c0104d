// One penalty as a library with a C interface, from the core and the CPU kernels alone: compiled by
// one call of a C++ compiler, without torch, with -DDDN_PENALTY=<struct>. Sets are the rows of x.
#define DDN_ISA base
#define DDN_VECTOR_BYTES 16
#include <algorithm>
#include <vector>

#include "cpu/backward.h"
#include "cpu/forward.h"

namespace {

using P = ddn::DDN_PENALTY;

template <class T>
ddn::PoolArgs rows_of(const T* x, int64_t sets, int64_t points, const T* weight, const T* alpha) {
  const auto dims = [](int64_t count, int64_t stride) {
    ddn::Dims dims;
    dims.rank = 1;
    dims.size[0] = count;
    dims.stride[0] = stride;
    return dims;
  };
  ddn::PoolArgs args{};
  args.dtype = sizeof(T) == 8 ? ddn::DType::float64 : ddn::DType::float32;
  args.layout.num_sets = sets;
  args.layout.num_points = points;
  args.layout.sets = dims(sets, points);
  args.layout.points = dims(points, 1);
  args.x = x;
  args.alpha = alpha;
  args.weight = weight;
  args.weight_dtype = args.dtype;
  args.weight_layout = args.layout;
  return args;
}

// x, weight (or null): [sets, points]; alpha: [sets]. Answers and what the info tuple says of them:
// [sets]; the gradients of their sum: of x's, weight's and alpha's shape.
template <class T>
void pool(const T* x, int64_t sets, int64_t points, const T* weight, const T* alpha, T* y,
          double* objective, double* gap, int64_t* status, T* grad_x, T* grad_weight,
          T* grad_alpha) {
  const auto size = static_cast<size_t>(sets);
  std::vector<T> remainder(size), curvature(size), ones(size, T(1));
  std::vector<int64_t> iterations(size);
  std::vector<double> residual(size), second(size);
  ddn::ForwardArgs forward{};
  static_cast<ddn::PoolArgs&>(forward) = rows_of(x, sets, points, weight, alpha);
  forward.global = true;
  forward.y = y;
  forward.remainder = remainder.data();
  forward.curvature = curvature.data();
  forward.max_iter = -1;
  forward.tolerance = -1;
  forward.info = {iterations.data(), residual.data(), second.data(), objective, gap, status};
  ddn::forward_range<P, !ddn::is_convex<P>, T>(forward, 0, sets, nullptr);
  ddn::BackwardArgs backward{};
  static_cast<ddn::PoolArgs&>(backward) = forward;
  backward.y = y;
  backward.remainder = remainder.data();
  backward.curvature = curvature.data();
  backward.grad = ones.data();
  backward.grad_x = {grad_x, forward.layout};
  backward.grad_weight = {grad_weight, forward.layout};
  backward.grad_alpha = grad_alpha;
  ddn::backward_range<P, T>(backward, 0, sets);
}

// The members of the struct at points z: [count] each, in vectors as the kernels call them.
template <class T>
void terms(const T* z, int64_t count, T alpha, T* psi, T* dpsi, T* d2psi, T* dpsi_dalpha,
           double* value) {
  using V = ddn::Vector<T>;
  const ddn::Alpha<V> scale{ddn::splat(alpha), ddn::splat(1 / alpha)};
  constexpr int64_t lanes = ddn::VectorOf<T>::lanes;
  for (int64_t i = 0; i < count; i += lanes) {
    const int rest = static_cast<int>(std::min(lanes, count - i));
    const V point = ddn::load_up_to<T>(z + i, rest);
    const V given = P::is_smooth ? point * scale.inverse : point;
    const ddn::Terms<V> at = P::terms(given, scale);
    ddn::store_up_to<T>(psi + i, at.psi, rest);
    ddn::store_up_to<T>(dpsi + i, at.dpsi, rest);
    ddn::store_up_to<T>(d2psi + i, at.d2psi, rest);
    ddn::store_up_to<T>(dpsi_dalpha + i, P::dpsi_dalpha(given, scale), rest);
  }
  for (int64_t i = 0; i < count; ++i) {
    value[i] = P::value(static_cast<double>(z[i]), static_cast<double>(alpha));
  }
}

}  // namespace

extern "C" {

const char* penalty_name() { return P::name; }

#define DDN_DECLARE(T, name)                                                                       \
  void pool_##name(const T* x, int64_t sets, int64_t points, const T* weight, const T* alpha,      \
                   T* y, double* objective, double* gap, int64_t* status, T* grad_x,               \
                   T* grad_weight, T* grad_alpha) {                                                \
    pool(x, sets, points, weight, alpha, y, objective, gap, status, grad_x, grad_weight,           \
         grad_alpha);                                                                              \
  }                                                                                                \
  void terms_##name(const T* z, int64_t count, T alpha, T* psi, T* dpsi, T* d2psi, T* dpsi_dalpha, \
                    double* value) {                                                               \
    terms(z, count, alpha, psi, dpsi, d2psi, dpsi_dalpha, value);                                  \
  }
DDN_DECLARE(float, float32)
DDN_DECLARE(double, float64)
#undef DDN_DECLARE
}
