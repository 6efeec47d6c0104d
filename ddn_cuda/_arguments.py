"""The arguments of the pooling functions, and checks of their types.

Without these checks the dispatcher would raise an error that quotes an operator's schema. The
compiled operators check shapes and values.
"""

from __future__ import annotations

import numbers
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def check_flag(function: str, name: str, value: bool) -> None:
    """Raises TypeError unless value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{function}: `{name}` is {value!r}; expected True or False")


def number(value: Any) -> Any:
    """Converts a NumPy number to the built-in type; returns any other value unchanged."""
    if isinstance(value, (int, float, Tensor)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


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
        """The same with NumPy numbers converted to built-in types and dim as a sequence.

        Raises:
            TypeError: an argument has the wrong type.
        """
        function, x, penalty, alpha, dim, weight, ptr, solver, max_iter, tol = self
        alpha, max_iter, tol = number(alpha), number(max_iter), number(tol)
        if isinstance(dim, (tuple, list)):
            dims = [number(d) for d in dim]
            good_dim = all(_is_int(d) for d in dims)
        else:
            dims = [number(dim)]
            good_dim = _is_int(dims[0])
        is_number = isinstance(tol, (int, float)) and not isinstance(tol, bool)
        for argument, value, good, expected in (
            ("x", x, isinstance(x, Tensor), "a tensor"),
            ("penalty", penalty, isinstance(penalty, str), "a string"),
            (
                "alpha",
                alpha,
                isinstance(alpha, (int, float, Tensor)) and not isinstance(alpha, bool),
                "a float or a floating-point tensor",
            ),
            ("dim", dim, good_dim, "an int or several"),
            ("weight", weight, weight is None or isinstance(weight, Tensor), "a tensor or None"),
            ("solver", solver, isinstance(solver, str), "a string"),
            ("max_iter", max_iter, max_iter is None or _is_int(max_iter), "a positive int or None"),
            ("tol", tol, tol is None or is_number, "a positive float or None"),
        ):
            if not good:
                raise TypeError(f"{function}: `{argument}` is {value!r}; expected {expected}")
        return Arguments(function, x, penalty, alpha, dims, weight, ptr, solver, max_iter, tol)

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
