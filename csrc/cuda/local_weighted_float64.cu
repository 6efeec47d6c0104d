#include "cuda/forward_types.h"
#include "cuda/local.cuh"

namespace ddn::cuda {

cudaError_t local_weighted_float64(const ForwardArgs& args, cudaStream_t stream) {
  return local_of_type<double, /*weighted=*/true>(args, stream);
}

}  // namespace ddn::cuda
