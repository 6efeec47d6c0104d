"""Fake kernels: the shapes and dtypes that the inner operators return, for compilers and meta
tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ddn_cuda._roles import REAL, Operator, Output, Role, opmath


def _check_devices(operator: Operator, args: Sequence[Any], x: Tensor) -> None:
    """Raises as the kernels do. The dispatcher chooses the fake kernel if any tensor is on the meta
    device, and its outputs, on the device of x, would hold memory that nothing has written."""
    for name, arg in zip(operator.arguments, args, strict=True):
        if isinstance(arg, Tensor) and arg.device != x.device:
            segments = operator.value(Role.OFFSETS, args) is not None
            raise ValueError(
                f"{'segment_robust_pool' if segments else 'robust_pool'}: `{name}` is on "
                f"{arg.device} but x is on {x.device}; expected both on the same device"
            )


def fake_of(operator: Operator) -> Callable[..., Any]:
    """The fake kernel of an operator."""

    def fake(*args: Any) -> Any:
        x: Tensor = args[operator.places["x"]]
        _check_devices(operator, args, x)
        dims, ptr = operator.value(Role.DIMS, args), operator.value(Role.OFFSETS, args)
        shape = [1 if d in dims else size for d, size in enumerate(x.shape)]
        if ptr is not None:
            shape[0] = ptr.shape[0] - 1

        def empty(output: Output, wanted: bool) -> Tensor:
            dtype = opmath(x) if output.dtype == REAL else output.dtype or x.dtype
            dtype = cast(torch.dtype, dtype)
            if not wanted:
                return x.new_empty(0, dtype=dtype)
            if output.role is Role.POINTS:
                return torch.empty_like(x, dtype=dtype)
            return x.new_empty(shape, dtype=dtype)

        wanted = operator.by_output(args, value=True, empty=False)
        return operator.returned([*map(empty, operator.outputs, wanted)])

    return fake
