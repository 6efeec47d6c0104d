// The same cases from libFuzzer.
#include "pooling_case.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static native::Tally tally;
  native::run_case(data, size, tally);
  return 0;
}
