// Small correct and defective kernels for the tests of the shim. A comment "at NAME" marks the line
// that the error of kernel NAME must report.
#include <cstring>

#include "cuda/async_copy.cuh"
#include "cuda/launch.h"

namespace {

using ddn::cuda::commit_async_copies;
using ddn::cuda::copy_async;
using ddn::cuda::wait_for_async_copies;

constexpr unsigned full = 0xffffffffu;

// ---- Right ----

__global__ void shuffles(double* out) {
  const int i = static_cast<int>(threadIdx.x);
  out[i] = __shfl_sync(full, i, 35);
  out[32 + i] = __shfl_sync(full, static_cast<long long>(i), i + 3, 8);
  out[64 + i] = __shfl_up_sync(full, static_cast<float>(i), 3);
  out[96 + i] = __shfl_up_sync(full, i, 2, 4);
  out[128 + i] = __shfl_down_sync(full, i, 5);
  out[160 + i] = __shfl_down_sync(full, i, 1, 16);
  out[192 + i] = __shfl_xor_sync(full, static_cast<double>(i), 16);
  out[224 + i] = __shfl_xor_sync(full, i, 4, 4);
}

__global__ void votes(double* out) {
  const int i = static_cast<int>(threadIdx.x);
  out[i] = __ballot_sync(full, i % 3 == 0);
  out[32 + i] = __any_sync(full, i == 7) + 10 * __any_sync(full, 0);
  out[64 + i] = __all_sync(full, i != 7) + 10 * __all_sync(full, 2);
  // Divergent lanes.
  const unsigned half = i < 16 ? 0xffffu : 0xffff0000u;
  out[96 + i] = i < 16 ? __ballot_sync(half, 1) : __ballot_sync(half, i == 20);
}

__global__ void reductions(double* out) {
  const int i = static_cast<int>(threadIdx.x);
  out[i] = __reduce_max_sync(full, i == 9 ? 40 : -i);
  const unsigned half = i < 16 ? 0xffffu : 0xffff0000u;
  out[32 + i] = __reduce_min_sync(half, 100 - i);
  out[64 + i] = __reduce_add_sync(half, i);
}

// Collectives do not wait for lanes that have returned.
__global__ void early_return(double* out) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= 20) return;
  out[i] = __ballot_sync(full, 1);
}

__global__ void block_sum(double* out) {
  DDN_DYNAMIC_SHARED(double, values);
  __shared__ double total;
  values[threadIdx.x] = threadIdx.x;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  atomicAdd(&total, values[blockDim.x - 1 - threadIdx.x]);
  __syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = total;
}

__global__ void indices(double* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

// The order in which the threads run.
__global__ void order(double* out) {
  __shared__ int turn;
  if (threadIdx.x == 0) turn = 0;
  __syncthreads();
  out[atomicAdd(&turn, 1)] = threadIdx.x;
}

__global__ void large_shared(double* out) {
  DDN_DYNAMIC_SHARED(double, values);
  values[threadIdx.x] = 1;
  out[threadIdx.x] = values[threadIdx.x];
}

// Groups of eight lanes, which are at different places of the program.
__global__ void groups(double* out) {
  DDN_DYNAMIC_SHARED(int, values);
  const int i = static_cast<int>(threadIdx.x), group = i % 32 / 8;
  const unsigned mask = 0xffu << 8 * group;
  int sum = i;
#pragma unroll 1
  for (int k = 0; k <= group; ++k) sum += __shfl_xor_sync(mask, sum, 1 << k % 3, 8);
  if (group % 2 == 0) {
    sum += __shfl_down_sync(mask, sum, 1, 8);
  } else {
    sum += __reduce_max_sync(mask, sum) + static_cast<int>(__ballot_sync(mask, i % 8 < 2) >> 8);
  }
  values[i] = sum;
  __syncwarp(mask);
  out[i] = values[i ^ 7];
}

__global__ void vectors(double* out) {
  DDN_DYNAMIC_SHARED(float, values);
  const int i = static_cast<int>(threadIdx.x);
  reinterpret_cast<float4*>(values)[i] = make_float4(i, i + 1, i + 2, i + 3);
  __syncthreads();
  const float2 pair = reinterpret_cast<const float2*>(values)[63 - i];
  const uint2 bits{__float_as_uint(pair.x), __float_as_uint(pair.y)};
  reinterpret_cast<uint2*>(out)[i] = bits;
  const unsigned swapped = __byte_perm(bits.x, bits.y, 0x1076);
  out[32 + i] = __uint_as_float(__byte_perm(swapped, bits.x, 0x1032)) + __ldg(out + i) * 0;
}

// The source lies behind the result.
__global__ void copies(double* out) {
  DDN_DYNAMIC_SHARED(double, values);
  double* const source = out + 64;
  source[threadIdx.x] = 1 + threadIdx.x;
  __syncthreads();
  copy_async<8>(values + threadIdx.x, source + threadIdx.x);
  commit_async_copies();
  copy_async<8>(values + 64 + threadIdx.x, source + threadIdx.x, threadIdx.x < 50 ? 8 : 0);
  commit_async_copies();
  wait_for_async_copies<1>();
  out[threadIdx.x] = values[threadIdx.x];
  wait_for_async_copies();
  __syncthreads();
  out[threadIdx.x] += values[127 - threadIdx.x];
}

// ---- Wrong ----

__global__ void unfinished_copies(double* out) {
  DDN_DYNAMIC_SHARED(double, values);
  out[threadIdx.x] = 1;
  copy_async<8>(values + threadIdx.x, out + threadIdx.x);  // at unfinished_copies
  commit_async_copies();
  wait_for_async_copies<1>();
}

__global__ void copies_read_too_early(double* out) {
  DDN_DYNAMIC_SHARED(double, values);
  out[threadIdx.x] = 1;
  values[threadIdx.x] = 2;
  copy_async<8>(values + threadIdx.x, out + threadIdx.x);
  commit_async_copies();
  wait_for_async_copies<1>();
  out[threadIdx.x] = values[threadIdx.x];
  wait_for_async_copies();
}

__global__ void misaligned_copies(double* out) {
  DDN_DYNAMIC_SHARED(float, values);
  out[threadIdx.x] = 1;
  copy_async<8>(values + 1, out + threadIdx.x);  // at misaligned_copies
  commit_async_copies();
  wait_for_async_copies();
}

__global__ void divergent_barriers(double* out) {
  if (threadIdx.x < 40) {
    __syncthreads();
    out[0] = 1;
  } else {
    __syncthreads();  // at divergent_barriers
  }
}

__global__ void missed_barrier(double*) {
  if (threadIdx.x < 40) return;
  __syncthreads();  // at missed_barrier
}

__global__ void mask_without_caller(double* out) {
  const unsigned mask = threadIdx.x < 32 ? full : 0x7fffffffu;
  out[threadIdx.x] = __ballot_sync(mask, 1);  // at mask_without_caller
}

__global__ void missing_member(double* out) {
  if (threadIdx.x % 32 < 16) {
    out[threadIdx.x] = __shfl_xor_sync(full, 1, 1);  // at missing_member
  }
  __syncthreads();
}

__global__ void different_collectives(double* out) {
  if (threadIdx.x % 2 == 0) {
    out[threadIdx.x] = __any_sync(full, 1);
  } else {
    out[threadIdx.x] = __all_sync(full, 1);  // at different_collectives
  }
}

__global__ void different_masks(double*) {
  if (threadIdx.x % 32 < 16) {
    __syncwarp(0xffffu);
  } else {
    __syncwarp(full);  // at different_masks
  }
  __syncthreads();
}

__global__ void inactive_lane(double* out) {
  if (threadIdx.x % 32 >= 16) return;
  out[threadIdx.x] = __shfl_down_sync(0xffffu, 1, 1);  // at inactive_lane
}

__global__ void odd_width(double* out) {
  out[threadIdx.x] = __shfl_xor_sync(full, 1, 1, 24);  // at odd_width
}

__global__ void unset_shared(double* out) {
  DDN_DYNAMIC_SHARED(double, dynamic);
  __shared__ double fixed[64];
  out[blockIdx.x * 64 + threadIdx.x] =
      threadIdx.x % 2 == 0 ? dynamic[threadIdx.x] : fixed[threadIdx.x];
  dynamic[threadIdx.x] = fixed[threadIdx.x] = 1;  // what another block left is no better
}

__global__ void shared_overrun(double*) {
  DDN_DYNAMIC_SHARED(double, values);
  values[threadIdx.x + 1] = 1;
}

__global__ void nothing(double*) {}

struct Toy {
  const char* name;
  void (*kernel)(double*);
  dim3 grid, block;
  size_t shared_bytes;
  int shared_limit = -1;  // for cudaFuncSetAttribute, unless negative
};

const Toy toys[] = {
    {"shuffles", shuffles, 1, 32, 0},
    {"votes", votes, 1, 32, 0},
    {"reductions", reductions, 1, 32, 0},
    {"early_return", early_return, 1, 64, 0},
    {"block_sum", block_sum, 3, 70, 70 * sizeof(double)},
    {"indices", indices, dim3(2, 3, 2), dim3(5, 3, 4), 0},
    {"order", order, 1, 96, 0},
    {"large_shared", large_shared, 1, 64, 227 << 10, 227 << 10},
    {"groups", groups, 1, 64, 64 * sizeof(int)},
    {"vectors", vectors, 1, 32, 128 * sizeof(float)},
    {"copies", copies, 1, 64, 128 * sizeof(double)},
    {"unfinished_copies", unfinished_copies, 1, 64, 64 * sizeof(double)},
    {"copies_read_too_early", copies_read_too_early, 1, 64, 64 * sizeof(double)},
    {"misaligned_copies", misaligned_copies, 1, 64, 64 * sizeof(double)},
    {"divergent_barriers", divergent_barriers, 1, 64, 0},
    {"missed_barrier", missed_barrier, 1, 64, 0},
    {"mask_without_caller", mask_without_caller, 1, 64, 0},
    {"missing_member", missing_member, 1, 64, 0},
    {"different_collectives", different_collectives, 1, 64, 0},
    {"different_masks", different_masks, 1, 64, 0},
    {"inactive_lane", inactive_lane, 1, 64, 0},
    {"odd_width", odd_width, 1, 64, 0},
    {"unset_shared", unset_shared, 2, 64, 64 * sizeof(double)},
    {"shared_overrun", shared_overrun, 1, 64, 64 * sizeof(double)},
    {"threads_1024", nothing, 1, 1024, 0},
    {"threads_1025", nothing, 1, 1025, 0},
    {"threads_0", nothing, 1, 0, 0},
    {"blocks_0", nothing, 0, 32, 0},
    {"shared_48k", nothing, 1, 32, 48 << 10},
    {"shared_above_48k", nothing, 1, 32, (48 << 10) + 1},
    {"shared_above_227k", large_shared, 1, 32, 0, (227 << 10) + 1},
};

}  // namespace

// The error code of the launch; -1 for no toy of that name.
extern "C" int shim_toy(const char* name, double* out) {
  for (const Toy& toy : toys) {
    if (strcmp(toy.name, name) != 0) continue;
    if (toy.shared_limit >= 0) {
      const cudaError_t error = cudaFuncSetAttribute(
          toy.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, toy.shared_limit);
      if (error != cudaSuccess) return cudaGetLastError();
    }
    DDN_LAUNCH(toy.kernel, toy.grid, toy.block, toy.shared_bytes, nullptr, out);
    return cudaGetLastError();
  }
  return -1;
}
