// The forward launchers by solver, dtype and whether there are weights, each in a file of its own
// so that they compile side by side.
#pragma once

#include "core/args.h"
#include "cuda/launch.h"

namespace ddn::cuda {

cudaError_t local_float32(const ForwardArgs& args, cudaStream_t stream);
cudaError_t local_float64(const ForwardArgs& args, cudaStream_t stream);
cudaError_t local_weighted_float32(const ForwardArgs& args, cudaStream_t stream);
cudaError_t local_weighted_float64(const ForwardArgs& args, cudaStream_t stream);

cudaError_t global_float32(const ForwardArgs& args, cudaStream_t stream);
cudaError_t global_float64(const ForwardArgs& args, cudaStream_t stream);
cudaError_t global_weighted_float32(const ForwardArgs& args, cudaStream_t stream);
cudaError_t global_weighted_float64(const ForwardArgs& args, cudaStream_t stream);

}  // namespace ddn::cuda
