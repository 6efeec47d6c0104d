"""CUDA tensors in a build without CUDA: computed on the CPU, with one warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ddn_cuda._operators import OPERATORS

_warned = False


def via_cpu(op: Callable[..., Any], *args: Any) -> Any:
    """Calls `op` with every tensor argument moved to the CPU.

    Args:
        op: returns a tensor or a tuple of tensors.
        *args: tensors and other values, at least one tensor.

    Returns:
        The result of `op`, its tensors moved to the device of the first tensor among `args`.

    Warns:
        RuntimeWarning: on the first call in a process.
    """
    global _warned
    device = next(arg.device for arg in args if isinstance(arg, torch.Tensor))
    if not _warned:
        _warned = True
        warnings.warn(
            f"ddn_cuda was built without CUDA: tensors on {device} are copied to the CPU and back; "
            "build it again with DDN_CUDA=1",
            RuntimeWarning,
            stacklevel=2,
        )
    result = op(*(arg.cpu() if isinstance(arg, torch.Tensor) else arg for arg in args))
    if isinstance(result, tuple):
        return tuple(part.to(device) for part in result)
    return result.to(device)


def register() -> None:
    """Registers `via_cpu` as the CUDA kernel of the inner operators."""
    ops = [operator.op for operator in OPERATORS]
    for op in (*ops, torch.ops.ddn._sharded_pass.default):
        name: str = op._schema.name
        torch.library.impl(name, "CUDA")(partial(via_cpu, op))
