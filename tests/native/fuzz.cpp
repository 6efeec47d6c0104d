// The entry point of libFuzzer, for the same cases.
#include "pooling_case.h"

// The fibers of the shim switch stacks without support for AddressSanitizer's fake stacks, so
// locals must be on the real stack. (Clang's default differs from version 15 on.)
extern "C" const char* __asan_default_options() { return "detect_stack_use_after_return=0"; }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static native::Tally tally;
  native::run_case(data, size, tally);
  return 0;
}
