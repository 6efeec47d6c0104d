// The kernels for any machine: what every x86-64 has, or the plain vectors of another architecture.
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
// For all machines: the sums of a distributed solve take little of its time, and these kernels
// would take as long to compile again for each instruction set.
void sharded_passes(const ShardedArgs& args, const ParallelFor& parallel_for) {
  if (args.requests > 0) sharded_tensor(args, parallel_for);
}
}  // namespace ddn::cpu
