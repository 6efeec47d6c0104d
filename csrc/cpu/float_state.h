// The floating-point state of a thread: its rounding mode, and whether subnormal numbers count as
// zero (torch.set_flush_denormal). Threads of a pool do not take it over from the thread whose work
// they do.
#pragma once

#if defined(__SSE__)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

namespace ddn::cpu {

#if defined(__SSE__)
using FloatState = unsigned;
inline FloatState float_state() { return _mm_getcsr(); }
inline void set_float_state(FloatState state) { _mm_setcsr(state); }
#else
// On 64-bit ARM the C libraries include the flush of subnormal numbers in fenv_t.
using FloatState = std::fenv_t;
inline FloatState float_state() {
  FloatState state;
  std::fegetenv(&state);
  return state;
}
inline void set_float_state(const FloatState& state) { std::fesetenv(&state); }
#endif

// Sets the state of this thread, and restores the former one at the end of the scope.
class ScopedFloatState {
 public:
  explicit ScopedFloatState(const FloatState& state) : former_(float_state()) {
    set_float_state(state);
  }
  ~ScopedFloatState() { set_float_state(former_); }
  ScopedFloatState(const ScopedFloatState&) = delete;
  ScopedFloatState& operator=(const ScopedFloatState&) = delete;

 private:
  FloatState former_;
};

}  // namespace ddn::cpu
