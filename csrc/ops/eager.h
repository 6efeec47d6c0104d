// The fast path from Python to the public operators.
#pragma once

#include <pybind11/pybind11.h>

namespace ddn {

// robust_pool, or with ptr segment_robust_pool, for plain arguments: tensors of no subclass, and
// numbers, strings, tuples and lists of the built-in Python types, without a torch.func transform,
// a torch function mode or a forward-mode tangent. Returns the answer; the checked dims if autograd
// has to record the call; None if an argument is not plain. Raises the operators' errors.
pybind11::object eager_pool(pybind11::handle x, pybind11::handle ptr, pybind11::handle penalty,
                            pybind11::handle alpha, pybind11::handle dim, pybind11::handle keepdim,
                            pybind11::handle weight, pybind11::handle solver,
                            pybind11::handle max_iter, pybind11::handle tol);

}  // namespace ddn
