// Kernels with one defect each, which the emulator must report; `sound` has none. A comment "at
// NAME" marks the line that the report of kernel NAME must have.
#include <cstring>

#include "cuda/async_copy.cuh"
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
__global__ void barrier_of_another_group(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  s[threadIdx.x] = a.x[threadIdx.x];
  __syncwarp(0xffu << threadIdx.x % 32 / 8 * 8);
  a.out[threadIdx.x] = s[threadIdx.x ^ 8];  // at barrier_of_another_group
}
__global__ void group_without_barrier(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  s[threadIdx.x] = a.x[threadIdx.x];
  if (threadIdx.x % 32 / 8 != 2) __syncwarp(0xffu << threadIdx.x % 32 / 8 * 8);
  a.out[threadIdx.x] = s[threadIdx.x ^ 1];  // at group_without_barrier
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
// ---- Asynchronous copies ----

using ddn::cuda::commit_async_copies;
using ddn::cuda::copy_async;
using ddn::cuda::wait_for_async_copies;

// 64 numbers, by copies of each size.
__global__ void sound_copies(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  const int i = static_cast<int>(threadIdx.x);
  if (i < 4) copy_async<16>(s + 4 * i, a.x + 4 * i);
  commit_async_copies();
  if (i < 16) copy_async<4>(s + 16 + i, a.x + 16 + i);
  commit_async_copies();
  if (i < 16) copy_async<8>(s + 32 + 2 * i, a.x + 32 + 2 * i);
  commit_async_copies();
  wait_for_async_copies<2>();
  if (i < 4) s[4 * i] += 1;  // of the first group
  wait_for_async_copies();
  __syncthreads();
  a.out[i] = s[63 - i];
}
// Whole copies, a part and none, whose sources lie beyond x.
__global__ void zero_filled_copies(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  const int i = static_cast<int>(threadIdx.x), left = 46 - 4 * i;
  const int numbers = left < 0 ? 0 : left < 4 ? left : 4;
  if (i < 16) copy_async<16>(s + 4 * i, a.x + 16 + 4 * i, 4 * numbers);
  commit_async_copies();
  wait_for_async_copies();
  __syncthreads();
  a.out[i] = s[i];
}
// The lanes of a warp read each other's copies in turn.
__global__ void copies_of_a_warp(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  for (int k = 0; k < 2; ++k) {
    copy_async<4>(s + threadIdx.x, a.x + (threadIdx.x + k) % 64);
    commit_async_copies();
    wait_for_async_copies();
    __syncwarp();
    const float v = s[threadIdx.x ^ 1];
    __syncwarp();
    a.out[threadIdx.x] = v;
  }
}
// The lanes of a group read each other's copies; groups do not wait for each other.
__global__ void copies_of_groups(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  const unsigned group = threadIdx.x % 32 / 8, mask = 0xffu << 8 * group;
#pragma unroll 1
  for (unsigned k = 0; k <= group; ++k) {
    copy_async<4>(s + threadIdx.x, a.x + (threadIdx.x + k) % 64);
    commit_async_copies();
    wait_for_async_copies();
    __syncwarp(mask);
    const float v = s[threadIdx.x ^ 7];
    __syncwarp(mask);
    a.out[threadIdx.x] = v;
  }
}
__global__ void copy_read_too_early(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  copy_async<4>(s + threadIdx.x, a.x + threadIdx.x);
  commit_async_copies();
  a.out[threadIdx.x] = s[threadIdx.x];  // at copy_read_too_early
  wait_for_async_copies();
}
__global__ void copy_of_a_later_group(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  copy_async<4>(s + threadIdx.x, a.x + threadIdx.x);
  commit_async_copies();
  wait_for_async_copies<1>();
  a.out[threadIdx.x] = s[threadIdx.x];  // at copy_of_a_later_group
  wait_for_async_copies();
}
__global__ void uncommitted_copy(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  copy_async<4>(s + threadIdx.x, a.x + threadIdx.x);
  wait_for_async_copies();
  a.out[threadIdx.x] = s[threadIdx.x];  // at uncommitted_copy
  commit_async_copies();
  wait_for_async_copies();
}
__global__ void copy_without_barrier(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  copy_async<4>(s + threadIdx.x, a.x + threadIdx.x);
  commit_async_copies();
  wait_for_async_copies();
  a.out[threadIdx.x] = s[63 - threadIdx.x];  // at copy_without_barrier
}
__global__ void copy_waited_for_after_the_barrier(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  copy_async<4>(s + threadIdx.x, a.x + threadIdx.x);
  commit_async_copies();
  __syncthreads();
  wait_for_async_copies();
  a.out[threadIdx.x] = s[63 - threadIdx.x];  // at copy_waited_for_after_the_barrier
}
__global__ void store_to_a_copy(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  copy_async<4>(s + threadIdx.x, a.x + threadIdx.x);
  commit_async_copies();
  s[threadIdx.x] = 1;  // at store_to_a_copy
  wait_for_async_copies();
}
__global__ void two_copies_to_one_place(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  copy_async<4>(s + threadIdx.x, a.x + threadIdx.x);
  commit_async_copies();
  copy_async<4>(s + threadIdx.x, a.x + 63 - threadIdx.x);  // at two_copies_to_one_place
  commit_async_copies();
  wait_for_async_copies();
}
__global__ void copy_to_what_others_read(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  s[threadIdx.x] = a.x[threadIdx.x];
  __syncthreads();
  a.out[threadIdx.x] = s[63 - threadIdx.x];
  copy_async<4>(s + threadIdx.x, a.x + 63 - threadIdx.x);  // at copy_to_what_others_read
  commit_async_copies();
  wait_for_async_copies();
}
__global__ void unfinished_copy(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  copy_async<4>(s + threadIdx.x, a.x + threadIdx.x);  // at unfinished_copy
  commit_async_copies();
  wait_for_async_copies<1>();
}
__global__ void misaligned_copy_source(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  if (threadIdx.x == 0) copy_async<8>(s, a.x);  // at misaligned_copy_source
  commit_async_copies();
  wait_for_async_copies();
}
__global__ void misaligned_copy_target(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  if (threadIdx.x == 0) copy_async<8>(s + 1, a.x + 1);  // at misaligned_copy_target
  commit_async_copies();
  wait_for_async_copies();
}
__global__ void copy_source_out_of_bounds(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  copy_async<4>(s + threadIdx.x, a.x + 1 + threadIdx.x);  // at copy_source_out_of_bounds
  commit_async_copies();
  wait_for_async_copies();
}
__global__ void copy_target_out_of_bounds(const __grid_constant__ Args a) {
  DDN_DYNAMIC_SHARED(float, s);
  copy_async<4>(s + 1 + threadIdx.x, a.x + threadIdx.x);  // at copy_target_out_of_bounds
  commit_async_copies();
  wait_for_async_copies();
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
    DEFECT(sound_copies),
    DEFECT(zero_filled_copies),
    DEFECT(copies_of_a_warp),
    DEFECT(copies_of_groups),
    DEFECT(barrier_of_another_group),
    DEFECT(group_without_barrier),
    DEFECT(copy_read_too_early),
    DEFECT(copy_of_a_later_group),
    DEFECT(uncommitted_copy),
    DEFECT(copy_without_barrier),
    DEFECT(copy_waited_for_after_the_barrier),
    DEFECT(store_to_a_copy),
    DEFECT(two_copies_to_one_place),
    DEFECT(copy_to_what_others_read),
    DEFECT(unfinished_copy),
    DEFECT(misaligned_copy_source),
    DEFECT(misaligned_copy_target),
    DEFECT(copy_source_out_of_bounds),
    DEFECT(copy_target_out_of_bounds),
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
