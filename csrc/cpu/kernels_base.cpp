// The baseline kernels: SSE2 on x86-64, portable vectors on other architectures.
#define DDN_ISA base
#define DDN_VECTOR_BYTES 16
#include "cpu/backward.h"
#include "cpu/forward.h"
#include "cpu/sharded_kernels.h"

namespace ddn::cpu {
void forward_base(const ForwardArgs& args, const ParallelFor& parallel_for) {
  forward_tensor(args, parallel_for);
}
void backward_base(const BackwardArgs& args, const ParallelFor& parallel_for) {
  backward_tensor(args, parallel_for);
}
// Compiled for the baseline alone: these sums take little of the time of a distributed solve, and
// another instruction set would double the time to compile them.
void sharded_passes(const ShardedArgs& args, const ParallelFor& parallel_for) {
  if (args.requests > 0) sharded_tensor(args, parallel_for);
}
}  // namespace ddn::cpu
