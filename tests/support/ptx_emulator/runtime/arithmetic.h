// PTX instructions without a C++ operator, as the PTX ISA defines them.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "types.h"

namespace ptx {

inline f32 fma(f32 a, f32 b, f32 c) { return __builtin_fmaf(a, b, c); }
inline f64 fma(f64 a, f64 b, f64 c) { return __builtin_fma(a, b, c); }

// .ftz: subnormal numbers become zeros of their sign.
inline f32 flush(f32 x) {
  return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0.0f, x) : x;
}
inline f32 saturate(f32 x) { return x > 0 ? (x < 1 ? x : 1) : 0; }

inline f32 absolute(f32 x) { return bits_as<f32>(bits_as<u32>(x) & 0x7fffffffu); }
inline f64 absolute(f64 x) { return bits_as<f64>(bits_as<u64>(x) & ~(1ull << 63)); }
inline f32 negated(f32 x) { return bits_as<f32>(bits_as<u32>(x) ^ 0x80000000u); }
inline f64 negated(f64 x) { return bits_as<f64>(bits_as<u64>(x) ^ (1ull << 63)); }

// Of a NaN and a number, the result is the number; -0 is less than +0.
template <class T>
T minimum(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a != a) return b;
    if (b != b) return a;
    if (a == b) return __builtin_signbit(a) ? a : b;
  }
  return a < b ? a : b;
}
template <class T>
T maximum(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a != a) return b;
    if (b != b) return a;
    if (a == b) return __builtin_signbit(a) ? b : a;
  }
  return a > b ? a : b;
}

// Division by zero does not trap on a GPU and has an undefined result: a defect.
template <class T>
T divide(T a, T b, const Where& where) {
  if (b == 0) {
    report("integer division by zero", where);
    return static_cast<T>(-1);
  }
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) {
    return static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(a));
  }
  return a / b;
}
template <class T>
T remainder(T a, T b, const Where& where) {
  if (b == 0) {
    report("integer division by zero", where);
    return a;
  }
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return a % b;
}

// Shifts by the width or more give zero, or the sign.
template <class T>
T shift_left(T x, u32 n) {
  return n >= 8 * sizeof(T) ? T(0) : static_cast<T>(x << n);
}
template <class T>
T shift_right(T x, u32 n) {
  return n >= 8 * sizeof(T) ? static_cast<T>(x < 0 ? -1 : 0) : static_cast<T>(x >> n);
}

inline u32 multiply_high(u32 a, u32 b) { return static_cast<u32>(u64{a} * b >> 32); }
inline s32 multiply_high(s32 a, s32 b) { return static_cast<s32>(s64{a} * b >> 32); }
inline u64 multiply_high(u64 a, u64 b) {
  return static_cast<u64>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline s64 multiply_high(s64 a, s64 b) {
  return static_cast<s64>(static_cast<__int128>(a) * b >> 64);
}

inline u32 popc(u32 x) { return static_cast<u32>(__builtin_popcount(x)); }
inline u32 popc(u64 x) { return static_cast<u32>(__builtin_popcountll(x)); }
inline u32 clz(u32 x) { return x != 0 ? static_cast<u32>(__builtin_clz(x)) : 32; }
inline u32 clz(u64 x) { return x != 0 ? static_cast<u32>(__builtin_clzll(x)) : 64; }
template <class T>
T brev(T x) {
  constexpr unsigned width = 8 * sizeof(T);
  T y = 0;
  for (unsigned i = 0; i < width; ++i) y |= (x >> i & 1) << (width - 1 - i);
  return y;
}
template <class T>
u32 bfind(T x) {
  static_assert(std::is_unsigned_v<T>);
  return x != 0 ? 8 * sizeof(T) - 1 - clz(x) : ~0u;
}
template <class T>
u32 bfind_shiftamt(T x) {
  static_assert(std::is_unsigned_v<T>);
  return x != 0 ? clz(x) : ~0u;
}
template <class T>
T bfi(T a, T b, u32 position, u32 length) {
  constexpr u32 width = 8 * sizeof(T);
  position &= 255;
  length &= 255;
  if (position >= width) return b;
  const T mask = length >= width ? static_cast<T>(~T(0)) : static_cast<T>((T(1) << length) - 1);
  return static_cast<T>((b & ~static_cast<T>(mask << position)) | ((a & mask) << position));
}
// Bits of a, extended by their highest one where T is signed.
template <class T>
T bfe(T a, u32 position, u32 length) {
  constexpr u32 width = 8 * sizeof(T);
  using U = std::make_unsigned_t<T>;
  position &= 255;
  length &= 255;
  if (length == 0) return 0;
  const u32 last = position + length - 1 < width - 1 ? position + length - 1 : width - 1;
  const bool sign = std::is_signed_v<T> && (static_cast<U>(a) >> last & 1) != 0;
  U found = sign ? static_cast<U>(~U(0)) : U(0);
  for (u32 i = 0; i < length && i < width; ++i) {
    const bool bit = position + i < width ? (static_cast<U>(a) >> (position + i) & 1) != 0 : sign;
    found = static_cast<U>((found & ~(U(1) << i)) | (U(bit) << i));
  }
  return static_cast<T>(found);
}
inline u32 prmt(u32 a, u32 b, u32 selector) {
  const u64 all = u64{b} << 32 | a;
  u32 found = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 choice = selector >> 4 * i & 15;
    u8 byte = static_cast<u8>(all >> 8 * (choice & 7));
    if ((choice & 8) != 0) byte = static_cast<s8>(byte) < 0 ? 0xff : 0;
    found |= u32{byte} << 8 * i;
  }
  return found;
}
inline u32 lop3(u32 a, u32 b, u32 c, u32 table) {
  u32 found = 0;
  for (int i = 0; i < 8; ++i) {
    if ((table >> i & 1) == 0) continue;
    found |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return found;
}
inline u32 shf_l_wrap(u32 low, u32 high, u32 n) {
  n &= 31;
  return n != 0 ? high << n | low >> (32 - n) : high;
}
inline u32 shf_r_wrap(u32 low, u32 high, u32 n) {
  n &= 31;
  return n != 0 ? low >> n | high << (32 - n) : low;
}

template <class T>
T round_rni(T x) {
  return std::nearbyint(x);
}
template <class T>
T round_rzi(T x) {
  return std::trunc(x);
}
template <class T>
T round_rmi(T x) {
  return std::floor(x);
}
template <class T>
T round_rpi(T x) {
  return std::ceil(x);
}
// Clamped to the range of I. NaN gives 0 if both types have at most 32 bits, otherwise only the
// highest bit set (PTX ISA, cvt).
template <class I, class F>
I to_integer(F x) {
  constexpr I least = std::numeric_limits<I>::min(), most = std::numeric_limits<I>::max();
  if (x != x) {
    constexpr bool narrow = sizeof(F) <= 4 && sizeof(I) <= 4;
    using U = std::make_unsigned_t<I>;
    return narrow ? I(0) : static_cast<I>(static_cast<U>(U(1) << (8 * sizeof(I) - 1)));
  }
  if (x <= static_cast<F>(least)) return least;
  if (x >= static_cast<F>(most)) return most;
  return static_cast<I>(x);
}

// 16-bit floats, as their bits. Conversions round to nearest even and give the canonical NaN.
inline u16 bf16_from_f32(f32 x) {
  const u32 bits = bits_as<u32>(x);
  return static_cast<u16>(x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline f32 f32_from_bf16(u16 h) { return bits_as<f32>(u32{h} << 16); }
inline u16 f16_from_f32(f32 x) {
  if (x != x) return 0x7fff;
  const u32 sign = bits_as<u32>(x) >> 16 & 0x8000;
  const f64 a = std::fabs(static_cast<f64>(x));
  if (a >= 65520) return static_cast<u16>(sign | 0x7c00);
  const int exponent = a < 0x1p-14 ? -14 : std::ilogb(a);
  // In spacings; a carry increments the exponent.
  const auto fraction = static_cast<u32>(std::nearbyint(std::ldexp(a, 10 - exponent)));
  return static_cast<u16>(sign | ((static_cast<u32>(exponent + 14) << 10) + fraction));
}
inline f32 f32_from_f16(u16 h) {
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  f64 a = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  if (exponent == 31) a = fraction == 0 ? INFINITY : NAN;
  if (a != a) return bits_as<f32>(0x7fffffffu);
  return static_cast<f32>((h & 0x8000) != 0 ? -a : a);
}

// Approximations are rounded correctly here, or wrong by up to `noise` units in the last place in
// a way that the operand decides: the true errors of a GPU are not known.
extern int noise;
template <class T>
T approximate(T y, T operand) {
  if (noise == 0 || !std::isfinite(y) || y == 0) return y;
  using U = std::conditional_t<sizeof(T) == 4, u32, u64>;
  u64 hash = static_cast<u64>(bits_as<U>(operand)) * 0x9e3779b97f4a7c15ull;
  hash ^= hash >> 29;
  hash *= 0xbf58476d1ce4e5b9ull;
  const auto step = static_cast<s64>((hash >> 33) % static_cast<u64>(2 * noise + 1)) - noise;
  return bits_as<T>(static_cast<U>(bits_as<U>(y) + static_cast<U>(step)));
}
template <class T>
T rcp_rn(T x) {
  return 1 / x;
}
template <class T>
T sqrt_rn(T x) {
  return std::sqrt(x);
}
inline f32 rcp_approx(f32 x) { return approximate(1 / x, x); }
inline f32 sqrt_approx(f32 x) { return approximate(std::sqrt(x), x); }
inline f32 rsqrt_approx(f32 x) {
  return approximate(static_cast<f32>(1 / std::sqrt(static_cast<f64>(x))), x);
}
inline f64 rsqrt_approx(f64 x) {
  return approximate(static_cast<f64>(1 / std::sqrt(static_cast<long double>(x))), x);
}
inline f32 ex2_approx(f32 x) {
  return approximate(static_cast<f32>(std::exp2(static_cast<f64>(x))), x);
}
inline f32 lg2_approx(f32 x) {
  return approximate(static_cast<f32>(std::log2(static_cast<f64>(x))), x);
}

}  // namespace ptx
