// The working memory of one thread for the global search.
#pragma once

#include <vector>

#include "core/certify/narrowing.h"
#include "cpu/simd/vector_math.h"

namespace ddn {
inline namespace DDN_ISA {

// A bin counts its points in one integer: their number from bit `count_shift` on, the sum of their
// places in the bin below. Points may so be added in any order, `bin_points` of them without
// overflow.
template <class T>
struct SearchWorkspace {
  static constexpr int max_cells = 2048;
  static constexpr int size =
      max_cells + 2 * KernelTable::max_block_reach * KernelTable::max_per_alpha + 2 + bins_slack;
  static constexpr int place_bits = 10;
  static constexpr int count_shift = 21;
  static constexpr int64_t bin_points = (1 << 11) - 1;
  static_assert(place_bits >= breakpoint_place_bits, "as exact as narrow() assumes");
  static_assert(bin_points << place_bits < int64_t{1} << count_shift &&
                    bin_points < int64_t{1} << (32 - count_shift),
                "places and numbers of bin_points points fit");

  explicit SearchWorkspace(bool global) {
    if (!global) return;
    counts.resize(size);
    for (std::vector<double>* each : {&masses, &moments}) each->resize(size);
    for (std::vector<float>* each : {&mass, &moment, &centre, &upper, &blocks, &bounds}) {
      each->resize(size);
    }
  }

  Bins bins() {
    return {mass.data(), moment.data(), centre.data(), upper.data(), blocks.data(), bounds.data()};
  }

  std::vector<uint32_t> counts;         // zero between two uses
  std::vector<double> masses, moments;  // sums that need more digits than their result
  std::vector<float> mass, moment, centre, upper, blocks, bounds;  // of Bins
  std::vector<T> list, list_weights;
  std::vector<T> breakpoint_list;  // of a BreakpointLister, which local descents use, too
};

}  // namespace DDN_ISA
}  // namespace ddn
