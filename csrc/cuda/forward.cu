#include "cuda/forward_types.h"
#include "cuda/robust_pool_cuda.h"

namespace ddn::cuda {

cudaError_t robust_pool_forward(const ForwardArgs& args, cudaStream_t stream) {
  if (args.layout.num_sets == 0 || args.layout.num_points == 0) return cudaSuccess;
  return args.dtype == DType::float64 ? forward_float64(args, stream)
                                      : forward_float32(args, stream);
}

}  // namespace ddn::cuda
