// A set of points in memory: the `Set` of core/set.h on the CPU. A thread works on it alone, or
// shares its chunks with others.
#pragma once

#include <algorithm>
#include <iterator>
#include <type_traits>
#include <vector>

#include "core/careful_statistics.h"
#include "core/certify/search.h"
#include "cpu/breakpoint_lister.h"
#include "cpu/passes.h"
#include "cpu/robust_pool_cpu.h"
#include "cpu/sweep_list.h"

namespace ddn {
inline namespace DDN_ISA {

template <class T, bool weighted_ = false>
class PointSet {
 public:
  using Scalar = T;
  using Real = T;
  using BinMath = FloatMath;
  static_assert(min_block % BinMath::lanes == 0, "vectors of cells fill blocks");
  using Workspace = SearchWorkspace<T>;
  using Set = PointSpan<T, weighted_>;
  static constexpr bool weighted = weighted_;

  // With a parallel_for, the threads share the chunks of the set.
  PointSet(const Set& set, double total_weight, double unit, const cpu::ParallelFor* parallel_for,
           Workspace* workspace)
      : set_(set),
        total_weight_(total_weight),
        unit_(unit),
        parallel_for_(parallel_for),
        workspace_(workspace) {}

  int64_t points() const { return set_.n; }
  double total_weight() const { return total_weight_; }
  double unit() const { return unit_; }

  // One thread is all of the group.
  int rank() const { return 0; }
  int size() const { return 1; }
  void sync() const {}
  double largest(double x) const { return x; }
  float largest(float x) const { return x; }
  template <int count>
  void largest(double (&)[count]) const {}
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
  int max_cells() const { return Workspace::max_cells; }
  template <class P>
  static const KernelTable& table() {
    static const KernelTable table = make_kernel_table<P>();
    return table;
  }
  Bins bins() const { return workspace_->bins(); }
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

  void bin(const Grid& grid, double /*alpha*/) const { bin_points(set_, grid, *workspace_); }
  double bin_excess() const {
    return weighted ? static_cast<double>(set_.n) * 0x1p-53 * total_weight_ : 0;
  }

  SweepInput gather(double centre, double half, double alpha) const {
    return gather_run(set_, total_weight_, centre, half, alpha, *workspace_);
  }
  int64_t sort() const { return sort_finite(set_, *workspace_); }

  Series series(double centre, double alpha) const {
    Series series;
    cell_sums<SeriesCell>(centre, Series::radius, alpha, series.c);
    return series;
  }
  template <class Cell>
  void cell_sums(double centre, double radius, double alpha, double (&sums)[Cell::numbers]) const {
    using All = Moments<Cell::numbers>;
    const All all = over_chunks<All>(
        [=](const Set& part) { return chunk_cell<Cell>(part, centre, radius, alpha); },
        add_moments<All>);
    std::copy(all.m, all.m + Cell::numbers, sums);
  }

  template <class P, class V>
  auto sums(double u, double alpha) const {
    return sums<P, V>(u, alpha, alpha * breakpoint_margin(set_.n));
  }
  // breakpoint: see Alpha.
  template <class P, class V>
  auto sums(double u, double alpha, double breakpoint) const {
    if constexpr (P::is_smooth) {
      if (range_ <= most_bounded * alpha) return sums<P, V, true>(u, alpha, breakpoint);
    }
    return sums<P, V, false>(u, alpha, breakpoint);
  }
  // Calls f with a function of u that returns the sums there.
  template <class P, class V, class F>
  auto with_sums(double alpha, const F& f) const {
    if constexpr (P::has_breakpoints && !weighted && std::is_same_v<V, T>) {
      if (set_.n <= chunk_points) {
        std::vector<T>& list = workspace_->breakpoint_list;
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

  SetStatistics careful_statistics() const { return compute_careful_statistics(*this); }
  template <class F>
  void for_each_point(const F& f) const {
    for (int64_t i = 0; i < set_.n; ++i) f(set_.point(i), set_.weight(i));
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
  auto sums(double u, double alpha, double breakpoint) const {
    using All = Moments<P::moments>;
    const All all = over_chunks<All>(
        [=](const Set& part) { return chunk_moments<P, V, bounded>(part, u, alpha, breakpoint); },
        add_moments<All>);
    return P::sums(all.m, alpha);
  }
  template <class All>
  static void add_moments(All& sum, const All& one) {
    for (size_t k = 0; k < std::size(sum.m); ++k) sum.m[k] += one.m[k];
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
  Workspace* workspace_;
  mutable double range_ = detail::infinity;  // upper bound of the range of the points
  mutable BreakpointPass known_;             // about workspace_->breakpoint_list
};

}  // namespace DDN_ISA
}  // namespace ddn
