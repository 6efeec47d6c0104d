// A set of points in memory, summed over with SIMD: the CPU's `Set` (see core/solve.h).
//
// Note: [The order of summation]
// It depends on the number of points alone. Points are cut into chunks of `chunk_points`; a chunk
// into blocks of `block_vectors` SIMD vectors, whose terms are added lane by lane in the precision
// of the terms and then, once a block, to sums in double precision; the lanes are added by halves,
// and the chunks from first to last. Long sums of doubles keep their rounding errors. So the seven
// additions within a block decide the error of a mean: below 3.5 eps of the mean magnitude, however
// large the set. Sums that are wanted to some digits are added up so once in `approximate_vectors`.
#pragma once

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/breakpoints.h"
#include "core/certify/search.h"
#include "core/gradient.h"
#include "cpu/robust_pool_cpu.h"
#include "cpu/simd.h"

namespace ddn {
inline namespace DDN_ISA {

constexpr int64_t chunk_points = 1 << 14;
constexpr int block_vectors = 8;
constexpr int approximate_vectors =
    64;  // of sums that are wanted to some digits: a multiple of a block

// Points one after the other and, if `weighted`, their weights.
template <class T, bool weighted>
struct Points {
  const T* x;
  const T* weights;  // null unless `weighted`
  int64_t n;
  int64_t ahead = 0;  // from a point to its like of the set that comes next; see for_each_vector

  DDN_HOST_DEVICE double point(int64_t i) const { return static_cast<double>(x[i]); }
  DDN_HOST_DEVICE double weight(int64_t i) const {
    return weighted ? static_cast<double>(weights[i]) : 1.0;
  }
  DDN_HOST_DEVICE Points part(int64_t first, int64_t count) const {
    return {x + first, weighted ? weights + first : nullptr, count, ahead};
  }
  template <class V>
  DDN_HOST_DEVICE auto load_weights(int64_t i) const {
    if constexpr (weighted) {
      return load<V>(weights + i);
    } else {
      return One{};
    }
  }
  template <class V>
  DDN_HOST_DEVICE auto load_first_weights(int64_t i, int count) const {
    if constexpr (weighted) {
      return load_first<V>(weights + i, count);
    } else {
      return One{};
    }
  }
};

// Calls body(points, weights, mask) for the vectors of the points: weights are a vector or One,
// mask is AllLanes but for the last, partial vector; flush() after each block.
//
// Meanwhile the next set is fetched, of which the processor's own prefetching sees only the start.
template <class V, class T, bool weighted, class Body, class Flush>
DDN_HOST_DEVICE void for_each_vector(const Points<T, weighted>& points, Body&& body,
                                     Flush&& flush) {
  constexpr int lanes = VectorOf<V>::lanes;
  const int64_t n = points.n;
  const auto whole = [&](int64_t i) __attribute__((always_inline)) {
    body(load<V>(points.x + i), points.template load_weights<V>(i), AllLanes{});
  };
  int64_t i = 0;
  for (; i + block_vectors * lanes <= n; i += block_vectors * lanes) {
    for (int k = 0; k < block_vectors; ++k) {
      __builtin_prefetch(points.x + i + k * lanes + points.ahead);
      whole(i + k * lanes);
    }
    flush();
  }
  for (; i + lanes <= n; i += lanes) whole(i);
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    body(load_first<V>(points.x + i, rest), points.template load_first_weights<V>(i, rest),
         first_lanes<V>(rest));
  }
  flush();
}

template <int count>
struct Moments {
  double m[count];
};

// What a penalty adds its moments with: a vector of points at a time.
template <class V, class Weights, class Mask>
struct MomentAdder {
  Vector<V>* moments;
  int64_t* counts;  // instead of moments, where weights are one
  Weights weights;
  Mask mask;

  template <class Factor>
  DDN_HOST_DEVICE void operator()(int k, Vector<V> x, Factor y) const {
    moments[k] = added(moments[k], select(mask, x * weights), y);
  }
  DDN_HOST_DEVICE void count(int k, Vector<V> a, Vector<V> b) const {
    const Selection<V> some = selection<V>(mask) & at_most<V>(a, b);
    if constexpr (std::is_same_v<Weights, One>) {
      counts[k] += some.count();
    } else {
      moments[k] += some.keep(weights);
    }
  }
};

// bounded: no point is further from u than most_bounded alpha.
template <class P, class V, bool bounded, class T, bool weighted>
Moments<P::moments> chunk_moments(const Points<T, weighted>& set, double u, double alpha,
                                  double breakpoint) {
  using Lanes = Vector<V>;
  const Split<T, V> at(u);
  const Lanes zero{};
  const Alpha<Lanes> a{splat(static_cast<V>(alpha)), splat(static_cast<V>(1 / alpha)),
                       splat(static_cast<V>(breakpoint))};
  const Residuals<P, Lanes> residual(splat(static_cast<V>(at.base)), splat(at.offset), a);
  constexpr int count = P::moments;
  Lanes moments[count] = {};
  int64_t counts[count] = {};
  DoublePair totals[count];
  const auto is_approximate = [](int k) { return k >= P::first_approximate && k < P::first_count; };
  constexpr bool has_approximate = P::first_approximate < P::first_count;
  const int64_t step = has_approximate ? approximate_vectors * VectorOf<V>::lanes : set.n;
  for (int64_t begin = 0; begin < set.n; begin += step) {
    for_each_vector<V>(
        has_approximate ? set.part(begin, std::min(step, set.n - begin)) : set,
        [&](Lanes points, auto weights, auto mask) __attribute__((always_inline)) {
          const MomentAdder<V, decltype(weights), decltype(mask)> add{moments, counts, weights,
                                                                      mask};
          if constexpr (P::is_smooth) {
            P::template add_moments<bounded>(residual(points), a, add);
          } else {
            P::add_moments(residual(points), a, add);
          }
        },
        [&]() __attribute__((always_inline)) {
          for (int k = 0; k < (weighted ? count : P::first_count); ++k) {
            if (is_approximate(k)) continue;
            totals[k].add(moments[k]);
            moments[k] = zero;
          }
        });
    for (int k = P::first_approximate; k < P::first_count; ++k) {
      totals[k].add(moments[k]);
      moments[k] = zero;
    }
  }
  Moments<count> result;
  for (int k = 0; k < count; ++k) {
    result.m[k] =
        weighted || k < P::first_count ? totals[k].total() : static_cast<double>(counts[k]);
  }
  return result;
}

// The lists of BreakpointSums (see core/breakpoints.h).
template <class V, class T>
struct BreakpointLister {
  static constexpr bool bounded = false;

  Points<T, false> set;
  double alpha, breakpoint;
  T* list;  // room for set.n + lanes numbers

  template <bool squares, bool beyond>
  DDN_HOST_DEVICE BreakpointPass look(double u, double inner_distance,
                                      double outer_distance) const {
    using Lanes = Vector<V>;
    const Split<T, V> at(u);
    const Lanes base = splat(static_cast<V>(at.base)), offset = splat(at.offset), zero{};
    const Lanes inner = splat(static_cast<V>(inner_distance)),
                outer = splat(static_cast<V>(outer_distance));
    Lanes sum{}, square{};
    DoublePair sums, all_squares;
    int64_t inside = 0, left = 0, size = 0;  // of those beyond the breakpoints, left of u
    for_each_vector<V>(
        set,
        [&](Lanes points, One, auto mask) __attribute__((always_inline)) {
          const Lanes z = residual(points, base, offset), distance = absolute(z);
          const auto all = selection<V>(mask);
          const auto within = all & at_most<V>(distance, inner);
          const auto about = all & at_most<V>(distance, outer);
          const Lanes kept = within.keep(z);
          sum += kept;
          if constexpr (beyond) left += (all & at_most<V>(zero, z)).without(about).count();
          if constexpr (squares) square = added(square, kept, kept);
          inside += within.count();
          size += store_selected<T>(list + size, points, about.without(within));
        },
        [&]() __attribute__((always_inline)) {
          sums.add(sum);
          sum = zero;
          if constexpr (squares) {
            all_squares.add(square);
            square = zero;
          }
        });
    const FixedSums others{static_cast<double>(inside), sums.total(), all_squares.total(),
                           static_cast<double>(2 * left - (set.n - inside - size))};
    return {u, 0, others, static_cast<int>(size), squares, beyond};
  }

  template <class P>
  DDN_HOST_DEVICE Sums listed(double u, const BreakpointPass& known) const {
    const Moments<P::moments> sums = chunk_moments<P, V, false>(
        Points<T, false>{list, nullptr, known.size}, u, alpha, breakpoint);
    return P::sums(sums.m, alpha);
  }
};

template <class V>
DDN_HOST_DEVICE V median(V a, V b, V c) {
  const V low = min(a, b), high = max(a, b);
  return max(low, min(high, c));
}

struct ChunkStatistics {
  CompensatedSum<double> sum;
  double lo, hi;
  double medians;  // sum of medians of some points each,
  double groups;   // and their number
};

// Products with weights are added in double precision, for the accuracy of a weighted mean.
template <bool middle, class T, bool weighted>
ChunkStatistics chunk_statistics(const Points<T, weighted>& set) {
  using V = std::conditional_t<weighted, double, T>;
  using Lanes = Vector<V>;
  const V infinity = static_cast<V>(detail::infinity);
  const Lanes zero{}, upmost = splat(infinity), downmost = splat(-infinity);
  Lanes sum{}, lo = upmost, hi = downmost, medians{};
  DoublePair total;
  // Of a block without weights, each lane gives a median of medians of three.
  Lanes block[block_vectors];
  int count = 0;
  double groups = 0;
  for_each_vector<V>(
      set,
      [&](Lanes points, auto weights, auto mask) __attribute__((always_inline)) {
        sum = added_by_fma(sum, select(mask, points * weights));
        lo = min(select(mask, points, upmost), lo);
        hi = max(select(mask, points, downmost), hi);
        constexpr bool whole = std::is_same_v<decltype(mask), AllLanes>;
        if constexpr (middle && !weighted && whole) block[count++ % block_vectors] = points;
      },
      [&]() __attribute__((always_inline)) {
        total.add(sum);
        sum = zero;
        if (middle && !weighted && count == block_vectors) {
          medians +=
              median(median(block[0], block[1], block[2]), median(block[3], block[4], block[5]),
                     median(block[6], block[7], block[0]));
          groups += VectorOf<V>::lanes;
        }
        count = 0;
      });
  ChunkStatistics statistics{{total.total(), 0}, detail::infinity, -detail::infinity, 0, groups};
  statistics.medians =
      static_cast<double>(by_halves(medians, [](auto a, auto b) { return a + b; }));
  statistics.lo = static_cast<double>(by_halves(lo, [](auto a, auto b) { return a < b ? a : b; }));
  statistics.hi = static_cast<double>(by_halves(hi, [](auto a, auto b) { return a > b ? a : b; }));
  return statistics;
}

template <class T, bool weighted>
Around chunk_around(const Points<T, weighted>& set, double u, double radius) {
  using Lanes = Vector<T>;
  const Split<T, T> at(u);
  const T infinity = static_cast<T>(detail::infinity);
  const Lanes base = splat(at.base), offset = splat(at.offset), zero{}, one = splat(T(1));
  const Lanes far = splat(static_cast<T>(radius));
  const Lanes upmost = splat(infinity), downmost = splat(-infinity);
  Lanes nearer{}, left{}, below = downmost, above = upmost;
  DoublePair weight_nearer, weight_left;
  for_each_vector<T>(
      set,
      [&](Lanes points, auto weights, auto mask) __attribute__((always_inline)) {
        const Lanes z = residual(points, base, offset);
        const auto on_left = mask & (z >= far), on_right = mask & (-z >= far);
        nearer += select(mask & (absolute(z) < far), one * weights);
        left += select(on_left, one * weights);
        below = max(on_left ? points : downmost, below);
        above = min(on_right ? points : upmost, above);
      },
      [&]() __attribute__((always_inline)) {
        weight_nearer.add(nearer);
        weight_left.add(left);
        nearer = left = zero;
      });
  Around around{weight_nearer.total(), weight_left.total(), -detail::infinity, detail::infinity};
  for (int lane = 0; lane < VectorOf<T>::lanes; ++lane) {
    around.below = max(static_cast<double>(below[lane]), around.below);
    around.above = min(static_cast<double>(above[lane]), around.above);
  }
  return around;
}

// Working memory of one thread. A bin's points are counted in one integer: their number from bit
// `count_shift` on, the sum of their places in the bin below, so that points can be added in any
// order, `bin_points` of them without overflow.
template <class T>
struct Workspace {
  static constexpr int most_cells = 2048;
  static constexpr int size =
      most_cells + 2 * KernelTable::most_blocks * KernelTable::most_per_alpha + 2 + bins_slack;
  static constexpr int place_bits = 10;
  static constexpr int count_shift = 21;
  static constexpr int64_t bin_points = (1 << 11) - 1;
  // What `narrow` allows for.
  static_assert(place_bits >= breakpoint_place_bits);
  static_assert(bin_points << place_bits < int64_t{1} << count_shift &&
                    bin_points < int64_t{1} << (32 - count_shift),
                "places and numbers of bin_points points fit");

  explicit Workspace(bool global) {
    if (!global) return;
    counted.resize(size);
    for (std::vector<double>* each : {&masses, &moments}) each->resize(size);
    for (std::vector<float>* each : {&mass, &moment, &centre, &upper, &blocks, &bounds}) {
      each->resize(size);
    }
  }

  std::vector<uint32_t> counted;        // left empty
  std::vector<double> masses, moments;  // sums that need more digits than their result
  std::vector<float> mass, moment, centre, upper, blocks, bounds;  // of Bins
  std::vector<T> list, list_weights;
  std::vector<T> near;  // of a BreakpointLister
};

// A list of up to so many numbers is sorted by ranks: that takes n^2 comparisons, but as many at
// once as a vector has lanes, and no branch to mispredict. Beyond, std::sort is faster.
template <class T>
constexpr int most_ranked = 32 * VectorOf<T>::lanes;

// Puts finite numbers in order: each goes to the place of its rank, the number of those that are
// smaller or, of equal ones, stand further left.
template <class T>
void sort_by_rank(T* x, int n) {
  using Lanes = Vector<T>;
  using Rank = Integers<T>;
  constexpr int lanes = VectorOf<T>::lanes;
  T unsorted[most_ranked<T> + lanes];
  std::copy_n(x, n, unsorted);
  std::fill_n(unsorted + n, lanes, static_cast<T>(detail::infinity));
  for (int i = 0; i < n; i += lanes) {
    const Lanes own = load<T>(unsorted + i);
    Rank rank{};
    const int past = std::min(i + lanes, n);
    for (int j = 0; j < i; ++j) rank -= splat(unsorted[j]) <= own;
    for (int j = i; j < past; ++j) {
      const Lanes other = splat(unsorted[j]);
      rank -= (other < own) | ((other == own) & ~first_lanes<T>(j - i + 1));
    }
    for (int j = past; j < n; ++j) rank -= splat(unsorted[j]) < own;
    for (int j = i; j < past; ++j) x[rank[j - i]] = unsorted[j];
  }
}

// A list of more points is narrowed before it is sorted and swept.
constexpr int64_t most_swept = 32;

// Points of a list and their weights put in order together.
template <class T>
void sort_weighted(T* x, T* weights, int64_t n) {
  std::vector<std::pair<T, T>> pairs(static_cast<size_t>(n));
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i] = {x[i], weights[i]};
  std::sort(pairs.begin(), pairs.end());
  for (size_t i = 0; i < pairs.size(); ++i) std::tie(x[i], weights[i]) = pairs[i];
}

// The terms of the power series of the Welsch density; see core/certify/series.h.
template <class T, bool weighted>
Series chunk_series(const Points<T, weighted>& set, double u, double alpha) {
  using Lanes = Vector<double>;
  constexpr int terms = Series::terms;
  const Split<T, double> at(u);
  const Lanes base = splat(static_cast<double>(at.base)), offset = splat(at.offset), zero{};
  const Lanes far = splat(Math<double>::gauss_limit), inverse = splat(1 / alpha);
  Lanes sums[terms] = {};
  DoublePair totals[terms];
  for_each_vector<double>(
      set,
      [&](Lanes points, auto weights, auto mask) __attribute__((always_inline)) {
        const Lanes z = clip(residual(points, base, offset) * inverse, far);
        Lanes before = zero, term = Math<Lanes>::gauss(z * z) * weights;
        for (int i = 0; i < terms; ++i) {
          sums[i] += select(mask, term);
          const Lanes next = -(z * term + before) * (1.0 / (i + 1));
          before = term;
          term = next;
        }
      },
      [&]() __attribute__((always_inline)) {
        for (int i = 0; i < terms; ++i) {
          totals[i].add(sums[i]);
          sums[i] = zero;
        }
      });
  Series series;
  for (int i = 0; i < terms; ++i) series.c[i] = totals[i].total();
  return series;
}

template <class T, bool weighted_ = false>
class PointSet {
 public:
  using Scalar = T;
  using Real = T;
  using BinMath = FloatMath;
  static_assert(least_block % BinMath::lanes == 0, "vectors of cells fill blocks");
  using Space = Workspace<T>;
  using Set = Points<T, weighted_>;
  static constexpr bool weighted = weighted_;

  // With a parallel_for, the chunks of one set are shared out among the threads.
  PointSet(const Set& set, double total_weight, double unit, const cpu::ParallelFor* parallel_for,
           Workspace<T>* workspace)
      : set_(set),
        total_weight_(total_weight),
        unit_(unit),
        parallel_for_(parallel_for),
        workspace_(workspace) {}

  int64_t points() const { return set_.n; }
  double total_weight() const { return total_weight_; }
  double unit() const { return unit_; }

  int rank() const { return 0; }
  int size() const { return 1; }
  void sync() const {}
  double largest(double x) const { return x; }
  float largest(float x) const { return x; }
  template <int count>
  void sum(double (&)[count]) const {}
  template <int count>
  void exclusive_scan(double (&values)[count]) const {
    for (double& value : values) value = 0;
  }
  int group() const { return 0; }
  int groups() const { return 1; }
  bool leads_group() const { return true; }
  void group_sync() const {}
  float group_largest(float x) const { return x; }
  int place() const { return 0; }
  int places() const { return 1; }
  Share share() const { return {0, 1}; }
  template <class V>
  V shared_sum(V x) const {
    return x;
  }
  template <class F>
  int first_where(int begin, int end, const F& f) const {
    while (begin < end && !f(begin)) ++begin;
    return begin;
  }
  template <class F>
  int last_where(int begin, int end, const F& f) const {
    while (end > begin && !f(end - 1)) --end;
    return end - 1;
  }
  int first_largest(int begin, int end, const float* x) const {
    int found = begin;
    for (int i = begin + 1; i < end; ++i) found = x[i] > x[found] ? i : found;
    return found;
  }
  int most_cells() const { return Workspace<T>::most_cells; }
  template <class P>
  static const KernelTable& table() {
    static const KernelTable table = make_kernel_table<P>();
    return table;
  }
  Bins bins() const {
    return {workspace_->mass.data(),  workspace_->moment.data(), workspace_->centre.data(),
            workspace_->upper.data(), workspace_->blocks.data(), workspace_->bounds.data()};
  }
  Set list() const {
    return {workspace_->list.data(), weighted ? workspace_->list_weights.data() : nullptr,
            static_cast<int64_t>(workspace_->list.size())};
  }
  PointSet view(int64_t first, int64_t count) const {
    const Set part = list().part(first, count);
    double total = static_cast<double>(count);
    if (weighted) {
      total = 0;
      for (int64_t i = 0; i < count; ++i) total += part.weight(i);
    }
    return PointSet(part, total, unit_, parallel_for_, workspace_);
  }

  void bin(const Grid& grid, double /*alpha*/) const {
    const int size = grid.bins();
    double *const masses = workspace_->masses.data(), *const moments = workspace_->moments.data();
    bool in_double = weighted;
    if constexpr (weighted) {
      std::fill_n(masses, size + bins_slack, 0.0);
      std::fill_n(moments, size + bins_slack, 0.0);
      for_each_binned(grid, 0, set_.n, [&](int64_t i, const Binned& points, int count) {
        for (int k = 0; k < count; ++k) {
          const double weight = set_.weight(i + k);
          const uint32_t place = points.place[k] & ((uint32_t{1} << Space::count_shift) - 1);
          masses[points.bin[k]] += weight;
          moments[points.bin[k]] += weight * (place * (1 / Binned::one) - 0.5);
        }
      });
    } else {
      in_double = set_.n > Space::bin_points;
      for (int64_t begin = 0; begin < set_.n; begin += Space::bin_points) {
        const int64_t end = std::min(set_.n, begin + Space::bin_points);
        for_each_binned(grid, begin, end, [&](int64_t, const Binned& points, int count) {
          points.count(count, workspace_->counted.data());
        });
        if (in_double) {
          take_counted(size, masses, moments, /*first=*/begin == 0);
        } else {
          take_counted(size, workspace_->mass.data(), workspace_->moment.data(), /*first=*/true);
        }
      }
    }
    if (in_double) {
      std::copy_n(masses, size, workspace_->mass.data());
      std::copy_n(moments, size, workspace_->moment.data());
    }
  }

  double bin_excess() const {
    return weighted ? static_cast<double>(set_.n) * 0x1p-53 * total_weight_ : 0;
  }

  SweepInput gather(double centre, double half, double alpha) const {
    std::vector<T>& list = workspace_->list;
    std::vector<T>& list_weights = workspace_->list_weights;
    list.resize(static_cast<size_t>(set_.n + 2 * VectorOf<T>::lanes));
    if (weighted) list_weights.resize(list.size());
    SweepInput in{0, 0, 0, centre, alpha, 0, 0, 0};
    collect(set_, centre, half, in);
    if constexpr (!weighted) {
      // The points that remain are fewer each time, or it is the last.
      const double margin = total_weight_ * (sizeof(T) == 8 ? 4e-14 : 2e-6);
      double middle = centre, reach = half;
      while (in.count > most_swept) {
        SweepInput about = in;  // the run's middle
        const double shift = (middle - centre) / alpha;
        about.base = middle;
        about.s1 -= shift * in.mass;
        about.s2 += shift * (shift * in.mass - 2 * in.s1);
        const NarrowRun run = narrow<Vector<double>>(
            about, breakpoints(in.count, middle, reach, alpha), reach / alpha, margin);
        const double cell = 2 * reach / breakpoint_cells;
        const double wanted = 0.5 * cell * (run.last + 1 - run.first) + 2e-6 * alpha;
        if (!(wanted < 0.5 * reach)) break;
        in.left_out = max(run.left_out, in.left_out);
        middle += 0.5 * cell * (run.first + run.last + 1) - reach;
        reach = wanted;
        const int64_t before = in.count;
        collect({list.data(), nullptr, before}, middle, reach, in);
        if (in.count > before / 2) break;
      }
    }
    sort_list(in.count);
    return in;
  }

  int64_t sort() const {
    workspace_->list.clear();
    workspace_->list_weights.clear();
    for (int64_t i = 0; i < set_.n; ++i) {
      if (!is_finite(set_.point(i))) continue;
      workspace_->list.push_back(set_.x[i]);
      if (weighted) workspace_->list_weights.push_back(set_.weights[i]);
    }
    const auto size = static_cast<int64_t>(workspace_->list.size());
    sort_list(size);
    return size;
  }

  Series series(double centre, double alpha) const {
    return over_chunks<Series>([=](const Set& part) { return chunk_series(part, centre, alpha); },
                               [](Series& all, const Series& one) {
                                 for (int i = 0; i < Series::terms; ++i) all.c[i] += one.c[i];
                               });
  }

  template <class P, class V>
  auto sums(double u, double alpha) const {
    if constexpr (P::is_smooth) {
      if (range_ <= most_bounded * alpha) return sums<P, V, true>(u, alpha);
    }
    return sums<P, V, false>(u, alpha);
  }
  // Calls f with what gives the sums at any u.
  template <class P, class V, class F>
  auto with_sums(double alpha, const F& f) const {
    if constexpr (P::has_breakpoints && !weighted && std::is_same_v<V, T>) {
      if (set_.n <= chunk_points) {
        std::vector<T>& list = workspace_->near;
        list.resize(static_cast<size_t>(set_.n + VectorOf<T>::lanes));
        const BreakpointLister<V, T> lister{set_, alpha, alpha * breakpoint_margin(set_.n),
                                            list.data()};
        return f(BreakpointSums<P, BreakpointLister<V, T>>(lister, alpha, set_.n, known_));
      }
    }
    return f([&](double u) { return sums<P, V>(u, alpha); });
  }
  template <class P>
  double objective(double u, double alpha) const {
    return over_chunks<CompensatedSum<double>>(
               [=](const Set& part) {
                 CompensatedSum<double> sum;
                 const Split<T, double> at(u);
                 const auto base = static_cast<double>(at.base);
                 for (int64_t i = 0; i < part.n; ++i) {
                   const double z = residual(part.point(i), base, at.offset);
                   sum.add(P::value(z, alpha) * part.weight(i));
                 }
                 return sum;
               },
               [](CompensatedSum<double>& all, const CompensatedSum<double>& one) {
                 all.add(one.total());
               })
        .total();
  }

  template <bool middle>
  SetStatistics statistics() const {
    const ChunkStatistics all =
        over_chunks<ChunkStatistics>([](const Set& part) { return chunk_statistics<middle>(part); },
                                     [](ChunkStatistics& all, const ChunkStatistics& one) {
                                       all.sum.add(one.sum.sum);
                                       all.medians += one.medians;
                                       all.groups += one.groups;
                                       all.lo = min(one.lo, all.lo);
                                       all.hi = max(one.hi, all.hi);
                                     });
    const double mean = all.sum.total() / total_weight_;
    const double start = all.groups > 0 ? all.medians / all.groups : mean;
    range_ = all.hi - all.lo;
    return {mean, all.lo, all.hi, total_weight_, 0, 0, 0, is_finite(start) ? start : mean};
  }

  SetStatistics careful_statistics() const {
    SetStatistics statistics{0, detail::infinity, -detail::infinity, 0, 0, 0, 0, 0};
    for (int64_t i = 0; i < set_.n; ++i) {
      const double x = set_.point(i), weight = set_.weight(i);
      if (is_finite(x)) {
        statistics.lo = min(x, statistics.lo);
        statistics.hi = max(x, statistics.hi);
        statistics.finite += weight;
      } else {
        (x > 0 ? statistics.positive_infinities
               : (x < 0 ? statistics.negative_infinities : statistics.nans)) += weight;
      }
    }
    // Divided first: the sum may overflow where the mean does not.
    CompensatedSum<double> mean;
    for (int64_t i = 0; i < set_.n; ++i) {
      const double x = set_.point(i);
      if (is_finite(x)) mean.add(x * (set_.weight(i) / statistics.finite));
    }
    statistics.mean = statistics.middle = mean.total();
    return statistics;
  }

  Around around(double u, double radius) const {
    return over_chunks<Around>([=](const Set& part) { return chunk_around(part, u, radius); },
                               [](Around& all, const Around& one) {
                                 all.nearer += one.nearer;
                                 all.left += one.left;
                                 all.below = max(one.below, all.below);
                                 all.above = min(one.above, all.above);
                               });
  }

 private:
  template <class P, class V, bool bounded>
  auto sums(double u, double alpha) const {
    const double breakpoint = alpha * breakpoint_margin(set_.n);
    using All = Moments<P::moments>;
    const All all = over_chunks<All>(
        [=](const Set& part) { return chunk_moments<P, V, bounded>(part, u, alpha, breakpoint); },
        [](All& sum, const All& one) {
          for (int k = 0; k < P::moments; ++k) sum.m[k] += one.m[k];
        });
    return P::sums(all.m, alpha);
  }

  // Puts those of the points that leave or enter where |u - centre| <= half in the list, adds those
  // that are inside throughout to the sums, and counts the former. The points may lie in the list.
  void collect(const Set& points, double centre, double half, SweepInput& in) const {
    using Lanes = Vector<T>;
    constexpr int lanes = VectorOf<T>::lanes;
    T* const list = workspace_->list.data();
    T* const list_weights = workspace_->list_weights.data();
    const double alpha = in.alpha;
    const Split<T, T> at(centre);
    const Lanes base = splat(at.base), offset = splat(at.offset), zero{};
    const Lanes inner = splat(static_cast<T>(alpha - half)),
                inverse = splat(static_cast<T>(1 / alpha));
    const Lanes outer = splat(static_cast<T>(alpha + half));
    const Lanes about = splat(static_cast<T>((centre - in.base) / alpha));
    Lanes s1{}, s2{};
    DoublePair s1s, s2s;
    CompensatedSum<double> mass;
    int64_t count = 0, left = 0, size = 0;
    for_each_vector<T>(
        points,
        [&](Lanes x, auto weights, auto mask) __attribute__((always_inline)) {
          const Lanes z = residual(x, base, offset), distance = absolute(z);
          const auto all = selection<T>(mask), inside = all & at_most<T>(distance, inner);
          const auto edge = (all & at_most<T>(distance, outer)).without(inside);
          const Lanes t = inside.keep(about - z * inverse);
          s1 += t * weights;
          s2 = added(s2, t * weights, t);
          left += edge.without(at_most<T>(z, zero)).count();
          if constexpr (weighted) {
            store_selected<T>(list_weights + size, weights, edge);
            // The loss is what the mass leaves of the total: it needs every digit.
            const Lanes kept = inside.keep(weights);
            for (int lane = 0; lane < lanes; ++lane) mass.add(static_cast<double>(kept[lane]));
          } else {
            count += inside.count();
          }
          size += store_selected<T>(list + size, x, edge);
        },
        [&]() __attribute__((always_inline)) {
          s1s.add(s1);
          s2s.add(s2);
          s1 = s2 = zero;
        });
    in.count = size;
    in.leaving = in.entering = left;
    in.mass += weighted ? mass.total() : static_cast<double>(count);
    in.s1 += s1s.total();
    in.s2 += s2s.total();
  }

  // Of the first `count` points of the list, which leave or enter where |u - centre| <= half.
  Breakpoints breakpoints(int64_t count, double centre, double half, double alpha) const {
    using Lanes = Vector<T>;
    constexpr int lanes = VectorOf<T>::lanes;
    constexpr double one = Binned::one;
    const T* const list = workspace_->list.data();
    const Split<T, T> at(centre);
    const Lanes base = splat(at.base), offset = splat(at.offset), zero{};
    const Lanes scale = splat(static_cast<T>(one * breakpoint_cells / (2 * half)));
    const Lanes to_leave = splat(static_cast<T>(half + alpha)),
                to_enter = splat(static_cast<T>(half - alpha));
    const Lanes past = splat(static_cast<T>(breakpoint_cells * one - 1)),
                second = splat(T(breakpoint_cells * one));
    Breakpoints breakpoints;
    Binned binned;
    for (int64_t begin = 0; begin < count; begin += Space::bin_points) {
      const int64_t end = std::min(count, begin + Space::bin_points);
      for (int64_t i = begin; i < end; i += Binned::most) {
        const auto here = static_cast<int>(std::min<int64_t>(Binned::most, end - i));
        for (int k = 0; k < here; k += lanes) {
          const Lanes z = residual(load<T>(list + i + k), base, offset);
          const auto leaves = z > zero;
          const Lanes place = ((leaves ? to_leave : to_enter) - z) * scale;
          const Lanes kept = max(min(place, past), zero);
          binned.put(k, leaves ? kept : kept + second);
        }
        binned.count(here, workspace_->counted.data());
      }
      take_counted(2 * breakpoint_cells, breakpoints.number, breakpoints.offset,
                   /*first=*/begin == 0);
    }
    return breakpoints;
  }

  // Some points: the bins that they are in and, with the unit in which points are counted, how far
  // right of the left ends of these they lie, in 1 / one bins.
  struct Binned {
    static constexpr int most = 16 * VectorOf<T>::lanes;
    static constexpr double one = 1 << Space::place_bits;
    uint32_t bin[most], place[most];

    // Places that are positive, in 1 / one bins. They are cut off.
    DDN_HOST_DEVICE void put(int k, Vector<T> places) {
      using Indices = typename LanesOf<uint32_t, T>::type;
      const auto fixed = __builtin_convertvector(
          __builtin_convertvector(places, typename LanesOf<int32_t, T>::type), Indices);
      const Indices bins = fixed >> Space::place_bits;
      const Indices in_bin =
          (fixed & ((1u << Space::place_bits) - 1)) + (uint32_t{1} << Space::count_shift);
      memcpy(bin + k, &bins, sizeof bins);
      memcpy(place + k, &in_bin, sizeof in_bin);
    }
    DDN_HOST_DEVICE void count(int points, uint32_t* counted) const {
      int k = 0;
      for (; k + 4 <= points; k += 4) {  // one at a time the loop itself would take longest
        for (int j = k; j < k + 4; ++j) counted[bin[j]] += place[j];
      }
      for (; k < points; ++k) counted[bin[k]] += place[k];
    }
  };

  // Calls body(i, binned, count) for the points of [begin, end), some at a time, from the i-th on.
  template <class Body>
  void for_each_binned(const Grid& grid, int64_t begin, int64_t end, const Body& body) const {
    constexpr int lanes = VectorOf<T>::lanes;
    constexpr double one = Binned::one;
    const Split<T, T> at(grid.origin);
    const Vector<T> base = splat(at.base), offset = splat(at.offset);
    const Vector<T> scale = splat(static_cast<T>(one / grid.width));
    // Rounded by cutting off half a unit more.
    const Vector<T> shift = splat(static_cast<T>((grid.pad + 1) * one + 0.5)), zero{};
    const Vector<T> limit = splat(static_cast<T>((grid.bins() - 1) * one + one / 2));
    Binned binned;
    const auto put = [&](int k, Vector<T> x) __attribute__((always_inline)) {
      const Vector<T> place = shift - residual(x, base, offset) * scale;
      binned.put(k, max(min(place, limit), zero));
    };
    for (int64_t i = begin; i < end; i += Binned::most) {
      const int count = static_cast<int>(std::min<int64_t>(Binned::most, end - i));
      int k = 0;
      for (; k + lanes <= count; k += lanes) put(k, load<T>(set_.x + i + k));
      if (k < count) put(k, load_first<T>(set_.x + i + k, count - k));
      body(i, binned, count);
    }
  }

  // Moves what was counted in `size` bins: the numbers of points, and the sums of how far right of
  // the middles of their bins they lie, in bins.
  template <class Number>
  void take_counted(int size, Number* numbers, Number* offsets, bool first) const {
    using Integers = typename LanesOf<uint32_t, float>::type;
    using Signed = typename LanesOf<int32_t, float>::type;
    constexpr int lanes = VectorOf<float>::lanes;
    static_assert(lanes <= bins_slack && 2 * breakpoint_cells % lanes == 0,
                  "whole vectors of bins fit");
    constexpr float one = static_cast<float>(Binned::one);
    const auto put = [first](Number* to, Vector<float> x) __attribute__((always_inline)) {
      Number sums[lanes];
      store<float>(sums, x);
      for (int k = 0; k < lanes; ++k) to[k] = first ? sums[k] : to[k] + sums[k];
    };
    uint32_t* const counted = workspace_->counted.data();
    for (int b = 0; b < size; b += lanes) {
      Integers sum, none{};
      memcpy(&sum, counted + b, sizeof sum);
      memcpy(counted + b, &none, sizeof none);
      const Integers number = sum >> Space::count_shift;
      const Integers place = sum & ((uint32_t{1} << Space::count_shift) - 1);
      // Exact: no number reaches 2^24.
      const auto points =
          __builtin_convertvector(__builtin_convertvector(number, Signed), Vector<float>);
      const auto places =
          __builtin_convertvector(__builtin_convertvector(place, Signed), Vector<float>);
      put(numbers + b, points);
      put(offsets + b, (places - points * (one / 2)) * (1 / one));
    }
  }

  void sort_list(int64_t size) const {
    T* const list = workspace_->list.data();
    if constexpr (weighted) {
      sort_weighted(list, workspace_->list_weights.data(), size);
    } else if (size <= most_ranked<T>) {
      sort_by_rank(list, static_cast<int>(size));
    } else {
      std::sort(list, list + size);
    }
  }

  template <class Part, class Compute, class Combine>
  Part over_chunks(const Compute& compute, const Combine& combine) const {
    if (set_.n <= chunk_points) return compute(set_);
    const int64_t chunks = (set_.n + chunk_points - 1) / chunk_points;
    const auto part = [&](int64_t i) {
      const int64_t first = i * chunk_points;
      return compute(set_.part(first, std::min(chunk_points, set_.n - first)));
    };
    if (parallel_for_ == nullptr) {
      Part all = part(0);
      for (int64_t i = 1; i < chunks; ++i) combine(all, part(i));
      return all;
    }
    std::vector<Part> parts(static_cast<size_t>(chunks));
    (*parallel_for_)(0, chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) parts[static_cast<size_t>(i)] = part(i);
    });
    Part all = parts[0];
    for (size_t i = 1; i < parts.size(); ++i) combine(all, parts[i]);
    return all;
  }

  Set set_;
  double total_weight_;
  double unit_;
  const cpu::ParallelFor* parallel_for_;
  Workspace<T>* workspace_;
  mutable double range_ = detail::infinity;  // of the points, at most
  mutable BreakpointPass known_;             // its list is workspace_->near
};

}  // namespace DDN_ISA
}  // namespace ddn
