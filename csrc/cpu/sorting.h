// Sorts lists of points, with their weights if they have any.
#pragma once

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "core/set.h"
#include "cpu/simd/vector_math.h"

namespace ddn {
inline namespace DDN_ISA {

// The longest list that is sorted by ranks. This takes n^2 comparisons, but they are vectorised and
// have no branch to mispredict. For longer lists std::sort is faster.
template <class T>
constexpr int max_ranked = 32 * VectorOf<T>::lanes;

// Sorts finite numbers by rank. The rank of a number, which is its index in the result, counts the
// smaller numbers and the equal ones before it.
template <class T>
void sort_by_rank(T* x, int n) {
  using Lanes = Vector<T>;
  using Rank = Integers<T>;
  constexpr int lanes = VectorOf<T>::lanes;
  T unsorted[max_ranked<T> + lanes];
  std::copy_n(x, n, unsorted);
  std::fill_n(unsorted + n, lanes, static_cast<T>(detail::infinity));
  for (int i = 0; i < n; i += lanes) {
    const Lanes own = load<T>(unsorted + i);
    Rank rank{};
    const int past = std::min(i + lanes, n);
    for (int j = 0; j < i; ++j) rank -= splat(unsorted[j]) <= own;
    for (int j = i; j < past; ++j) {
      const Lanes other = splat(unsorted[j]);
      rank -= (other < own) | ((other == own) & ~first_lanes<T>(j - i + 1));
    }
    for (int j = past; j < n; ++j) rank -= splat(unsorted[j]) < own;
    for (int j = i; j < past; ++j) x[rank[j - i]] = unsorted[j];
  }
}

// Sorts points together with their weights.
template <class T>
void sort_by_point(T* x, T* weights, int64_t n) {
  std::vector<std::pair<T, T>> pairs(static_cast<size_t>(n));
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i] = {x[i], weights[i]};
  std::sort(pairs.begin(), pairs.end());
  for (size_t i = 0; i < pairs.size(); ++i) std::tie(x[i], weights[i]) = pairs[i];
}

// weights: null or the weights of the points.
template <class T>
void sort_list(T* x, T* weights, int64_t n) {
  if (weights != nullptr) {
    sort_by_point(x, weights, n);
  } else if (n <= max_ranked<T>) {
    sort_by_rank(x, static_cast<int>(n));
  } else {
    std::sort(x, x + n);
  }
}

}  // namespace DDN_ISA
}  // namespace ddn
