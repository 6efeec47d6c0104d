// Small sets, solved side by side with one in each SIMD lane.
//
// Note: [Lane batches]
// Of a small set's time little goes to its points: most is the latency of sums across lanes, of
// divisions and of branches that are foreseen wrongly. A lane batch pays these once for all its
// sets. Whatever a lane does depends on its own set alone, so that answers do not depend on which
// sets share a lane batch, or on whether there are others at all.
//
// A lane batch solves sets whose descent goes as it should: finite points, no Huber objective that
// is flat, no curvature below a sixteenth of what it could be, a few passes. The others are left to
// core/solve.h. Descents take the steps of core/newton.h, whose decisions are made here by
// selection.
#pragma once

#include "core/solve.h"
#include "cpu/point_set.h"

namespace ddn {
inline namespace DDN_ISA {

// A number in double precision for each lane of a Vector<T>.
template <class T>
struct PerLane {
  static constexpr int parts = static_cast<int>(sizeof(double) / sizeof(T));
  static constexpr int part_lanes = VectorOf<double>::lanes;
  using Part = Vector<double>;
  Part part[parts];

  double operator[](int lane) const { return part[lane / part_lanes][lane % part_lanes]; }
  void set(int lane, double x) { part[lane / part_lanes][lane % part_lanes] = x; }
};
template <class T>
DDN_HOST_DEVICE Vector<T> narrowed(const PerLane<T>& x) {
  if constexpr (PerLane<T>::parts == 1) {
    return x.part[0];
  } else {
    using Half = typename LanesOf<T, double>::type;
    const Half half[2] = {__builtin_convertvector(x.part[0], Half),
                          __builtin_convertvector(x.part[1], Half)};
    Vector<T> all;
    memcpy(&all, half, sizeof all);
    return all;
  }
}
template <class T>
DDN_HOST_DEVICE PerLane<T> widened(Vector<T> x) {
  if constexpr (PerLane<T>::parts == 1) {
    return {{x}};
  } else {
    DoublePair both;
    both.add(x);
    return {{both.low, both.high}};
  }
}
// Sums of what lies in each lane.
DDN_HOST_DEVICE PerLane<float> lane_totals(const DoublePair& sums, float) {
  return {{sums.low, sums.high}};
}
DDN_HOST_DEVICE PerLane<double> lane_totals(const DoublePair& sums, double) {
  return {{sums.low + sums.high}};
}

// What a penalty adds its moments with: a point of each set at a time.
template <class T, class Mask>
struct LaneAdder {
  Vector<T>* moments;
  Mask mask;

  template <class Factor>
  DDN_HOST_DEVICE void operator()(int k, Vector<T> x, Factor y) const {
    moments[k] = added(moments[k], select(mask, x), y);
  }
  DDN_HOST_DEVICE void count(int k, Vector<T> a, Vector<T> b) const {
    moments[k] += (selection<T>(mask) & at_most<T>(a, b)).keep(splat(T(1)));
  }
};

template <class T>
class LaneBatch {
 public:
  static constexpr int lanes = VectorOf<T>::lanes;
  static constexpr int64_t most_points = 16 * lanes;

  // Whether sets of so many points are for lane batches: of more they gain little or nothing.
  template <class P, bool global>
  static constexpr bool takes(int64_t points) {
    constexpr int each = P::is_mean ? 4 : !global ? 16 : P::is_smooth ? 4 : 8;
    return points > 1 && points <= each * lanes;
  }

  bool is_full() const { return size_ == lanes; }

  // A set that stays where it is until the lane batch is solved, or of which a copy is kept. ahead:
  // from its points to those that take its lane next.
  void add(int64_t index, const T* x, int64_t n, double unit, double alpha, bool stays,
           int64_t ahead) {
    if (!stays) {
      std::copy_n(x, n, copies_[size_]);
      x = copies_[size_];
    }
    sets_[size_++] = {x, n, index, unit, alpha, ahead};
  }

  // Solves what was added, and is empty then. `solve_alone` is called with each set that is not one
  // for a lane batch: solve_alone(index, points, n, unit, takes_more), the last one if it is one
  // that would take more passes than are allowed.
  template <class P, bool global, class Alone>
  void solve(const ForwardArgs& args, const Alone& solve_alone) {
    if (size_ == 0) return;
    load();
    statistics<P::is_mean>();
    bool bounded = P::is_smooth;  // what is bounded, clipping does not change
    for (int p = 0; p < parts; ++p) {
      const Part range = hi_.part[p] - lo_.part[p], far = most_bounded * alpha_.part[p];
      reach_.part[p] = min(range, alpha_.part[p]);
      accepted_.part[p] = args.tolerance < 0 ? detail::accepted_fraction<T> * reach_.part[p]
                                             : args.tolerance * alpha_.part[p];
      bounded = bounded && !any(active_[p] & (range > far));
    }
    if (bounded) {
      find<P, global, true>();
    } else {
      find<P, global, false>();
    }
    for (int lane = 0; lane < size_; ++lane) {
      const Placed& set = sets_[lane];
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
  static constexpr int most_passes = 16;
  using Part = typename PerLane<T>::Part;
  using Mask = decltype(Part{} < Part{});

  struct Placed {
    const T* x;
    int64_t n;
    int64_t index;
    double unit, alpha;
    int64_t ahead;
  };

  static DDN_HOST_DEVICE bool any(Mask mask) { return selection<double>(mask).bits() != 0; }
  // Calls body(points, mask) for the j-th points of all sets, flush() after every few.
  template <class Body, class Flush>
  DDN_HOST_DEVICE void for_each_point(const Body& body, const Flush& flush) const {
    int64_t j = 0;
    for (; j + block_vectors <= least_; j += block_vectors) {
      for (int k = 0; k < block_vectors; ++k) body(points_[j + k], AllLanes{});
      flush();
    }
    while (j < most_) {
      const int64_t end = std::min<int64_t>(j + block_vectors, most_);
      for (; j < std::min(end, least_); ++j) body(points_[j], AllLanes{});
      for (; j < end; ++j) body(points_[j], lengths_ > static_cast<T>(j));
      flush();
    }
  }

  // Puts the sets into lanes, while those that come next are fetched: of so many stretches at a
  // time the processor would see none. Past its end a set goes on with its first point, which is
  // then left out; lanes without a set have the first one.
  void load() {
    for (int lane = size_; lane < lanes; ++lane) sets_[lane] = sets_[0];
    least_ = most_ = sets_[0].n;
    for (int lane = 0; lane < lanes; ++lane) {
      const Placed& set = sets_[lane];
      least_ = std::min(least_, set.n);
      most_ = std::max(most_, set.n);
      lengths_[lane] = static_cast<T>(set.n);
      weight_.set(lane, static_cast<double>(set.n));
      alpha_.set(lane, set.alpha);
      margin_.set(lane, breakpoint_margin(set.n));
    }
    for (int64_t j = 0; j < most_; j += lanes) {
      Vector<T> rows[lanes];
      for (int lane = 0; lane < lanes; ++lane) {
        const Placed& set = sets_[lane];
        const int64_t rest = set.n - j;
        if (set.ahead != 0 && rest > 0) __builtin_prefetch(set.x + j + set.ahead);
        if (rest >= lanes) {
          rows[lane] = ddn::load<T>(set.x + j);
        } else {
          const int count = static_cast<int>(std::max<int64_t>(rest, 0));
          const Vector<T> some = load_first<T>(set.x + (set.n - count), count);
          rows[lane] = first_lanes<T>(count) ? some : splat(set.x[0]);
        }
      }
      transpose<T>(rows);
      for (int k = 0; k < lanes; ++k) points_[j + k] = rows[k];
    }
  }

  // Where descents begin and how far they may go, and which sets are solved by that already.
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
    if constexpr (P::is_mean) return;
    constexpr bool sweeps = global && !P::is_smooth;
    if constexpr (sweeps) {
      sort();
      sweep();
    } else if constexpr (!P::convex) {
      descend<Huber, bounded>(false);
      go_on();
    }
    descend<P, bounded>(/*from_breakpoints=*/!global);
    if constexpr (global && P::is_smooth) keep_proven<P>();
    if constexpr (sweeps) {
      // The best window is that of a minimum if all of it is near its mean.
      for (int p = 0; p < parts; ++p) {
        const Mask all_equal = lo_.part[p] == hi_.part[p];
        solved_[p] &= all_equal | (curvature_.part[p] == inliers_.part[p]);
      }
    }
  }

  // What was found is where another descent begins, but of equal points.
  void go_on() {
    for (int p = 0; p < parts; ++p) {
      const Mask started = solved_[p] & (lo_.part[p] < hi_.part[p]);
      solved_[p] &= ~started;
      active_[p] = started;
    }
  }

  // from_breakpoints: of the truncated quadratic, whether it begins at the Huber answer.
  template <class P, bool bounded>
  void descend(bool from_breakpoints) {
    SumsIn<Part> at[parts];
    for (int pass = 0; pass < most_passes; ++pass) {
      bool done = true;
      for (int p = 0; p < parts; ++p) done = done && !any(active_[p]);
      if (done) return;
      sum<P, bounded>(at);
      for (int p = 0; p < parts; ++p) {
        if (pass == 0) begin<P>(p, at[p]);
        update<P>(p, at[p], pass == 0, from_breakpoints && pass == 0);
      }
    }
  }

  template <class P>
  DDN_HOST_DEVICE void begin(int p, const SumsIn<Part>& at) {
    Path& path = paths_[p];
    path.near = u_.part[p];
    path.at = at;
    path.far = select(at.psi < 0.0, hi_.part[p], lo_.part[p]);
    path.step = 0.5 * hi_.part[p] - 0.5 * lo_.part[p];
    path.growth = Part{};
    path.far_seen = Mask{};
  }

  // Descent::update() of the sets of one part (see core/newton.h, also for its parts).
  template <class P>
  DDN_HOST_DEVICE void update(int p, const SumsIn<Part>& at, bool is_first, bool from_breakpoints) {
    const double rounding = detail::rounding<T>();
    const Part u = u_.part[p], alpha = alpha_.part[p], inverse = 1 / alpha, all = weight_.part[p];
    const Part accepted = accepted_.part[p], reach = reach_.part[p];
    const Mask active = active_[p];
    Path path = paths_[p];
    passes_.part[p] += select(active, splat(1.0), Part{});

    const Part noise = rounding * (P::convex ? all : at.density);
    Mask ends = absolute(at.psi) <= max(accepted * lasting_dpsi<P>(at), noise * reach);
    if (!is_first) {
      Mask worse{};
      if constexpr (!P::convex) {
        ends &= at.dpsi >= -4 * noise;
        worse = at.density < path.at.density - 8 * rounding * path.at.density;
        ends &= ~worse;
      }
      const Mask turns = ~worse & ((path.far > path.near) != (at.psi < 0.0));
      path.far = select(worse, u, select(turns, path.near, path.far));
      path.far_seen |= worse | turns;
      path.growth = select(worse | turns, Part{}, path.growth);
      path.near = select(worse, path.near, u);
      path.at.psi = select(worse, path.at.psi, at.psi);
      path.at.dpsi = select(worse, path.at.dpsi, at.dpsi);
      path.at.density = select(worse, path.at.density, at.density);
      path.at.d2psi = select(worse, path.at.d2psi, at.d2psi);
    } else if constexpr (!P::convex) {
      ends &= at.dpsi >= -4 * noise;
    }
    const Part near = path.near, far = path.far, slope = path.at.psi;
    const Part curvature = path.at.dpsi;

    const Part newton = -slope / curvature;
    Part own = newton;
    if constexpr (!P::convex) {
      const Part touching = -slope / max(curvature, path.at.density);
      own = select((curvature > 0.0) & (absolute(newton) <= alpha), newton, touching);
      if (P::has_breakpoints && from_breakpoints) {
        own = select(absolute(newton) < 0.2 * alpha, 2.5 * newton, own);
      }
    }
    if constexpr (P::is_smooth) {
      const Part bent = curvature + 0.5 * path.at.d2psi * (newton * inverse);
      const Mask halley = (absolute(newton) <= 0.5 * alpha) & (curvature > 0.0) &
                          (bent > 0.5 * curvature) & (bent < 2 * curvature);
      own = select(halley, -slope / bent, own);
    }

    const Part half = 0.5 * far - 0.5 * near;
    Part move = own;
    if constexpr (P::convex) {
      move = select(absolute(own) <= absolute(path.step), own, half);
    } else {
      const Mask slow = absolute(own) > 0.5 * absolute(path.step);
      path.growth = select(slow, path.growth + 1, path.growth);
      move = select(slow, own * (1 + path.growth), own);
    }
    const Part landing = near + move;
    const Mask up = half > 0.0;
    const Mask inside =
        (up & (move > 0.0) & (landing < far)) | (~up & (move < 0.0) & (landing > far));
    move = select(inside | ((landing == far) & ~path.far_seen), move, half);
    const Part to = near + move, way = to - near;
    path.step = move;

    Mask lands = inside & (move == own);
    Part there = curvature;
    if constexpr (P::is_smooth) {
      const Part relative = absolute(way) * inverse, change = all * P::max_d2psi * relative;
      lands &= (curvature > 4 * change) &
               (1.1 * change * absolute(way) <= 0.5 * accepted * curvature) &
               (0.5 * all * P::max_rest * relative * relative <=
                detail::accepted_error<T>() * curvature);
      there += path.at.d2psi * (way * inverse);
    } else if constexpr (P::has_flat_minima) {
      lands &= (path.at.density == 0.0) & (absolute(way) <= 0.5 * alpha * margin_.part[p]);
    } else {
      lands = Mask{};
    }
    // Nothing is left between the two.
    const Part scale = max(absolute(near), absolute(far));
    const Mask stays =
        ~ends & ((to == near) | (absolute(far - near) <= accepted + 4.5e-16 * scale));
    const Mask done = active & (ends | lands | stays);
    const Part end = select(ends, u, select(stays, near, to));
    u_.part[p] = select(active, select(done, end, to), u);
    curvature_.part[p] =
        select(done, select(ends, at.dpsi, select(stays, curvature, there)), curvature_.part[p]);
    solved_[p] |=
        done & (lasting_dpsi<P>(path.at) >= (P::convex ? all : path.at.density) * (1.0 / 16));
    active_[p] = active & ~done;
    paths_[p] = path;
  }

  // Puts the points of each set in order (Batcher's merge exchange). Those of shorter sets are
  // followed by infinities.
  void sort() {
    const Vector<T> infinity = splat(static_cast<T>(detail::infinity));
    const auto n = static_cast<int>(most_);
    for (int j = static_cast<int>(least_); j < n; ++j) {
      points_[j] = select(lengths_ > static_cast<T>(j), points_[j], infinity);
    }
    points_[n] = points_[n + 1] = infinity;
    // Runs of 2 p points are sorted: their halves are, and what is k apart is put in order.
    for (int p = 1; p < n; p *= 2) {
      for (int k = p; k >= 1; k /= 2) {
        for (int j = k % p; j + k < n; j += 2 * k) {
          if (((j + k) & (2 * p - 1)) == 0) continue;  // of two runs
          for (int i = j; i < std::min(j + k, n - k); ++i) {
            const Vector<T> a = points_[i], b = points_[i + k];
            points_[i] = min(a, b);
            points_[i + k] = max(a, b);
          }
        }
      }
    }
  }

  // The least loss of all windows of the sorted points (see Note [The sweep] in
  // core/certify/sweep.h), where none of the others might have it. Each set goes from one window to
  // the next on its own, by a point that enters or leaves.
  void sweep() {
    using Lanes = Vector<T>;
    // Finite, or points would enter that are none.
    const Lanes reach = min(narrowed(alpha_) * static_cast<T>(2 * (1 + 8 * detail::rounding<T>())),
                            Math<Lanes>::largest());
    const PerLane<T> base = widened<T>(narrowed(u_));
    PerLane<T> inverse;
    // Of windows, all times their mass: the loss; the sums of t and t^2.
    PerLane<T> s1{}, s2{}, best_mass{}, best_loss, best_s1{}, next_mass{}, next_loss;
    for (int p = 0; p < parts; ++p) {
      inverse.part[p] = 1 / alpha_.part[p];
      best_loss.part[p] = next_loss.part[p] = splat(1.0);
    }
    Lanes first = points_[0], entering = points_[0], inside{};
    Integers<T> first_place, entering_place;
    for (int i = 0; i < lanes; ++i) first_place[i] = entering_place[i] = i;
    const auto* const memory = reinterpret_cast<const T*>(points_);
    const Lanes one = splat(T(1)), zero{};
    for (int64_t step = 1; step < 2 * most_; ++step) {
      const auto enters = entering - first <= reach, leaves = ~enters & (inside > zero);
      const PerLane<T> x = widened<T>(enters ? entering : first);
      const Lanes sign = enters ? one : (leaves ? -one : zero);
      inside += sign;
      const Integers<T> place = (enters ? entering_place : first_place) + lanes;
      const Lanes next = gathered<T>(memory, place);
      entering = enters ? next : entering;
      entering_place = enters ? place : entering_place;
      first = leaves ? next : first;
      first_place = leaves ? place : first_place;
      const PerLane<T> signs = widened<T>(sign), masses = widened<T>(inside);
      for (int p = 0; p < parts; ++p) {
        const Part t = (x.part[p] - base.part[p]) * inverse.part[p], change = signs.part[p] * t;
        const Part sum = s1.part[p] += change, mass = masses.part[p];
        s2.part[p] += change * t;
        const Part loss = (weight_.part[p] - mass + s2.part[p]) * mass - sum * sum;
        const Mask some = mass > 0.0;
        const Mask best = some & (loss * best_mass.part[p] < best_loss.part[p] * mass);
        const Mask second = some & ~best & (loss * next_mass.part[p] < next_loss.part[p] * mass);
        next_loss.part[p] =
            select(best, best_loss.part[p], select(second, loss, next_loss.part[p]));
        next_mass.part[p] =
            select(best, best_mass.part[p], select(second, mass, next_mass.part[p]));
        best_loss.part[p] = select(best, loss, best_loss.part[p]);
        best_mass.part[p] = select(best, mass, best_mass.part[p]);
        best_s1.part[p] = select(best, sum, best_s1.part[p]);
      }
    }
    for (int p = 0; p < parts; ++p) {
      const Part mass = best_mass.part[p], all = weight_.part[p], lo = lo_.part[p],
                 hi = hi_.part[p];
      const Part u = base.part[p] + alpha_.part[p] * (best_s1.part[p] / mass);
      // Twice what a loss may be off by: docs/global.md, section 7.
      const Part far = max(hi - base.part[p], base.part[p] - lo) * inverse.part[p];
      const Part doubt = 32 * detail::rounding<double>() * all * all * (1 + far * far);
      const Part gap = next_loss.part[p] / next_mass.part[p] - best_loss.part[p] / mass;
      active_[p] &= (gap > doubt) & (doubt < all);
      u_.part[p] = max(min(u, hi), lo);
      inliers_.part[p] = mass;
      passes_.part[p] += 1;
    }
  }

  // Note: [Proof by cells]
  // Leaves solved, of the answers of a smooth penalty, those that are global minima: every cell of
  // a grid over the points has less density than the answer, but for some in one stretch of cells
  // about it in which the density is concave. The density in a cell is known from its derivatives
  // at the middle: docs/global.md, section 5. All is in units of alpha, from the first point on,
  // and in the precision of the points, whose rounding `margin` exceeds by far.
  template <class P>
  void keep_proven() {
    using Lanes = Vector<T>;
    using Lane = decltype(Lanes{} < Lanes{});
    constexpr double width = 0.4, half = 0.5005 * width;  // of a cell
    constexpr int most_cells = 64;
    constexpr double margin = 1e-4;  // of the weight
    const Lanes all = lengths_, none{}, one = splat(T(1));
    const Alpha<Lanes> unit{one, one};

    PerLane<T> range, start, is_open;
    for (int p = 0; p < parts; ++p) {
      const Part inverse = 1 / alpha_.part[p], lo = lo_.part[p], hi = hi_.part[p];
      range.part[p] = (hi - lo) * inverse;
      start.part[p] = (u_.part[p] - lo) * inverse;
      const Mask open = solved_[p] & (lo < hi);
      solved_[p] &= ~open;
      is_open.part[p] = select(open & (range.part[p] < most_cells * width), splat(1.0), Part{});
      passes_.part[p] += 1;
    }
    const Lanes cells =
        narrowed(range) * static_cast<T>(1 / width);  // the last one reaches further
    const Lanes place = narrowed(start), inverse = one / narrowed(alpha_), lo = narrowed(lo_);
    for (int64_t j = 0; j < most_; ++j) points_[j] = (points_[j] - lo) * inverse;

    // The density and its derivatives.
    struct Derivatives {
      Lanes density, slope, bend, d2psi;
    };
    const auto look = [&](Lanes at) __attribute__((always_inline)) {
      Lanes m[P::moments] = {};
      for_each_point(
          [&](Lanes points, auto mask) __attribute__((always_inline)) {
            const LaneAdder<T, decltype(mask)> add{m, mask};
            P::template add_moments<true>(at - points, unit, add);
          },
          [] {});
      const SumsIn<Lanes> sums = P::sums(m, one);
      return Derivatives{sums.density, -sums.psi, -sums.dpsi, -sums.d2psi};
    };
    const Lanes least = look(place).density - static_cast<T>(margin) * all;

    // Of the stretch of concave cells that is being passed: whether one may hold the minimum, and
    // whether the answer lies there. And whether it was met.
    Lane open = narrowed(is_open) > none, suspect{}, own{}, met{};
    Lanes bends = splat(-static_cast<T>(detail::infinity));
    for (int cell = 0; cell <= most_cells; ++cell) {
      const Lane within = open & (cells >= static_cast<T>(cell));
      if (selection<T>(within).bits() == 0) break;
      const Derivatives at = look(splat(static_cast<T>((cell + 0.5) * width)));
      const Lanes slope = absolute(at.slope);
      // The top of the parabola, or its value at the end that is higher.
      const Lanes rise =
          slope < -at.bend * static_cast<T>(half)
              ? slope * slope / (T(-2) * at.bend)
              : slope * static_cast<T>(half) + at.bend * static_cast<T>(0.5 * half * half);
      constexpr double rest = P::max_d2psi * half * half * half / 6 + margin;
      constexpr double bend_rest = P::max_rest * half * half / 2 + margin;
      const Lane may_hold = at.density + rise + static_cast<T>(rest) * all >= least;
      const Lanes bend =
          at.bend + absolute(at.d2psi) * static_cast<T>(half) + static_cast<T>(bend_rest) * all;
      const Lane concave = bend < -static_cast<T>(margin) * all;
      const Lane here =
          (place >= static_cast<T>(cell * width)) & (place < static_cast<T>((cell + 1) * width));
      open &= ~(within & ~concave & (may_hold | (suspect & ~own)));
      suspect = within ? concave & (suspect | may_hold) : suspect;
      own = within ? concave & (own | here) : own;
      met |= within & here;
      bends = (within & may_hold & (bend > bends)) ? bend : bends;
    }
    const PerLane<T> proven = widened<T>((open & met & (~suspect | own)) ? one : none);
    bend_ = widened<T>(bends);
    for (int p = 0; p < parts; ++p) solved_[p] |= proven.part[p] > 0.5;
  }

  bool is_solved(int lane) const {
    constexpr int part_lanes = PerLane<T>::part_lanes;
    return solved_[lane / part_lanes][lane % part_lanes] != 0 &&
           weight_[lane] * sets_[lane].unit <= static_cast<double>(Math<T>::largest());
  }

  template <class P, bool global>
  void write(const ForwardArgs& args, int lane) const {
    const Placed& set = sets_[lane];
    const double total = weight_[lane];
    Solution solution = fixed(u_[lane], curvature_[lane], Status::converged);
    solution.passes = static_cast<int64_t>(passes_[lane]);
    if constexpr (global) {
      // All that was left out has less density. About the answer it rises by no more than the step
      // that was accepted, or the rounding of u, lets it.
      solution.bound = -1;
      const double rounding = detail::rounding<T>();
      const double way =
          (std::max(accepted_[lane], rounding * reach_[lane]) + 4.5e-16 * std::fabs(u_[lane])) /
          set.alpha;
      if (P::is_smooth && lo_[lane] < hi_[lane]) {
        const double slope = total * (way + 4 * rounding);
        solution.slack = slope * slope / (-2 * bend_[lane]);
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

  // What a Descent has.
  struct Path {
    Part near, far, step, growth;
    SumsIn<Part> at;
    Mask far_seen;
  };

  int size_ = 0;
  Placed sets_[lanes];
  int64_t least_, most_;  // points of a set
  Vector<T> lengths_;     // numbers of points
  PerLane<T> weight_, alpha_, margin_;
  PerLane<T> lo_, hi_;           // of the points
  PerLane<T> reach_, accepted_;  // the smaller of their range and alpha; a step that is
  PerLane<T> u_, curvature_, passes_;
  // Of a global search: the number of inliers at the minimum; a bound of the second derivative of
  // the density, by u / alpha, where the minimum may be.
  PerLane<T> inliers_, bend_;
  Path paths_[parts];
  Mask active_[parts], solved_[parts];
  Vector<T> points_[most_points + 2];
  T copies_[lanes][most_points];
};

}  // namespace DDN_ISA
}  // namespace ddn
