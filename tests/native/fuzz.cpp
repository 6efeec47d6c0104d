// The same cases from libFuzzer.
#include "pooling_case.h"

// The fibers of the shim change stacks without telling where the one they leave keeps its locals:
// they have to lie on the stack itself. (Clang's default has them elsewhere from version 15 on.)
extern "C" const char* __asan_default_options() { return "detect_stack_use_after_return=0"; }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static native::Tally tally;
  native::run_case(data, size, tally);
  return 0;
}
