// Small kernels whose counts follow from the source; tests/cuda/test_ptx_counts.py states them.
#include <cmath>
#include <cstring>

#include "cuda/async_copy.cuh"
#include "cuda/launch.h"

namespace {

struct Arguments {
  const float* x;
  float* y;
  const long long* next;
  int parameter;
};

// ---- Global memory ----

// A stride of 1, 2 or 8 numbers and more: 4, 8 or 32 sectors for each request.
__global__ void strided(const __grid_constant__ Arguments a) {
  a.y[threadIdx.x] = a.x[threadIdx.x * a.parameter];
}

// Each load depends on the one before: a chain of ten.
__global__ void chain(const __grid_constant__ Arguments a) {
  long long at = threadIdx.x;
#pragma unroll 1
  for (int i = 0; i < 10; ++i) at = a.next[at];
  a.y[threadIdx.x] = static_cast<float>(at);
}

// Lanes of warp w load w + 1 times: a block waits for its last warp.
__global__ void uneven_chains(const __grid_constant__ Arguments a) {
  long long at = threadIdx.x;
  const int loads = static_cast<int>(threadIdx.x) / 32 + 1;
#pragma unroll 1
  for (int i = 0; i < loads; ++i) at = a.next[at];
  a.y[threadIdx.x] = static_cast<float>(at);
}

// Eight independent loads: a chain of one.
__global__ void batch(const __grid_constant__ Arguments a) {
  float values[8], sum = 0;
#pragma unroll
  for (int k = 0; k < 8; ++k) values[k] = a.x[threadIdx.x + 32 * k];
#pragma unroll
  for (int k = 0; k < 8; ++k) sum += values[k];
  a.y[threadIdx.x] = sum;
}

// The same with a guard for each; loads that no lane takes are no requests.
__global__ void guarded_batch(const __grid_constant__ Arguments a) {
  float values[8], sum = 0;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int i = static_cast<int>(threadIdx.x) + 32 * k;
    values[k] = i < a.parameter ? a.x[i] : 0.0f;
  }
#pragma unroll
  for (int k = 0; k < 8; ++k) sum += values[k];
  a.y[threadIdx.x] = sum;
}

// 128 bits a lane.
__global__ void vectors(const __grid_constant__ Arguments a) {
  struct alignas(16) Four {
    float x, y, z, w;
  };
  const Four four = reinterpret_cast<const Four*>(a.x)[threadIdx.x];
  a.y[threadIdx.x] = four.x + four.y + four.z + four.w;
}

// Blocks load the same sectors twice: distinct ones are fewer than requested ones.
__global__ void repeated(const __grid_constant__ Arguments a) {
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i < 2; ++i) sum += static_cast<const volatile float*>(a.x)[threadIdx.x];
  a.y[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// ---- Asynchronous copies ----

using ddn::cuda::commit_async_copies;
using ddn::cuda::copy_async;
using ddn::cuda::wait_for_async_copies;

// 128 bits a lane: as a load and a store.
__global__ void copied(const __grid_constant__ Arguments a) {
  alignas(16) __shared__ float numbers[128];
  copy_async<16>(numbers + 4 * threadIdx.x, a.x + 4 * threadIdx.x);
  commit_async_copies();
  wait_for_async_copies();
  a.y[threadIdx.x] = numbers[4 * threadIdx.x];
}

// The first lanes copy, the others fill with zeros.
__global__ void copied_or_zero(const __grid_constant__ Arguments a) {
  __shared__ float numbers[32];
  const int valid = static_cast<int>(threadIdx.x) < a.parameter ? 4 : 0;
  copy_async<4>(numbers + threadIdx.x, a.x + threadIdx.x, valid);
  commit_async_copies();
  wait_for_async_copies();
  a.y[threadIdx.x] = numbers[threadIdx.x];
}

// A copy whose address is copied before.
__global__ void copied_chain(const __grid_constant__ Arguments a) {
  __shared__ long long at[32];
  __shared__ float numbers[32];
  copy_async<8>(at + threadIdx.x, a.next + threadIdx.x);
  commit_async_copies();
  wait_for_async_copies();
  copy_async<4>(numbers + threadIdx.x, a.x + at[threadIdx.x]);
  commit_async_copies();
  wait_for_async_copies();
  a.y[threadIdx.x] = numbers[threadIdx.x];
}

// Four copies at constant distances in global memory.
__global__ void copied_at_offsets(const __grid_constant__ Arguments a) {
  __shared__ float numbers[128];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    copy_async<4>(numbers + threadIdx.x + 32 * k, a.x + threadIdx.x + 32 * k);
  }
  commit_async_copies();
  wait_for_async_copies();
  a.y[threadIdx.x] = numbers[threadIdx.x];
}

// 100 instructions and more pass between the copy and the wait.
__global__ void copied_early(const __grid_constant__ Arguments a) {
  __shared__ float numbers[32];
  copy_async<4>(numbers + threadIdx.x, a.x + threadIdx.x);
  commit_async_copies();
  float y = 0;
#pragma unroll 1
  for (int i = 0; i < a.parameter; ++i) y = y * 0.5f + 1;
  wait_for_async_copies();
  a.y[threadIdx.x] = y + numbers[threadIdx.x];
}

// Tiles of 32 numbers, `ahead` of them in flight.
template <int ahead>
__global__ void copied_tiles(const __grid_constant__ Arguments a) {
  constexpr int tiles = ahead + 1;
  __shared__ float numbers[tiles][32];
  float sum = 0;
#pragma unroll 1
  for (int tile = 0; tile < ahead; ++tile) {
    copy_async<4>(&numbers[tile][threadIdx.x], a.x + 32 * tile + threadIdx.x);
    commit_async_copies();
  }
#pragma unroll 1
  for (int tile = 0; tile < a.parameter; ++tile) {
    const int next = tile + ahead;
    if (next < a.parameter) {
      copy_async<4>(&numbers[next % tiles][threadIdx.x], a.x + 32 * next + threadIdx.x);
    }
    commit_async_copies();
    wait_for_async_copies<ahead>();
    __syncwarp();
    sum += numbers[tile % tiles][31 - threadIdx.x];
    __syncwarp();
  }
  a.y[threadIdx.x] = sum;
}

// ---- Shared memory ----

// A stride of s numbers: as many passes over the banks as lanes share a bank.
__global__ void banks(const __grid_constant__ Arguments a) {
  __shared__ float numbers[32 * 32];
  for (int i = 0; i < 32; ++i) numbers[i * 32 + threadIdx.x % 32] = 1;
  __syncthreads();
  a.y[threadIdx.x] = numbers[threadIdx.x % 32 * a.parameter];
}

// Eight lanes at each of four addresses.
__global__ void colliding_atomics(const __grid_constant__ Arguments a) {
  __shared__ unsigned bins[32];
  bins[threadIdx.x % 32] = 0;
  __syncthreads();
  atomicAdd(&bins[threadIdx.x % 4], 1u);
  __syncthreads();
  a.y[threadIdx.x] = static_cast<float>(bins[threadIdx.x % 32]);
}

// ---- Instructions ----

// Lane i divides i times: 31 times per warp, 15.5 times per lane on average.
__global__ void ragged_loop(const __grid_constant__ Arguments a) {
  float x = a.x[threadIdx.x];
#pragma unroll 1
  for (int i = 0; i < static_cast<int>(threadIdx.x % 32); ++i) x = x / 1.5f;
  a.y[threadIdx.x] = x;
}

// Groups of eight lanes exchange numbers 1, 2, 3 and 4 times: 4 times per warp if they run
// together.
__global__ void groups(const __grid_constant__ Arguments a) {
  const unsigned group = threadIdx.x / 8, mask = 0xffu << 8 * group;
  float x = a.x[threadIdx.x];
#pragma unroll 1
  for (unsigned i = 0; i <= group; ++i) x += __shfl_xor_sync(mask, x, 1, 8);
  a.y[threadIdx.x] = x;
}

// Half of the lanes take either path: a warp executes both.
__global__ void divergent(const __grid_constant__ Arguments a) {
  float x = a.x[threadIdx.x];
  if (threadIdx.x % 2 == 0) {
    x = x / 1.5f;
  } else {
    x = sqrtf(x);
  }
  a.y[threadIdx.x] = x;
}

// The number of barriers is a parameter.
__global__ void barriers(const __grid_constant__ Arguments a) {
#pragma unroll 1
  for (int i = 0; i < a.parameter; ++i) __syncthreads();
  a.y[threadIdx.x] = 0;
}

struct Known {
  const char* name;
  void (*kernel)(Arguments);
  unsigned blocks, threads;
};

const Known known[] = {
    {"strided", strided, 1, 32},
    {"chain", chain, 1, 32},
    {"uneven_chains", uneven_chains, 2, 64},
    {"batch", batch, 1, 32},
    {"guarded_batch", guarded_batch, 1, 32},
    {"vectors", vectors, 1, 32},
    {"repeated", repeated, 2, 32},
    {"copied", copied, 1, 32},
    {"copied_or_zero", copied_or_zero, 1, 32},
    {"copied_chain", copied_chain, 1, 32},
    {"copied_at_offsets", copied_at_offsets, 1, 32},
    {"copied_early", copied_early, 1, 32},
    {"one_tile_ahead", copied_tiles<1>, 1, 32},
    {"four_tiles_ahead", copied_tiles<4>, 1, 32},
    {"banks", banks, 1, 32},
    {"colliding_atomics", colliding_atomics, 1, 32},
    {"ragged_loop", ragged_loop, 1, 32},
    {"groups", groups, 1, 32},
    {"divergent", divergent, 1, 32},
    {"barriers", barriers, 1, 64},
};

}  // namespace

// The error code of the launch; -1 for no kernel of that name.
extern "C" int launch_known_counts(const char* name, const float* x, float* y,
                                   const long long* next, int parameter) {
  for (const Known& one : known) {
    if (strcmp(one.name, name) != 0) continue;
    DDN_LAUNCH(one.kernel, one.blocks, one.threads, 0, nullptr, Arguments{x, y, next, parameter});
    return cudaGetLastError();
  }
  return -1;
}
