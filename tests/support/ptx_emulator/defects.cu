// Kernels with one defect each, which the emulator must report; `sound` has none. A comment "at
// NAME" marks the line that the report of kernel NAME must have.
#include <cstring>

#include "cuda/launch.h"

namespace {

constexpr unsigned full = 0xffffffffu;

struct Args {
  const float* x;
  float* out;
  const float* none;
};

__global__ void sound(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  s[threadIdx.x] = a.x[threadIdx.x];
  __syncthreads();
  float v = s[blockDim.x - 1 - threadIdx.x];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) v += __shfl_xor_sync(full, v, distance);
  a.out[threadIdx.x] = v;
}

// Accesses to different bytes of a word of shared memory do not race.
__global__ void neighbouring_bytes(const __grid_constant__ Args a) {
  __shared__ unsigned char s[64];
  s[threadIdx.x] = static_cast<unsigned char>(threadIdx.x);
  a.out[threadIdx.x] = s[threadIdx.x];
}
#ifdef __CUDACC__
__constant__ float table[64] = {1, 2, 3};
#else
const float table[64] = {1, 2, 3};
#endif
__global__ void constant_table(const __grid_constant__ Args a) {
  a.out[threadIdx.x] = table[(threadIdx.x + static_cast<unsigned>(a.x[0])) % 64];
}

#ifdef __CUDACC__
// The host shim has no vectors.
__global__ void misaligned_shared(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  s[threadIdx.x] = a.x[threadIdx.x];
  __syncthreads();
  const float4 v = *reinterpret_cast<const float4*>(s + 1);  // at misaligned_shared
  a.out[threadIdx.x] = v.x + v.y + v.z + v.w;
}
__global__ void misaligned_global(const __grid_constant__ Args a) {
  const float2 v = *reinterpret_cast<const float2*>(a.x + 2);  // at misaligned_global
  a.out[threadIdx.x] = v.x + v.y;
}
__global__ void misaligned_tensor(const __grid_constant__ Args a) {
  const float4 v = *reinterpret_cast<const float4*>(a.x);  // at misaligned_tensor
  a.out[threadIdx.x] = v.x + v.w;
}
#else
__global__ void misaligned_tensor(const __grid_constant__ Args) {}
__global__ void misaligned_shared(const __grid_constant__ Args) {}
__global__ void misaligned_global(const __grid_constant__ Args) {}
#endif

__global__ void shared_out_of_bounds(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  s[threadIdx.x + 1] = a.x[threadIdx.x];  // at shared_out_of_bounds
  __syncthreads();
  a.out[threadIdx.x] = s[threadIdx.x + 1];
}
__global__ void global_load_out_of_bounds(const __grid_constant__ Args a) {
  a.out[threadIdx.x] = a.x[threadIdx.x + 1];  // at global_load_out_of_bounds
}
__global__ void load_before_null(const __grid_constant__ Args a) {
  a.out[threadIdx.x] = a.none[-1 - static_cast<int>(threadIdx.x)];  // at load_before_null
}
__global__ void global_store_out_of_bounds(const __grid_constant__ Args a) {
  a.out[threadIdx.x + 1] = 1;  // at global_store_out_of_bounds
}
__global__ void store_to_input(const __grid_constant__ Args a) {
  const_cast<float*>(a.x)[threadIdx.x] = 1;  // at store_to_input
}
__global__ void unwritten_shared(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  if (threadIdx.x < 40) s[threadIdx.x] = a.x[threadIdx.x];
  __syncthreads();
  a.out[threadIdx.x] = s[threadIdx.x];  // at unwritten_shared
}
__global__ void unwritten_local(const __grid_constant__ Args a) {
  float local[8];
  local[static_cast<int>(a.x[0])] = 1;
  a.out[threadIdx.x] = local[static_cast<int>(a.x[threadIdx.x]) % 8];  // at unwritten_local
}
__global__ void no_barrier(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  s[threadIdx.x] = a.x[threadIdx.x];
  a.out[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];  // at no_barrier
}
__global__ void no_barrier_before_overwriting(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  s[threadIdx.x] = a.x[threadIdx.x];
  __syncthreads();
  const float v = s[blockDim.x - 1 - threadIdx.x];
  s[threadIdx.x] = v;  // at no_barrier_before_overwriting
  __syncthreads();
  a.out[threadIdx.x] = s[threadIdx.x];
}
__global__ void no_warp_barrier(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  s[threadIdx.x] = a.x[threadIdx.x];
  a.out[threadIdx.x] = s[threadIdx.x ^ 1];  // at no_warp_barrier
}
__global__ void ordered_by_a_vote_alone(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  s[threadIdx.x] = a.x[threadIdx.x];
  const float v = __any_sync(full, a.x[threadIdx.x] > 3) ? 1.0f : 0.0f;
  a.out[threadIdx.x] = v + s[threadIdx.x ^ 1];  // at ordered_by_a_vote_alone
}
__global__ void divergent_shuffle(const __grid_constant__ Args a) {
  float v = a.x[threadIdx.x];
  if (threadIdx.x % 32 < 16) v += __shfl_xor_sync(full, v, 16);  // at divergent_shuffle
  a.out[threadIdx.x] = v;
}
__global__ void mask_of_half_a_warp(const __grid_constant__ Args a) {
  const float v = a.x[threadIdx.x];
  a.out[threadIdx.x] = __shfl_xor_sync(0xffffu, v, 1);  // at mask_of_half_a_warp
}
__global__ void divergent_barrier(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  s[threadIdx.x] = a.x[threadIdx.x];
  if (threadIdx.x < 40) __syncthreads();  // at divergent_barrier
  a.out[threadIdx.x] = s[threadIdx.x];
}
__global__ void __launch_bounds__(32)
    launched_with_too_many_threads(const __grid_constant__ Args a) {
  a.out[threadIdx.x] = a.x[threadIdx.x];
}
__global__ void division_by_zero(const __grid_constant__ Args a) {
  const int zero = static_cast<int>(a.x[0]);
  a.out[threadIdx.x] =
      static_cast<float>(static_cast<int>(threadIdx.x) / zero);  // at division_by_zero
}
// Each lane adds a product; contraction changes the last bits.
__global__ void product_and_sum(const __grid_constant__ Args a) {
  const float x = a.x[threadIdx.x] + 0.1f;
  a.out[threadIdx.x] = x * x - 1.5f;
}

struct Defect {
  const char* name;
  void (*kernel)(Args);
};
#define DEFECT(name) {#name, name}
const Defect defects[] = {
    DEFECT(sound),
    DEFECT(misaligned_shared),
    DEFECT(misaligned_global),
    DEFECT(misaligned_tensor),
    DEFECT(load_before_null),
    DEFECT(neighbouring_bytes),
    DEFECT(constant_table),
    DEFECT(shared_out_of_bounds),
    DEFECT(global_load_out_of_bounds),
    DEFECT(global_store_out_of_bounds),
    DEFECT(store_to_input),
    DEFECT(unwritten_shared),
    DEFECT(unwritten_local),
    DEFECT(no_barrier),
    DEFECT(no_barrier_before_overwriting),
    DEFECT(no_warp_barrier),
    DEFECT(ordered_by_a_vote_alone),
    DEFECT(divergent_shuffle),
    DEFECT(mask_of_half_a_warp),
    DEFECT(divergent_barrier),
    DEFECT(launched_with_too_many_threads),
    DEFECT(division_by_zero),
    DEFECT(product_and_sum),
};

}  // namespace

// x and out have 64 numbers each. The error code of the launch; -1 for no kernel of that name.
extern "C" int shim_defect(const char* name, const float* x, float* out) {
  for (const Defect& defect : defects) {
    if (strcmp(defect.name, name) != 0) continue;
    DDN_LAUNCH(defect.kernel, 1, 64, 64 * sizeof(float), nullptr, Args{x, out, nullptr});
    return cudaGetLastError();
  }
  return -1;
}
