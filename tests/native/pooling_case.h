// Decodes a pooling problem from bytes, solves it with the CPU kernels and, on the host shim, with
// the CUDA kernels, and checks properties of the answers that hold for any bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace native {

// Statistics of a run, for the report.
struct Tally {
  long cases = 0;
  long sets = 0;
  long points = 0;
  long finite = 0;     // sets that had a finite answer
  long compared = 0;   // pairs of answers whose objectives were compared
  long certified = 0;  // lower bounds of a minimum held against an objective
};

// Aborts with a description of the case if a property does not hold.
void run_case(const uint8_t* data, size_t size, Tally& tally);

}  // namespace native
