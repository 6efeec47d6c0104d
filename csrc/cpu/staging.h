// Staging: copies the numbers of each set to contiguous memory, and back.
#pragma once

#include <algorithm>
#include <vector>

#include "core/args.h"
#include "cpu/simd/vector_math.h"

namespace ddn {
inline namespace DDN_ISA {

// Calls body(x, size, stride) for the runs of a set's numbers along the innermost pooled dim, in
// row-major order of the others.
template <class Tensor, class Body>
void for_each_run(Tensor* x, const Dims& points, const Body& body) {
  if (points.rank == 0) return body(x, 1, 1);
  const int inner = points.rank - 1;
  int64_t index[Dims::max_rank] = {};
  for (;;) {
    body(x, points.size[inner], points.stride[inner]);
    int d = inner - 1;
    for (; d >= 0; --d) {
      x += points.stride[d];
      if (++index[d] < points.size[d]) break;
      x -= points.stride[d] * points.size[d];
      index[d] = 0;
    }
    if (d < 0) return;
  }
}
// Copies the numbers of a set from a tensor to a buffer, and back.
template <class S, class T>
void read_set(const S* x, const Dims& points, T* buffer) {
  for_each_run(x, points, [&](const S* run, int64_t size, int64_t stride) {
    if (stride == 1) {
      for (int64_t i = 0; i < size; ++i) buffer[i] = static_cast<T>(to_real(run[i]));
    } else {
      for (int64_t i = 0; i < size; ++i) buffer[i] = static_cast<T>(to_real(run[i * stride]));
    }
    buffer += size;
  });
}
template <class S, class T>
void write_set(const T* buffer, S* x, const Dims& points) {
  for_each_run(x, points, [&](S* run, int64_t size, int64_t stride) {
    if (stride == 1) {
      for (int64_t i = 0; i < size; ++i) run[i] = bounded_from_real<S>(buffer[i]);
    } else {
      for (int64_t i = 0; i < size; ++i) run[i * stride] = bounded_from_real<S>(buffer[i]);
    }
    buffer += size;
  });
}

// The same for up to `lanes` sets whose numbers are interleaved in memory (channels last): a row of
// the buffer for each set. Transposing vectors reads every cache line once.
template <class S, class T>
void read_rows(const S* x, int64_t stride, int64_t n, int sets, T* rows) {
  constexpr int lanes = VectorOf<T>::lanes;
  for (int64_t j = 0; j < n; j += lanes) {
    const int count = static_cast<int>(std::min<int64_t>(lanes, n - j));
    Vector<T> tile[lanes] = {};
    for (int k = 0; k < count; ++k) {
      const S* const points = x + (j + k) * stride;
      if constexpr (std::is_same_v<S, T>) {
        tile[k] = load_up_to<T>(points, sets);
      } else {
        T here[lanes] = {};
        for (int i = 0; i < sets; ++i) here[i] = static_cast<T>(to_real(points[i]));
        tile[k] = load<T>(here);
      }
    }
    transpose<T>(tile);
    for (int i = 0; i < sets; ++i) store_up_to<T>(rows + i * n + j, tile[i], count);
  }
}
template <class S, class T>
void write_rows(const T* rows, int64_t stride, int64_t n, int sets, S* x) {
  constexpr int lanes = VectorOf<T>::lanes;
  for (int64_t j = 0; j < n; j += lanes) {
    const int count = static_cast<int>(std::min<int64_t>(lanes, n - j));
    Vector<T> tile[lanes] = {};
    for (int i = 0; i < sets; ++i) tile[i] = load_up_to<T>(rows + i * n + j, count);
    transpose<T>(tile);
    for (int k = 0; k < count; ++k) {
      S* const points = x + (j + k) * stride;
      if constexpr (std::is_same_v<S, T>) {
        store_up_to<T>(points, tile[k], sets);
      } else {
        for (int i = 0; i < sets; ++i) points[i] = bounded_from_real<S>(tile[k][i]);
      }
    }
  }
}

// The dtype of the arithmetic, and of gradients with respect to alpha and weights.
template <class T>
constexpr DType real_dtype = sizeof(T) == sizeof(double) ? DType::float64 : DType::float32;

// The numbers of each set, contiguous and of type T: in place if the tensor stores them so,
// otherwise staged in a buffer. The buffer holds a group of sets if their numbers are interleaved
// in memory (channels last). Sets are requested in ascending order, up to `end`. All pointers into
// a null tensor are null.
template <class T>
class StagedSets {
 public:
  StagedSets(const void* tensor, DType dtype, const SetLayout& layout, int64_t end)
      : tensor_(const_cast<void*>(tensor)),
        dtype_(dtype),
        layout_(layout),
        end_(end),
        in_place_(layout.contiguous_points() && dtype == real_dtype<T>) {}
  StagedSets(const PointArray& array, DType dtype, int64_t end)
      : StagedSets(array.data, dtype, array.layout, end) {}

  bool in_place() const { return in_place_; }
  // The offset from the numbers of a set to those of the set `steps` further on; zero where there
  // is no such set, or the numbers are not read in place.
  int64_t offset_to_later(int64_t set, int64_t steps) const {
    if (!in_place_ || set + steps >= layout_.num_sets) return 0;
    return layout_.place(set + steps).first - layout_.place(set).first;
  }

  DDN_HOST_DEVICE const T* read(int64_t set) {
    return tensor_ == nullptr || in_place_ ? destination(set) : staged(set);
  }
  // Where the numbers of the set are to be written, before write_back().
  DDN_HOST_DEVICE T* destination(int64_t set) {
    if (tensor_ == nullptr) return nullptr;
    return in_place_ ? static_cast<T*>(tensor_) + layout_.place(set).first : buffer_of(set);
  }
  DDN_HOST_DEVICE void write_back(int64_t set) {
    if (tensor_ != nullptr && !in_place_ && set + 1 == past_) write_group();
  }

 private:
  DDN_NOINLINE T* buffer_of(int64_t set) {
    if (set >= past_) begin_group(set);
    return buffer_.data() + (set - first_) * place_.num_points;
  }
  DDN_NOINLINE const T* staged(int64_t set) {
    if (set >= past_) {
      begin_group(set);
      with_weight_storage(dtype_, [&](auto zero) {
        using S = decltype(zero);
        const S* const x = static_cast<const S*>(tensor_) + place_.first;
        if (past_ - first_ == 1) {
          read_set(x, dims(), buffer_.data());
        } else {
          read_rows(x, layout_.points.stride[0], place_.num_points,
                    static_cast<int>(past_ - first_), buffer_.data());
        }
      });
    }
    return buffer_of(set);
  }
  DDN_NOINLINE void write_group() {
    with_storage<T>(dtype_, [&](auto zero) {
      using S = decltype(zero);
      S* const x = static_cast<S*>(tensor_) + place_.first;
      if (past_ - first_ == 1) {
        write_set(buffer_.data(), x, dims());
      } else {
        write_rows(buffer_.data(), layout_.points.stride[0], place_.num_points,
                   static_cast<int>(past_ - first_), x);
      }
    });
  }
  Dims dims() const {
    Dims points = layout_.points;
    if (layout_.ptr != nullptr) points.size[0] = place_.num_points;
    return points;
  }
  void begin_group(int64_t set) {
    constexpr int64_t max_points = 1 << 12;  // of a set: the group fits into the caches
    const Dims& sets = layout_.sets;
    int64_t count = 1;
    place_ = layout_.place(set);
    if (layout_.points.rank == 1 && sets.rank > 0 && sets.stride[sets.rank - 1] == 1 &&
        place_.num_points <= max_points) {
      const int64_t row = sets.size[sets.rank - 1], left = row - set % row;
      count = std::min<int64_t>({VectorOf<T>::lanes, left, end_ - set});
    }
    first_ = set;
    past_ = set + count;
    buffer_.resize(static_cast<size_t>(count * place_.num_points));
  }

  void* tensor_;
  DType dtype_;
  const SetLayout& layout_;
  int64_t end_;
  bool in_place_;
  int64_t first_ = 0, past_ = 0;  // the sets in the buffer
  Place place_{};                 // of the first one
  std::vector<T> buffer_;
};

}  // namespace DDN_ISA
}  // namespace ddn
