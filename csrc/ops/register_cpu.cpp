#include <ATen/Parallel.h>

#include "cpu/float_state.h"
#include "cpu/robust_pool_cpu.h"
#include "ops/device_operators.h"

namespace ddn {
namespace {

void parallel_for(int64_t begin, int64_t end, int64_t grain, const cpu::Range& body) {
  const cpu::FloatState of_caller = cpu::float_state();
  at::parallel_for(begin, end, grain, [&](int64_t first, int64_t past) {
    const cpu::ScopedFloatState scope(of_caller);
    body(first, past);
  });
}

struct Cpu {
  static int guard(const at::Tensor&) { return 0; }
  static void forward(const ForwardArgs& args, const at::Tensor&) {
    cpu::robust_pool_forward(args, parallel_for);
  }
  static void backward(const BackwardArgs& args) { cpu::robust_pool_backward(args, parallel_for); }
  static at::Tensor safe_offsets(const at::Tensor& ptr, int64_t rows) {
    return std::get<0>(ptr.clamp(0, rows).cummax(0)).contiguous();
  }
  static void sharded(const ShardedLaunch& launch) {
    cpu::sharded_passes(launch.args, parallel_for);
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(ddn, CPU, m) { Operators<Cpu>::implement(m); }

}  // namespace ddn
