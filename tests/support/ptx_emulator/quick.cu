// Kernels that nvcc compiles in seconds where a whole file takes minutes: for tests of their PTX
// wherever nvcc is found. One of each kind: a warp's, a block's, in place, of the global search.
#include "cuda/global.cuh"

namespace ddn::cuda {

template __global__ void local_shared_memory<Huber, float, Warp, false>(
    const __grid_constant__ LocalArgs);
template __global__ void local_shared_memory<Huber, float, Block<block_threads>, false>(
    const __grid_constant__ LocalArgs);
template __global__ void local_global_memory<Huber, float, false>(
    const __grid_constant__ LocalArgs);
template __global__ void local_shared_memory<TruncatedQuadratic, double, Warp, false>(
    const __grid_constant__ LocalArgs);
template __global__ void global_shared_memory<Welsch, float, 128, false>(
    const __grid_constant__ GlobalArgs);

}  // namespace ddn::cuda
