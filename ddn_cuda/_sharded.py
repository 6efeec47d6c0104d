"""The distributed solver: sets whose points lie on several ranks.

Every rank holds some points of each set and an identical copy of its solver, a compiled state
machine (csrc/core/sharded_solve.h). In each round the solver requests sums or maxima over all
points. Each rank computes them for its own points (csrc/core/sharded_pass.h), and the ranks
all-reduce the results. Since all ranks continue from the same numbers, they take the same decisions
without further communication. This requires an all-reduce that returns the same bits on all ranks,
as Gloo's and NCCL's do, and ranks with one type of device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ddn_cuda import _operators
from ddn_cuda._roles import opmath

_MOST_NUMBERS = 2**17  # in one all-reduce: 1 MiB


class Options(NamedTuple):
    """The arguments of a pool that are not tensors. dims: the pooled dims, sorted, not negative."""

    penalty: str
    dims: list[int]
    group: Any
    solver: str
    max_iter: int | None
    tol: float | None


class Answer(NamedTuple):
    """The outputs of `_robust_pool_forward` that the backward pass needs, each of y's shape."""

    y: Tensor
    remainder: Tensor
    curvature: Tensor  # over phi''(0)


def all_reduce(parts: Sequence[Tensor], op: Any, group: Any) -> list[Tensor]:
    """Reduces tensors of one dtype over the ranks, in as few all-reduces as possible."""
    if not parts:
        return []
    flat = torch.cat([part.flatten() for part in parts])
    for piece in torch.split(flat, _MOST_NUMBERS):
        dist.all_reduce(piece, op=op, group=group)
    pieces = torch.split(flat, [part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


def solve(
    function: str,
    x: Tensor,
    alpha_value: float,
    alpha: Tensor | None,
    weight: Tensor | None,
    options: Options,
) -> Answer:
    """Solves for the points of all ranks.

    Raises:
        ValueError: no rank has a point.
    """
    penalty, dims, real = options.penalty, options.dims, opmath(x)
    kept = [1 if d in dims else size for d, size in enumerate(x.shape)]
    points = math.prod(x.shape[d] for d in dims)
    own = torch.full(kept, math.nan, dtype=torch.float64)
    if points:
        call = _operators.op("_robust_pool_forward")
        start = call(x, "huber", alpha_value, alpha, weight, None, dims, "local", None, None)
        own = start[0].double().cpu()
    scale = torch.full(kept, alpha_value, dtype=torch.float64)
    if alpha is not None:
        scale = alpha.to(real).double().expand(kept).cpu()
    solves = torch.classes.ddn.ShardedSolves(
        penalty,
        scale.flatten(),
        own.flatten(),
        x.dtype == torch.float64,
        weight is not None,
        options.solver,
        options.max_iter,
        options.tol,
    )
    while requests := solves.requests():
        numbers = [
            torch.ops.ddn._sharded_pass(x, weight, dims, sets, parameters, penalty, kind)
            for kind, _, sets, parameters in requests
        ]
        for op, wanted in ((dist.ReduceOp.SUM, False), (dist.ReduceOp.MAX, True)):
            of_kind = [i for i, request in enumerate(requests) if request[1] == wanted]
            reduced = all_reduce([numbers[i] for i in of_kind], op, options.group)
            for i, part in zip(of_kind, reduced, strict=True):
                numbers[i] = part
        solves.take([part.cpu() for part in numbers])
    if weight is None and solves.any_empty():
        raise ValueError(f"{function}: `x` has no points on any rank; expected at least one point")
    u, is_open = solves.answers()
    u = u.reshape(kept).to(x.device)
    y = u.to(x.dtype)
    remainder = torch.where(torch.isfinite(y), u - y.double(), 0.0).to(real)
    # Gradients sum to one only if the curvature has the terms of the gradient kernels: in single
    # precision a point may lie on the other side of a breakpoint. The jvp of ones sums these terms.
    summed = torch.zeros(u.numel(), dtype=torch.float64)
    if bool(is_open.any()):
        own_curvature = torch.zeros_like(u)
        if points:
            wide, one = x.to(real), torch.ones_like(remainder)
            along = one.new_ones(()).expand(x.shape)
            problem = (penalty, alpha_value, alpha, weight, None, dims)
            jvp = _operators.op("_robust_pool_jvp")
            tangent = jvp(along, None, None, wide, y.to(real), remainder, one, *problem)
            own_curvature = tangent.double()
        parts = [own_curvature.flatten()[is_open.to(x.device)]]
        summed[is_open] = all_reduce(parts, dist.ReduceOp.SUM, options.group)[0].cpu()
    curvature = solves.curvatures(summed).reshape(kept).to(x.device, real)
    return Answer(y, remainder, curvature)


class ShardedPool(torch.autograd.Function):
    """`solve` with its gradients. Only the gradient of alpha is all-reduced."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        alpha_value: float,
        alpha: Tensor | None,
        weight: Tensor | None,
        options: Options,
        function: str,
    ) -> Tensor:
        answer = solve(function, x, alpha_value, alpha, weight, options)
        ctx.save_for_backward(x, *answer, alpha, weight)
        ctx.alpha_value, ctx.options = alpha_value, options
        return answer.y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, remainder, curvature, alpha, weight = ctx.saved_tensors
        options: Options = ctx.options
        by_x, _, by_alpha, by_weight, *_ = ctx.needs_input_grad
        if all(x.shape[d] for d in options.dims):
            of_x, of_weight, of_alpha = _operators.op("_robust_pool_backward")(
                grad.contiguous(),
                x,
                y,
                remainder,
                curvature,
                options.penalty,
                ctx.alpha_value,
                alpha,
                weight,
                None,
                options.dims,
                [by_x, by_weight, by_alpha],
            )
        else:
            of_x, of_weight, of_alpha = (
                torch.zeros_like(x),
                x.new_zeros(x.shape, dtype=opmath(x)),
                torch.zeros_like(y, dtype=opmath(x)),
            )
        if by_alpha:
            (of_alpha,) = all_reduce([of_alpha.double()], dist.ReduceOp.SUM, options.group)
            of_alpha = of_alpha.sum_to_size(alpha.shape).to(alpha.dtype)
        if by_weight:
            of_weight = of_weight.sum_to_size(weight.shape).to(weight.dtype)
        return (
            of_x if by_x else None,
            None,
            of_alpha if by_alpha else None,
            of_weight if by_weight else None,
            None,
            None,
        )
