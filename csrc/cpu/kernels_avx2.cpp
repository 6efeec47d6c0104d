// The kernels for x86-64 with AVX2 and FMA.
#if defined(__x86_64__)

// Included before the target is widened: the linker may share their functions with other files.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,popcnt")
#endif

#define DDN_ISA avx2
#define DDN_VECTOR_BYTES 32
#include "cpu/backward.h"
#include "cpu/forward.h"

namespace ddn::cpu {
void forward_avx2(const ForwardArgs& args, const ParallelFor& parallel_for) {
  forward_tensor(args, parallel_for);
}
void backward_avx2(const BackwardArgs& args, const ParallelFor& parallel_for) {
  backward_tensor(args, parallel_for);
}
}  // namespace ddn::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
