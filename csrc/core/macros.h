// What a function in core/ is marked with so that one definition serves g++ and nvcc.
#pragma once

#if defined(__CUDACC__)
#define DDN_HOST_DEVICE __host__ __device__ __forceinline__
// For functions so large that a call costs nothing beside them and copies of them would fill the
// registers.
#define DDN_NOINLINE inline __host__ __device__ __noinline__
// For what a loop does seldom: the CPU calls it, a GPU would pass its arguments through memory.
#define DDN_COLD __host__ __device__ __forceinline__
// Before a loop: it stays one, where copies of its body would cost more than they save.
#define DDN_NO_UNROLL _Pragma("unroll 1")
#elif defined(DDN_CUDA_SHIM)
#define DDN_HOST_DEVICE inline __attribute__((always_inline))
#define DDN_NOINLINE inline __attribute__((noinline))
#define DDN_COLD inline __attribute__((noinline))
#define DDN_NO_UNROLL
#else
// Always inline: the same template is compiled once per instruction set, and an out-of-line
// copy made for a wide one must never be picked by the linker for a narrow one. What is large
// has a name of its own in each, as a template over their types or as a static function.
#define DDN_HOST_DEVICE inline __attribute__((always_inline))
#define DDN_NOINLINE inline __attribute__((noinline))
#define DDN_COLD inline __attribute__((noinline))
#define DDN_NO_UNROLL
#endif
