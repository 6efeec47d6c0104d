// A set of points as a team sums over it: CUDA's `Set` (see core/solve.h).
//
// Note: [The order of summation]
// It depends on the number of points alone: thread r of a team of t takes the points r, r + t,
// r + 2t, ...; it adds `run` of their terms in the precision of the terms and then those sums in
// double precision; the threads are added by the team's reduction.
#pragma once

#include "core/args.h"
#include "core/global.h"
#include "core/gradient.h"
#include "cuda/team.cuh"

namespace ddn::cuda {

constexpr int run = 8;

// Points that lie one after the other, in shared memory.
template <class T>
struct Consecutive {
  const T* x;
  __device__ __forceinline__ T operator[](int64_t i) const { return x[i]; }
};

// Points where the tensor has them, in global memory.
template <class T>
struct InPlace {
  const T* x;
  const Dims* dims;
  __device__ __forceinline__ T operator[](int64_t i) const { return x[dims->offset(i)]; }
};

// A team's working memory for the global search, in shared memory but for `list` of a set that does
// not fit there.
template <class T>
struct Memory {
  static constexpr int most_cells = 512;
  static constexpr int most_bins = most_cells + 2 * 48 + 2 + bins_slack;  // 48: the widest pad
  static constexpr int fixed_bytes =
      most_bins * (2 * sizeof(double) + sizeof(float) + 2 * sizeof(unsigned)) +
      128 * sizeof(float) + 16;
  // Points that can be counted before a sum of 16-bit places overflows.
  static constexpr int64_t bin_points = 1 << 15;

  Bins bins;
  unsigned* counts;
  unsigned* places;
  unsigned* size;  // of the list
  T* list;
  const Taps* taps;

  __device__ __forceinline__ Memory(unsigned char* bytes, T* list_, const Taps& taps_)
      : list(list_), taps(&taps_) {
    bins.mass = reinterpret_cast<double*>(bytes);
    bins.moment = bins.mass + most_bins;
    bins.upper = reinterpret_cast<float*>(bins.moment + most_bins);
    counts = reinterpret_cast<unsigned*>(bins.upper + most_bins);
    places = counts + most_bins;
    bins.blocks = reinterpret_cast<float*>(places + most_bins);
    size = reinterpret_cast<unsigned*>(bins.blocks + 128);
  }
};

// Bitonic, with the first step of each merge mirrored: then every exchange moves the larger number
// up, and places beyond the end act as if they held +inf.
template <class Team, class T>
__device__ __forceinline__ void sort_list(T* list, int64_t n) {
  const auto exchange = [&](int64_t i, int64_t j) {
    if (j < n && list[i] > list[j]) {
      const T x = list[i];
      list[i] = list[j];
      list[j] = x;
    }
  };
  int64_t half = 1;
  while (2 * half < n) half *= 2;
  __syncthreads();
  for (int64_t width = 2; width / 2 < n; width *= 2) {
    for (int64_t p = Team::rank(); p < half; p += Team::threads) {
      const int64_t start = p / (width / 2) * width, at = p % (width / 2);
      exchange(start + at, start + width - 1 - at);
    }
    __syncthreads();
    for (int64_t distance = width / 4; distance > 0; distance /= 2) {
      for (int64_t p = Team::rank(); p < half; p += Team::threads) {
        const int64_t i = p / distance * 2 * distance + p % distance;
        exchange(i, i + distance);
      }
      __syncthreads();
    }
  }
}

template <class T, class Team, class Points>
class PointSet {
 public:
  using Scalar = T;
  using Real = T;
  using Lanes = double;

  // The memory is for the global search.
  __device__ __forceinline__ PointSet(Points points, int64_t n, const Memory<T>* memory = nullptr)
      : points_(points), n_(n), memory_(memory) {}

  __device__ __forceinline__ double count() const { return static_cast<double>(n_); }

  __device__ __forceinline__ int rank() const { return Team::rank(); }
  __device__ __forceinline__ int size() const { return Team::threads; }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
  __device__ __forceinline__ double largest(double x) const {
    double values[1] = {x};
    Team::template reduce<Larger>(values);
    return values[0];
  }
  __device__ __forceinline__ int most_cells() const { return Memory<T>::most_cells; }
  template <class P>
  __device__ __forceinline__ const Taps& taps() const {
    return *memory_->taps;
  }
  __device__ __forceinline__ const Bins& bins() const { return memory_->bins; }
  __device__ __forceinline__ const T* list() const { return memory_->list; }
  __device__ __forceinline__ PointSet<T, Team, Consecutive<T>> view(int64_t first,
                                                                    int64_t count) const {
    return {Consecutive<T>{memory_->list + first}, count, memory_};
  }

  __device__ __forceinline__ void bin(const Grid& grid, double) const {
    const Bins& bins = memory_->bins;
    const int size = grid.bins();
    const double one = 1 << bin_fraction_bits;
    const Split<T, T> at(grid.origin);
    const T scale = static_cast<T>(one / grid.width);
    const T shift = static_cast<T>((grid.pad + 1) * one);
    const T limit = static_cast<T>((size - 1) * one + one / 2);
    __syncthreads();  // the readers of an earlier grid have left
    for (int64_t begin = 0; begin < n_; begin += Memory<T>::bin_points) {
      for (int b = Team::rank(); b < size; b += Team::threads) {
        memory_->counts[b] = memory_->places[b] = 0;
      }
      __syncthreads();
      const int64_t rest = n_ - begin;
      const int64_t end = begin + (rest < Memory<T>::bin_points ? rest : Memory<T>::bin_points);
      // bin_points is a multiple of the team: each thread meets its own points.
      for (int64_t i = begin + Team::rank(); i < end; i += Team::threads) {
        const T place = shift - residual(points_[i], at.base, at.offset) * scale;
        const int fixed = static_cast<int>(larger(smaller(place, limit), T(0)));
        atomicAdd(&memory_->counts[fixed >> bin_fraction_bits], 1u);
        atomicAdd(&memory_->places[fixed >> bin_fraction_bits],
                  static_cast<unsigned>(fixed & bin_fraction_mask));
      }
      __syncthreads();
      for (int b = Team::rank(); b < size; b += Team::threads) {
        const double points = memory_->counts[b];
        const double moment = memory_->places[b] * (1 / one) - 0.5 * points;
        bins.mass[b] = begin == 0 ? points : bins.mass[b] + points;
        bins.moment[b] = begin == 0 ? moment : bins.moment[b] + moment;
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
        [&](T x) {
          const T z = residual(x, at.base, at.offset), distance = absolute(z), t = -z * inverse;
          if (distance <= inner) {
            totals[0] += 1;
            s1 += t;
            s2 += t * t;
          } else if (distance <= outer) {
            totals[3] += z > 0;
            append(x);
          }
        },
        [&] {
          totals[1] += static_cast<double>(s1);
          totals[2] += static_cast<double>(s2);
          s1 = s2 = 0;
        });
    Team::template reduce<Add>(totals);
    const int64_t size = *memory_->size;
    sort_list<Team>(memory_->list, size);
    const auto leaving = static_cast<int64_t>(totals[3]);
    return {size, leaving, leaving, centre, alpha, totals[0], totals[1], totals[2]};
  }

  __device__ __forceinline__ int64_t sort() const {
    clear_list();
    for_each(
        [&](T x) {
          if (is_finite(static_cast<double>(x))) append(x);
        },
        [] {});
    __syncthreads();
    const int64_t size = *memory_->size;
    sort_list<Team>(memory_->list, size);
    return size;
  }

  __device__ __forceinline__ Series series(double centre, double alpha) const {
    const Split<T, double> at(centre);
    const double inverse = 1 / alpha;
    Series series{};
    for_each(
        [&](T x) {
          const double z = clip(
              residual(static_cast<double>(x), static_cast<double>(at.base), at.offset) * inverse,
              40.0);
          double before = 0, term = Math<double>::exp(-0.5 * z * z);
#pragma unroll
          for (int i = 0; i < Series::terms; ++i) {
            series.c[i] += term;
            const double next = -(z * term + before) * (1.0 / (i + 1));
            before = term;
            term = next;
          }
        },
        [] {});
    Team::template reduce<Add>(series.c);
    return series;
  }

  template <class P, class V>
  __device__ __forceinline__ Sums sums(double u, double alpha) const {
    const Split<T, V> at(u);
    const V base = static_cast<V>(at.base);
    const Alpha<V> a{static_cast<V>(alpha), static_cast<V>(1 / alpha)};
    V slope = 0, curvature = 0, depth = 0, absolute_curvature = 0;
    double totals[P::convex ? (P::has_depth ? 3 : 2) : 4] = {};
    for_each(
        [&](T x) {
          const Terms<V> t = P::terms(residual(static_cast<V>(x), base, at.offset), a);
          slope += t.slope;
          curvature += t.curvature;
          if constexpr (P::has_depth) depth += t.depth;
          if constexpr (!P::convex) {
            absolute_curvature += absolute(t.curvature);
          }
        },
        [&] {
          totals[0] += static_cast<double>(slope);
          totals[1] += static_cast<double>(curvature);
          slope = curvature = 0;
          if constexpr (P::has_depth) {
            totals[2] += static_cast<double>(depth);
            depth = 0;
          }
          if constexpr (!P::convex) {
            totals[3] += static_cast<double>(absolute_curvature);
            absolute_curvature = 0;
          }
        });
    Team::template reduce<Add>(totals);
    Sums sums;
    sums.slope = totals[0];
    sums.curvature = totals[1];
    if constexpr (P::has_depth) sums.depth = totals[2];
    if constexpr (!P::convex) sums.absolute_curvature = totals[3];
    return sums;
  }

  template <class P>
  __device__ __forceinline__ double objective(double u, double alpha) const {
    const Split<T, double> at(u);
    const double base = static_cast<double>(at.base);
    CompensatedSum<double> sum;
    for_each(
        [&](T x) { sum.add(P::value(residual(static_cast<double>(x), base, at.offset), alpha)); },
        [] {});
    double total[1] = {sum.total()};
    Team::template reduce<Add>(total);
    return total[0];
  }

  __device__ __forceinline__ Survey survey() const {
    T sum = 0;
    CompensatedSum<double> sums;
    double ends[2] = {-detail::infinity, -detail::infinity};  // of -lo and hi
    for_each(
        [&](T x) {
          sum += x;
          ends[0] = larger(-static_cast<double>(x), ends[0]);
          ends[1] = larger(static_cast<double>(x), ends[1]);
        },
        [&] {
          sums.add(static_cast<double>(sum));
          sum = 0;
        });
    double total[1] = {sums.total()};
    Team::template reduce<Add>(total);
    Team::template reduce<Larger>(ends);
    return {total[0] / count(), -ends[0], ends[1], count(), 0, 0, 0};
  }

  __device__ __forceinline__ Survey careful_survey() const {
    double counts[3] = {};
    double ends[2] = {-detail::infinity, -detail::infinity};
    for_each(
        [&](T point) {
          const double x = static_cast<double>(point);
          counts[0] += x == detail::infinity;
          counts[1] += x == -detail::infinity;
          counts[2] += x != x;
          if (!is_finite(x)) return;
          ends[0] = larger(-x, ends[0]);
          ends[1] = larger(x, ends[1]);
        },
        [] {});
    Team::template reduce<Add>(counts);
    Team::template reduce<Larger>(ends);
    // Divided first: the sum may overflow where the mean does not.
    const double finite = count() - counts[0] - counts[1] - counts[2];
    CompensatedSum<double> sums;
    for_each(
        [&](T point) {
          const double x = static_cast<double>(point);
          if (is_finite(x)) sums.add(x / finite);
        },
        [] {});
    double mean[1] = {sums.total()};
    Team::template reduce<Add>(mean);
    return {mean[0], -ends[0], ends[1], finite, counts[0], counts[1], counts[2]};
  }

  __device__ __forceinline__ Around around(double u, double radius) const {
    const Split<T, T> at(u);
    const T far = static_cast<T>(radius);
    double counts[2] = {};
    double ends[2] = {-detail::infinity, -detail::infinity};  // of below and -above
    for_each(
        [&](T x) {
          const T z = residual(x, at.base, at.offset);
          counts[0] += absolute(z) < far;
          counts[1] += z >= far;
          if (z >= far) ends[0] = larger(static_cast<double>(x), ends[0]);
          if (-z >= far) ends[1] = larger(-static_cast<double>(x), ends[1]);
        },
        [] {});
    Team::template reduce<Add>(counts);
    Team::template reduce<Larger>(ends);
    return {counts[0], counts[1], ends[0], -ends[1]};
  }

 private:
  // Calls body for this thread's points, and flush after every `run` of them and at the end.
  template <class Body, class Flush>
  __device__ __forceinline__ void for_each(Body&& body, Flush&& flush) const {
    int64_t i = Team::rank();
    for (; i + (run - 1) * Team::threads < n_; i += run * Team::threads) {
#pragma unroll
      for (int k = 0; k < run; ++k) body(points_[i + k * Team::threads]);
      flush();
    }
    for (; i < n_; i += Team::threads) body(points_[i]);
    flush();
  }

  // The order in which points come is left to chance; the list is sorted before it is read.
  __device__ __forceinline__ void append(T x) const {
    memory_->list[atomicAdd(memory_->size, 1u)] = x;
  }
  __device__ __forceinline__ void clear_list() const {
    __syncthreads();
    if (Team::rank() == 0) *memory_->size = 0;
    __syncthreads();
  }

  Points points_;
  int64_t n_;
  const Memory<T>* memory_;
};

}  // namespace ddn::cuda
