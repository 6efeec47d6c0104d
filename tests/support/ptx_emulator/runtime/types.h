// The type names in translated PTX.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "cuda_shim.h"
#include "fibers.h"

namespace ptx {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;
using f32 = float;
using f64 = double;

constexpr unsigned max_threads = cuda_shim::threads_limit, max_warps = max_threads / 32;

// Of the current block.
inline unsigned thread() { return cuda_shim::fibers::running; }

// The origin of an instruction: source lines, innermost first, then the line of the PTX.
struct Where {
  const char* file;
  int line;
  int ptx_line;
  const char* inlined_at;
};

// Ends the launch with an error.
[[noreturn]] void fail(const std::string& what, const Where& where);
// Records a defect and continues.
void report(const std::string& what, const Where& where);

template <class To, class From>
To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  memcpy(&y, &x, sizeof y);
  return y;
}

}  // namespace ptx
