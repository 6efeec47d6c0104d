#include "pooling_case.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "core/penalties.h"
#include "cpu/robust_pool_cpu.h"
#include "cuda/robust_pool_cuda.h"
#include "cuda_shim.h"

namespace native {
namespace {

using ddn::BackwardArgs;
using ddn::ForwardArgs;
using ddn::Status;

constexpr double infinity = std::numeric_limits<double>::infinity();

// Bytes as numbers; past the end come zeros.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), left_(size) {}

  uint8_t byte() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  int below(int bound) { return byte() % bound; }
  uint64_t word() {
    uint64_t x = 0;
    for (int i = 0; i < 8; ++i) x = x << 8 | byte();
    return x;
  }
  bool empty() const { return left_ == 0; }

 private:
  const uint8_t* data_;
  size_t left_;
};

// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t word() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(word() >> 11) * 0x1p-53; }
  int below(int bound) { return static_cast<int>(word() % static_cast<uint64_t>(bound)); }
  double normal() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }

 private:
  uint64_t state_;
};

// On each side of the sizes at which the kernels change, and more of the small ones.
constexpr int sizes[] = {1,  2,  3,  4,  5,   7,   8,   12,  16,  17,  31,   33,   48,
                         63, 64, 65, 96, 127, 129, 200, 256, 257, 333, 511,  513,  700,
                         1,  2,  3,  6,  10,  20,  40,  50,  70,  80,  1024, 1025, 1500};
constexpr int large_sizes[] = {2049, 4096, 4097, 8191, 8193, 12000, 16385, 20000};

constexpr int layouts = 5;
constexpr int segments = 4;  // the last one: sets are segments of one dim

enum class Weights { none, mask, some, wide };

struct Case {
  bool is_double;
  int penalty;
  bool global;
  int num_sets;
  int num_points;
  int layout;
  Weights weights;
  int points;  // the kind of data
  int64_t max_iter;
  double tolerance;
  bool alpha_each;
  double alpha;
  uint64_t seed;
};

Case decode(Bytes& bytes) {
  Case c{};
  const uint8_t flags = bytes.byte();
  c.is_double = (flags & 1) != 0;
  c.global = (flags & 2) == 0;
  c.alpha_each = (flags & 4) != 0;
  c.penalty = bytes.below(ddn::Penalties::size);
  const int size = bytes.byte();
  c.num_points = size >= 253 ? large_sizes[bytes.below(std::size(large_sizes))]
                             : sizes[size % std::size(sizes)];
  c.num_sets = c.num_points > 2000 ? 1 : 1 + bytes.below(c.num_points > 300 ? 2 : 5);
  c.layout = bytes.below(layouts);
  c.weights = static_cast<Weights>(bytes.below(4));
  c.points = bytes.below(8);
  const int stop = bytes.byte();
  c.max_iter = stop < 40 ? stop : -1;
  c.tolerance = stop >= 240 ? std::ldexp(1.0, -(stop - 240) * 3) : -1;
  // Mostly near one, now and then anywhere in the range of alpha, or a little outside.
  const int scale = bytes.byte();
  const int most = c.is_double ? 99 : 49;
  const int exponent = scale < 128 ? scale % 8 - 4 : (scale - 192) * most / 64;
  c.alpha = std::ldexp(1.0 + bytes.byte() / 256.0, exponent);
  c.seed = bytes.word();
  return c;
}

template <class T>
T from_bits(uint64_t word) {
  T x;
  memcpy(&x, &word, sizeof x);
  return x;
}

// In units of alpha but for the raw ones.
template <class T>
std::vector<T> draw_points(const Case& c, Bytes& bytes, Random& random) {
  const size_t count = static_cast<size_t>(c.num_sets) * static_cast<size_t>(c.num_points);
  std::vector<T> x(count);
  const double clusters = 1 + random.below(4);
  const double apart = random.below(3) == 0 ? random.below(5) : 20 * random.uniform();
  const double spread = std::ldexp(1.0, random.below(20) - 14);
  const double offset = random.below(4) == 0 ? 1e4 * random.normal() : 0;
  const T special[] = {static_cast<T>(infinity),
                       -static_cast<T>(infinity),
                       std::numeric_limits<T>::quiet_NaN(),
                       std::numeric_limits<T>::max(),
                       std::numeric_limits<T>::lowest(),
                       std::numeric_limits<T>::denorm_min(),
                       -T(0),
                       std::numeric_limits<T>::min()};
  for (T& point : x) {
    double v = 0;
    switch (c.points) {
      case 0:  // any bits
        point = from_bits<T>(bytes.empty() ? random.word() : bytes.word());
        continue;
      case 1:  // distances of exactly alpha and 2 alpha
        v = 0.5 * random.below(17);
        break;
      case 2:  // all the same
        v = offset + spread;
        break;
      case 3:  // over many orders of magnitude
        v = std::ldexp(random.normal(), random.below(60) - 30);
        break;
      case 4:  // a few numbers that are not like the others
        if (random.below(4) == 0) {
          point = special[random.below(std::size(special))];
          continue;
        }
        v = random.normal();
        break;
      case 5:  // a lattice with a spacing of its own, flat to the last bit
        v = offset + random.below(256) * spread;
        break;
      case 6:  // one outlier in ten
        v = random.below(10) == 0 ? 1e6 * random.normal() : random.normal();
        break;
      default:
        v = offset + apart * std::floor(clusters * random.uniform()) + spread * random.normal();
    }
    point = static_cast<T>(std::clamp<double>(v * c.alpha, std::numeric_limits<T>::lowest(),
                                              std::numeric_limits<T>::max()));
  }
  return x;
}

template <class T>
std::vector<T> draw_weights(const Case& c, Random& random) {
  if (c.weights == Weights::none) return {};
  std::vector<T> w(static_cast<size_t>(c.num_sets) * static_cast<size_t>(c.num_points));
  const int zeros = random.below(3);  // none, some, or most are zero
  const int bad = random.below(16) == 0 ? random.below(static_cast<int>(w.size())) : -1;
  for (T& weight : w) {
    weight = c.weights == Weights::mask   ? T(1)
             : c.weights == Weights::some ? static_cast<T>(0.1 * (1 + random.below(20)))
                                          : static_cast<T>(std::ldexp(1.0, random.below(80) - 40));
    if (random.below(8) < zeros * 3) weight = 0;
  }
  if (bad >= 0) {
    const double none[] = {-1, infinity, std::nan(""), -0.0};
    w[static_cast<size_t>(bad)] = static_cast<T>(none[random.below(4)]);
  }
  return w;
}

// [sets, points] in memory of its own size exactly, so that the sanitizer sees each step beside it.
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

// Another layout than `order`, but segments stay segments.
int other_layout(int order, int by) { return order == segments ? order : (order + by) % segments; }

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

void here(int64_t begin, int64_t end, int64_t, const ddn::cpu::Range& body) {
  // Pieces of any size are allowed.
  const int64_t middle = begin + (end - begin) / 3;
  if (begin < middle) body(begin, middle);
  if (middle < end) body(middle, end);
}

void launch(Device device, ForwardArgs args) {
  if (device == Device::cpu) return ddn::cpu::robust_pool_forward(args, here);
  const auto bytes = static_cast<size_t>(ddn::cuda::robust_pool_workspace_bytes(args));
  const std::unique_ptr<unsigned char[]> workspace(new unsigned char[bytes]);
  args.workspace = workspace.get();
  if (ddn::cuda::robust_pool_forward(args, nullptr) == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cuda_shim::error());
  std::abort();
}
void launch(Device device, const BackwardArgs& args) {
  if (device == Device::cpu) return ddn::cpu::robust_pool_backward(args, here);
  if (ddn::cuda::robust_pool_backward(args, nullptr) == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cuda_shim::error());
  std::abort();
}

// Solves `sets` sets from `first` on; x and weights are [sets, points], alphas [sets].
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
  ForwardArgs args{};
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
  std::unique_ptr<unsigned char[]> workspace;
  launch(device, args);
  const std::vector<T> grad(static_cast<size_t>(sets), T(1));
  BackwardArgs back{};
  static_cast<ddn::PoolArgs&>(back) = args;
  back.y = args.y;
  back.remainder = args.remainder;
  back.curvature = args.curvature;
  back.grad = grad.data();
  for (const bool of_weights : {false, true}) {
    Tensor<T> gradient(c, sets, other_layout(c.layout, 2));
    BackwardArgs first = back;
    (of_weights ? first.grad_weight : first.grad_x) =
        ddn::PointArray{gradient.data.get(), gradient.layout};
    launch(device, first);
    std::vector<T>& rows = of_weights ? out.grad_weight : out.grad_x;
    for (int i = 0; i < sets; ++i) {
      for (int j = 0; j < c.num_points; ++j) rows.push_back(gradient.at(i, j));
    }
  }
  // What is asked of the rest is that it stays in its memory.
  std::vector<T> each(static_cast<size_t>(sets));
  BackwardArgs of_alpha = back;
  of_alpha.grad_alpha = each.data();
  launch(device, of_alpha);
  Tensor<T> moved_x(c, sets, other_layout(c.layout, 3)), moved_w(c, sets, c.layout);
  moved_x.fill(x);
  moved_w.fill(weights != nullptr ? weights : x);
  back.tangent_x = ddn::PointArray{moved_x.data.get(), moved_x.layout};
  back.tangent_weight = ddn::PointArray{moved_w.data.get(), moved_w.layout};
  back.tangent_alpha = alphas;
  BackwardArgs tangent = back;
  tangent.tangent_y = each.data();
  launch(device, tangent);
  Tensor<T> second_x(c, sets, other_layout(c.layout, 1)), second_w(c, sets, c.layout);
  back.grad_x = ddn::PointArray{second_x.data.get(), second_x.layout};
  back.grad_weight = ddn::PointArray{second_w.data.get(), second_w.layout};
  back.grad_alpha = each.data();
  launch(device, back);
  return out;
}

// ---- What has to hold ---------------------------------------------------------------------------

const char* penalty_name(int number) {
  const char* name = "";
  ddn::with_penalty(number, [&](auto penalty) { name = decltype(penalty)::name; });
  return name;
}

template <class T>
struct Set {
  const Case& c;
  const T* x;
  const T* weights;  // or null
  double alpha;

  double weight(int j) const { return weights == nullptr ? 1.0 : static_cast<double>(weights[j]); }

  // Sum of w phi in extended precision.
  long double objective(double u) const {
    long double sum = 0;
    ddn::with_penalty(c.penalty, [&](auto penalty) {
      for (int j = 0; j < c.num_points; ++j) {
        if (!(weight(j) > 0)) continue;
        const double z = u - static_cast<double>(x[j]);
        sum += static_cast<long double>(weight(j)) * decltype(penalty)::value(z, alpha);
      }
    });
    return sum;
  }
  double second() const {
    double value = 0;
    ddn::with_penalty(c.penalty, [&](auto penalty) { value = decltype(penalty)::second(alpha); });
    return value;
  }
};

template <class T>
[[noreturn]] void fail(const Set<T>& set, const char* what, double a, double b) {
  const Case& c = set.c;
  std::fprintf(stderr,
               "\n%s: %.17g, %.17g\n%s, %s, %s, %d points of kind %d, layout %d, weights %d, "
               "alpha %.17g, max_iter %lld, tolerance %g, seed %llu\nx:",
               what, a, b, penalty_name(c.penalty), c.is_double ? "float64" : "float32",
               c.global ? "global" : "local", c.num_points, c.points, c.layout,
               static_cast<int>(c.weights), set.alpha, static_cast<long long>(c.max_iter),
               c.tolerance, static_cast<unsigned long long>(c.seed));
  for (int j = 0; j < std::min(c.num_points, 70); ++j) {
    std::fprintf(stderr, " %.17g", static_cast<double>(set.x[j]));
    if (set.weights != nullptr) std::fprintf(stderr, "*%.9g", set.weight(j));
  }
  std::fprintf(stderr, "\n");
  std::abort();
}

// How far f(y) may lie above any other objective.
template <class T>
long double allowed(const Set<T>& set, double y, long double least, double total) {
  const double ulp = std::nextafter(std::fabs(static_cast<T>(y)), T(infinity)) - std::fabs(y);
  const double d = sizeof(T) == 8 ? 1e-10 * (set.alpha + std::fabs(y)) : 2 * ulp + 4e-6 * set.alpha;
  return (sizeof(T) == 8 ? 1e-12 : 1e-6) * std::fabs(least) +
         0.5L * total * set.second() * static_cast<long double>(d) * d;
}

template <class T>
void check_set(const Set<T>& set, const Answers<T>& all, int i, Tally& tally) {
  const Case& c = set.c;
  const auto index = static_cast<size_t>(i);
  const double y = static_cast<double>(all.y[index]);
  const T* const g = all.grad_x.data() + i * c.num_points;
  const T* const g_w = all.grad_weight.data() + i * c.num_points;
  const auto status = static_cast<Status>(all.status[index]);
  double total = 0, lo = infinity, hi = -infinity;
  bool good = true, finite = true;
  for (int j = 0; j < c.num_points; ++j) {
    const double weight = set.weight(j), x = static_cast<double>(set.x[j]);
    good = good && weight >= 0 && std::isfinite(weight);
    total += weight;
    if (!(weight > 0)) continue;
    finite = finite && std::isfinite(x);
    lo = std::min(lo, x);
    hi = std::max(hi, x);
  }
  // Some alphas are drawn from beyond the contract's range; the last digits of a limit are free.
  const double limit = sizeof(T) == 8 ? 1e30 : 1e15;
  const double beyond = std::max(set.alpha, 1 / set.alpha) / limit;
  if (std::fabs(beyond - 1) < 1e-5) return;
  if (beyond > 1) {
    if (!std::isnan(y) || status != Status::not_finite) fail(set, "bad alpha, yet y", y, set.alpha);
    return;
  }
  if (!good) {
    if (!std::isnan(y) || status != Status::not_finite) fail(set, "bad weights, yet y", y, total);
    return;
  }
  if (total == 0) {
    if (y != 0 || status != Status::empty) fail(set, "no points, yet y", y, total);
  } else if (!finite) {
    return;
  } else if (!(lo <= y && y <= hi)) {
    fail(set, "y is not among its points", y, lo);
  }
  ++tally.finite;
  double sum = 0, magnitude = 0;
  for (int j = 0; j < c.num_points; ++j) {
    if (!std::isfinite(g[j])) fail(set, "a gradient of x is not finite", g[j], j);
    if (!std::isfinite(g_w[j])) fail(set, "a gradient of weights is not finite", g_w[j], j);
    if (!(set.weight(j) > 0) && g[j] != 0) fail(set, "a gradient of an absent point", g[j], j);
    sum += g[j];
    magnitude += std::fabs(g[j]);
  }
  if (all.curvature[index] == 0) {
    if (magnitude != 0) fail(set, "a gradient where none is defined", sum, magnitude);
  } else if (!(std::fabs(sum - 1) <= 1e-3 * (1 + magnitude))) {
    fail(set, "the gradients do not sum to one", sum, magnitude);
  }
  const double gap = all.gap[index], objective = all.objective[index];
  if (!(gap >= 0)) fail(set, "gap", gap, objective);
  if (c.max_iter < 0 && c.tolerance < 0 && status == Status::stopped_early) {
    fail(set, "stopped early though nothing bounds the passes", y, gap);
  }
  // No objective lies below what the gap proves.
  const long double own = set.objective(y);
  if (!std::isfinite(static_cast<double>(own)) || total == 0) return;
  const int step = std::max(1, c.num_points / 40);
  for (int j = 0; j < c.num_points; j += step) {
    if (!(set.weight(j) > 0)) continue;
    const double u = static_cast<double>(set.x[j]);
    const long double there = set.objective(u);
    if (!(own - gap <= there + 1e-9L * std::fabs(own))) fail(set, "gap disproved", gap, u);
    ++tally.certified;
    const bool convex = c.penalty <= 2;
    if ((c.global || convex) && c.max_iter < 0 && c.tolerance < 0 &&
        !(own <= there + allowed(set, y, there, total))) {
      fail(set, "a point of the set is better than y", y, u);
    }
  }
}

template <class T>
void compare(const Set<T>& set, double a, double b, Tally& tally) {
  const Case& c = set.c;
  if (c.max_iter >= 0 || c.tolerance >= 0 || !(c.global || c.penalty <= 2)) return;
  if (!std::isfinite(a) || !std::isfinite(b)) {
    if (!(std::isnan(a) && std::isnan(b)) && a != b) fail(set, "the devices differ", a, b);
    return;
  }
  const long double f_a = set.objective(a), f_b = set.objective(b);
  if (!std::isfinite(static_cast<double>(f_a + f_b))) return;
  double total = 0;
  for (int j = 0; j < c.num_points; ++j) total += set.weight(j);
  ++tally.compared;
  if (!(f_a <= f_b + allowed(set, a, f_b, total) && f_b <= f_a + allowed(set, b, f_a, total))) {
    fail(set, "the devices differ", a, b);
  }
}

template <class T>
bool same(const std::vector<T>& a, size_t i, const std::vector<T>& b, size_t j, size_t count) {
  return memcmp(a.data() + i, b.data() + j, count * sizeof(T)) == 0;
}

template <class T>
void run(const Case& c, Bytes& bytes, Tally& tally) {
  Random random(c.seed);
  const std::vector<T> x = draw_points<T>(c, bytes, random);
  const std::vector<T> weights = draw_weights<T>(c, random);
  std::vector<T> alphas;
  for (int i = 0; i < c.num_sets; ++i) {
    alphas.push_back(static_cast<T>(c.alpha * std::ldexp(1.0, random.below(5) - 2)));
  }
  const auto n = static_cast<size_t>(c.num_points);
  cuda_shim::set_order(static_cast<cuda_shim::Order>(random.below(3)), random.word());
  cuda_shim::set_most_blocks(1 + static_cast<unsigned>(random.below(4)));
  const T* const w = weights.empty() ? nullptr : weights.data();
  std::vector<Answers<T>> answers;
  for (const Device device : {Device::cpu, Device::cuda}) {
    answers.push_back(solve(c, device, c.num_sets, x.data(), w, alphas.data()));
    const Answers<T>& all = answers.back();
    for (int i = 0; i < c.num_sets; ++i) {
      const auto at = static_cast<size_t>(i);
      const T* const own_w = w == nullptr ? nullptr : w + at * n;
      const double alpha = c.alpha_each ? static_cast<double>(alphas[at])
                                        : static_cast<double>(static_cast<T>(c.alpha));
      const Set<T> set{c, x.data() + at * n, own_w, alpha};
      check_set(set, all, i, tally);
      if (device == Device::cuda) {
        compare(set, static_cast<double>(answers[0].y[at]), static_cast<double>(all.y[at]), tally);
      }
    }
    // A set alone, in another layout, has the bits that it has among others.
    const int i = random.below(c.num_sets);
    const auto at = static_cast<size_t>(i);
    Case other = c;
    other.layout = random.below(layouts);
    const Answers<T> alone = solve(other, device, 1, x.data() + at * n,
                                   w == nullptr ? nullptr : w + at * n, alphas.data() + at);
    if (!same(alone.y, 0, all.y, at, 1) || !same(alone.curvature, 0, all.curvature, at, 1) ||
        !same(alone.gap, 0, all.gap, at, 1) || !same(alone.grad_x, 0, all.grad_x, at * n, n) ||
        !same(alone.grad_weight, 0, all.grad_weight, at * n, n)) {
      const Set<T> set{c, x.data() + at * n, w == nullptr ? nullptr : w + at * n, c.alpha};
      fail(set, "not the bits of the batch", alone.y[0], all.y[at]);
    }
  }
  ++tally.cases;
  tally.sets += c.num_sets;
  tally.points += static_cast<long>(x.size());
}

}  // namespace

void run_case(const uint8_t* data, size_t size, Tally& tally) {
  Bytes bytes(data, size);
  const Case c = decode(bytes);
  if (c.is_double) {
    run<double>(c, bytes, tally);
  } else {
    run<float>(c, bytes, tally);
  }
}

}  // namespace native
