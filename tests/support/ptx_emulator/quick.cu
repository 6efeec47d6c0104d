// Kernels that nvcc compiles in seconds where a whole file takes minutes: for tests of their PTX
// wherever nvcc is found. One of each kind: a warp's, a block's, in place, of the global search.
#include "cuda/global.cuh"

namespace ddn::cuda {

template __global__ void forward_on_chip<Huber, float, Warp, false>(
    const __grid_constant__ LocalArgs);
template __global__ void forward_on_chip<Huber, float, Block<block_threads>, false>(
    const __grid_constant__ LocalArgs);
template __global__ void forward_in_place<Huber, float, false>(const __grid_constant__ LocalArgs);
template __global__ void forward_on_chip<TruncatedQuadratic, double, Warp, false>(
    const __grid_constant__ LocalArgs);
template __global__ void global_on_chip<Welsch, float, 128, false>(
    const __grid_constant__ GlobalArgs);

}  // namespace ddn::cuda
