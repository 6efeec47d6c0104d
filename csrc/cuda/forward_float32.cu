#include "cuda/forward.cuh"
#include "cuda/forward_types.h"

namespace ddn::cuda {

cudaError_t forward_float32(const ForwardArgs& args, cudaStream_t stream) {
  return forward_of_type<float, /*weighted=*/false>(args, stream);
}

}  // namespace ddn::cuda
