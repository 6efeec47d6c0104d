// Passes over this rank's points of a set that lies on several ranks. The ranks all-reduce the
// numbers of a pass. core/sharded_solve.h requests passes and receives their numbers.
#pragma once

#include <type_traits>

#include "core/certify/cells.h"
#include "core/set.h"

namespace ddn {

enum class ShardedPass : int {
  ends,       // maxima: minus the least point, the largest one, the unit of the weights
  totals,     // see TotalsPass
  huber,      // the sums of Huber's penalty at u, whatever the penalty of the set is
  sums,       // the sums of the penalty at u
  around,     // weights: of the points nearer to u than a radius, and of those further left
  nearest,    // maxima, of the points no nearer than the radius: the nearest one on the left, and
              // minus the nearest one on the right
  gaussians,  // of a GaussianCell
  series,     // of a SeriesCell
  parabolas,  // of a ParabolaCell
  losses,     // sum of phi(u - x) / phi(inf), free of cancellation, over the finite points
};

// The parameters of a pass over a set.
struct PassRequest {
  double inverse_unit;  // of the weights of all ranks; see core/set.h
  double alpha;
  double u;      // or the centre of a cell
  double reach;  // sums: a distance from a breakpoint (see Alpha); around, nearest: the radius; a
                 // cell: its radius; totals: the binary exponent of the largest point
};

// The numbers that P::sums() of a penalty has.
template <class P>
struct SharedSums {
  static_assert(std::is_same_v<SumsOf<P>, Sums>, "further terms of the series are not shared");
  static constexpr bool has_density = !is_convex<P> || P::has_flat_minima;
  static constexpr int numbers = 2 + has_density + P::is_smooth;

  static DDN_HOST_DEVICE void pack(const SumsOf<P>& at, double* numbers) {
    *numbers++ = at.psi;
    *numbers++ = at.dpsi;
    if (has_density) *numbers++ = at.density;
    if (P::is_smooth) *numbers++ = at.d2psi;
  }
  static DDN_HOST_DEVICE SumsOf<P> unpack(const double* numbers) {
    SumsOf<P> at{};
    at.psi = *numbers++;
    at.dpsi = *numbers++;
    if (has_density) at.density = *numbers++;
    if (P::is_smooth) at.d2psi = *numbers++;
    return at;
  }
};

// A pass is a struct whose run(set, request, numbers) computes `numbers` sums or maxima over the
// points, in the set's own unit of weights. The first `weights` numbers scale with the weights.

struct EndsPass {
  static constexpr int numbers = 3, weights = 0;
  static constexpr bool is_maximum = true;
  template <class Set>
  static DDN_HOST_DEVICE void run(const Set& set, const PassRequest&, double (&ends)[numbers]) {
    for (double& end : ends) end = -detail::infinity;
    set.for_each_point([&](double x, double) {
      ends[2] = set.unit();
      if (!is_finite(x)) return;
      ends[0] = max(-x, ends[0]);
      ends[1] = max(x, ends[1]);
    });
    set.largest(ends);
  }
};

// The numbers:
//   0     weight of the finite points
//   1, 2  weight of the points at +inf, at -inf
//   3     weight of the NaN points; NaN if a weight is negative or not finite
//   4     weighted sum of the finite points, over 2^reach
//   5     number 0 times u, this rank's estimate of the answer, over 2^reach; number 4 without one
struct TotalsPass {
  static constexpr int numbers = 6, weights = numbers;
  static constexpr bool is_maximum = false;
  template <class Set>
  static DDN_HOST_DEVICE void run(const Set& set, const PassRequest& request,
                                  double (&totals)[numbers]) {
    // Two factors: one alone would overflow.
    const auto exponent = static_cast<int>(request.reach), half = exponent / 2;
    const double first = ::ldexp(1.0, -half), second = ::ldexp(1.0, half - exponent);
    CompensatedSum<double> finite, sum;
    for (double& total : totals) total = 0;
    set.for_each_point([&](double x, double weight) {
      if (is_finite(x)) {
        finite.add(weight);
        sum.add(weight * (x * first * second));
      } else {
        totals[1] += x > 0 ? weight : 0;
        totals[2] += x < 0 ? weight : 0;
        totals[3] += x != x ? weight : 0;
      }
    });
    totals[0] = finite.total();
    totals[4] = sum.total();
    set.sum(totals);
    if (set.total_weight() != set.total_weight()) totals[3] = set.total_weight();
    const bool has_estimate = is_finite(request.u);
    totals[5] = has_estimate ? totals[0] * (request.u * first * second) : totals[4];
  }
};

template <class P>
struct SumsPass {
  static constexpr int numbers = SharedSums<P>::numbers, weights = numbers;
  static constexpr bool is_maximum = false;
  template <class Set>
  static DDN_HOST_DEVICE void run(const Set& set, const PassRequest& request,
                                  double (&sums)[numbers]) {
    SharedSums<P>::pack(
        set.template sums<P, double>(request.u, request.alpha, /*breakpoint=*/request.reach), sums);
  }
};

struct AroundPass {
  static constexpr int numbers = 2, weights = 2;
  static constexpr bool is_maximum = false;
  template <class Set>
  static DDN_HOST_DEVICE void run(const Set& set, const PassRequest& request,
                                  double (&weights)[numbers]) {
    const Around around = set.around(request.u, request.reach);
    weights[0] = around.nearer;
    weights[1] = around.left;
  }
};

struct NearestPass {
  static constexpr int numbers = 2, weights = 0;
  static constexpr bool is_maximum = true;
  template <class Set>
  static DDN_HOST_DEVICE void run(const Set& set, const PassRequest& request,
                                  double (&ends)[numbers]) {
    const Around around = set.around(request.u, request.reach);
    ends[0] = around.below;
    ends[1] = -around.above;
  }
};

template <class Cell>
struct CellPass {
  static constexpr int numbers = Cell::numbers, weights = numbers;
  static constexpr bool is_maximum = false;
  template <class Set>
  static DDN_HOST_DEVICE void run(const Set& set, const PassRequest& request,
                                  double (&sums)[numbers]) {
    set.template cell_sums<Cell>(request.u, request.reach, request.alpha, sums);
  }
};

template <class P>
struct LossesPass {
  static constexpr int numbers = 1, weights = 1;
  static constexpr bool is_maximum = false;
  template <class Set>
  static DDN_HOST_DEVICE void run(const Set& set, const PassRequest& request,
                                  double (&loss)[numbers]) {
    const double alpha = request.alpha, limit = P::limit(alpha);
    CompensatedSum<double> sum;
    set.for_each_point([&](double x, double weight) {
      if (is_finite(x)) sum.add(weight * (P::value(request.u - x, alpha) / limit));
    });
    loss[0] = sum.total();
    set.sum(loss);
  }
};

// Runs a pass and converts its numbers to the common unit of weights: the ranks all-reduce these.
template <class Pass, class Set>
DDN_HOST_DEVICE void run_pass(const Set& set, const PassRequest& request, double* numbers) {
  double own[Pass::numbers];
  Pass::run(set, request, own);
  if (set.rank() != 0) return;
  const double factor = set.unit() * request.inverse_unit;
  for (int k = 0; k < Pass::numbers; ++k) numbers[k] = k < Pass::weights ? own[k] * factor : own[k];
}

// Calls f with the pass; the penalty is a number as in core/penalties.h.
template <class F>
inline void with_sharded_pass(ShardedPass pass, int penalty, F&& f) {
  switch (pass) {
    case ShardedPass::ends:
      return f(EndsPass{});
    case ShardedPass::totals:
      return f(TotalsPass{});
    case ShardedPass::huber:
      return f(SumsPass<Huber>{});
    case ShardedPass::sums:
      return with_penalty(penalty, [&](auto p) {
        if constexpr (!decltype(p)::is_mean) f(SumsPass<decltype(p)>{});
      });
    case ShardedPass::around:
      return f(AroundPass{});
    case ShardedPass::nearest:
      return f(NearestPass{});
    case ShardedPass::gaussians:
      return f(CellPass<GaussianCell>{});
    case ShardedPass::series:
      return f(CellPass<SeriesCell>{});
    case ShardedPass::parabolas:
      return f(CellPass<ParabolaCell>{});
    case ShardedPass::losses:
      return with_penalty(penalty, [&](auto p) {
        if constexpr (!is_convex<decltype(p)>) f(LossesPass<decltype(p)>{});
      });
  }
}

// The arguments of a launch: `requests` passes of one kind over some of the sets of x.
struct ShardedArgs : PoolArgs {
  ShardedPass pass;
  int64_t requests;
  const int64_t* sets;            // [requests], ascending: the sets' numbers
  const PassRequest* parameters;  // [requests]
  double* numbers;                // [requests, numbers of the pass]
};

}  // namespace ddn
