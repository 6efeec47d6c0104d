// The interface of the CUDA kernels. Launches are asynchronous, on `stream` of the current device.
#pragma once

#include "core/args.h"
#include "core/sharded_pass.h"
#include "cuda/launch.h"

namespace ddn::cuda {

// The offsets of segments, [count], given and as the kernels need them: within [0, rows], and none
// smaller than the one before.
struct OffsetsArgs {
  const int64_t* given;
  int64_t* safe;
  int64_t* largest;  // a workspace of segment_offsets_workspace(count) numbers
  int64_t count;
  int64_t rows;
};

// args.workspace holds robust_pool_workspace_bytes(args).
cudaError_t robust_pool_forward(const ForwardArgs& args, cudaStream_t stream);
int64_t robust_pool_workspace_bytes(const ForwardArgs& args);
cudaError_t robust_pool_backward(const BackwardArgs& args, cudaStream_t stream);
cudaError_t segment_offsets(const OffsetsArgs& args, cudaStream_t stream);
int64_t segment_offsets_workspace(int64_t count);
cudaError_t sharded_passes(const ShardedArgs& args, cudaStream_t stream);

}  // namespace ddn::cuda
