// A set of points as a thread group sums over it: CUDA's `Set` (see core/solve.h).
//
// Note: [The order of summation]
// It depends on the number of points alone: thread r of a thread group of t takes the points r, r +
// t, r + 2t, ...; it adds `run` of their terms in the precision of the terms and then those sums in
// double precision (on the chip, sums that are wanted to some digits only in the end); the threads
// are added by the thread group's reduction. Which points are near a breakpoint, and are added
// apart from the others, depends on the points alone.
#pragma once

#include <type_traits>

#include "core/args.h"
#include "core/breakpoints.h"
#include "core/certify/search.h"
#include "core/gradient.h"
#include "cuda/memory.cuh"
#include "cuda/points.cuh"
#include "cuda/thread_group.cuh"

namespace ddn::cuda {

// What a penalty adds its moments with.
template <class V, class Weight>
struct MomentAdder {
  V* moments;
  Weight weight;

  template <class Factor>
  __device__ __forceinline__ void operator()(int k, V x, Factor y) const {
    if constexpr (std::is_same_v<Factor, One>) {
      moments[k] = added(moments[k], x, weight);
    } else {
      moments[k] = added(moments[k], x * weight, y);
    }
  }
  __device__ __forceinline__ void count(int k, V a, V b) const {
    moments[k] += a <= b ? V(1) * weight : V(0);
  }
};

template <class T, class ThreadGroup, class Points>
class PointSet {
 public:
  using Scalar = T;
  using Real = T;
  using BinMath = Math<float>;
  static constexpr bool weighted = Points::weighted;
  using Space = Memory<T, weighted>;
  using Index = typename Points::Index;

  // The weights are for weighted points, the memory for the global search.
  __device__ __forceinline__ PointSet(Points points, int64_t n, const Weights& weights,
                                      const Space* memory)
      : points_(points), n_(static_cast<Index>(n)), weights_(weights), memory_(memory) {}

  __device__ __forceinline__ int64_t points() const { return n_; }
  __device__ __forceinline__ double total_weight() const {
    return weighted ? weights_.total : static_cast<double>(n_);
  }
  __device__ __forceinline__ double unit() const { return weighted ? weights_.unit : 1; }

  __device__ __forceinline__ int rank() const { return ThreadGroup::rank(); }
  __device__ __forceinline__ int size() const { return ThreadGroup::threads; }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
  __device__ __forceinline__ double largest(double x) const {
    double values[1] = {x};
    ThreadGroup::template reduce<Max>(values);
    return values[0];
  }
  __device__ __forceinline__ float largest(float x) const { return ThreadGroup::largest(x); }
  template <int count>
  __device__ __forceinline__ void sum(double (&values)[count]) const {
    ThreadGroup::template reduce<Add>(values);
  }
  template <int count>
  __device__ __forceinline__ void exclusive_scan(double (&values)[count]) const {
    ThreadGroup::exclusive_scan(values);
  }
  // Groups are warps, of which each takes the least block at a time.
  __device__ __forceinline__ int group() const { return ThreadGroup::rank() / warp_size; }
  __device__ __forceinline__ int groups() const { return ThreadGroup::threads / warp_size; }
  __device__ __forceinline__ bool leads_group() const { return lane() == 0; }
  __device__ __forceinline__ void group_sync() const { __syncwarp(); }
  __device__ __forceinline__ float group_largest(float x) const { return largest_in_warp(x); }
  __device__ __forceinline__ int place() const { return lane() / sharers; }
  __device__ __forceinline__ int places() const { return least_block; }
  __device__ __forceinline__ Share share() const { return {lane() % sharers, sharers}; }
  __device__ __forceinline__ float shared_sum(float x) const {
#pragma unroll
    for (int distance = sharers / 2; distance > 0; distance /= 2) {
      x += __shfl_xor_sync(full_mask, x, distance);
    }
    return x;
  }
  // Every warp looks for itself: that takes no barrier.
  template <class F>
  __device__ __forceinline__ int first_where(int begin, int end, const F& f) const {
    for (int i = begin; i < end; i += warp_size) {
      const int own = i + lane();
      const unsigned found = __ballot_sync(full_mask, own < end && f(own));
      if (found != 0) return i + __ffs(static_cast<int>(found)) - 1;
    }
    return end;
  }
  template <class F>
  __device__ __forceinline__ int last_where(int begin, int end, const F& f) const {
    for (int past = end; past > begin; past -= warp_size) {
      const int own = past - 1 - lane();
      const unsigned found = __ballot_sync(full_mask, own >= begin && f(own));
      if (found != 0) return past - __ffs(static_cast<int>(found));
    }
    return begin - 1;
  }
  __device__ __forceinline__ int first_largest(int begin, int end, const float* x) const {
    int most = INT32_MIN, at = begin;
    for (int i = begin + lane(); i < end; i += warp_size) {
      const int here = in_order(x[i]);
      at = here > most ? i : at;
      most = here > most ? here : most;
    }
    const bool is_largest = most == __reduce_max_sync(full_mask, most);
    return __reduce_min_sync(full_mask, is_largest ? at : INT32_MAX);
  }
  __device__ __forceinline__ int most_cells() const { return Space::most_cells; }
  template <class P>
  __device__ __forceinline__ const KernelTable& table() const {
    return *memory_->table;
  }
  __device__ __forceinline__ Bins bins() const {
    auto& fixed = Space::fixed();
    return {fixed.mass, fixed.moment, fixed.centre, fixed.upper, fixed.blocks, fixed.bounds};
  }
  __device__ __forceinline__ List<T, weighted> list() const {
    return {memory_->list, memory_->list_weights};
  }
  __device__ __forceinline__ auto view(int64_t first, int64_t count) const {
    const T* const x = memory_->list + first;
    if constexpr (weighted) {
      const T* const weights = memory_->list_weights + first;
      double total[1] = {};
      for (int64_t i = ThreadGroup::rank(); i < count; i += ThreadGroup::threads) {
        total[0] += static_cast<double>(weights[i]);
      }
      ThreadGroup::template reduce<Add>(total);
      return PointSet<T, ThreadGroup, WeightedSharedMemoryPoints<T>>(
          {x, weights}, count, {total[0], weights_.unit}, memory_);
    } else {
      return PointSet<T, ThreadGroup, SharedMemoryPoints<T>>({x}, count, {}, memory_);
    }
  }
  __device__ __forceinline__ double bin_excess() const {
    return weighted ? static_cast<double>(n_) * (1 / Counting<true>::one) : 0;
  }

  __device__ __forceinline__ void bin(const Grid& grid, double) const {
    auto& fixed = Space::fixed();
    const int size = grid.bins();
    using Count = typename Space::Count;
    constexpr double one = 1 << Space::place_bits;
    const Split<T, T> at(grid.origin);
    const T scale = static_cast<T>(one / grid.width);
    const T shift = static_cast<T>((grid.pad + 1) * one);
    const T limit = static_cast<T>((size - 1) * one + one / 2);
    for (int64_t begin = 0; begin < n_; begin += Space::bin_points) {
      for (int b = ThreadGroup::rank(); b < size; b += ThreadGroup::threads) {
        fixed.counts[b] = fixed.places[b] = 0;
      }
      __syncthreads();
      const int64_t rest = n_ - begin;
      const int64_t end = begin + (rest < Space::bin_points ? rest : Space::bin_points);
      // bin_points is a multiple of the thread group: each thread meets its own points.
      for (int64_t i = begin + ThreadGroup::rank(); i < end; i += ThreadGroup::threads) {
        const T place = added(shift, -residual(points_[i], at.base, at.offset), scale);
        const int digits = static_cast<int>(max(min(place, limit), T(0)));
        const int b = digits >> Space::place_bits;
        const Count count = Counting<weighted>::count(points_.weight(i));
        atomicAdd(&fixed.counts[b], count);
        atomicAdd(&fixed.places[b],
                  count * static_cast<Count>(digits & ((1 << Space::place_bits) - 1)));
      }
      __syncthreads();
      for (int b = ThreadGroup::rank(); b < size; b += ThreadGroup::threads) {
        constexpr double unit = 1 / Counting<weighted>::one;
        double points = static_cast<double>(fixed.counts[b]) * unit;
        double moment = added(-0.5 * points, static_cast<double>(fixed.places[b]), unit / one);
        if (n_ > Space::bin_points) {
          fixed.masses[b] = points += begin == 0 ? 0 : fixed.masses[b];
          fixed.moments[b] = moment += begin == 0 ? 0 : fixed.moments[b];
        }
        fixed.mass[b] = static_cast<float>(points);
        fixed.moment[b] = static_cast<float>(moment);
      }
    }
    __syncthreads();
  }

  __device__ __forceinline__ SweepInput gather(double centre, double half, double alpha) const {
    const Split<T, T> at(centre);
    const T inner = static_cast<T>(alpha - half), outer = static_cast<T>(alpha + half);
    const T inverse = static_cast<T>(1 / alpha);
    T s1 = 0, s2 = 0;
    double totals[4] = {};  // mass, s1, s2, points that leave
    clear_list();
    for_each(
        [&](T x, auto weight) {
          const T z = residual(x, at.base, at.offset), distance = absolute(z), t = -z * inverse;
          if (distance <= inner) {
            totals[0] += 1.0 * weight_in<double>(weight);
            s1 = added(s1, t, weight);
            s2 = added(s2, t * weight, t);
          } else if (distance <= outer) {
            totals[3] += z > 0;
            append(x, weight);
          }
        },
        [&] {
          totals[1] += static_cast<double>(s1);
          totals[2] += static_cast<double>(s2);
          s1 = s2 = 0;
        });
    ThreadGroup::template reduce<Add>(totals);
    const int64_t size = Space::fixed().size;
    sort_list<ThreadGroup, weighted>(memory_->list, memory_->list_weights,
                                     static_cast<typename Points::Index>(size));
    const auto leaving = static_cast<int64_t>(totals[3]);
    return {size, leaving, leaving, centre, alpha, totals[0], totals[1], totals[2]};
  }

  __device__ __forceinline__ int64_t sort() const {
    clear_list();
    for_each(
        [&](T x, auto weight) {
          if (is_finite(static_cast<double>(x))) append(x, weight);
        },
        [] {});
    __syncthreads();
    const int64_t size = Space::fixed().size;
    sort_list<ThreadGroup, weighted>(memory_->list, memory_->list_weights,
                                     static_cast<typename Points::Index>(size));
    return size;
  }

  __device__ __forceinline__ Series series(double centre, double alpha) const {
    const Split<T, double> at(centre);
    const double inverse = 1 / alpha;
    Series series{};
    for_each(
        [&](T x, auto weight) {
          const double z = clip(
              residual(static_cast<double>(x), static_cast<double>(at.base), at.offset) * inverse,
              Math<double>::gauss_limit);
          double before = 0, term = Math<double>::gauss(z * z) * weight_in<double>(weight);
          series.c[0] += term;
          constexpr int last = Series::terms - 1;
#pragma unroll
          for (int i = 1; i < last; ++i) {
            const double next = -added(before, z, term) * (1.0 / i);
            before = term;
            term = next;
            series.c[i] += term;
          }
          series.c[last] = added(series.c[last], -added(before, z, term), 1.0 / last);
        },
        [] {});
    ThreadGroup::template reduce<Add>(series.c);
    return series;
  }

  template <class P, class V>
  __device__ __forceinline__ auto sums(double u, double alpha) const {
    return sums_over<P, double>(
        u, alpha, alpha_in<V>(alpha),
        [&](const auto& body, const auto& flush) { for_each<false>(body, flush); });
  }

  // Calls f with what gives the sums at any u.
  template <class P, class V, class F>
  __device__ __forceinline__ void with_sums(double alpha, const F& f) const {
    const Alpha<V> a = alpha_in<V>(alpha);
    if constexpr (P::has_breakpoints && Points::listing && std::is_same_v<V, T>) {
      f(BreakpointSums<P, Lister>({*this, alpha, a}, alpha, n_, known_));
    } else {
      f([&](double u) {
        return sums_over<P, double>(u, alpha, a, [&](const auto& body, const auto& flush) {
          for_each<false>(body, flush);
        });
      });
    }
  }

  template <class P>
  __device__ __forceinline__ double objective(double u, double alpha) const {
    const Split<T, double> at(u);
    const double base = static_cast<double>(at.base);
    CompensatedSum<double> sum;
    for_each(
        [&](T x, auto weight) {
          const double z = residual(static_cast<double>(x), base, at.offset);
          sum.add(P::value(z, alpha) * weight_in<double>(weight));
        },
        [] {});
    double total[1] = {sum.total()};
    ThreadGroup::template reduce<Add>(total);
    return total[0];
  }

  template <bool>
  __device__ __forceinline__ SetStatistics statistics() const {
    const ThreadStatistics<T> own = seen();
    double total[1] = {own.sum};
    ThreadGroup::template reduce<Add>(total);
    const auto lo = static_cast<double>(largest(-own.lo));
    const auto hi = static_cast<double>(largest(own.hi));
    const double mean = total[0] / total_weight();
    return {mean, -lo, hi, total_weight(), 0, 0, 0, mean};
  }

  __device__ __forceinline__ SetStatistics careful_statistics() const {
    double parts[4] = {};  // +inf, -inf, NaN, finite
    double ends[2] = {-detail::infinity, -detail::infinity};
    for_each(
        [&](T point, auto given) {
          const double x = static_cast<double>(point), weight = 1.0 * weight_in<double>(given);
          if (is_finite(x)) {
            parts[3] += weight;
            ends[0] = max(-x, ends[0]);
            ends[1] = max(x, ends[1]);
          } else {
            parts[0] += x > 0 ? weight : 0;
            parts[1] += x < 0 ? weight : 0;
            parts[2] += x != x ? weight : 0;
          }
        },
        [] {});
    ThreadGroup::template reduce<Add>(parts);
    ThreadGroup::template reduce<Max>(ends);
    // Divided first: the sum may overflow where the mean does not.
    const double finite = parts[3];
    CompensatedSum<double> sums;
    for_each(
        [&](T point, auto given) {
          const double x = static_cast<double>(point), weight = 1.0 * weight_in<double>(given);
          if (is_finite(x)) sums.add(x * (weight / finite));
        },
        [] {});
    double mean[1] = {sums.total()};
    ThreadGroup::template reduce<Add>(mean);
    return {mean[0], -ends[0], ends[1], finite, parts[0], parts[1], parts[2], mean[0]};
  }

  __device__ __forceinline__ Around around(double u, double radius) const {
    const Split<T, T> at(u);
    const T far = static_cast<T>(radius);
    double counts[2] = {};
    double ends[2] = {-detail::infinity, -detail::infinity};  // of below and -above
    for_each(
        [&](T x, auto given) {
          const T z = residual(x, at.base, at.offset);
          const double weight = 1.0 * weight_in<double>(given);
          counts[0] += absolute(z) < far ? weight : 0;
          counts[1] += z >= far ? weight : 0;
          if (z >= far) ends[0] = max(static_cast<double>(x), ends[0]);
          if (-z >= far) ends[1] = max(-static_cast<double>(x), ends[1]);
        },
        [] {});
    ThreadGroup::template reduce<Add>(counts);
    ThreadGroup::template reduce<Max>(ends);
    return {counts[0], counts[1], ends[0], -ends[1]};
  }

 private:
  __device__ __forceinline__ ThreadStatistics<T> seen() const {
    if constexpr (Points::has_statistics) {
      return points_.seen;
    } else {
      StatisticsAccumulator<T, weighted> accumulator;
      for_each([&](T x, auto weight) { accumulator.add(x, weight); }, [&] { accumulator.flush(); });
      return accumulator.seen();
    }
  }

  // See core/breakpoints.h. Each warp lists points of its own, evenly shared out among its lanes:
  // which of them a thread has staged does not matter then. Places in a last, partial row hold
  // points at infinity, beyond the breakpoint on the right; they are made up for on the left.
  struct Lister {
    static constexpr bool bounded = true;

    const PointSet& set;
    double alpha;
    Alpha<T> a;

    __device__ __forceinline__ int room() const { return Points::room(set.n_, ThreadGroup::warps); }
    __device__ __forceinline__ T* list() const {
      return set.points_.lists + ThreadGroup::rank() / warp_size * room();
    }

    template <bool squares, bool beyond>
    __device__ __forceinline__ BreakpointPass look(double u, double inner_distance,
                                                   double outer_distance) const {
      const Split<T, T> at(u);
      const T inner = static_cast<T>(inner_distance), outer = static_cast<T>(outer_distance);
      T sum = 0, square = 0, inside = 0, left = 0;
      double sums[squares ? 2 : 1] = {};
      uint64_t near = 0;  // bits of this thread's points that are to be listed
      const T* const x = set.points_.x + ThreadGroup::rank();
      const auto visit = [&](T point, unsigned bit, unsigned& some) {
        const T z = residual(point, at.base, at.offset), distance = absolute(z);
        const bool within = distance <= inner;
        if (within) {
          sum += z;
          if constexpr (squares) square = added(square, z, z);
          inside += 1;
        }
        if (distance <= outer && !within) some |= bit;
        if constexpr (beyond) left += z > outer ? T(1) : T(0);
      };
      const auto flush = [&] {
        sums[0] += static_cast<double>(sum);
        if constexpr (squares) sums[1] += static_cast<double>(square);
        sum = square = 0;
      };
      // From last to first, so that a row's bit has its number.
      const int rows =
          (set.n_ - ThreadGroup::rank() + ThreadGroup::threads - 1) / ThreadGroup::threads;
      static_assert(run * 8 == 64, "bits of a thread's points on the chip");
      int row = rows / run * run;
      unsigned some = 0;
      for (int k = row; k < rows; ++k) visit(x[k * ThreadGroup::threads], 1u << (k - row), some);
      flush();
      near = some;
      while (row > 0) {
        row -= run;
        some = 0;
#pragma unroll
        for (int k = 0; k < run; ++k) visit(x[(row + k) * ThreadGroup::threads], 1u << k, some);
        flush();
        near = near << run | some;
      }

      const unsigned halves[2] = {static_cast<unsigned>(near), static_cast<unsigned>(near >> 32)};
      const int listed = __popc(halves[0]) + __popc(halves[1]);
      int last = listed;  // with the lanes before
#pragma unroll
      for (int distance = 1; distance < warp_size; distance *= 2) {
        const int before = __shfl_up_sync(full_mask, last, distance);
        if (lane() >= distance) last += before;
      }
      const int size = __shfl_sync(full_mask, last, warp_size - 1);
      const int pads = -size & (warp_size - 1);
      if (size <= room()) {
        __syncwarp();  // for those who may still read an earlier list
        T* to = list() + last - listed;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          for (unsigned bits = halves[half]; bits != 0; bits &= bits - 1) {
            const int k = 32 * half + __ffs(static_cast<int>(bits)) - 1;
            *to++ = x[k * ThreadGroup::threads];
          }
        }
        if (lane() < pads) list()[size + lane()] = static_cast<T>(detail::infinity);
        __syncwarp();
      }
      const bool leads = lane() == 0;
      int numbers[] = {static_cast<int>(inside), listed, static_cast<int>(left), leads ? pads : 0,
                       leads && size > room()};
      ThreadGroup::template reduce<Add>(sums);
      ThreadGroup::sum(numbers);
      const int right = set.n_ - numbers[0] - numbers[1] - numbers[2];
      const FixedSums others{static_cast<double>(numbers[0]), sums[0], squares ? sums[1] : 0,
                             static_cast<double>(numbers[2] - right + numbers[3])};
      const int rows_listed = (size + pads) / warp_size;
      return {u, 0, others, rows_listed, squares, beyond, numbers[4] == 0};
    }

    template <class P>
    __device__ __forceinline__ Sums listed(double u, const BreakpointPass& known) const {
      // In the precision of the terms: there are few, and what they may err by is that of the rest.
      return set.template sums_over<P, T>(u, alpha, a, [&](const auto& body, const auto& flush) {
        constexpr int some = 4;
        const T* x = list() + lane();
        int rows = known.size;
#pragma unroll 1
        for (; rows >= some; rows -= some, x += some * warp_size) {
#pragma unroll
          for (int k = 0; k < some; ++k) body(x[k * warp_size], One{});
        }
#pragma unroll 1
        for (; rows > 0; --rows, x += warp_size) body(*x, One{});
        flush();
      });
    }
    template <class P>
    __device__ __forceinline__ Sums all(double u) const {
      return set.template sums_over<P, double>(
          u, alpha, a,
          [&](const auto& body, const auto& flush) { set.template for_each<false>(body, flush); });
    }
  };

  template <class V>
  __device__ __forceinline__ Alpha<V> alpha_in(double alpha) const {
    return {static_cast<V>(alpha), static_cast<V>(1 / alpha),
            static_cast<V>(alpha * breakpoint_margin(n_))};
  }

  // Total: in which runs and threads are added. for_each: as below, of the points that are wanted.
  template <class P, class Total, class V, class ForEach>
  __device__ __forceinline__ auto sums_over(double u, double alpha, const Alpha<V>& a,
                                            const ForEach& for_each) const {
    // A thread has no more than 64 points on the chip: their number is exact in any precision.
    constexpr bool counts = !weighted && !Points::in_place;
    const Split<T, V> at(u);
    const Residuals<P, V> residual(static_cast<V>(at.base), at.offset, a);
    V moments[P::moments] = {};
    // Those are added up in the end alone, on the chip.
    const auto is_approximate = [](int k) {
      return !Points::in_place && k >= P::first_approximate && (counts || k < P::first_count);
    };
    Total totals[P::moments] = {};
    for_each(
        [&](T x, auto given) {
          const auto weight = weight_in<V>(given);
          if constexpr (weighted) x = weight > 0 ? x : at.base;  // it adds nothing
          const MomentAdder<V, decltype(weight)> add{moments, weight};
          if constexpr (P::is_smooth) {
            P::template add_moments</*bounded=*/false>(residual(static_cast<V>(x)), a, add);
          } else {
            P::add_moments(residual(static_cast<V>(x)), a, add);
          }
        },
        [&] {
#pragma unroll
          for (int k = 0; k < P::moments; ++k) {
            if (is_approximate(k)) continue;
            totals[k] += static_cast<Total>(moments[k]);
            moments[k] = 0;
          }
        });
    constexpr int first_number = counts ? P::first_count : P::moments;
    constexpr int last_numbers = P::moments - first_number;
    Total sums[first_number];
    int numbers[last_numbers > 0 ? last_numbers : 1];
#pragma unroll
    for (int k = 0; k < first_number; ++k) {
      sums[k] = is_approximate(k) ? static_cast<Total>(moments[k]) : totals[k];
    }
#pragma unroll
    for (int k = 0; k < last_numbers; ++k) {
      numbers[k] = static_cast<int>(moments[first_number + k]);
    }
    ThreadGroup::template reduce<Add>(sums);
    if constexpr (last_numbers > 0) ThreadGroup::sum(numbers);
    double all[P::moments];
#pragma unroll
    for (int k = 0; k < P::moments; ++k) {
      all[k] = k < first_number ? static_cast<double>(sums[k])
                                : static_cast<double>(numbers[k - first_number]);
    }
    return P::sums(all, alpha);
  }

  // Calls body(point, weight) for this thread's points, and flush after every `run` of them and at
  // the end. A weight is a T, or One; points of zero weight are passed over, or left to the body,
  // which then has no branch.
  template <bool branches = true, class Body, class Flush>
  __device__ __forceinline__ void for_each(Body&& body, Flush&& flush) const {
    const auto visit = [&](T x, auto weight) {
      if constexpr (weighted && branches) {
        if (!(weight > 0)) return;
      }
      body(x, weight);
    };
    // All threads leave the loop over whole runs together, so that no warp diverges.
    constexpr int run_points = run * ThreadGroup::threads;
    if constexpr (Points::in_place) {
      if (!points_.lies_in_line()) {
        // The divisions take longest: nothing is gained by several loads at a time.
        int visited = 0;
#pragma unroll 1
        for (Index i = ThreadGroup::rank(); i < n_; i += ThreadGroup::threads) {
          visit(points_[i], points_.weight(i));
          if (++visited % run == 0) flush();
        }
        flush();
        return;
      }
      // As many loads in flight as leave the sums their registers.
      constexpr int loads = 8 * sizeof(float) / sizeof(T) / (weighted ? 2 : 1);
      static_assert(run % loads == 0);
      Index first = 0;
      const auto visit_run = [&](auto whole) {
        constexpr bool is_whole = decltype(whole)::value;
#pragma unroll 1
        for (int j = 0; j < run; j += loads) {
          const Index i = first + j * ThreadGroup::threads + ThreadGroup::rank();
          const auto batch = points_.template batch<is_whole, loads>(i, ThreadGroup::threads, n_);
#pragma unroll
          for (int k = 0; k < loads; ++k) {
            if (is_whole || i + k * ThreadGroup::threads < n_) visit(batch.x[k], batch.weights[k]);
          }
        }
        flush();
      };
      for (; first + run_points <= n_; first += run_points) visit_run(std::true_type{});
      if (first < n_) visit_run(std::false_type{});
    } else {
      Index i = ThreadGroup::rank();
      for (; i - ThreadGroup::rank() + run_points <= n_; i += run_points) {
#pragma unroll
        for (int k = 0; k < run; ++k) {
          visit(points_[i + k * ThreadGroup::threads],
                points_.weight(i + k * ThreadGroup::threads));
        }
        flush();
      }
      for (; i < n_; i += ThreadGroup::threads) visit(points_[i], points_.weight(i));
      flush();
    }
  }

  // The order in which points come is left to chance; the list is sorted before it is read.
  template <class W>
  __device__ __forceinline__ void append(T x, W weight) const {
    const unsigned at = atomicAdd(&Space::fixed().size, 1u);
    memory_->list[at] = x;
    if constexpr (weighted) memory_->list_weights[at] = weight;
  }
  // Every thread has read the size of the last list before it entered the barriers of sort_list(),
  // so that none is needed before the size is cleared; the one behind that also keeps append() from
  // a list that is still being read.
  __device__ __forceinline__ void clear_list() const {
    if (ThreadGroup::rank() == 0) Space::fixed().size = 0;
    __syncthreads();
  }

  static constexpr int sharers = warp_size / least_block;

  Points points_;
  Index n_;
  Weights weights_;
  const Space* memory_;
  mutable BreakpointPass known_;  // its list is in the points' room
};

}  // namespace ddn::cuda
