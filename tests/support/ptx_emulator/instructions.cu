// One instruction for each element of the output, for tests of the emulator's arithmetic.
#include "cuda/launch.h"

namespace {

struct Args {
  const unsigned* x;
  unsigned* out;
};

#ifdef __CUDACC__
__device__ unsigned bits(float x) { return __float_as_uint(x); }

__global__ void instructions(const __grid_constant__ Args a) {
  const unsigned x = a.x[0], y = a.x[1], z = a.x[2];
  const float f = __uint_as_float(a.x[3]), g = __uint_as_float(a.x[4]);
  unsigned* out = a.out;
  unsigned found;
  asm("prmt.b32 %0, %1, %2, 0x7a41;" : "=r"(found) : "r"(x), "r"(y));
  *out++ = found;
  *out++ = __funnelshift_l(x, y, 37);
  *out++ = __funnelshift_r(x, y, 9);
  *out++ = __brev(x);
  *out++ = static_cast<unsigned>(__clz(static_cast<int>(x >> 5)));
  *out++ = static_cast<unsigned>(__popc(y));
  *out++ = __umulhi(x, y);
  *out++ = static_cast<unsigned>(__mulhi(static_cast<int>(x), static_cast<int>(y)));
  asm("bfe.u32 %0, %1, 7, 9;" : "=r"(found) : "r"(x));
  *out++ = found;
  asm("bfe.s32 %0, %1, 27, 9;" : "=r"(found) : "r"(x));
  *out++ = found;
  asm("bfi.b32 %0, %1, %2, 5, 12;" : "=r"(found) : "r"(x), "r"(y));
  *out++ = found;
  asm("lop3.b32 %0, %1, %2, %3, 0xd8;" : "=r"(found) : "r"(x), "r"(y), "r"(z));
  *out++ = found;
  asm("bfind.u32 %0, %1;" : "=r"(found) : "r"(z));
  *out++ = found;
  asm("shl.b32 %0, %1, 40;" : "=r"(found) : "r"(x));
  *out++ = found;
  asm("shr.s32 %0, %1, 40;" : "=r"(found) : "r"(x));
  *out++ = found;
  asm("mad.hi.u32 %0, %1, %2, %3;" : "=r"(found) : "r"(x), "r"(y), "r"(z));
  *out++ = found;
  asm("min.s32 %0, %1, %2;" : "=r"(found) : "r"(x), "r"(y));
  *out++ = found;
  asm("cvt.rzi.s32.f32 %0, %1;" : "=r"(found) : "f"(f * 1e10f));
  *out++ = found;
  asm("cvt.rni.u32.f32 %0, %1;" : "=r"(found) : "f"(g));
  *out++ = found;
  *out++ = bits(fminf(f, __uint_as_float(0x7fc00000u)));
  *out++ = bits(__fmaf_rn(f, g, -1.0f));
  *out++ = bits(__fsqrt_rn(g));
  *out++ = bits(__frcp_rn(g));
  *out++ = bits(f / g);
  const float nan = __uint_as_float(0x7fc00000u + (x & 1));
  asm("cvt.rzi.s32.f32 %0, %1;" : "=r"(found) : "f"(nan));
  *out++ = found;
  asm("cvt.rzi.s32.f64 %0, %1;" : "=r"(found) : "d"(static_cast<double>(nan)));
  *out++ = found;
  unsigned long long wide;
  asm("cvt.rzi.s64.f32 %0, %1;" : "=l"(wide) : "f"(nan));
  *out++ = static_cast<unsigned>(wide >> 32);
  float product;
  asm("mul.ftz.f32 %0, %1, %2;" : "=f"(product) : "f"(__uint_as_float(1u + (x & 1))), "f"(1e30f));
  *out++ = bits(product);
}
#else
__global__ void instructions(const __grid_constant__ Args) {}
#endif

}  // namespace

extern "C" int shim_instructions(const unsigned* x, unsigned* out) {
  DDN_LAUNCH(instructions, 1, 1, 0, nullptr, Args{x, out});
  return cudaGetLastError();
}
