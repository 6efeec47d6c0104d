// Offsets of segments that satisfy what the kernels rely on, whatever the values given: within [0,
// rows], and none smaller than the one before. The first kernel finds the largest offset of each
// chunk; the second one raises each offset to the largest of those before it.
#include "cuda/launch_limits.cuh"
#include "cuda/robust_pool_cuda.h"
#include "cuda/thread_group.cuh"

namespace ddn::cuda {
namespace {

// Each thread has these offsets in registers, with stride warp_size.
constexpr int lane_offsets = 8;
constexpr int warp_offsets = lane_offsets * warp_size;
constexpr int block_offsets = lane_offsets * block_threads;
// Each block of the second kernel reads the maxima of all chunks before its own.
constexpr int64_t max_chunks = 1024;

struct LargestOffset {
  static __device__ __forceinline__ int64_t combine(int64_t a, int64_t b) { return a > b ? a : b; }
};

}  // namespace

struct ChunkArgs : OffsetsArgs {
  int64_t chunks, chunk;  // their number, and the offsets of each

  // The offsets of a thread, in a run that begins at `begin`; zeros beyond `end`.
  __device__ __forceinline__ void load(int64_t begin, int64_t end,
                                       int64_t (&offsets)[lane_offsets]) const {
    const int64_t first = begin + threadIdx.x / warp_size * warp_offsets + lane();
#pragma unroll
    for (int k = 0; k < lane_offsets; ++k) {
      const int64_t i = first + k * warp_size;
      const int64_t offset = i < end ? given[i] : 0;
      offsets[k] = offset < 0 ? 0 : (offset > rows ? rows : offset);
    }
  }
};

__global__ void __launch_bounds__(block_threads)
    find_largest_offsets(const __grid_constant__ ChunkArgs args) {
  for (int64_t c = blockIdx.x; c < args.chunks; c += gridDim.x) {
    const int64_t begin = c * args.chunk;
    const int64_t end = begin + args.chunk < args.count ? begin + args.chunk : args.count;
    int64_t largest[1] = {0};
    for (int64_t i = begin; i < end; i += block_offsets) {
      int64_t offsets[lane_offsets];
      args.load(i, end, offsets);
#pragma unroll
      for (int k = 0; k < lane_offsets; ++k) {
        largest[0] = LargestOffset::combine(largest[0], offsets[k]);
      }
    }
    Block<block_threads>::reduce<LargestOffset>(largest);
    if (threadIdx.x == 0) args.largest[c] = largest[0];
  }
}

__global__ void __launch_bounds__(block_threads)
    raise_offsets(const __grid_constant__ ChunkArgs args) {
  constexpr int warps = block_threads / warp_size;
  __shared__ int64_t largest_of_warp[warps];
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  for (int64_t c = blockIdx.x; c < args.chunks; c += gridDim.x) {
    int64_t before[1] = {0};  // the largest of all offsets before the run
    for (int64_t i = threadIdx.x; i < c; i += block_threads) {
      before[0] = LargestOffset::combine(before[0], args.largest[i]);
    }
    Block<block_threads>::reduce<LargestOffset>(before);
    const int64_t begin = c * args.chunk;
    const int64_t end = begin + args.chunk < args.count ? begin + args.chunk : args.count;
    for (int64_t run = begin; run < end; run += block_offsets) {
      int64_t offsets[lane_offsets], of_warp = 0;
      args.load(run, end, offsets);
#pragma unroll
      for (int k = 0; k < lane_offsets; ++k) {
#pragma unroll
        for (int distance = 1; distance < warp_size; distance *= 2) {
          // Lanes without a source get their own offset.
          offsets[k] =
              LargestOffset::combine(offsets[k], __shfl_up_sync(full_mask, offsets[k], distance));
        }
        offsets[k] = LargestOffset::combine(offsets[k], of_warp);
        of_warp = __shfl_sync(full_mask, offsets[k], warp_size - 1);
      }
      __syncthreads();  // the readers of the run before have left largest_of_warp
      if (lane() == 0) largest_of_warp[warp] = of_warp;
      __syncthreads();
      int64_t raised = before[0];
      for (int w = 0; w < warps; ++w) {
        if (w < warp) raised = LargestOffset::combine(raised, largest_of_warp[w]);
        before[0] = LargestOffset::combine(before[0], largest_of_warp[w]);
      }
      const int64_t first = run + warp * warp_offsets + lane();
#pragma unroll
      for (int k = 0; k < lane_offsets; ++k) {
        const int64_t i = first + k * warp_size;
        if (i < end) args.safe[i] = LargestOffset::combine(offsets[k], raised);
      }
    }
  }
}

int64_t segment_offsets_workspace(int64_t count) {
  return std::min((count + block_offsets - 1) / block_offsets, max_chunks);
}

cudaError_t segment_offsets(const OffsetsArgs& args, cudaStream_t stream) {
  if (args.count == 0) return cudaSuccess;
  ChunkArgs chunked{args};
  const int64_t runs = (args.count + block_offsets - 1) / block_offsets;
  chunked.chunk = (runs + max_chunks - 1) / max_chunks * block_offsets;
  chunked.chunks = (args.count + chunked.chunk - 1) / chunked.chunk;
  const unsigned grid = grid_for(chunked.chunks, 1);
  if (chunked.chunks > 1) {
    DDN_LAUNCH(find_largest_offsets, grid, block_threads, 0, stream, chunked);
  }
  DDN_LAUNCH(raise_offsets, grid, block_threads, 0, stream, chunked);
  return cudaGetLastError();
}

}  // namespace ddn::cuda
