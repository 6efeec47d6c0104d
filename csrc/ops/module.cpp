// The Python module ddn_cuda._C: importing it registers the operators; besides, it says what was
// built and what the Python side would otherwise have to repeat.
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>

#include "core/penalties.h"
#include "cpu/robust_pool_cpu.h"
#include "ops/eager.h"

namespace {

// Read from the file before it is loaded (ddn_cuda/_build.py): a library that was built with
// another torch may not load at all.
[[gnu::used]] const char built_with[] = "ddn_cuda built with torch " DDN_TORCH_VERSION ";";

const char* certificate_name(ddn::Certificate certificate) {
  switch (certificate) {
    case ddn::Certificate::convex:
      return "convex";
    case ddn::Certificate::gaussian:
      return "gaussian";
    case ddn::Certificate::parabola:
      return "parabola";
  }
  return "";
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  namespace py = pybind11;
  py::dict penalties, traits;
  for (int i = 0; i < ddn::Penalties::size; ++i) {
    ddn::with_penalty(i, [&](auto penalty) {
      using P = decltype(penalty);
      using namespace py::literals;
      penalties[P::name] = P::alias;
      traits[P::name] =
          py::dict("alias"_a = P::alias, "tuning"_a = P::tuning,
                   "certificate"_a = certificate_name(P::certificate), "is_mean"_a = P::is_mean,
                   "is_smooth"_a = P::is_smooth, "has_breakpoints"_a = P::has_breakpoints,
                   "has_flat_minima"_a = P::has_flat_minima);
    });
  }
  m.attr("PENALTIES") = penalties;
  m.attr("PENALTY_TRAITS") = traits;
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
