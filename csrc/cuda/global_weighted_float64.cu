#include "cuda/forward_launchers.h"
#include "cuda/global.cuh"

namespace ddn::cuda {

cudaError_t global_weighted_float64(const ForwardArgs& args, cudaStream_t stream) {
  return global_of_type<double, /*weighted=*/true>(args, stream);
}

}  // namespace ddn::cuda
