// The interface of the CPU kernels.
#pragma once

#include <functional>

#include "core/args.h"
#include "core/sharded_pass.h"

namespace ddn::cpu {

// Calls body(begin, end) on pieces of [begin, end) of at least `grain`, in parallel, each with the
// floating-point state of the caller (cpu/float_state.h). No result depends on the pieces.
using Range = std::function<void(int64_t begin, int64_t end)>;
using ParallelFor = std::function<void(int64_t begin, int64_t end, int64_t grain, const Range&)>;

void robust_pool_forward(const ForwardArgs& args, const ParallelFor& parallel_for);
void robust_pool_backward(const BackwardArgs& args, const ParallelFor& parallel_for);
void sharded_passes(const ShardedArgs& args, const ParallelFor& parallel_for);

// The instruction set in use: the widest that this machine has, or the one that the environment
// variable DDN_CPU_ISA names (avx512, avx2, base). Throws std::runtime_error if this machine does
// not have that one.
const char* instruction_set();

}  // namespace ddn::cpu
