// What a function in core/ is marked with so that one definition serves g++ and nvcc.
#pragma once

#if defined(__CUDACC__)
#define DDN_HD __host__ __device__ __forceinline__
#else
// Always inline: the same template is compiled once per instruction set, and an out-of-line
// copy made for a wide one must never be picked by the linker for a narrow one.
#define DDN_HD inline __attribute__((always_inline))
#endif
