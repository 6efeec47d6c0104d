#include "cuda/forward_types.h"
#include "cuda/local.cuh"

namespace ddn::cuda {

cudaError_t local_weighted_float32(const ForwardArgs& args, cudaStream_t stream) {
  return local_of_type<float, /*weighted=*/true>(args, stream);
}

}  // namespace ddn::cuda
