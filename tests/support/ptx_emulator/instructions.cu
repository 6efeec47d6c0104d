// Single instructions, for tests of the emulator's arithmetic and vector accesses.
#include "cuda/launch.h"

namespace {

struct Args {
  const unsigned* x;
  unsigned* out;
};

#ifdef __CUDACC__
__device__ unsigned bits(float x) { return __float_as_uint(x); }

// One instruction for each element of the output.
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

// Each thread converts a number.
__global__ void conversions(const __grid_constant__ Args a) {
  const unsigned x = a.x[threadIdx.x], y = a.x[blockDim.x - 1 - threadIdx.x];
  const float f = __uint_as_float(x), g = __uint_as_float(y);
  unsigned* out = a.out + 8 * threadIdx.x;
  unsigned short half;
  unsigned pair;
  float whole;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half) : "f"(f));
  *out++ = half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(f));
  *out++ = half;
  asm("cvt.f32.bf16 %0, %1;" : "=f"(whole) : "h"(static_cast<unsigned short>(x)));
  *out++ = bits(whole);
  asm("cvt.f32.f16 %0, %1;" : "=f"(whole) : "h"(static_cast<unsigned short>(x)));
  *out++ = bits(whole);
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(f), "f"(g));
  *out++ = pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(f), "f"(g));
  *out++ = pair;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(whole) : "f"(f));
  *out++ = bits(whole);
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(whole) : "f"(f));
  *out++ = bits(whole);
}

// Copies 16 words of x, with accesses of two and four elements.
__global__ void vectors(const __grid_constant__ Args a) {
  __shared__ __align__(16) unsigned s[16];
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(s));
  unsigned r[4];
  unsigned short h[4];
  unsigned long long d[2];
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "l"(a.x));
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(a.out), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
  asm volatile("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "l"(a.x + 4));
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%4]; ld.shared.v2.u32 {%2, %3}, [%4+8];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
  asm volatile(
      "st.global.v2.u32 [%0+16], {%1, %2}; st.global.v2.u32 [%0+24], {%3, %4};" ::"l"(a.out),
      "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
      : "memory");
  asm volatile("ld.global.v2.b64 {%0, %1}, [%2];" : "=l"(d[0]), "=l"(d[1]) : "l"(a.x + 8));
  asm volatile("st.shared.v2.b64 [%0+16], {%1, %2};" ::"r"(at), "l"(d[0]), "l"(d[1]) : "memory");
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4+16];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
  asm volatile("st.global.v4.b32 [%0+32], {%1, %2, %3, %4};" ::"l"(a.out), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
  asm volatile("ld.global.v4.u16 {%0, %1, %2, %3}, [%4];"
               : "=h"(h[0]), "=h"(h[1]), "=h"(h[2]), "=h"(h[3])
               : "l"(a.x + 12));
  asm volatile("st.shared.v4.b16 [%0+32], {%1, %2, %3, %4};" ::"r"(at), "h"(h[0]), "h"(h[1]),
               "h"(h[2]), "h"(h[3])
               : "memory");
  asm volatile("ld.shared.v2.u16 {%0, %1}, [%4+32]; ld.shared.v2.b16 {%2, %3}, [%4+36];"
               : "=h"(h[0]), "=h"(h[1]), "=h"(h[2]), "=h"(h[3])
               : "r"(at)
               : "memory");
  asm volatile("st.global.v4.b16 [%0+48], {%1, %2, %3, %4};" ::"l"(a.out), "h"(h[0]), "h"(h[1]),
               "h"(h[2]), "h"(h[3])
               : "memory");
  asm volatile("ld.global.nc.v2.u16 {%0, %1}, [%4]; ld.global.nc.v2.b16 {%2, %3}, [%4+4];"
               : "=h"(h[0]), "=h"(h[1]), "=h"(h[2]), "=h"(h[3])
               : "l"(a.x + 14));
  asm volatile(
      "st.global.v2.u16 [%0+56], {%1, %2}; st.global.v2.b16 [%0+60], {%3, %4};" ::"l"(a.out),
      "h"(h[0]), "h"(h[1]), "h"(h[2]), "h"(h[3])
      : "memory");
}
#else
__global__ void instructions(const __grid_constant__ Args) {}
__global__ void conversions(const __grid_constant__ Args) {}
__global__ void vectors(const __grid_constant__ Args) {}
#endif

}  // namespace

extern "C" int shim_instructions(const unsigned* x, unsigned* out) {
  DDN_LAUNCH(instructions, 1, 1, 0, nullptr, Args{x, out});
  return cudaGetLastError();
}

// out: eight elements for each number.
extern "C" int shim_conversions(const unsigned* x, unsigned* out, int numbers) {
  DDN_LAUNCH(conversions, 1, static_cast<unsigned>(numbers), 0, nullptr, Args{x, out});
  return cudaGetLastError();
}

extern "C" int shim_vectors(const unsigned* x, unsigned* out) {
  DDN_LAUNCH(vectors, 1, 1, 0, nullptr, Args{x, out});
  return cudaGetLastError();
}
