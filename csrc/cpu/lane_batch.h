// Small sets, solved side by side with one in each SIMD lane.
//
// Note: [Lane batches]
// Most of the time of a small set is latency: of sums across lanes, divisions and mispredicted
// branches. A lane batch pays these once for all its sets. Each lane depends on its own set alone,
// so that an answer does not depend on the other sets of the batch.
//
// A lane batch solves the ordinary sets: finite points, a unique Huber minimiser, a sum of psi' of
// at least a sixteenth of its maximum, and a few passes. core/solve.h solves the others.
#pragma once

#include "core/certify/cell_proof.h"
#include "core/newton.h"
#include "core/solve.h"
#include "cpu/lane_points.h"
#include "cpu/lane_sweep.h"
#include "cpu/lanes.h"
#include "cpu/point_set.h"

namespace ddn {
inline namespace DDN_ISA {

template <class T>
class LaneBatch : private LanePoints<T> {
  using Base = LanePoints<T>;
  using Base::for_each_point, Base::lengths_, Base::least_, Base::most_, Base::points_, Base::sets_,
      Base::size_;
  using typename Base::AddedSet;

 public:
  using Base::add, Base::is_full, Base::lanes;

  // Whether lane batches are faster for sets of so many points.
  template <class P, bool global>
  static constexpr bool takes(int64_t points) {
    constexpr int each = P::is_mean ? 4 : !global ? 16 : is_gaussian<P> ? 4 : 8;
    return points > 1 && points <= each * lanes;
  }

  // Solves the sets that were added and removes them. Calls solve_alone(index, points, n, unit,
  // takes_more) for each set that a lane batch cannot solve; takes_more says that the solution
  // takes more passes than args.max_iter.
  template <class P, bool global, class Alone>
  void solve(const ForwardArgs& args, const Alone& solve_alone) {
    if (size_ == 0) return;
    this->load();
    for (int lane = 0; lane < lanes; ++lane) {
      weight_.set(lane, static_cast<double>(sets_[lane].n));
      alpha_.set(lane, sets_[lane].alpha);
      margin_.set(lane, breakpoint_margin(sets_[lane].n));
    }
    statistics<P::is_mean>();
    bool bounded = P::is_smooth;  // clipping changes nothing then
    for (int p = 0; p < parts; ++p) {
      const Part range = hi_.part[p] - lo_.part[p], far = most_bounded * alpha_.part[p];
      reach_.part[p] = min(range, alpha_.part[p]);
      accepted_.part[p] = args.tolerance < 0 ? detail::accepted_fraction<T> * reach_.part[p]
                                             : args.tolerance * alpha_.part[p];
      bounded = bounded && !Math<Part>::any(active_[p] & (range > far));
    }
    if (bounded) {
      find<P, global, true>();
    } else {
      find<P, global, false>();
    }
    for (int lane = 0; lane < size_; ++lane) {
      const AddedSet& set = sets_[lane];
      const bool takes_more = args.max_iter >= 0 && passes_[lane] > args.max_iter;
      if (takes_more || !is_solved(lane)) {
        solve_alone(set.index, set.x, set.n, set.unit, takes_more && is_solved(lane));
      } else {
        write<P, global>(args, lane);
      }
    }
    size_ = 0;
  }

 private:
  static constexpr int parts = PerLane<T>::parts;
  static constexpr int max_passes = 16;
  using Part = typename PerLane<T>::Part;
  using Mask = decltype(Part{} < Part{});

  // The start and the bracket of each descent, and the sets that need none.
  template <bool is_mean>
  void statistics() {
    using Lanes = Vector<T>;
    const T infinity = static_cast<T>(detail::infinity);
    const Lanes upmost = splat(infinity), downmost = splat(-infinity);
    Lanes sum{}, least = upmost, most = downmost;
    DoublePair total;
    for_each_point(
        [&](Lanes points, auto mask) __attribute__((always_inline)) {
          sum += select(mask, points);
          least = min(select(mask, points, upmost), least);
          most = max(select(mask, points, downmost), most);
        },
        [&]() __attribute__((always_inline)) {
          total.add(sum);
          sum = Lanes{};
        });
    // Medians of threes follow outliers less than a mean.
    Lanes medians{}, groups{};
    for (int64_t j = 0; j + 3 <= most_ && !is_mean; j += 3) {
      const auto whole = lengths_ >= static_cast<T>(j + 3);
      medians += select(whole, median(points_[j], points_[j + 1], points_[j + 2]));
      groups += select(whole, splat(T(1)));
    }
    const PerLane<T> sums = lane_totals(total, T{});
    const PerLane<T> all_medians = widened<T>(medians), all_groups = widened<T>(groups);
    lo_ = widened<T>(least);
    hi_ = widened<T>(most);
    const Part largest = Math<Part>::splat(static_cast<double>(Math<T>::largest()));
    for (int p = 0; p < parts; ++p) {
      const Part mean = sums.part[p] / weight_.part[p], lo = lo_.part[p], hi = hi_.part[p];
      const Part start = all_medians.part[p] / all_groups.part[p];
      const Part at = is_mean ? mean : select(absolute(start) <= largest, start, mean);
      const Mask ordinary = (absolute(mean) <= largest) & (hi - lo <= largest);
      const Mask known = is_mean ? ordinary : ordinary & (lo == hi);
      u_.part[p] = max(min(at, hi), lo);
      curvature_.part[p] = weight_.part[p];
      passes_.part[p] = Part{};
      solved_[p] = known;
      active_[p] = ordinary & ~known;
    }
  }

  // The sums of each set at its u.
  template <class P, bool bounded>
  void sum(SumsIn<Part> (&at)[parts]) const {
    using Lanes = Vector<T>;
    constexpr int count = P::moments;
    const Lanes base = narrowed(u_);
    const PerLane<T> wide = widened<T>(base);
    PerLane<T> rest, inverse, breakpoint;
    for (int p = 0; p < parts; ++p) {
      rest.part[p] = u_.part[p] - wide.part[p];
      inverse.part[p] = 1 / alpha_.part[p];
      breakpoint.part[p] = alpha_.part[p] * margin_.part[p];
    }
    const Alpha<Lanes> alpha{narrowed(alpha_), narrowed(inverse), narrowed(breakpoint)};
    const Residuals<P, Lanes> residual(base, narrowed(rest), alpha);
    Lanes moments[count] = {};
    DoublePair totals[count];
    for_each_point(
        [&](Lanes points, auto mask) __attribute__((always_inline)) {
          const LaneAdder<T, decltype(mask)> add{moments, mask};
          if constexpr (P::is_smooth) {
            P::template add_moments<bounded>(residual(points), alpha, add);
          } else {
            P::add_moments(residual(points), alpha, add);
          }
        },
        [&]() __attribute__((always_inline)) {
          for (int k = 0; k < P::first_count; ++k) {
            totals[k].add(moments[k]);
            moments[k] = Lanes{};
          }
        });
    PerLane<T> sums[count];
    for (int k = 0; k < count; ++k) {
      sums[k] = k < P::first_count ? lane_totals(totals[k], T{}) : widened<T>(moments[k]);
    }
    for (int p = 0; p < parts; ++p) {
      Part m[count];
      for (int k = 0; k < count; ++k) m[k] = sums[k].part[p];
      at[p] = P::sums(m, alpha_.part[p]);
    }
  }

  template <class P, bool global, bool bounded>
  void find() {
    static_assert(!global || is_gaussian<P> || is_parabola<P>,
                  "lane batches need a proof for this certificate, or takes() must be false");
    static_assert(!has_long_series<P>, "lanes have no further terms of the series");
    if constexpr (P::is_mean) return;
    constexpr bool sweeps = global && is_parabola<P>;
    PerLane<T> inliers;
    if constexpr (sweeps) {
      sort_lanes<T>(points_, lengths_, least_, most_);
      const LaneWindow<T> window = sweep_lanes<T>(points_, most_, weight_, alpha_, u_, lo_, hi_);
      u_ = window.u;
      inliers = window.inliers;
      for (int p = 0; p < parts; ++p) {
        active_[p] &= window.certain.part[p] > 0.5;
        passes_.part[p] += 1;
      }
    } else if constexpr (!is_convex<P>) {
      descend<Huber, bounded>();
      go_on();
    }
    descend<P, bounded>();
    if constexpr (global && is_gaussian<P>) keep_proven<P>();
    if constexpr (sweeps) {
      // The best window is that of a minimum if all of it is near its mean.
      for (int p = 0; p < parts; ++p) {
        const Mask all_equal = lo_.part[p] == hi_.part[p];
        solved_[p] &= all_equal | (curvature_.part[p] == inliers.part[p]);
      }
    }
  }

  // Another descent begins at each answer, except for sets of equal points.
  void go_on() {
    for (int p = 0; p < parts; ++p) {
      const Mask started = solved_[p] & (lo_.part[p] < hi_.part[p]);
      solved_[p] &= ~started;
      active_[p] = started;
    }
  }

  template <class P, bool bounded>
  void descend() {
    SumsIn<Part> at[parts];
    Descent<P, Part> descents[parts];
    for (int p = 0; p < parts; ++p) descents[p] = descent<P>(p);
    for (int pass = 0; pass < max_passes; ++pass) {
      bool done = true;
      for (int p = 0; p < parts; ++p) done = done && !Math<Part>::any(active_[p]);
      if (done) return;
      sum<P, bounded>(at);
      for (int p = 0; p < parts; ++p) update(p, descents[p], at[p]);
    }
  }

  template <class P>
  Descent<P, Part> descent(int p) const {
    return {u_.part[p],
            lo_.part[p],
            hi_.part[p],
            {detail::accepted_error<T>(), detail::rounding<T>(), alpha_.part[p], accepted_.part[p],
             weight_.part[p], hi_.part[p] - lo_.part[p], alpha_.part[p] * margin_.part[p]}};
  }

  template <class P>
  DDN_HOST_DEVICE void update(int p, Descent<P, Part>& descent, const SumsIn<Part>& at) {
    const Mask active = active_[p], done = active & descent.update(at);
    const SumsIn<Part>& sums = descent.sums();
    u_.part[p] = active ? descent.point() : u_.part[p];
    curvature_.part[p] = done ? sums.dpsi : curvature_.part[p];
    passes_.part[p] += active ? splat(1.0) : Part{};
    const Part mass = pulling_weight<P, Part>(sums, weight_.part[p]);
    solved_[p] |= done & (lasting_dpsi<P, Part>(sums) >= mass * (1.0 / 16));
    active_[p] = active & !done;
  }

  // Keeps those answers that are proven to be global minima. Afterwards the points are in units of
  // alpha, from the least one on.
  template <class P>
  void keep_proven() {
    using Lanes = Vector<T>;
    const Lanes one = splat(T(1)), none{};
    const Alpha<Lanes> unit{one, one};
    PerLane<T> range, place, wanted;
    for (int p = 0; p < parts; ++p) {
      const Part inverse = 1 / alpha_.part[p], lo = lo_.part[p], hi = hi_.part[p];
      range.part[p] = (hi - lo) * inverse;
      place.part[p] = (u_.part[p] - lo) * inverse;
      const Mask open = solved_[p] & (lo < hi);
      solved_[p] &= ~open;
      wanted.part[p] = open ? splat(1.0) : Part{};
      passes_.part[p] += 1;
    }
    const Lanes inverse = one / narrowed(alpha_), lo = narrowed(lo_);
    for (int64_t j = 0; j < most_; ++j) points_[j] = (points_[j] - lo) * inverse;
    const auto sums = [&](Lanes at) __attribute__((always_inline)) {
      Lanes m[P::moments] = {};
      for_each_point(
          [&](Lanes points, auto mask) __attribute__((always_inline)) {
            const LaneAdder<T, decltype(mask)> add{m, mask};
            P::template add_moments<true>(at - points, unit, add);
          },
          [] {});
      return P::sums(m, one);
    };
    const auto proof = prove_by_cells<P, Lanes>(narrowed(range), narrowed(place), lengths_,
                                                narrowed(wanted) > none, sums);
    const PerLane<T> proven = widened<T>(proof.proven ? one : none);
    density_curvature_ = widened<T>(proof.curvature);
    for (int p = 0; p < parts; ++p) solved_[p] |= proven.part[p] > 0.5;
  }

  bool is_solved(int lane) const {
    constexpr int part_lanes = PerLane<T>::part_lanes;
    return solved_[lane / part_lanes][lane % part_lanes] != 0 &&
           weight_[lane] * sets_[lane].unit <= static_cast<double>(Math<T>::largest());
  }

  template <class P, bool global>
  void write(const ForwardArgs& args, int lane) const {
    const AddedSet& set = sets_[lane];
    const double total = weight_[lane];
    Solution solution = fixed(u_[lane], curvature_[lane], Status::converged);
    solution.passes = static_cast<int64_t>(passes_[lane]);
    if constexpr (global) {
      // Everywhere else the density is lower. About the answer it exceeds that of the answer by no
      // more than the accepted step, or the rounding of u, allows.
      solution.bound = -1;
      const double rounding = detail::rounding<T>();
      const double way =
          (std::max(accepted_[lane], rounding * reach_[lane]) + 4.5e-16 * std::fabs(u_[lane])) /
          set.alpha;
      if (is_gaussian<P> && lo_[lane] < hi_[lane]) {
        const double derivative = total * (way + 4 * rounding);
        solution.slack = derivative * derivative / (-2 * density_curvature_[lane]);
      } else {
        solution.slack = total * way * way;
      }
    }
    const double least = detail::smallest_normal<T>() * std::max(1.0, 1 / set.unit);
    if (solution.curvature < least) solution.curvature = 0;
    write_solution<T>(args, set.index, solution, set.unit);
    if (args.info.status != nullptr) {
      const PointSet<T> points({set.x, nullptr, set.n}, total, set.unit, nullptr, nullptr);
      const double y = static_cast<double>(rounded<T>(args.dtype, solution.y));
      write_info<P>(args.info, set.index, points, y, solution,
                    {set.alpha, args.tolerance, args.max_iter});
    }
  }

  PerLane<T> weight_, alpha_, margin_;
  PerLane<T> lo_, hi_;           // of the points
  PerLane<T> reach_, accepted_;  // the smaller of their range and alpha; a step that is
  PerLane<T> u_, curvature_, passes_;
  // Of a global search: a bound on the second derivative of the density, by u / alpha, where the
  // minimum may be.
  PerLane<T> density_curvature_;
  Mask active_[parts], solved_[parts];
};

}  // namespace DDN_ISA
}  // namespace ddn
