// A pass over this rank's points of sets that several ranks share (core/sharded_pass.h), as an
// operator without derivatives: ddn_cuda/_sharded.py alone calls it.
#pragma once

#include "core/sharded_pass.h"
#include "ops/pool.h"

namespace ddn {

inline constexpr Checks sharded_checks{"sharded_robust_pool"};
constexpr int64_t request_numbers = sizeof(PassRequest) / sizeof(double);

// A checked call: the arguments of the kernels, the tensors that they point into, and the result.
struct ShardedLaunch {
  // dim: sorted and not negative; may be empty. sets [requests], ascending, and parameters
  // [requests, request_numbers] are on the CPU.
  ShardedLaunch(const at::Tensor& x, const OptionalTensor& weight, at::IntArrayRef dim,
                const at::Tensor& sets, const at::Tensor& parameters, c10::string_view penalty,
                int64_t pass);

  ShardedArgs args{};
  Operands operands;
  at::Tensor sets, parameters;
  at::Tensor numbers;  // [requests, numbers of the pass], on x's device
};

}  // namespace ddn
