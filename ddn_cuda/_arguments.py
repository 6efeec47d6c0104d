"""The arguments of the pooling functions, and checks of their types.

Without these checks the dispatcher would raise an error that quotes an operator's schema. The
compiled operators check shapes and values.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ddn_cuda._numbers import is_beyond_float, is_beyond_int64, number, numbers_of, shown

_SYMBOLIC = (torch.SymInt, torch.SymFloat)


def check_flag(function: str, name: str, value: bool) -> None:
    """Raises TypeError unless value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{function}: `{name}` is {shown(value)}; expected True or False")


def _traced_numbers(dim: Any) -> Any:
    """`numbers_of` while Dynamo traces. A NumPy number has the type np.ndarray there, and its value
    is known outside the graph only."""
    parts = dim if isinstance(dim, (tuple, list)) else [dim]
    is_numpy = [isinstance(part, np.ndarray) for part in parts]
    if not any(is_numpy):
        return numbers_of(dim)
    from ddn_cuda import _eager_numbers  # imports Dynamo, which takes a second

    return _eager_numbers.numbers_of(dim)


def _traced_alpha(alpha: Any, x: Tensor) -> Any:
    """alpha of NumPy while Dynamo traces, as a tensor, so that its value is no constant of the
    graph."""
    traced = torch.as_tensor(alpha)
    if alpha.ndim > 0 or traced.dtype == torch.bool or traced.is_complex():
        return alpha
    return traced.to(x.device, torch.float64)


def _printable(name: str) -> str:
    """A name that C++ can take and show: escapes lone surrogates, which UTF-8 cannot encode, and
    control characters."""
    return name if name.isprintable() else repr(name)[1:-1]


def dtensor_class() -> Any:
    """The class DTensor; no class as long as nothing has imported it, since it is slow to load."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return () if tensors is None else tensors.DTensor


def has_values(t: Tensor) -> bool:
    """Whether t is neither on the meta device nor of FakeTensorMode."""
    return not (t.is_meta or isinstance(t, FakeTensor))


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def _check_values(function: str, name: str, values: Tensor, good: Tensor, expected: str) -> None:
    if not bool(good.all()):
        bad = values[~good].flatten()[0].item()
        raise ValueError(f"{function}: `{name}` holds {bad}; expected {expected}")


def refuse_kinds(function: str, **values: Any) -> None:
    """Raises TypeError for kinds of tensors that no pool takes: nested tensors and MaskedTensors.

    `robust_pool` has replaced nested tensors of layout torch.jagged by their values.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            continue
        if isinstance(value, torch.masked.MaskedTensor):
            raise TypeError(
                f"{function}: `{name}` is a MaskedTensor; expected a dense tensor, such as its "
                "get_data(); its get_mask() can be the weight of robust_pool"
            )
        if value.is_nested:
            pooled = name == "x" and function == "robust_pool"
            expected = (
                "a dense tensor, or a nested one of layout torch.jagged, as of "
                "torch.nested.as_nested_tensor(list(x.unbind()), layout=torch.jagged)"
                if pooled
                else "a dense tensor. robust_pool takes nested x of layout torch.jagged"
            )
            raise TypeError(
                f"{function}: `{name}` is a nested tensor of layout {value.layout}; expected "
                f"{expected}"
            )


class Arguments(NamedTuple):
    """The arguments of a pooling function, by their names.

    Attributes:
        function: name of the function, for messages.
    """

    function: str
    x: Tensor
    penalty: str = "huber"
    alpha: float | Tensor = 1.0
    dim: Any = -1  # an int or several; several after `checked`
    weight: Tensor | None = None
    ptr: Tensor | None = None
    solver: str = "global"
    max_iter: int | None = None
    tol: float | None = None

    def checked(self) -> Arguments:
        """The same with NumPy numbers converted to built-in types and dim as a sequence. A symbolic
        alpha, and while Dynamo traces also that of NumPy, becomes a tensor.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError, IndexError: a number is out of the range of C++'s int64_t or double.
        """
        function, x, penalty, alpha, dim, weight, ptr, solver, max_iter, tol = self
        if torch.compiler.is_compiling():
            if isinstance(alpha, np.ndarray) and isinstance(x, Tensor):
                alpha = _traced_alpha(alpha, x)
            dim, max_iter, tol = map(_traced_numbers, (dim, max_iter, tol))
        else:
            dim, max_iter, tol = map(numbers_of, (dim, max_iter, tol))
        alpha = number(alpha)
        dims = [*dim] if isinstance(dim, (tuple, list)) else [dim]
        is_number = isinstance(tol, (int, float)) and not isinstance(tol, bool)
        alphas = (int, float, *_SYMBOLIC, Tensor)
        for argument, value, good, expected in (
            ("x", x, isinstance(x, Tensor), "a tensor"),
            ("penalty", penalty, isinstance(penalty, str), "a string"),
            (
                "alpha",
                alpha,
                isinstance(alpha, alphas) and not isinstance(alpha, bool),
                "a float or a floating-point tensor",
            ),
            ("dim", dim, all(_is_int(d) for d in dims), "an int or several"),
            ("weight", weight, weight is None or isinstance(weight, Tensor), "a tensor or None"),
            ("solver", solver, isinstance(solver, str), "a string"),
            ("max_iter", max_iter, max_iter is None or _is_int(max_iter), "a positive int or None"),
            ("tol", tol, tol is None or is_number, "a positive float or None"),
        ):
            if not good:
                raise TypeError(f"{function}: `{argument}` is {shown(value)}; expected {expected}")
        refuse_kinds(function, x=x, alpha=alpha, weight=weight, ptr=ptr)
        if isinstance(alpha, _SYMBOLIC):
            alpha = torch.scalar_tensor(cast(Any, alpha), dtype=torch.float64, device=x.device)
        penalty, solver = _printable(penalty), _printable(solver)
        given = Arguments(function, x, penalty, alpha, dims, weight, ptr, solver, max_iter, tol)
        given._check_ranges()
        return given

    def _check_ranges(self) -> None:
        """Raises for numbers that C++'s int64_t or double cannot hold."""
        function, x, _, alpha, _, _, _, _, max_iter, tol = self
        limit = 1e30 if x.dtype == torch.float64 else 1e15
        floats = f"a finite number from {1 / limit:g} to {limit:g}"
        for argument, value, bad, expected in (
            ("alpha", alpha, is_beyond_float(alpha), floats),
            ("max_iter", max_iter, is_beyond_int64(max_iter), "an int from 1 to 2**63 - 1"),
            ("tol", tol, is_beyond_float(tol), "a positive finite float or None"),
        ):
            if bad:
                raise ValueError(f"{function}: `{argument}` is {shown(value)}; expected {expected}")
        for d in self.dim:
            if is_beyond_int64(d):
                rank = max(x.dim(), 1)
                raise IndexError(
                    f"{function}: `dim` is {shown(d)} for x with {x.dim()} dims; expected values "
                    f"from {-rank} to {rank - 1}"
                )

    def inner_alpha(self) -> tuple[float, Tensor | None]:
        """The arguments alpha_value and alpha of the inner operators."""
        return (1.0, self.alpha) if isinstance(self.alpha, Tensor) else (self.alpha, None)

    def validate(self) -> None:
        """Raises ValueError for invalid values in tensors; synchronises with the device."""
        function, x, alpha, weight, ptr = self.function, self.x, self.alpha, self.weight, self.ptr
        if isinstance(alpha, Tensor):
            limit = 1e30 if x.dtype == torch.float64 else 1e15
            # Like the kernels, allows for limits that were rounded to single precision.
            wide = alpha.double()  # in 16 bits the limits would be 0 and infinity
            good = (wide >= (1 - 1e-6) / limit) & (wide <= (1 + 1e-6) * limit)
            expected = f"positive finite values from {1 / limit:g} to {limit:g}"
            _check_values(function, "alpha", alpha, good, expected)
        if weight is not None:
            good = torch.isfinite(weight) & (weight >= 0)
            _check_values(function, "weight", weight, good, "non-negative finite values")
        if ptr is not None:
            good = (ptr >= 0) & (ptr <= x.shape[0])
            _check_values(function, "ptr", ptr, good, f"offsets from 0 to {x.shape[0]}")
            ascends = torch.cat([ptr.new_ones(1, dtype=torch.bool), ptr[1:] >= ptr[:-1]])
            expected = "offsets none of which is below the one before"
            _check_values(function, "ptr", ptr, ascends, expected)

    def dims(self) -> list[int]:
        """Runs the operators' checks; returns the pooled dims, sorted and non-negative.

        Raises:
            TypeError, ValueError, IndexError: as the operators, with the function's name.
        """
        x, alpha, weight, ptr = self.x, self.inner_alpha(), self.weight, self.ptr
        if isinstance(x, dtensor_class()):
            return self._dims_of_dtensor()
        solver = (self.solver, self.max_iter, self.tol)
        check = torch.ops.ddn._robust_pool_check
        try:
            dims: list[int] = check(x, self.penalty, *alpha, self.dim, weight, ptr, *solver)
        except (TypeError, ValueError, IndexError) as error:
            own, called = "robust_pool:", f"{self.function}:"
            message = str(error)
            if not message.startswith(own) or own == called:
                raise
            raise type(error)(message.replace(own, called, 1)) from None
        return dims

    def _dims_of_dtensor(self) -> list[int]:
        """`dims` from shapes and dtypes alone: DTensors cannot call an operator that returns no
        tensors."""
        from ddn_cuda import _dtensor  # imports torch.distributed.tensor

        x, alpha, weight, ptr = map(
            _dtensor.without_data, (self.x, self.alpha, self.weight, self.ptr)
        )
        dims = self._replace(x=x, alpha=alpha, weight=weight, ptr=ptr).dims()
        _dtensor.check(self.function, self.x, self.weight, dims, self.alpha, self.ptr)
        return dims
