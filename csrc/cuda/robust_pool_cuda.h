// The interface of the CUDA kernels. Launches are asynchronous, on `stream` of the current device.
#pragma once

#include "core/args.h"
#include "core/sharded_pass.h"
#include "cuda/launch.h"

namespace ddn::cuda {

// args.workspace holds robust_pool_workspace_bytes(args).
cudaError_t robust_pool_forward(const ForwardArgs& args, cudaStream_t stream);
int64_t robust_pool_workspace_bytes(const ForwardArgs& args);
cudaError_t robust_pool_backward(const BackwardArgs& args, cudaStream_t stream);
cudaError_t sharded_passes(const ShardedArgs& args, cudaStream_t stream);

}  // namespace ddn::cuda
