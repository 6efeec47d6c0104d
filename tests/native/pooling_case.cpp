#include "pooling_case.h"

#include <cstring>
#include <vector>

#include "answer_checks.h"
#include "drawn_case.h"
#include "run_kernels.h"

namespace native {
namespace {

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
      const DrawnSet<T> set{c, x.data() + at * n, own_w, alpha};
      check_set(set, all, i, tally);
      if (device == Device::cuda) {
        compare(set, static_cast<double>(answers[0].y[at]), static_cast<double>(all.y[at]), tally);
      }
    }
    // A single set, in another layout, gives the bits that it gives in a batch.
    const int i = random.below(c.num_sets);
    const auto at = static_cast<size_t>(i);
    Case other = c;
    other.layout = random.below(layouts);
    const Answers<T> alone = solve(other, device, 1, x.data() + at * n,
                                   w == nullptr ? nullptr : w + at * n, alphas.data() + at);
    if (!same(alone.y, 0, all.y, at, 1) || !same(alone.curvature, 0, all.curvature, at, 1) ||
        !same(alone.gap, 0, all.gap, at, 1) || !same(alone.grad_x, 0, all.grad_x, at * n, n) ||
        !same(alone.grad_weight, 0, all.grad_weight, at * n, n)) {
      const DrawnSet<T> set{c, x.data() + at * n, w == nullptr ? nullptr : w + at * n, c.alpha};
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