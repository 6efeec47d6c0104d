// Chooses the kernels of an instruction set, once.
#include "cpu/robust_pool_cpu.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace ddn::cpu {

#define DDN_DECLARE(isa)                                      \
  void forward_##isa(const ForwardArgs&, const ParallelFor&); \
  void backward_##isa(const BackwardArgs&, const ParallelFor&);
DDN_DECLARE(base)
#if defined(__x86_64__)
DDN_DECLARE(avx2)
DDN_DECLARE(avx512)
#endif
#undef DDN_DECLARE

namespace {

struct Kernels {
  const char* name;
  void (*forward)(const ForwardArgs&, const ParallelFor&);
  void (*backward)(const BackwardArgs&, const ParallelFor&);
  bool available;
};

Kernels choose() {
  const Kernels all[] = {
#if defined(__x86_64__)
      {"avx512", forward_avx512, backward_avx512,
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")},
      {"avx2", forward_avx2, backward_avx2,
       __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("popcnt")},
#endif
      {"base", forward_base, backward_base, true},
  };
  const char* asked = std::getenv("DDN_CPU_ISA");
  const Kernels* best = nullptr;
  for (const Kernels& kernels : all) {
    if (!kernels.available) continue;
    if (best == nullptr) best = &kernels;
    if (asked != nullptr && std::strcmp(asked, kernels.name) == 0) return kernels;
  }
  if (asked != nullptr) {
    throw std::runtime_error(std::string("ddn_cuda: DDN_CPU_ISA is '") + asked +
                             "'; expected avx512, avx2 or base, and one that this machine has");
  }
  return *best;
}

const Kernels& kernels() {
  static const Kernels chosen = choose();
  return chosen;
}

}  // namespace

void robust_pool_forward(const ForwardArgs& args, const ParallelFor& parallel_for) {
  if (args.layout.num_sets > 0) kernels().forward(args, parallel_for);
}

void robust_pool_backward(const BackwardArgs& args, const ParallelFor& parallel_for) {
  if (args.layout.num_sets > 0) kernels().backward(args, parallel_for);
}

const char* instruction_set() { return kernels().name; }

}  // namespace ddn::cpu
