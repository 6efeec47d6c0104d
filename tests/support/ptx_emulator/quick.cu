// A few kernels that nvcc compiles in seconds, for tests of their PTX on machines with nvcc. One of
// each kind: for lanes, groups of lanes, warps, blocks, points in global memory, the global search.
#include "cuda/global.cuh"
#include "cuda/local.cuh"

namespace ddn::cuda {

template __global__ void local_pipeline<Huber, float, Lanes<1>, false>(
    const __grid_constant__ LocalArgs);
template __global__ void local_pipeline<TruncatedQuadratic, float, Lanes<16>, false>(
    const __grid_constant__ LocalArgs);
template __global__ void local_pipeline<Quadratic, float, Warp, false>(
    const __grid_constant__ LocalArgs);
template __global__ void local_pipeline<Huber, float, Warp, false>(
    const __grid_constant__ LocalArgs);
template __global__ void local_pipeline<Huber, float, Block<small_threads>, false>(
    const __grid_constant__ LocalArgs);
template __global__ void local_global_memory<Huber, float, false>(
    const __grid_constant__ LocalArgs);
template __global__ void global_shared_memory<Welsch, float, 128, false>(
    const __grid_constant__ GlobalArgs);

}  // namespace ddn::cuda
