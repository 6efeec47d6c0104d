// One pooling problem decoded from bytes, solved by the CPU and, on the host shim, by the CUDA
// kernels, and what has to hold of the answers whatever the bytes are.
#pragma once

#include <cstddef>
#include <cstdint>

namespace native {

// What a run has come to, for the report.
struct Tally {
  long cases = 0;
  long sets = 0;
  long points = 0;
  long finite = 0;     // sets that had a finite answer
  long compared = 0;   // pairs of answers whose objectives were compared
  long certified = 0;  // lower bounds of a minimum held against an objective
};

// Aborts with the case in words when something does not hold.
void run_case(const uint8_t* data, size_t size, Tally& tally);

}  // namespace native
