#include "cuda/forward_launchers.h"
#include "cuda/global.cuh"

namespace ddn::cuda {

cudaError_t global_float32(const ForwardArgs& args, cudaStream_t stream) {
  return global_of_type<float, /*weighted=*/false>(args, stream);
}

}  // namespace ddn::cuda
