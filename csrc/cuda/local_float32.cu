#include "cuda/forward_types.h"
#include "cuda/local.cuh"

namespace ddn::cuda {

cudaError_t local_float32(const ForwardArgs& args, cudaStream_t stream) {
  return local_of_type<float, /*weighted=*/false>(args, stream);
}

}  // namespace ddn::cuda
