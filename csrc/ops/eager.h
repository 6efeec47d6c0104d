// The short way from Python into the public operators.
#pragma once

#include <pybind11/pybind11.h>

namespace ddn {

// robust_pool, or with ptr segment_robust_pool, of plain arguments: tensors that are no subclass of
// torch's, numbers, strings, tuples and lists of Python's own types, without a transform of
// torch.func, a torch function mode or a forward-mode tangent. Returns the answer; where autograd
// is to record it, the checked dims; None where an argument is not plain. Raises as the operators
// do.
pybind11::object eager_pool(pybind11::handle x, pybind11::handle ptr, pybind11::handle penalty,
                            pybind11::handle alpha, pybind11::handle dim, pybind11::handle keepdim,
                            pybind11::handle weight, pybind11::handle solver,
                            pybind11::handle max_iter, pybind11::handle tol);

}  // namespace ddn
