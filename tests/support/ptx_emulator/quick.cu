// A few kernels that nvcc compiles in seconds, for tests of their PTX on machines with nvcc. One of
// each kind: for a warp, for a block, in global memory, and of the global search.
#include "cuda/global.cuh"
#include "cuda/local.cuh"

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
