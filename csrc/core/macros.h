// Function attributes with which one definition in core/ serves g++ and nvcc.
#pragma once

#if defined(__CUDACC__)
#define DDN_HOST_DEVICE __host__ __device__ __forceinline__
// For functions so large that a call is cheap in comparison and inlined copies would cost
// registers.
#define DDN_NOINLINE inline __host__ __device__ __noinline__
// For rarely executed code in a loop. Out of line on the CPU; inline on a GPU, where a call would
// pass arguments through memory.
#define DDN_COLD __host__ __device__ __forceinline__
// Before a loop whose unrolled copies would cost more than they save.
#define DDN_NO_UNROLL _Pragma("unroll 1")
#elif defined(DDN_CUDA_SHIM)
#define DDN_HOST_DEVICE inline __attribute__((always_inline))
#define DDN_NOINLINE inline __attribute__((noinline))
#define DDN_COLD inline __attribute__((noinline))
#define DDN_NO_UNROLL
#else
// Always inline: each template is compiled once per instruction set, and the linker must never
// merge an out-of-line copy for a wide instruction set into code for a narrow one. Large functions
// have distinct symbols per instruction set: they are templates over its types, or static.
#define DDN_HOST_DEVICE inline __attribute__((always_inline))
#define DDN_NOINLINE inline __attribute__((noinline))
#define DDN_COLD inline __attribute__((noinline))
#define DDN_NO_UNROLL
#endif
