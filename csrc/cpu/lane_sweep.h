// The exact global minimum of the truncated quadratic, with one set in each SIMD lane.
#pragma once

#include <algorithm>

#include "core/local_minimum.h"
#include "cpu/lanes.h"

namespace ddn {
inline namespace DDN_ISA {

// Puts the points of each set in order (Batcher's merge exchange): points[j] holds the j-th points
// of all sets, of which there are `lengths`, at least `least` and at most `most`. Two vectors of
// infinities follow, and infinities follow the points of shorter sets.
template <class T>
void sort_lanes(Vector<T>* points, Vector<T> lengths, int64_t least, int64_t most) {
  const Vector<T> infinity = splat(static_cast<T>(detail::infinity));
  const auto n = static_cast<int>(most);
  for (int j = static_cast<int>(least); j < n; ++j) {
    points[j] = select(lengths > static_cast<T>(j), points[j], infinity);
  }
  points[n] = points[n + 1] = infinity;
  // Runs of 2 p points are sorted: their halves are, and points k apart are put in order.
  for (int p = 1; p < n; p *= 2) {
    for (int k = p; k >= 1; k /= 2) {
      for (int j = k % p; j + k < n; j += 2 * k) {
        if (((j + k) & (2 * p - 1)) == 0) continue;  // of two runs
        for (int i = j; i < std::min(j + k, n - k); ++i) {
          const Vector<T> a = points[i], b = points[i + k];
          points[i] = min(a, b);
          points[i + k] = max(a, b);
        }
      }
    }
  }
}

template <class T>
struct LaneWindow {
  PerLane<T> u, inliers;
  PerLane<T> certain;  // 1 where no other window may have the least loss, else 0
};

// The window with the least loss of all windows of the sorted points (see Note [The sweep] in
// core/certify/sweep.h). Each set goes from one window to the next on its own, by a point that
// enters or leaves. weight: numbers of points; base: what sums are taken about.
template <class T>
LaneWindow<T> sweep_lanes(const Vector<T>* points, int64_t most, const PerLane<T>& weight,
                          const PerLane<T>& alpha, const PerLane<T>& start, const PerLane<T>& lo,
                          const PerLane<T>& hi) {
  using Lanes = Vector<T>;
  using Part = typename PerLane<T>::Part;
  using Mask = typename Math<Part>::Mask;
  constexpr int lanes = VectorOf<T>::lanes, parts = PerLane<T>::parts;
  // Finite, or infinities would enter.
  const Lanes reach = min(narrowed(alpha) * static_cast<T>(2 * (1 + 8 * detail::rounding<T>())),
                          Math<Lanes>::largest());
  const PerLane<T> base = widened<T>(narrowed(start));
  PerLane<T> inverse;
  // Of windows: their mass, and times that the loss; the sums of t and t^2.
  PerLane<T> s1{}, s2{}, best_mass{}, best_loss, best_s1{}, next_mass{}, next_loss;
  for (int p = 0; p < parts; ++p) {
    inverse.part[p] = 1 / alpha.part[p];
    best_loss.part[p] = next_loss.part[p] = splat(1.0);
  }
  Lanes first = points[0], entering = points[0], inside{};
  Integers<T> first_place, entering_place;
  for (int i = 0; i < lanes; ++i) first_place[i] = entering_place[i] = i;
  const auto* const memory = reinterpret_cast<const T*>(points);
  const Lanes one = splat(T(1)), zero{};
  for (int64_t step = 1; step < 2 * most; ++step) {
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
      const Part loss = (weight.part[p] - mass + s2.part[p]) * mass - sum * sum;
      const Mask some = mass > 0.0;
      const Mask best = some & (loss * best_mass.part[p] < best_loss.part[p] * mass);
      const Mask second = some & ~best & (loss * next_mass.part[p] < next_loss.part[p] * mass);
      next_loss.part[p] = best ? best_loss.part[p] : (second ? loss : next_loss.part[p]);
      next_mass.part[p] = best ? best_mass.part[p] : (second ? mass : next_mass.part[p]);
      best_loss.part[p] = best ? loss : best_loss.part[p];
      best_mass.part[p] = best ? mass : best_mass.part[p];
      best_s1.part[p] = best ? sum : best_s1.part[p];
    }
  }
  LaneWindow<T> window;
  for (int p = 0; p < parts; ++p) {
    const Part mass = best_mass.part[p], all = weight.part[p];
    const Part u = base.part[p] + alpha.part[p] * (best_s1.part[p] / mass);
    // Twice the error of a loss at most: docs/global.md, A7.
    const Part far = max(hi.part[p] - base.part[p], base.part[p] - lo.part[p]) * inverse.part[p];
    const Part doubt = 32 * detail::rounding<double>() * all * all * (1 + far * far);
    const Part lead = next_loss.part[p] / next_mass.part[p] - best_loss.part[p] / mass;
    window.u.part[p] = max(min(u, hi.part[p]), lo.part[p]);
    window.inliers.part[p] = mass;
    window.certain.part[p] = (lead > doubt) & (doubt < all) ? splat(1.0) : Part{};
  }
  return window;
}

}  // namespace DDN_ISA
}  // namespace ddn
