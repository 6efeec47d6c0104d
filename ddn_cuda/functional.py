"""The function `robust_pool`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor


class RobustPoolInfo(NamedTuple):
    """What `robust_pool(..., return_info=True)` tells of each answer y.

    Tensors of y's shape and device, without gradient; those of reals are float64 whatever x is.
    NaN where y is not finite. f is the objective, f(u) = sum_i w_i phi(u - x_i; alpha); all of it
    is found at the y that is returned, after rounding.

    Attributes:
        iterations: passes over the set that the solver took (int64), besides the first look at it.
        residual: abs(f'(y)) over the sum of the weights (the number of points without weights).
        curvature: f''(y), also where the gradient is zero by convention.
        objective: f(y).
        gap: a proven bound on f(y) - min f. Zero up to rounding for a convex penalty that has
            converged and for a global minimum; f(y) itself where nothing better is known (the
            local solver of the penalties that are not convex); infinite where f(y) is, such as with
            a point at infinity in a convex penalty.
        status: how the solve ended, a value of `ddn_cuda.Status` (int64): `converged`,
            `stopped_early` by `max_iter`, `flat` (the minimisers form an interval, y is its
            midpoint), `empty` (no weight is positive: y is 0), `not_finite` (alpha, a weight, a
            point or y is not, or a weight is negative: y is NaN, or infinite with the points).
    """

    iterations: Tensor
    residual: Tensor
    curvature: Tensor
    objective: Tensor
    gap: Tensor
    status: Tensor


def _check_flag(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"robust_pool: `{name}` is {value!r}; expected True or False")


def _check_values(name: str, values: Tensor, good: Tensor, expected: str) -> None:
    if not bool(good.all()):
        bad = values[~good].flatten()[0].item()
        raise ValueError(f"robust_pool: `{name}` holds {bad}; expected {expected} finite values")


@overload
def robust_pool(
    x: Tensor,
    penalty: str = "huber",
    alpha: float | Tensor = 1.0,
    *,
    dim: int | Sequence[int] = -1,
    keepdim: bool = False,
    weight: Tensor | None = None,
    solver: str = "global",
    max_iter: int | None = None,
    tol: float | None = None,
    return_info: Literal[False] = False,
    validate: bool = False,
) -> Tensor: ...


@overload
def robust_pool(
    x: Tensor,
    penalty: str = "huber",
    alpha: float | Tensor = 1.0,
    *,
    dim: int | Sequence[int] = -1,
    keepdim: bool = False,
    weight: Tensor | None = None,
    solver: str = "global",
    max_iter: int | None = None,
    tol: float | None = None,
    return_info: Literal[True],
    validate: bool = False,
) -> tuple[Tensor, RobustPoolInfo]: ...


def robust_pool(
    x: Tensor,
    penalty: str = "huber",
    alpha: float | Tensor = 1.0,
    *,
    dim: int | Sequence[int] = -1,
    keepdim: bool = False,
    weight: Tensor | None = None,
    solver: str = "global",
    max_iter: int | None = None,
    tol: float | None = None,
    return_info: bool = False,
    validate: bool = False,
) -> Tensor | tuple[Tensor, RobustPoolInfo]:
    r"""Pools dims of a tensor to y = argmin_u sum_i w_i phi(u - x_i; alpha).

    Each set of points along `dim` is solved by itself: its answer, to the last bit, does not depend
    on what else is in the batch. The gradient comes from the implicit function theorem: with H =
    sum_j w_j phi''(y - x_j), dy/dx_i = w_i phi''(y - x_i) / H and dy/dw_i = -phi'(y - x_i) / H;
    where H vanishes (Huber, two equal clusters further apart than 2 alpha) they are zero.

    ===================== ===== ============================================ ======
    `penalty`             short phi(z; alpha)                                convex
    ===================== ===== ============================================ ======
    "quadratic"           "Q"   z^2 / 2                                      yes
    "pseudo_huber"        "PH"  alpha^2 (sqrt(1 + (z/alpha)^2) - 1)          yes
    "huber"               "H"   z^2/2 to abs(z) = alpha, then linear         yes
    "welsch"              "W"   1 - exp(-z^2 / (2 alpha^2))                  no
    "truncated_quadratic" "TQ"  min(z^2, alpha^2) / 2                        no
    ===================== ===== ============================================ ======

    Args:
        x: points, any shape, float32 or float64, any strides.
        penalty: a name or short name of the table.
        alpha: the scale of the penalty, in the units of x: residuals beyond it count as outliers. A
            float from 1e-15 to 1e15 (float32) or 1e-30 to 1e30 (float64), or a floating-point
            tensor on x's device that broadcasts against the output with `keepdim=True`, such as one
            value per channel. The values of a tensor are not looked at: one outside that range
            gives its set NaN.
        dim: the dim or dims to pool, together; `()` pools all.
        keepdim: whether pooled dims stay, with size 1.
        weight: w, non-negative, a floating-point tensor that broadcasts against x (and is not
            expanded in memory), or a bool tensor: a mask. None: ones. A point of zero weight is not
            there, whatever its value; a set whose weights are all zero gives 0 and zero gradients.
            The values are not looked at: a negative weight or one that is not finite, or a sum
            beyond x's dtype, gives its set NaN.
        solver: "global" or "local"; the convex penalties have no local minima but the global one.
            For "welsch" and "truncated_quadratic", "global" returns a certified global minimum, of
            equally good ones the smallest; "local" the minimum that a safeguarded descent reaches
            from the Huber answer at the same alpha (where no point lies within alpha of that, from
            the point nearest to it, the smaller of two).
        max_iter: bound on the solver's passes over a set, besides a first look at it and a last one
            for the curvature; those of the Huber descent of "local" count. A solve stopped by it
            returns the best point it has evaluated, and the gradient is the formula above at that
            point. None: until done.
        tol: accepted size of the last Newton step, in units of alpha. None: 1e-6 in float32 and
            1e-12 in float64, of alpha or of the range of the set where that is smaller.
        return_info: also return a `RobustPoolInfo`, which takes a few more passes.
        validate: also check the values in an alpha tensor and in weight, which waits for the
            device.

    Returns:
        A tensor of x's dtype and device, with x's shape less the pooled dims; with
        `return_info=True` a tuple of it and a `RobustPoolInfo`.

    A set with a NaN gives NaN, and NaN gradients, to itself alone. A point at infinity attracts
    nobody in "welsch" and "truncated_quadratic" while a finite one is there, pulls like any other
    far point in "pseudo_huber" and "huber", and its gradient is zero.

    Raises:
        TypeError: x or alpha is of a dtype that is no real floating point, or weight of one that is
            neither that nor bool.
        ValueError: penalty, alpha, dim, solver, max_iter or tol has another value than those above,
            alpha or weight does not broadcast or is on another device, or a pooled dim is empty.
        IndexError: dim is out of range.
        NotImplementedError: x is float16 or bfloat16, or alpha is a tensor that requires grad.

    Source: S. Gould, R. Hartley, D. Campbell, "Deep Declarative Networks", IEEE TPAMI 44(8), 2022,
    proposition 4.4 (the gradient) and section 5.2 (the penalties).
    """
    _check_flag("keepdim", keepdim)
    _check_flag("return_info", return_info)
    _check_flag("validate", validate)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float, Tensor)):
        raise TypeError(
            f"robust_pool: `alpha` is {alpha!r}; expected a float or a floating-point tensor"
        )
    dims = [dim] if isinstance(dim, int) else dim
    if validate:
        if isinstance(alpha, Tensor):
            good = torch.isfinite(alpha) & (alpha > 0)
            _check_values("alpha", alpha, good, "positive")
        if weight is not None:
            good = torch.isfinite(weight) & (weight >= 0)
            _check_values("weight", weight, good, "non-negative")
    if return_info:
        alpha_value, alpha_tensor = (1.0, alpha) if isinstance(alpha, Tensor) else (alpha, None)
        y, *info = torch.ops.ddn._robust_pool_info(
            x, penalty, alpha_value, alpha_tensor, dims, keepdim, weight, solver, max_iter, tol
        )
        return y, RobustPoolInfo(*info)
    options = {
        "dim": dims,
        "keepdim": keepdim,
        "weight": weight,
        "solver": solver,
        "max_iter": max_iter,
        "tol": tol,
    }
    if isinstance(alpha, Tensor):
        return torch.ops.ddn.robust_pool.tensor(x, penalty, alpha=alpha, **options)
    return torch.ops.ddn.robust_pool.default(x, penalty, alpha=alpha, **options)
