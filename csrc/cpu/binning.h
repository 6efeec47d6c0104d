// Counts points in the bins of a grid (core/certify/bins.h), and breakpoints in cells
// (core/certify/narrowing.h).
#pragma once

#include <algorithm>

#include "core/certify/bin_places.h"
#include "cpu/point_span.h"
#include "cpu/search_workspace.h"

namespace ddn {
inline namespace DDN_ISA {

// The bins of a batch of points, and what each point adds to the count of its bin: its place in the
// bin, plus the unit in which points are counted.
template <class T>
struct BinnedPoints {
  using Workspace = SearchWorkspace<T>;
  static constexpr int most = 16 * VectorOf<T>::lanes;
  static constexpr double one = 1 << Workspace::place_bits;
  uint32_t bin[most], place[most];

  // Sets a vector of points, from the k-th on. places: in fixed point, not negative.
  DDN_HOST_DEVICE void set(int k, Vector<T> places) {
    using Indices = typename LanesOf<uint32_t, T>::type;
    const auto fixed = __builtin_convertvector(
        __builtin_convertvector(places, typename LanesOf<int32_t, T>::type), Indices);
    const Indices bins = fixed >> Workspace::place_bits;
    const Indices in_bin =
        (fixed & ((1u << Workspace::place_bits) - 1)) + (uint32_t{1} << Workspace::count_shift);
    memcpy(bin + k, &bins, sizeof bins);
    memcpy(place + k, &in_bin, sizeof in_bin);
  }
  DDN_HOST_DEVICE void count(int points, uint32_t* counts) const {
    int k = 0;
    for (; k + 4 <= points; k += 4) {  // unrolled: the loop overhead would dominate
      for (int j = k; j < k + 4; ++j) counts[bin[j]] += place[j];
    }
    for (; k < points; ++k) counts[bin[k]] += place[k];
  }
};

// Calls body(i, binned, count) for the points of [begin, end), `count` at a time from the i-th on.
template <class T, bool weighted, class Body>
void for_each_binned(const PointSpan<T, weighted>& points, const Grid& grid, int64_t begin,
                     int64_t end, const Body& body) {
  constexpr int lanes = VectorOf<T>::lanes;
  using Binned = BinnedPoints<T>;
  const BinPlaces<UnfusedMath<Vector<T>>> place(grid, SearchWorkspace<T>::place_bits,
                                                /*round=*/true);
  Binned binned;
  for (int64_t i = begin; i < end; i += Binned::most) {
    const int count = static_cast<int>(std::min<int64_t>(Binned::most, end - i));
    int k = 0;
    for (; k + lanes <= count; k += lanes) binned.set(k, place(load<T>(points.x + i + k)));
    if (k < count) binned.set(k, place(load_first<T>(points.x + i + k, count - k)));
    body(i, binned, count);
  }
}

// Splits the counts of `size` bins into the numbers of points and the sums of the points' offsets,
// in bin widths to the right of the middle of the bin, and clears the counts. first: the results
// are overwritten; otherwise they are added to.
template <class Number, class T>
void take_counts(SearchWorkspace<T>& workspace, int size, Number* numbers, Number* offsets,
                 bool first) {
  using Workspace = SearchWorkspace<T>;
  using Unsigned = typename LanesOf<uint32_t, float>::type;
  using Signed = typename LanesOf<int32_t, float>::type;
  constexpr int lanes = VectorOf<float>::lanes;
  static_assert(lanes <= bins_slack && 2 * breakpoint_cells % lanes == 0,
                "whole vectors of bins fit");
  constexpr float one = static_cast<float>(BinnedPoints<T>::one);
  const auto put = [first](Number* to, Vector<float> x) __attribute__((always_inline)) {
    Number sums[lanes];
    store<float>(sums, x);
    for (int k = 0; k < lanes; ++k) to[k] = first ? sums[k] : to[k] + sums[k];
  };
  uint32_t* const counts = workspace.counts.data();
  for (int b = 0; b < size; b += lanes) {
    Unsigned sum, none{};
    memcpy(&sum, counts + b, sizeof sum);
    memcpy(counts + b, &none, sizeof none);
    const Unsigned number = sum >> Workspace::count_shift;
    const Unsigned place = sum & ((uint32_t{1} << Workspace::count_shift) - 1);
    // Exact: no number reaches 2^24.
    const auto points =
        __builtin_convertvector(__builtin_convertvector(number, Signed), Vector<float>);
    const auto places =
        __builtin_convertvector(__builtin_convertvector(place, Signed), Vector<float>);
    put(numbers + b, points);
    put(offsets + b, (places - points * (one / 2)) * (1 / one));
  }
}

// The masses and moments of the bins of a grid.
template <class T, bool weighted>
void bin_points(const PointSpan<T, weighted>& points, const Grid& grid,
                SearchWorkspace<T>& workspace) {
  using Workspace = SearchWorkspace<T>;
  using Binned = BinnedPoints<T>;
  const int size = grid.bins();
  double *const masses = workspace.masses.data(), *const moments = workspace.moments.data();
  bool in_double = weighted;
  if constexpr (weighted) {
    std::fill_n(masses, size + bins_slack, 0.0);
    std::fill_n(moments, size + bins_slack, 0.0);
    for_each_binned(points, grid, 0, points.n, [&](int64_t i, const Binned& binned, int count) {
      for (int k = 0; k < count; ++k) {
        const double weight = points.weight(i + k);
        const uint32_t place = binned.place[k] & ((uint32_t{1} << Workspace::count_shift) - 1);
        masses[binned.bin[k]] += weight;
        moments[binned.bin[k]] += weight * (place * (1 / Binned::one) - 0.5);
      }
    });
  } else {
    in_double = points.n > Workspace::bin_points;
    for (int64_t begin = 0; begin < points.n; begin += Workspace::bin_points) {
      const int64_t end = std::min(points.n, begin + Workspace::bin_points);
      for_each_binned(points, grid, begin, end, [&](int64_t, const Binned& binned, int count) {
        binned.count(count, workspace.counts.data());
      });
      if (in_double) {
        take_counts(workspace, size, masses, moments, /*first=*/begin == 0);
      } else {
        take_counts(workspace, size, workspace.mass.data(), workspace.moment.data(),
                    /*first=*/true);
      }
    }
  }
  if (in_double) {
    std::copy_n(masses, size, workspace.mass.data());
    std::copy_n(moments, size, workspace.moment.data());
  }
}

// The breakpoints of the first `count` points of the list in the run |u - centre| <= half.
template <class T>
Breakpoints count_breakpoints(SearchWorkspace<T>& workspace, int64_t count, double centre,
                              double half, double alpha) {
  using Workspace = SearchWorkspace<T>;
  using Binned = BinnedPoints<T>;
  constexpr int lanes = VectorOf<T>::lanes;
  const T* const list = workspace.list.data();
  const BreakpointPlaces<Math<Vector<T>>> place(centre, half, alpha, Workspace::place_bits);
  Breakpoints breakpoints;
  Binned binned;
  for (int64_t begin = 0; begin < count; begin += Workspace::bin_points) {
    const int64_t end = std::min(count, begin + Workspace::bin_points);
    for (int64_t i = begin; i < end; i += Binned::most) {
      const auto here = static_cast<int>(std::min<int64_t>(Binned::most, end - i));
      for (int k = 0; k < here; k += lanes) binned.set(k, place(load<T>(list + i + k)));
      binned.count(here, workspace.counts.data());
    }
    take_counts(workspace, 2 * breakpoint_cells, breakpoints.number, breakpoints.offset,
                /*first=*/begin == 0);
  }
  return breakpoints;
}

}  // namespace DDN_ISA
}  // namespace ddn
