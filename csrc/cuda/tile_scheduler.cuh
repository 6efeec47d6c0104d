// Which sets a launch solves. The sets of a dense tensor have one size, and one launch solves them
// all. The sizes of segments are known on the device only: a kernel lists the segments of each size
// class there, and a launch for each class takes its list.
#pragma once

#include "core/args.h"
#include "cuda/launch_limits.cuh"

namespace ddn::cuda {

constexpr int num_sizes = 8;  // at most

// The most points of a set in each size class; all others belong to the last one.
struct Sizes {
  int64_t most[num_sizes - 1];

  template <int count>
  Sizes(const int64_t (&given)[count]) {
    static_assert(count < num_sizes);
    for (int size = 0; size < num_sizes - 1; ++size) {
      most[size] = size < count ? given[size] : INT64_MAX;
    }
  }
  DDN_HOST_DEVICE int of(int64_t points) const {
    int size = 0;
    while (size < num_sizes - 1 && points > most[size]) ++size;
    return size;
  }
};

struct TileScheduler {
  int64_t capacity;         // the most points of a set
  const int64_t* segments;  // the list of segments, or null for all sets
  const unsigned* count;    // length of the list

  // Sets to solve.
  __device__ __forceinline__ int64_t items(const SetLayout& layout) const {
    return segments == nullptr ? layout.num_sets : *count * layout.channels;
  }
  __device__ __forceinline__ int64_t set(const SetLayout& layout, int64_t item) const {
    if (segments == nullptr) return item;
    return segments[item / layout.channels] * layout.channels + item % layout.channels;
  }
  // The grid of a kernel whose blocks take a set each. A launch that cannot know the length of its
  // list has two blocks for each multiprocessor.
  unsigned grid(const SetLayout& layout, const DeviceLimits& device) const {
    const unsigned all = grid_for(layout.num_sets, 1);
    return segments == nullptr ? all : std::min(all, device.blocks(2));
  }
};

// The lists in a workspace: a count for each size class, then as many lists.
struct SegmentLists {
  const int64_t* ptr;
  int64_t segments;
  unsigned* counts;
  int64_t* lists;
  Sizes sizes;

  SegmentLists(const ForwardArgs& args, const Sizes& sizes_)
      : ptr(args.layout.ptr),
        segments(args.layout.num_sets / args.layout.channels),
        counts(static_cast<unsigned*>(args.workspace)),
        lists(
            reinterpret_cast<int64_t*>(static_cast<unsigned char*>(args.workspace) + counts_bytes)),
        sizes(sizes_) {}

  static constexpr int64_t counts_bytes = 64;
  static int64_t bytes(const SetLayout& layout) {
    if (layout.ptr == nullptr) return 0;
    return counts_bytes +
           num_sizes * (layout.num_sets / layout.channels) * static_cast<int64_t>(sizeof(int64_t));
  }
  TileScheduler scheduler(int size, int64_t points) const {
    const int64_t most = size < num_sizes - 1 ? sizes.most[size] : INT64_MAX;
    return {std::min(most, points), lists + size * segments, counts + size};
  }
};

// Defined in forward.cu. The order of a list varies; no answer depends on it.
cudaError_t list_segments(const SegmentLists& lists, cudaStream_t stream);

// Calls launch(size, scheduler) for the size class of a dense tensor's sets, or for each class with
// its segments.
template <class Launch>
cudaError_t launch_by_size(const ForwardArgs& args, const Sizes& sizes, cudaStream_t stream,
                           const Launch& launch) {
  const int64_t points = args.layout.num_points;
  if (args.layout.ptr == nullptr)
    return launch(sizes.of(points), TileScheduler{points, nullptr, nullptr});
  const SegmentLists lists(args, sizes);
  cudaError_t error = list_segments(lists, stream);
  for (int size = 0; size < num_sizes && error == cudaSuccess; ++size) {
    if (size > 0) {
      // No segment is larger than all of them.
      if (points <= sizes.most[size - 1]) break;
      if (sizes.most[size] == sizes.most[size - 1]) continue;
    }
    error = launch(size, lists.scheduler(size, points));
  }
  return error;
}

}  // namespace ddn::cuda
