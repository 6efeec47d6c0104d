// The 16-bit floating-point types. They convert to float exactly, and from float with one rounding
// to nearest even. Only integer arithmetic, which compilers can vectorise.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/macros.h"

namespace ddn {

struct Half {  // IEEE 754 binary16
  uint16_t bits;
};
struct BFloat16 {  // the upper half of a float
  uint16_t bits;
};

namespace detail {

DDN_HOST_DEVICE uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
DDN_HOST_DEVICE float bits_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

}  // namespace detail

DDN_HOST_DEVICE float to_float(Half h) {
  const uint32_t magnitude = h.bits & 0x7fffu, sign = (h.bits & 0x8000u) << 16;
  const uint32_t bias = 112u << 23;  // 127 - 15
  const uint32_t normal = (magnitude << 13) + bias + (magnitude >= 0x7c00u ? bias : 0u);
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
  const uint32_t bits = magnitude < 0x400u ? detail::float_bits(subnormal) : normal;
  return detail::bits_float(bits | sign);
}
DDN_HOST_DEVICE float to_float(BFloat16 h) {
  return detail::bits_float(static_cast<uint32_t>(h.bits) << 16);
}
DDN_HOST_DEVICE float to_float(float x) { return x; }

template <class S>
DDN_HOST_DEVICE S from_float(float x);

template <>
DDN_HOST_DEVICE Half from_float<Half>(float x) {
  const uint32_t all = detail::float_bits(x), a = all & 0x7fffffffu;
  // The spacing of floats next to one half is that of the subnormal numbers of binary16.
  const uint32_t subnormal =
      detail::float_bits(detail::bits_float(a) + 0.5f) - detail::float_bits(0.5f);
  const uint32_t normal = (a - (112u << 23) + 0xfffu + ((a >> 13) & 1u)) >> 13;
  const uint32_t beyond = a > 0x7f800000u ? 0x7e00u : 0x7c00u;  // NaN or infinity
  const uint32_t magnitude = a >= 0x47800000u ? beyond : (a < 0x38800000u ? subnormal : normal);
  return {static_cast<uint16_t>(magnitude | (all >> 16 & 0x8000u))};
}
template <>
DDN_HOST_DEVICE BFloat16 from_float<BFloat16>(float x) {
  const uint32_t all = detail::float_bits(x);
  const uint32_t rounded = (all + 0x7fffu + ((all >> 16) & 1u)) >> 16;
  return {static_cast<uint16_t>((all & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded)};
}
template <>
DDN_HOST_DEVICE float from_float<float>(float x) {
  return x;
}

// Rounds a double to float by round-to-odd: the last bit is one if the conversion is inexact.
// Rounding the result to 16 bits then equals rounding the double once (S. Boldo, G. Melquiond, IEEE
// Trans. Comput. 57(4), 2008).
DDN_HOST_DEVICE float rounded_to_odd(double x) {
  const float nearest = static_cast<float>(x);
  if (x != x || static_cast<double>(nearest) == x) return nearest;
  const bool beyond = ::fabs(static_cast<double>(nearest)) > ::fabs(x);
  return detail::bits_float((detail::float_bits(nearest) - (beyond ? 1u : 0u)) | 1u);
}

}  // namespace ddn
