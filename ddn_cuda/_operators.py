"""Shapes (fake kernels), rules for vmap, and derivatives of the inner operators, as
`torch.library` knows them: what `torch.ops.ddn.*` and compilers use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ddn_cuda import _derivatives
from ddn_cuda._batching import batched
from ddn_cuda._derivatives import Calls

OPERATORS: dict[str, Any] = {
    name: getattr(torch.ops.ddn, name).default for name in _derivatives.RULES
}
CALLS = Calls(
    OPERATORS["_robust_pool_forward"],
    OPERATORS["_robust_pool_backward"],
    OPERATORS["_robust_pool_tangent"],
    OPERATORS["_robust_pool_double_backward"],
)
FORWARD_INFO = OPERATORS["_robust_pool_forward_info"]


# ---- Shapes --------------------------------------------------------------------------------------


def opmath(x: Tensor) -> torch.dtype:
    """The dtype of weights' gradients and of what belongs to the unrounded answer."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _forward_fake(
    x: Tensor,
    penalty: str,
    alpha_value: float,
    alpha: Tensor | None,
    weight: Tensor | None,
    ptr: Tensor | None,
    dim: Sequence[int],
    solver: str,
    max_iter: int | None,
    tol: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = [1 if d in dim else size for d, size in enumerate(x.shape)]
    if ptr is not None:
        shape[0] = ptr.shape[0] - 1
    remainder, curvature = (x.new_empty(shape, dtype=opmath(x)) for _ in range(2))
    return x.new_empty(shape), remainder, curvature


def _forward_info_fake(x: Tensor, *args: Any) -> tuple[Tensor, ...]:
    answer = _forward_fake(x, *args)
    shape = answer[0].shape
    reals = [x.new_empty(shape, dtype=torch.float64) for _ in range(4)]
    counts = [x.new_empty(shape, dtype=torch.int64) for _ in range(2)]
    return (*answer, counts[0], *reals, counts[1])


def _gradients_fake(x: Tensor, y: Tensor, wanted: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor]:
    real = opmath(x)
    return (
        torch.empty_like(x) if wanted[0] else x.new_empty(0),
        torch.empty_like(x, dtype=real) if wanted[1] else x.new_empty(0, dtype=real),
        x.new_empty(y.shape if wanted[2] else 0, dtype=real),
    )


def _backward_fake(grad: Tensor, x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_fake(x, y, rest[-1])


def _tangent_fake(
    x_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    alpha_tangent: Tensor | None,
    x: Tensor,
    y: Tensor,
    *_: Any,
) -> Tensor:
    return x.new_empty(y.shape)


def _double_backward_fake(
    grad: Tensor,
    x_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    alpha_tangent: Tensor | None,
    x: Tensor,
    y: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_fake(x, y, rest[-1])


FAKES: dict[str, Callable[..., Any]] = {
    "_robust_pool_forward": _forward_fake,
    "_robust_pool_forward_info": _forward_info_fake,
    "_robust_pool_backward": _backward_fake,
    "_robust_pool_tangent": _tangent_fake,
    "_robust_pool_double_backward": _double_backward_fake,
}


def register() -> None:
    """Registers all of this; called once, when the package is imported."""
    for name, op in OPERATORS.items():
        torch.library.register_fake(f"ddn::{name}", FAKES[name])
        rule = _derivatives.RULES[name]
        torch.library.register_autograd(
            f"ddn::{name}", partial(rule.backward, CALLS), setup_context=rule.setup
        )
        torch.library.register_vmap(f"ddn::{name}", batched(name, op))
