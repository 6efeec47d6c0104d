// The points of a set that have weight.
#pragma once

#include <vector>

#include "core/math.h"
#include "core/set.h"

namespace ddn {
inline namespace DDN_ISA {

// The points of positive weight and their weights, divided by the set's unit (core/set.h).
template <class T>
class WeightedPoints {
 public:
  void read(const T* x, const T* weight, int64_t n) {
    points_.resize(static_cast<size_t>(n));
    weights_.resize(static_cast<size_t>(n));
    double largest = 0;
    bool valid = true;
    size_ = 0;
    for (int64_t i = 0; i < n; ++i) {
      const T w = weight[i];
      if (w == 0) continue;
      valid = valid && w > 0;  // false for NaN
      points_[static_cast<size_t>(size_)] = x[i];
      weights_[static_cast<size_t>(size_)] = w;
      largest = max(static_cast<double>(w), largest);
      ++size_;
    }
    valid = valid && is_finite(largest);
    equal_ = valid;
    for (int64_t i = 0; i < size_; ++i) {
      equal_ = equal_ && static_cast<double>(weights_[static_cast<size_t>(i)]) == largest;
    }
    unit_ = equal_ ? largest : weight_unit(largest);
    CompensatedSum<double> total;
    for (int64_t i = 0; i < size_ && !equal_; ++i) {
      T& w = weights_[static_cast<size_t>(i)];
      w = static_cast<T>(static_cast<double>(w) / unit_);
      total.add(static_cast<double>(w));
    }
    total_ = equal_ ? static_cast<double>(size_) : total.total();
    if (!valid) total_ = __builtin_nan("");
  }

  // Whether all weights equal the unit. Such a set is solved without weights: masking is bitwise
  // equal to removing the points.
  bool are_equal() const { return equal_; }
  const T* points() const { return points_.data(); }
  int64_t size() const { return size_; }
  double unit() const { return unit_; }

  const T* weights() const { return weights_.data(); }
  double total_weight() const { return total_; }

 private:
  int64_t size_ = 0;
  std::vector<T> points_, weights_;
  double total_ = 0;
  double unit_ = 1;
  bool equal_ = true;
};

}  // namespace DDN_ISA
}  // namespace ddn
