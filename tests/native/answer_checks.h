// Properties of the answers that hold for any drawn case.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "core/penalties.h"
#include "pooling_case.h"
#include "run_kernels.h"

namespace native {

inline const char* penalty_name(int number) {
  const char* name = "";
  ddn::with_penalty(number, [&](auto penalty) { name = decltype(penalty)::name; });
  return name;
}

template <class T>
struct DrawnSet {
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
  bool is_convex() const {
    bool convex = false;
    ddn::with_penalty(c.penalty, [&](auto penalty) { convex = ddn::is_convex<decltype(penalty)>; });
    return convex;
  }
  double second() const {
    double value = 0;
    ddn::with_penalty(c.penalty, [&](auto penalty) { value = decltype(penalty)::second(alpha); });
    return value;
  }
};

template <class T>
[[noreturn]] void fail(const DrawnSet<T>& set, const char* what, double a, double b) {
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

// The tolerance of f(y) above any other objective.
template <class T>
long double allowed(const DrawnSet<T>& set, double y, long double least, double total) {
  const double ulp = std::nextafter(std::fabs(static_cast<T>(y)), T(infinity)) - std::fabs(y);
  const double d = sizeof(T) == 8 ? 1e-10 * (set.alpha + std::fabs(y)) : 2 * ulp + 4e-6 * set.alpha;
  return (sizeof(T) == 8 ? 1e-12 : 1e-6) * std::fabs(least) +
         0.5L * total * set.second() * static_cast<long double>(d) * d;
}

template <class T>
void check_set(const DrawnSet<T>& set, const Answers<T>& all, int i, Tally& tally) {
  const Case& c = set.c;
  const auto index = static_cast<size_t>(i);
  const double y = static_cast<double>(all.y[index]);
  const T* const g = all.grad_x.data() + i * c.num_points;
  const T* const g_w = all.grad_weight.data() + i * c.num_points;
  const auto status = static_cast<ddn::Status>(all.status[index]);
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
    if (!std::isnan(y) || status != ddn::Status::not_finite)
      fail(set, "bad alpha, yet y", y, set.alpha);
    return;
  }
  if (!good) {
    if (!std::isnan(y) || status != ddn::Status::not_finite)
      fail(set, "bad weights, yet y", y, total);
    return;
  }
  if (total == 0) {
    if (y != 0 || status != ddn::Status::empty) fail(set, "no points, yet y", y, total);
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
  if (c.max_iter < 0 && c.tolerance < 0 && status == ddn::Status::stopped_early) {
    fail(set, "stopped early though nothing bounds the passes", y, gap);
  }
  // No objective is below the bound that the gap proves.
  const long double own = set.objective(y);
  if (!std::isfinite(static_cast<double>(own)) || total == 0) return;
  const int step = std::max(1, c.num_points / 40);
  for (int j = 0; j < c.num_points; j += step) {
    if (!(set.weight(j) > 0)) continue;
    const double u = static_cast<double>(set.x[j]);
    const long double there = set.objective(u);
    if (!(own - gap <= there + 1e-9L * std::fabs(own))) fail(set, "gap disproved", gap, u);
    ++tally.certified;
    if ((c.global || set.is_convex()) && c.max_iter < 0 && c.tolerance < 0 &&
        !(own <= there + allowed(set, y, there, total))) {
      fail(set, "a point of the set is better than y", y, u);
    }
  }
}

template <class T>
void compare(const DrawnSet<T>& set, double a, double b, Tally& tally) {
  const Case& c = set.c;
  if (c.max_iter >= 0 || c.tolerance >= 0 || !(c.global || set.is_convex())) return;
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

}  // namespace native
