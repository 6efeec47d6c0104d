#include "cuda/forward_launchers.h"
#include "cuda/global.cuh"
#include "cuda/robust_pool_cuda.h"

namespace ddn::cuda {

namespace {

bool is_global(const ForwardArgs& args) {
  bool convex = true;
  with_penalty(args.penalty, [&](auto penalty) { convex = is_convex<decltype(penalty)>; });
  return args.global && !convex;
}

__global__ void __launch_bounds__(warp_size) clear_counts(const SegmentLists lists) {
  if (threadIdx.x < num_sizes) lists.counts[threadIdx.x] = 0;
}

// The segments of a warp's lanes go to each list with one addition to its count.
__global__ void __launch_bounds__(block_threads) sort_by_size(const SegmentLists lists) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * block_threads;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * block_threads + threadIdx.x - lane();
       first < lists.segments; first += step) {
    const int64_t segment = first + lane();
    const int own = segment < lists.segments
                        ? lists.sizes.of(lists.ptr[segment + 1] - lists.ptr[segment])
                        : num_sizes;
    for (int size = 0; size < num_sizes; ++size) {
      const unsigned same = __ballot_sync(full_mask, own == size);
      if (same == 0) continue;
      const int leader = __ffs(static_cast<int>(same)) - 1;
      unsigned at = 0;
      if (lane() == leader) {
        at = atomicAdd(&lists.counts[size], static_cast<unsigned>(__popc(same)));
      }
      at = __shfl_sync(full_mask, at, leader);
      const auto before = static_cast<unsigned>(__popc(same & ((1u << lane()) - 1)));
      if (own == size) lists.lists[size * lists.segments + at + before] = segment;
    }
  }
}

}  // namespace

cudaError_t list_segments(const SegmentLists& lists, cudaStream_t stream) {
  DDN_LAUNCH(clear_counts, 1, warp_size, 0, stream, lists);
  DDN_LAUNCH(sort_by_size, grid_for(lists.segments, block_threads), block_threads, 0, stream,
             lists);
  return cudaGetLastError();
}

cudaError_t robust_pool_forward(const ForwardArgs& args, cudaStream_t stream) {
  if (args.layout.num_sets == 0) return cudaSuccess;
  using Launcher = cudaError_t (*)(const ForwardArgs&, cudaStream_t);
  constexpr Launcher launchers[2][2][2] = {
      {{local_float32, local_float64}, {local_weighted_float32, local_weighted_float64}},
      {{global_float32, global_float64}, {global_weighted_float32, global_weighted_float64}}};
  const Launcher launch =
      launchers[is_global(args)][args.weight != nullptr][args.dtype == DType::float64];
  return launch(args, stream);
}

int64_t robust_pool_workspace_bytes(const ForwardArgs& args) {
  return SegmentLists::bytes(args.layout) + (is_global(args) ? global_workspace_bytes(args) : 0);
}

}  // namespace ddn::cuda
