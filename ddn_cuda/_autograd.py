"""Shapes (fake kernels) and derivatives of the inner operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def _forward_fake(
    x: Tensor,
    penalty: str,
    alpha_value: float,
    alpha: Tensor | None,
    dim: Sequence[int],
    solver: str,
    max_iter: int | None,
    tol: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = [1 if d in dim else size for d, size in enumerate(x.shape)]
    y, remainder, curvature = (x.new_empty(shape) for _ in range(3))
    return y, remainder, curvature


def _forward_info_fake(x: Tensor, *args: Any) -> tuple[Tensor, ...]:
    answer = _forward_fake(x, *args)
    shape = answer[0].shape
    reals = [x.new_empty(shape, dtype=torch.float64) for _ in range(4)]
    counts = [x.new_empty(shape, dtype=torch.int64) for _ in range(2)]
    return (*answer, counts[0], *reals, counts[1])


def _backward_fake(grad: Tensor, x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, penalty, alpha_value, alpha, dim = inputs[:5]
    y, remainder, curvature = output[:3]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros are made for those
    ctx.save_for_backward(x, y, remainder, curvature, alpha)
    ctx.penalty, ctx.alpha_value, ctx.dim = penalty, alpha_value, dim


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    x, y, remainder, curvature, alpha = ctx.saved_tensors
    grad_x = torch.ops.ddn._robust_pool_backward(
        grad, x, y, remainder, curvature, ctx.penalty, ctx.alpha_value, alpha, ctx.dim
    )
    return grad_x, None, None, None, None, None, None, None


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pass


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError(
        "robust_pool: double backward is not supported; expected a single backward pass "
        "(create_graph=True records one that cannot be differentiated)"
    )


def register() -> None:
    """Registers fakes and derivatives; called once, when the package is imported."""
    torch.library.register_fake("ddn::_robust_pool_forward", _forward_fake)
    torch.library.register_fake("ddn::_robust_pool_forward_info", _forward_info_fake)
    torch.library.register_fake("ddn::_robust_pool_backward", _backward_fake)
    for name in ("_robust_pool_forward", "_robust_pool_forward_info"):
        torch.library.register_autograd(f"ddn::{name}", _backward, setup_context=_save_for_backward)
    torch.library.register_autograd(
        "ddn::_robust_pool_backward", _double_backward, setup_context=_save_nothing
    )
