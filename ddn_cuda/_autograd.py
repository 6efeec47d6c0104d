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
    weight: Tensor | None,
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
    x, penalty, alpha_value, alpha, weight, dim = inputs[:6]
    y, remainder, curvature = output[:3]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros are made for those
    ctx.save_for_backward(x, y, remainder, curvature, alpha, weight)
    ctx.penalty, ctx.alpha_value, ctx.dim = penalty, alpha_value, dim


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    x, y, remainder, curvature, alpha, weight = ctx.saved_tensors
    arguments = (grad, x, y, remainder, curvature)
    options = (ctx.penalty, ctx.alpha_value, alpha, weight, ctx.dim)
    grad_x = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_x = torch.ops.ddn._robust_pool_backward(*arguments, *options)
    if weight is not None and ctx.needs_input_grad[4]:
        each = torch.ops.ddn._robust_pool_backward_weight(*arguments, *options)
        grad_weight = each.sum_to_size(weight.shape).to(weight.dtype)
    return grad_x, None, None, None, grad_weight, None, None, None, None


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
    for name in ("_robust_pool_backward", "_robust_pool_backward_weight"):
        torch.library.register_fake(f"ddn::{name}", _backward_fake)
        torch.library.register_autograd(
            f"ddn::{name}", _double_backward, setup_context=_save_nothing
        )
    for name in ("_robust_pool_forward", "_robust_pool_forward_info"):
        torch.library.register_autograd(f"ddn::{name}", _backward, setup_context=_save_for_backward)
