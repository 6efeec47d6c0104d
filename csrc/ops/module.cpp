// The Python module ddn_cuda._C. Its import registers the operators. Its attributes are the build
// configuration and the constants that Python shares with C++; its functions are the fast path from
// Python to the public operators.
#include <ATen/PythonTorchFunctionTLS.h>
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <optional>
#include <string_view>
#include <vector>

#include "core/penalties.h"
#include "cpu/robust_pool_cpu.h"
#include "ops/pool.h"

namespace py = pybind11;

namespace ddn {
namespace {

// A call through torch.ops matches each argument with a schema, boxes it, and enters autograd's
// kernels, which torch.library implements in Python. Pooling a small tensor takes less time than
// this overhead. The code below converts the arguments directly and enters the dispatcher below
// autograd.

// Each read() converts a plain argument and returns false for any other.

bool read(py::handle from, at::Tensor& to) {
  if (!THPVariable_CheckExact(from.ptr())) return false;
  to = THPVariable_Unpack(from.ptr());
  return !to.is_nested() && !to._fw_grad(/*level=*/0).defined();
}

bool read(py::handle from, int64_t& to) {
  if (!PyLong_CheckExact(from.ptr())) return false;
  int overflow = 0;
  to = PyLong_AsLongLongAndOverflow(from.ptr(), &overflow);
  return overflow == 0;
}

bool read(py::handle from, double& to) {
  int64_t whole = 0;
  if (PyFloat_CheckExact(from.ptr())) {
    to = PyFloat_AS_DOUBLE(from.ptr());
    return true;
  }
  if (!read(from, whole)) return false;
  to = static_cast<double>(whole);
  return true;
}

bool read(py::handle from, bool& to) {
  to = from.ptr() == Py_True;
  return to || from.ptr() == Py_False;
}

bool read(py::handle from, std::string_view& to) {
  if (!PyUnicode_CheckExact(from.ptr())) return false;
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(from.ptr(), &size);
  if (text == nullptr) {
    PyErr_Clear();
    return false;
  }
  to = std::string_view(text, static_cast<size_t>(size));
  return to.find('\0') == std::string_view::npos;  // messages are C strings, which end there
}

template <class T>
bool read(py::handle from, std::optional<T>& to) {
  if (from.is_none()) return true;
  return read(from, to.emplace());
}

bool read(py::handle from, std::vector<int64_t>& to) {
  if (PyLong_CheckExact(from.ptr())) return read(from, to.emplace_back());
  if (!PyTuple_CheckExact(from.ptr()) && !PyList_CheckExact(from.ptr())) return false;
  for (const py::handle each : from) {
    if (!read(each, to.emplace_back())) return false;
  }
  return true;
}

py::object to_python(const std::vector<int64_t>& dims) {
  py::list list(dims.size());
  for (size_t i = 0; i < dims.size(); ++i) list[i] = dims[i];
  return list;
}

// robust_pool, or with ptr segment_robust_pool, for plain arguments: tensors of no subclass, and
// numbers, strings, tuples and lists of the built-in Python types, without a torch.func transform,
// a torch function mode or a forward-mode tangent. Returns the answer; the checked dims if autograd
// has to record the call; None if an argument is not plain. Raises the operators' errors.
py::object eager_pool(py::handle x, py::handle ptr, py::handle penalty, py::handle alpha,
                      py::handle dim, py::handle keepdim, py::handle weight, py::handle solver,
                      py::handle max_iter, py::handle tol) {
  HANDLE_TH_ERRORS
  PoolCall call{{}, {}, 1.0, {}, {}, {}, {}};
  SolverOptions options;
  std::vector<int64_t> dims;
  bool keeps = false;
  const bool plain =
      read(x, call.x) && read(ptr, call.ptr) && read(penalty, call.penalty) &&
      (read(alpha, call.alpha_value) || (!alpha.is_none() && read(alpha, call.alpha))) &&
      read(dim, dims) && read(keepdim, keeps) && read(weight, call.weight) &&
      read(solver, options.name) && read(max_iter, options.max_iter) && read(tol, options.tol);
  if (!plain || at::impl::torch_function_mode_enabled() || is_transformed(call)) return py::none();
  call.dim = dims;
  std::optional<at::Tensor> y;
  std::vector<int64_t> checked;
  {
    py::gil_scoped_release without_gil;
    checked = check(call, options);
    if (!is_recorded(call)) y = pool(call, checked, keeps, options);
  }
  if (!y.has_value()) return to_python(checked);
  return py::reinterpret_steal<py::object>(THPVariable_Wrap(*y));
  END_HANDLE_TH_ERRORS_PYBIND
}

}  // namespace
}  // namespace ddn

namespace {

// ddn_cuda/_build.py reads this string from the file before loading it, because a library built
// against another PyTorch version may fail to load.
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
