// The CUDA runtime, and the two constructs of CUDA C++ that are not C++: launches and dynamic
// shared memory go through macros, so that the kernels can also be compiled for the host by tests.
#pragma once

#ifdef DDN_CUDA_SHIM
#include "cuda_shim.h"
#else
#include <cuda_runtime.h>

#define DDN_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)

// The compiler takes the variable, an integer, to have an unknown value from here on.
#define DDN_OPAQUE(variable) asm volatile("" : "+r"(variable))

#define DDN_DYNAMIC_SHARED(T, name)                             \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  T* const name = reinterpret_cast<T*>(name##_bytes)
#endif
