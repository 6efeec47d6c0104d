// The Python module ddn_cuda._C. Its import registers the operators. Its attributes are the build
// configuration and the constants that Python shares with C++.
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>

#include "core/penalties.h"
#include "cpu/robust_pool_cpu.h"
#include "ops/eager.h"

namespace {

// ddn_cuda/_build.py reads this string from the file before loading it, because a library built
// against another PyTorch version may fail to load.
[[gnu::used]] const char built_with[] = "ddn_cuda built with torch " DDN_TORCH_VERSION ";";

}  // namespace

PYBIND11_MODULE(_C, m) {
  namespace py = pybind11;
  py::dict penalties;
  for (int i = 0; i < ddn::Penalties::size; ++i) {
    ddn::with_penalty(i, [&](auto penalty) {
      using P = decltype(penalty);
      penalties[P::name] = P::alias;
    });
  }
  m.attr("PENALTIES") = penalties;
  m.attr("VERSION") = DDN_VERSION;
  m.attr("TORCH_VERSION") = DDN_TORCH_VERSION;
#ifdef DDN_WITH_CUDA
  m.attr("CUDA_VERSION") = DDN_CUDA_VERSION;
  m.attr("CUDA_ARCHS") = DDN_CUDA_ARCHS;
#else
  m.attr("CUDA_VERSION") = py::none();
  m.attr("CUDA_ARCHS") = py::none();
#endif
  using ddn::Status;
  py::native_enum<Status>(m, "Status", "enum.IntEnum", "How a solve ended.")
      .value("converged", Status::converged)
      .value("stopped_early", Status::stopped_early)
      .value("flat", Status::flat)
      .value("empty", Status::empty)
      .value("not_finite", Status::not_finite)
      .finalize();
  m.def("cpu_isa", &ddn::cpu::instruction_set);
  m.def("pool", &ddn::eager_pool);
}
