// The first-order backward kernel of contiguous tensors.
//
// Note: [Rows and channels]
// A contiguous tensor is a matrix [rows, channels], whose rows are divided into segments; each
// channel of a segment is a set. Sets one after the other, [sets, points], have one channel and
// segments of `points` rows. Channels last, [batch, points, channels], have segments of `points`
// rows as well. Ragged tensors have segments of any length. One kernel serves all three.
//
// A tile is a run of rows, of all channels or, if there are many, of some. A block takes
// consecutive tiles. For each it prepares the values that the points of a set share in shared
// memory, issues the loads of its next tile, and writes the gradients of the tile, 16 bytes at a
// time.
#pragma once

#include "core/gradient.h"
#include "cuda/launch_limits.cuh"
#include "cuda/thread_group.cuh"

namespace ddn::cuda {

// std::min and std::max are not device functions.
template <class Integer>
__device__ __forceinline__ Integer min_int(Integer a, Integer b) {
  return a < b ? a : b;
}
template <class Integer>
__device__ __forceinline__ Integer max_int(Integer a, Integer b) {
  return a > b ? a : b;
}

constexpr int vector_bytes = 16;

// The sizes of a tile. Dense: segments of equal length.
template <class S, class T, bool dense>
struct TileShape {
  // Blocks that a multiprocessor holds, and vectors of 16 bytes that a thread takes of a tile: as
  // many as registers allow without spills. Those of the next tile are in flight while a tile is
  // computed, at least 48 KiB in a multiprocessor.
  static constexpr int blocks = dense && sizeof(T) == sizeof(float) ? 4 : 3;
  static constexpr int vectors = !dense && sizeof(S) == sizeof(float) ? 5 : 4;
  static constexpr int vector = vector_bytes / static_cast<int>(sizeof(S));  // elements
  static constexpr int vector_step = block_threads * vector;  // from a thread's vector to its next
  static constexpr int elements = vectors * vector_step;
  // The most sets of which a block keeps the shared values.
  static constexpr int sets = 4096 / static_cast<int>(sizeof(T));
};

// Quotients of numbers below `limit`: floor((a + 1/2) / divisor), by a multiplication. The error of
// the product is at most 2^-17 and the distance of (a + 1/2) / divisor from an integer at least
// 2^-15.
struct Quotient {
  static constexpr int64_t limit = 1 << 14;
  uint32_t scale;

  static Quotient by(int64_t divisor) {
    const int64_t one = int64_t{1} << 31;
    return {divisor > limit ? 0u : static_cast<uint32_t>((one + divisor - 1) / divisor)};
  }
  DDN_HOST_DEVICE int operator()(int a) const {
    const auto twice = static_cast<uint32_t>(2 * a + 1);
    return static_cast<int>((static_cast<uint64_t>(twice) * scale) >> 32);
  }
};

struct ContiguousArgs : BackwardArgs {
  int64_t rows;
  int channels, segments;
  int points;                // rows of each segment, or 0 if layout.ptr has the offsets
  int width;                 // channels of a tile; unless they are all, a power of two
  int tile_rows, last_rows;  // rows of a tile, and of the last one of its channels
  int row_tiles;             // tiles of the same channels
  int tiles;
  int vector_step;  // from a vector to the thread's next in memory, in elements
  // From a tile to the next one of the same channels, in segments and further rows.
  int step_segments;
  int step_rows;
  Quotient by_width, by_points;
  int table_segments;  // for which the table has room
  bool vectors;        // only the gradient of unweighted points is wanted, and vectors are aligned
  bool flat_weight;    // the weights are contiguous like x
};

// Whether the elements of a layout, by set but the last `channels`, point and channel, are
// contiguous.
inline bool is_contiguous(const SetLayout& layout, int64_t channels) {
  int64_t elements = 1;
  const auto continues = [&](const Dims& dims, int d) {
    if (dims.size[d] != 1 && dims.stride[d] != elements) return false;
    elements *= dims.size[d];
    return true;
  };
  int d = layout.sets.rank - 1;
  for (; d >= 0 && elements < channels; --d) {
    if (!continues(layout.sets, d)) return false;
  }
  if (elements != channels) return false;
  for (int p = layout.points.rank - 1; p >= 0; --p) {
    if (!continues(layout.points, p)) return false;
  }
  for (; d >= 0; --d) {
    if (!continues(layout.sets, d)) return false;
  }
  return true;
}

// The number of channels of [rows, channels]: of the last set dims that are denser in memory than
// the points.
inline int64_t channels_of(const SetLayout& layout) {
  if (layout.ptr != nullptr) return layout.channels;
  const Dims& sets = layout.sets;
  const Dims& points = layout.points;
  int64_t channels = 1;
  for (int d = sets.rank - 1; d >= 0 && points.rank > 0; --d) {
    if (sets.stride[d] >= points.stride[points.rank - 1]) break;
    channels *= sets.size[d];
  }
  return channels;
}

// Fills in the tiles; returns false if the kernel does not serve these tensors.
template <class Shape>
bool plan(ContiguousArgs& args, int64_t channels) {
  const SetLayout& layout = args.layout;
  constexpr int vector = Shape::vector;
  const auto is_flat = [&](const void* data, const SetLayout& of) {
    return data == nullptr || is_contiguous(of, channels);
  };
  const bool dense = layout.ptr == nullptr;
  const int64_t segments = layout.num_sets / channels;
  if (!is_contiguous(layout, channels) || !is_flat(args.grad_x.data, args.grad_x.layout) ||
      !is_flat(args.grad_weight.data, args.grad_weight.layout) ||
      (args.weight != nullptr && args.weight_layout.points.rank > 1) ||
      (channels > Shape::sets / 2 && channels % vector != 0) ||
      channels > INT32_MAX / Shape::elements || segments > INT32_MAX ||
      (dense && layout.num_points > INT32_MAX / 2)) {
    return false;
  }
  args.channels = static_cast<int>(channels);
  args.segments = static_cast<int>(segments);
  args.points = dense ? static_cast<int>(layout.num_points) : 0;
  args.rows = dense ? segments * layout.num_points : layout.num_points;
  // All channels, or a power of two that leaves few places of the last slab empty. The table holds
  // two segments at least, since a tile may begin in one and end in the next.
  int64_t width = channels;
  if (width > Shape::sets / 2) {
    width = Shape::sets / 2;
    const auto places = [&](int64_t w) { return (channels + w - 1) / w * w; };
    for (int64_t w = width / 2; w >= Shape::sets / 8; w /= 2) {
      if (places(w) < places(width)) width = w;
    }
  }
  const int64_t slabs = (channels + width - 1) / width;
  args.width = static_cast<int>(width);
  args.table_segments = Shape::sets / args.width;
  args.tile_rows = Shape::elements / args.width;
  if (dense) {  // (n - 1) points + 1 rows are of n segments at most
    args.tile_rows = static_cast<int>(
        std::min<int64_t>(args.tile_rows, (args.table_segments - 1) * layout.num_points + 1));
  }
  args.vector_step =
      slabs == 1 ? Shape::vector_step : static_cast<int>(Shape::vector_step / width * channels);
  // Each tile begins with a vector.
  if (slabs == 1 && args.tile_rows * args.width % vector != 0) {
    args.tile_rows -= args.tile_rows % vector;
  }
  if (args.tile_rows == 0) return false;
  args.row_tiles = static_cast<int>((args.rows + args.tile_rows - 1) / args.tile_rows);
  args.last_rows =
      static_cast<int>(args.rows - static_cast<int64_t>(args.row_tiles - 1) * args.tile_rows);
  args.tiles = static_cast<int>(args.row_tiles * slabs);
  args.by_width = Quotient::by(args.width);
  if (args.points > 0) {
    args.step_segments = args.tile_rows / args.points;
    args.step_rows = args.tile_rows % args.points;
    args.by_points = Quotient::by(args.points);
  }
  const auto aligned = [](const void* data) {
    return reinterpret_cast<uintptr_t>(data) % vector_bytes == 0;
  };
  args.flat_weight = is_flat(args.weight, args.weight_layout);
  args.vectors = args.grad_x.data != nullptr && args.weight == nullptr &&
                 args.grad_weight.data == nullptr && aligned(args.x) && aligned(args.grad_x.data);
  return true;
}

// 16 bytes of a tensor.
struct alignas(vector_bytes) Vector {
  uint32_t words[4];

  template <class S>
  __device__ __forceinline__ S get(int i) const {
    S x;
    if constexpr (sizeof(S) == 2) {
      x.bits = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
    } else if constexpr (sizeof(S) == 4) {
      memcpy(&x, &words[i], sizeof x);
    } else {
      memcpy(&x, &words[2 * i], sizeof x);
    }
    return x;
  }
  template <class S>
  __device__ __forceinline__ void set(int i, S x) {
    if constexpr (sizeof(S) == 2) {
      words[i / 2] = i % 2 == 0 ? x.bits : words[i / 2] | static_cast<uint32_t>(x.bits) << 16;
    } else if constexpr (sizeof(S) == 4) {
      memcpy(&words[i], &x, sizeof x);
    } else {
      memcpy(&words[2 * i], &x, sizeof x);
    }
  }
};

// What the points of a set share, for the sets of a tile. A lane that takes a vector of channels
// reads consecutive sets, `set % vector` in the same order as its neighbours; the order of the
// slots keeps them in different banks.
template <class Shape, class T>
struct SetTable {
  static constexpr int vector = Shape::vector;
  static constexpr int stride = (Shape::sets + 8) / vector;
  static constexpr int slots = stride * vector;
  struct alignas(16) Answer {
    T base, offset, inverse, grad;
  };
  struct alignas(2 * sizeof(T)) Scale {
    T alpha, inverse;
  };
  Answer answers[slots];
  Scale scales[slots];
  int64_t first_weights[slots];  // the place of a set's first weight, unless weights are contiguous
  uint16_t ends[Shape::sets];    // of segments, in rows of the tile
  int count, held;               // segments of a part, and those that are present
  int64_t first_row, past_row;   // ragged: of all segments

  static __device__ __forceinline__ int slot(int set) {
    const auto number = static_cast<unsigned>(set);
    return static_cast<int>(number % vector * stride + number / vector);
  }
  __device__ __forceinline__ SetGradient<T> get(int slot) const {
    const Answer answer = answers[slot];
    const Scale scale = scales[slot];
    return {answer.base, answer.offset, answer.inverse, answer.grad, {scale.alpha, scale.inverse}};
  }
  __device__ __forceinline__ void put(int slot, const SetGradient<T>& set) {
    answers[slot] = {set.base, set.offset, set.inverse, set.grad};
    scales[slot] = {set.alpha.alpha, set.alpha.inverse};
  }
};

// The first of the segments [first, past) that ends after the row, or `past`.
__device__ __forceinline__ int64_t first_segment_ending_after(const int64_t* ptr, int64_t first,
                                                              int64_t past, int64_t row) {
  while (first < past) {
    const int64_t middle = first + (past - first) / 2;
    if (ptr[middle + 1] <= row) {
      first = middle + 1;
    } else {
      past = middle;
    }
  }
  return first;
}

// The tile of a block, and the part of it whose sets are in the table: all of it, unless segments
// are short. All members are the same in all threads.
template <class P, class S, class T, bool dense>
struct BackwardTile {
  using Shape = TileShape<S, T, dense>;
  static constexpr int vector = Shape::vector, vector_step = Shape::vector_step;

  const ContiguousArgs& args;
  SetTable<Shape, T>& table;
  int number, channel;  // of the tile among those of the same channels; the first channel
  // The first segment of the part, and its place in the table. Ragged: that may have rows of it.
  int segment, place_of_segment = nothing;
  int left = 0;  // dense: rows of this segment from the tile's first one on
  // Ragged: the segments of the part, and its elements [lo, hi), counted in rows of `width`.
  int count = 1, lo, hi;
  static constexpr int nothing = 1 << 20;  // beyond any table

  __device__ __forceinline__ BackwardTile(const ContiguousArgs& args_, SetTable<Shape, T>& table_,
                                          int tile)
      : args(args_), table(table_) {
    const int slab = tile / args.row_tiles;
    number = tile - slab * args.row_tiles;
    channel = slab * args.width;
    if constexpr (dense) {
      segment = static_cast<int>(row() / args.points);
      left = static_cast<int>((segment + int64_t{1}) * args.points - row());
    } else {
      segment =
          static_cast<int>(first_segment_ending_after(args.layout.ptr, 0, args.segments, row()));
    }
  }
  __device__ __forceinline__ void advance() {
    int step = count - 1;  // ragged: the last segment may go on
    if constexpr (dense) {
      step = args.step_segments;
      left -= args.step_rows;
      if (left <= 0) {
        left += args.points;
        ++step;
      }
    }
    segment += step;
    place_of_segment += step;
    go_to_next_rows();
    if (number == 0) {
      segment = 0;
      left = args.points;
      place_of_segment = nothing;
    }
  }
  __device__ __forceinline__ void go_to_next_rows() {
    if (++number == args.row_tiles) {
      number = 0;
      channel += args.width;
    }
  }

  // ---- Parts

  // Sets the first or the next part; returns whether another one follows.
  __device__ __forceinline__ bool next_part(bool is_first) {
    const int held = table.held;
    if constexpr (!dense) return next_ragged_part(is_first, held);
    lo = 0;
    hi = rows() * args.width;
    int end;
    const int segments = segment_of(rows() - 1, end) + 1;
    if (place_of_segment + segments > held) {
      __syncthreads();
      hold(segments);
      __syncthreads();
    }
    return false;
  }
  __device__ __forceinline__ bool next_ragged_part(bool is_first, int held) {
    const int end = within_tile(table.past_row);
    const int begin = is_first ? within_tile(table.first_row) : table.ends[count - 1];
    if (!is_first) {
      segment += count;
      place_of_segment += count;
    }
    count = 1;
    lo = hi = begin * args.width;
    if (begin >= end) return false;
    const int64_t* const ptr = args.layout.ptr + segment;
    const int most = min_int(args.table_segments, args.segments - segment);
    __syncthreads();
    for (int i = threadIdx.x; i < most; i += block_threads) {
      const int row_begin = within_tile(ptr[i]), row_end = within_tile(ptr[i + 1]);
      table.ends[i] = static_cast<uint16_t>(row_end);
      if (row_end >= end) {
        if (i == 0 || row_begin < end) table.count = i + 1;
        break;
      }
    }
    __syncthreads();
    count = table.count;
    hi = min_int(static_cast<int>(table.ends[count - 1]), end) * args.width;
    if (place_of_segment + count > held) hold(count);
    __syncthreads();
    if (threadIdx.x == 0) table.count = args.table_segments;
    return hi < end * args.width;
  }

  // ---- Places

  // The offset of element l in a contiguous tensor from the tile's first one.
  __device__ __forceinline__ int64_t place(int l, int row_of_l) const {
    return l + static_cast<int64_t>(row_of_l) * (args.channels - args.width);
  }
  __device__ __forceinline__ int64_t row() const {
    return static_cast<int64_t>(number) * args.tile_rows;
  }
  // The last channels of a tile may not exist.
  __device__ __forceinline__ bool exists(int l) const {
    return channel + l - args.by_width(l) * args.width < args.channels;
  }
  __device__ __forceinline__ int rows() const {
    return number + 1 == args.row_tiles ? args.last_rows : args.tile_rows;
  }

  // The segment of a row, counted from the part's first one, and the row at which it ends.
  __device__ __forceinline__ int segment_of(int row_in_tile, int& end) const {
    if constexpr (dense) {
      const int past = row_in_tile - left;
      const int s = past < 0 ? 0 : 1 + args.by_points(past);
      end = left + s * args.points;
      return s;
    }
    int s = 0, last = count - 1;
    while (s < last) {
      const int middle = static_cast<int>(static_cast<unsigned>(s + last) / 2);
      if (table.ends[middle] <= row_in_tile) {
        s = middle + 1;
      } else {
        last = middle;
      }
    }
    end = table.ends[s];
    return s;
  }
  // The same for a row after the segment.
  __device__ __forceinline__ void follow(int row_in_tile, int& s, int& end) const {
    while (row_in_tile >= end) {
      ++s;
      end = dense ? end + args.points : table.ends[s];
    }
  }
  // The place of a set in the table.
  __device__ __forceinline__ int slot_of(int s, int column) const {
    return table.slot((place_of_segment + s) * args.width + column);
  }
  __device__ __forceinline__ SetGradient<T> set_of(int s, int column) const {
    return table.get(slot_of(s, column));
  }

  // ---- Points

  // The element l in a contiguous tensor.
  __device__ __forceinline__ int64_t at(int l) const {
    return row() * args.channels + channel + place(l, args.by_width(l));
  }
  // The first element of this thread's vectors, computed where it is used: the places of all
  // vectors, computed from one variable, would be kept in registers.
  static __device__ __forceinline__ int first_element() {
    auto thread = static_cast<int>(threadIdx.x);
    DDN_OPAQUE(thread);
    return thread * vector;
  }
  // Loads this thread's vectors [begin, end).
  template <int begin, int end>
  __device__ __forceinline__ void load(Vector (&vectors)[Shape::vectors]) const {
    const int l = first_element();
    const S* const x = static_cast<const S*>(args.x) + at(l);
    if (!exists(l)) return;
#pragma unroll
    for (int k = begin; k < end; ++k) {
      if (l + k * vector_step + vector <= rows() * args.width) {
        vectors[k] = *reinterpret_cast<const Vector*>(x + k * args.vector_step);
      }
    }
  }
  // Writes the gradients of this thread's k-th vector if its elements all are in this part. Calls
  // after_first() after the first use of x.
  template <class AfterFirst>
  __device__ __forceinline__ void write(const Vector& x, int k,
                                        const AfterFirst& after_first) const {
    const int l = first_element() + k * vector_step;
    const bool mine = l >= lo && l + vector <= hi && exists(l);
    int row_of_l = 0, column = 0, s = 0, end = 0;
    SetGradient<T> set{};
    Vector gradients{};
    const auto compute = [&](int j) {
      const T point = to_real(x.template get<S>(j));
      gradients.template set<S>(j, bounded_from_real<S>(point_gradient<P>(point, One{}, set)));
    };
    if (mine) {
      row_of_l = args.by_width(l);
      column = l - row_of_l * args.width;
      s = segment_of(row_of_l, end);
      set = set_of(s, column);
      compute(0);
      DDN_OPAQUE(gradients.words[0]);  // before after_first()
    }
    after_first();
    if (!mine) return;
    if (args.width == 1 && row_of_l + vector <= end) {
#pragma unroll
      for (int j = 1; j < vector; ++j) compute(j);
    } else {
#pragma unroll
      for (int j = 1; j < vector; ++j) {
        if (++column == args.width) {
          column = 0;
          follow(++row_of_l, s, end);
        }
        set = set_of(s, column);
        compute(j);
      }
    }
    S* const grad_x = static_cast<S*>(args.grad_x.data) + at(first_element());
    *reinterpret_cast<Vector*>(grad_x + k * args.vector_step) = gradients;
  }
  // The vectors that are in this part.
  __device__ __forceinline__ int first_whole() const {
    return min_int((lo + vector - 1) / vector * vector, hi);
  }
  __device__ __forceinline__ int past_whole() const {
    return max_int(hi / vector * vector, first_whole());
  }
  // Writes the wanted gradients of the elements of this part but those in [begin, end).
  __device__ __forceinline__ void write_rest(int begin, int end) const {
    const int before = begin - lo, rest = before + hi - end;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < rest; i += block_threads) {
      write_element(i < before ? lo + i : end + i - before);
    }
  }

 private:
  __device__ __forceinline__ void write_element(int l) const {
    const int row_of_l = args.by_width(l), column = l - row_of_l * args.width;
    if (channel + column >= args.channels) return;
    int end;
    const int s = segment_of(row_of_l, end);
    const int slot = slot_of(s, column);
    const SetGradient<T> set = table.get(slot);
    const int64_t here = at(l);
    const T x = to_real(static_cast<const S*>(args.x)[here]);
    if (args.grad_x.data != nullptr) {
      T weight = 1;
      if (args.weight != nullptr) {
        int64_t weight_at = here;
        if (!args.flat_weight) {
          const int64_t i = !dense   ? row() + row_of_l
                            : s == 0 ? args.points - left + static_cast<int64_t>(row_of_l)
                                     : row_of_l - (end - args.points);
          weight_at = table.first_weights[slot] + i * args.weight_layout.points.stride[0];
        }
        weight = load_weight<T>(args.weight, args.weight_dtype, weight_at);
      }
      static_cast<S*>(args.grad_x.data)[here] =
          bounded_from_real<S>(point_gradient<P>(x, weight, set));
    }
    if (args.grad_weight.data != nullptr) {
      static_cast<T*>(args.grad_weight.data)[here] = weight_gradient<P>(x, set);
    }
  }

  __device__ __forceinline__ int within_tile(int64_t some_row) const {
    return static_cast<int>(
        max_int(min_int(some_row - row(), static_cast<int64_t>(rows())), int64_t{0}));
  }
  // Fills the table with the sets of these segments, the first ones of the part.
  __device__ __forceinline__ void hold(int segments) {
    place_of_segment = 0;
    if (threadIdx.x == 0) table.held = segments;
    const int64_t begin = static_cast<int64_t>(segment) * args.channels + channel;
    const bool has_empty = !dense && segments * args.width > hi - lo;
    for (int i = threadIdx.x; i < segments * args.width; i += block_threads) {
      const int s = args.by_width(i), column = i - s * args.width;
      if (channel + column >= args.channels) continue;
      if (has_empty) {
        const int before = s == 0 ? lo : table.ends[s - 1] * args.width;
        if (table.ends[s] * args.width <= before) continue;
      }
      const int64_t set = begin + place(i, s);
      const int slot = table.slot(i);
      table.put(slot, set_gradient<T>(args, set));
      if (!args.flat_weight) {
        table.first_weights[slot] = args.weight_layout.sets.offset(dense ? set : channel + column);
      }
    }
  }
};

// Rows of no segment have no gradient.
template <class S, class T>
__device__ __forceinline__ void clear_rows(const ContiguousArgs& args, int64_t begin, int64_t end) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * block_threads;
  for (int64_t i = begin * args.channels + blockIdx.x * block_threads + threadIdx.x;
       i < end * args.channels; i += step) {
    if (args.grad_x.data != nullptr) static_cast<S*>(args.grad_x.data)[i] = S{};
    if (args.grad_weight.data != nullptr) static_cast<T*>(args.grad_weight.data)[i] = 0;
  }
}

template <class P, class S, class T, bool dense>
__global__ void __launch_bounds__(block_threads, TileShape<S, T, dense>::blocks)
    backward_contiguous(const __grid_constant__ ContiguousArgs args) {
  using Shape = TileShape<S, T, dense>;
  __shared__ SetTable<Shape, T> table;
  // The first blocks take one tile more than the others.
  const auto block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  const int share = args.tiles / blocks, larger_shares = args.tiles - share * blocks;
  BackwardTile<P, S, T, dense> tile(args, table, block * share + min_int(block, larger_shares));
  int left = share + (block < larger_shares ? 1 : 0);
  Vector pending[Shape::vectors];
  if (args.vectors) tile.template load<0, Shape::vectors>(pending);
  if constexpr (!dense) {
    const int64_t first_row = args.layout.ptr[0], past_row = args.layout.ptr[args.segments];
    clear_rows<S, T>(args, 0, first_row);
    clear_rows<S, T>(args, past_row, args.rows);
    if (threadIdx.x == 0) {
      table.first_row = first_row;
      table.past_row = past_row;
      table.count = args.table_segments;
    }
  }
  if (threadIdx.x == 0) table.held = 0;
  __syncthreads();
  for (; left > 0; --left, tile.advance()) {
    Vector vectors[Shape::vectors];
#pragma unroll
    for (int k = 0; k < Shape::vectors; ++k) vectors[k] = pending[k];
    bool is_first = true;
    while (tile.next_part(is_first)) {
      is_first = false;
      tile.write_rest(tile.lo, tile.lo);
    }
    if (args.vectors) {
#pragma unroll
      for (int k = 0; k < Shape::vectors; ++k) {
        // These loads come after the first use of those before, so that a wait for the latter is
        // none for the former. The last one waits for the registers of the first vector.
        tile.write(vectors[k], k, [&] {
          if (k > 1 || left == 1) return;
          BackwardTile<P, S, T, dense> next = tile;
          DDN_OPAQUE(next.number);
          next.go_to_next_rows();
          if (k == 0) {
            next.template load<0, Shape::vectors - 1>(pending);
          } else {
            next.template load<Shape::vectors - 1, Shape::vectors>(pending);
          }
        });
      }
    }
    tile.write_rest(args.vectors ? tile.first_whole() : tile.lo,
                    args.vectors ? tile.past_whole() : tile.lo);
  }
}

}  // namespace ddn::cuda
