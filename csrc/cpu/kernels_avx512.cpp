// The kernels for x86-64 with AVX-512 (F, DQ, BW, VL).
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

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the undefined operand inside its own _mm512_sqrt_ps for a mistake.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma,popcnt,prefer-vector-width=512")
#endif

#define DDN_ISA avx512
#define DDN_VECTOR_BYTES 64
#include "cpu/backward.h"
#include "cpu/forward.h"

namespace ddn::cpu {
void forward_avx512(const ForwardArgs& args, const ParallelFor& parallel_for) {
  forward_tensor(args, parallel_for);
}
void backward_avx512(const BackwardArgs& args, const ParallelFor& parallel_for) {
  backward_tensor(args, parallel_for);
}
}  // namespace ddn::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
