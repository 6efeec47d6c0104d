// The points of small sets, transposed so that each SIMD lane holds one set.
#pragma once

#include <algorithm>

#include "cpu/lanes.h"
#include "cpu/point_span.h"

namespace ddn {
inline namespace DDN_ISA {

template <class T>
class LanePoints {
 public:
  static constexpr int lanes = VectorOf<T>::lanes;
  static constexpr int64_t max_points = 16 * lanes;

  bool is_full() const { return size_ == lanes; }

  // stays: whether the points stay in memory until the batch is solved; otherwise they are copied.
  // ahead: the distance from the points to those of the set that takes the lane next.
  void add(int64_t index, const T* x, int64_t n, double unit, double alpha, bool stays,
           int64_t ahead) {
    if (!stays) {
      std::copy_n(x, n, copies_[size_]);
      x = copies_[size_];
    }
    sets_[size_++] = {x, n, index, unit, alpha, ahead};
  }

 protected:
  struct AddedSet {
    const T* x;
    int64_t n;
    int64_t index;
    double unit, alpha;
    int64_t ahead;
  };

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

  // Transposes the sets into lanes and prefetches their successors: the hardware prefetcher does
  // not follow so many streams. Past its end a set repeats its first point, which the masks leave
  // out; lanes without a set repeat the first set.
  void load() {
    for (int lane = size_; lane < lanes; ++lane) sets_[lane] = sets_[0];
    least_ = most_ = sets_[0].n;
    for (int lane = 0; lane < lanes; ++lane) {
      const AddedSet& set = sets_[lane];
      least_ = std::min(least_, set.n);
      most_ = std::max(most_, set.n);
      lengths_[lane] = static_cast<T>(set.n);
    }
    for (int64_t j = 0; j < most_; j += lanes) {
      Vector<T> rows[lanes];
      for (int lane = 0; lane < lanes; ++lane) {
        const AddedSet& set = sets_[lane];
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

  int size_ = 0;
  AddedSet sets_[lanes];
  int64_t least_, most_;  // numbers of points of the smallest and the largest set
  Vector<T> lengths_;     // numbers of points
  Vector<T> points_[max_points + 2];
  T copies_[lanes][max_points];
};

}  // namespace DDN_ISA
}  // namespace ddn
