"""The function `robust_pool`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast, overload

import torch
from torch import Tensor

from ddn_cuda import _C, _operators
from ddn_cuda._arguments import Arguments, check_flag
from ddn_cuda._autograd import recorder


class RobustPoolInfo(NamedTuple):
    """What `robust_pool(..., return_info=True)` tells of each answer y.

    Tensors of y's shape and device, without gradient; those of reals are float64 whatever x is.
    NaN where y is not finite. f is the objective, f(u) = sum_i w_i phi(u - x_i; alpha); all of it
    is found at the y that is returned, after rounding.

    Attributes:
        iterations: passes over the set that the solver took (int64), besides the first look at it;
            one that touches only the points near the kinks counts as well, and all looks of a
            global search at the cells of a grid count as one.
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
    return_info: bool,
    validate: bool = False,
) -> Tensor | tuple[Tensor, RobustPoolInfo]: ...


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
    sum_j w_j phi''(y - x_j), dy/dx_i = w_i phi''(y - x_i) / H, dy/dw_i = -phi'(y - x_i) / H and
    dy/dalpha = -sum_i w_i dphi'/dalpha(y - x_i) / H; where H vanishes (Huber, two equal clusters
    further apart than 2 alpha) they are zero. Second derivatives and forward mode have closed forms
    too, and `torch.func`'s transforms take this function (docs/features.md).

    Args:
        x: points, any shape, float16, bfloat16, float32 or float64, any strides. 16-bit points are
            read as they are, solved in float32 and rounded once; autocast changes none of it.
        penalty: a name or short name of `ddn_cuda.PENALTIES`, such as "huber" or "H";
            docs/penalties.md has their formulas.
        alpha: the scale of the penalty, in the units of x: residuals beyond it count as outliers. A
            float from 1e-15 to 1e15 (1e-30 to 1e30 for float64), or a floating-point tensor on x's
            device that broadcasts against the output with `keepdim=True`, such as one value per
            channel, and may require gradients. The values of a tensor are not looked at: one
            outside that range gives its set NaN.
        dim: the dim or dims to pool, together; `()` pools all.
        keepdim: whether pooled dims stay, with size 1.
        weight: w, non-negative, a floating-point tensor that broadcasts against x (and is not
            expanded in memory), or a bool tensor: a mask. None: ones. A point of zero weight is not
            there, whatever its value; a set whose weights are all zero gives 0 and zero gradients.
            The values are not looked at: a negative weight or one that is not finite, or a sum
            beyond x's dtype, gives its set NaN.
        solver: "global" or "local"; the convex penalties have no local minima but the global one.
            For the others, "global" returns a certified global minimum, of equally good ones the
            smallest; "local" the minimum that a safeguarded descent reaches
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
            device. Not for compiled functions or under vmap, which cannot look at values.

    Returns:
        A tensor of x's dtype and device, with x's shape less the pooled dims; with
        `return_info=True` a tuple of it and a `RobustPoolInfo`.

    A set with a NaN gives NaN, and NaN gradients, to itself alone. A point at infinity has no
    influence in the penalties that are not convex while a finite one is there, pulls like any other
    far point in the convex ones with bounded influence, and its gradient is zero.

    Raises:
        TypeError: an argument is of another type than above, x of a dtype other than those, alpha
            of one that is no real floating point, or weight of one that is neither that nor bool.
        ValueError: penalty, alpha, dim, solver, max_iter or tol has another value than those above,
            alpha or weight does not broadcast or is on another device, or a pooled dim is empty.
        IndexError: dim is out of range.
        NotImplementedError: of the third derivative, and of the second one when both are in
            forward mode.

    Source: S. Gould, R. Hartley, D. Campbell, "Deep Declarative Networks", IEEE TPAMI 44(8), 2022,
    proposition 4.4 (the gradient) and section 5.2 (the penalties).
    """
    if return_info is False and validate is False and not torch.compiler.is_compiling():
        y = _eager(x, None, penalty, alpha, dim, keepdim, weight, solver, max_iter, tol)
        if y is not None:
            return y
    check_flag("robust_pool", "keepdim", keepdim)
    given = Arguments("robust_pool", x, penalty, alpha, dim, weight, None, solver, max_iter, tol)
    dims, y, info = _pool(given, return_info=return_info, validate=validate)
    if not keepdim:
        y, *info = (t.squeeze(dims) for t in (y, *info))
    return (y, RobustPoolInfo(*info)) if return_info else y


@overload
def segment_robust_pool(
    x: Tensor,
    ptr: Tensor,
    penalty: str = "huber",
    alpha: float | Tensor = 1.0,
    *,
    weight: Tensor | None = None,
    solver: str = "global",
    max_iter: int | None = None,
    tol: float | None = None,
    return_info: Literal[False] = False,
    validate: bool = False,
) -> Tensor: ...


@overload
def segment_robust_pool(
    x: Tensor,
    ptr: Tensor,
    penalty: str = "huber",
    alpha: float | Tensor = 1.0,
    *,
    weight: Tensor | None = None,
    solver: str = "global",
    max_iter: int | None = None,
    tol: float | None = None,
    return_info: Literal[True],
    validate: bool = False,
) -> tuple[Tensor, RobustPoolInfo]: ...


@overload
def segment_robust_pool(
    x: Tensor,
    ptr: Tensor,
    penalty: str = "huber",
    alpha: float | Tensor = 1.0,
    *,
    weight: Tensor | None = None,
    solver: str = "global",
    max_iter: int | None = None,
    tol: float | None = None,
    return_info: bool,
    validate: bool = False,
) -> Tensor | tuple[Tensor, RobustPoolInfo]: ...


def segment_robust_pool(
    x: Tensor,
    ptr: Tensor,
    penalty: str = "huber",
    alpha: float | Tensor = 1.0,
    *,
    weight: Tensor | None = None,
    solver: str = "global",
    max_iter: int | None = None,
    tol: float | None = None,
    return_info: bool = False,
    validate: bool = False,
) -> Tensor | tuple[Tensor, RobustPoolInfo]:
    r"""Pools segments of the first dim of x, as `robust_pool` pools dims: ragged sets.

    Segment s holds the rows ptr[s] to ptr[s + 1] of x; each of its channels is a set of its own. An
    answer and its gradient are, to the last bit, those of `robust_pool` for the same points.

    Args:
        x: points of shape (T, \*channels), float16, bfloat16, float32 or float64, any strides.
        ptr: S + 1 offsets (int64, on x's device), ascending, from 0 to T. The values are not looked
            at: they are clamped to that range, and one below its predecessor is raised to it. Rows
            in no segment get zero gradients.
        penalty, solver, max_iter, tol, return_info: as in `robust_pool`.
        alpha: as in `robust_pool`; a tensor broadcasts against the output, (S, \*channels).
        weight: as in `robust_pool`; broadcasts against x, such as (T, 1, ...).
        validate: also check the values in ptr, an alpha tensor and weight, which waits for the
            device.

    Returns:
        A tensor of shape (S, \*channels), of x's dtype and device; with `return_info=True` a tuple
        of it and a `RobustPoolInfo`. An empty segment gives 0, with status `empty` and no gradient.

    Raises:
        TypeError: ptr is not int64; else as `robust_pool`.
        ValueError: ptr is not of one dim or is on another device; else as `robust_pool`.
    """
    if not isinstance(ptr, Tensor):
        raise TypeError(f"segment_robust_pool: `ptr` is {ptr!r}; expected an int64 tensor")
    if return_info is False and validate is False and not torch.compiler.is_compiling():
        y = _eager(x, ptr, penalty, alpha, 0, True, weight, solver, max_iter, tol)
        if y is not None:
            return y
    given = Arguments(
        "segment_robust_pool", x, penalty, alpha, 0, weight, ptr, solver, max_iter, tol
    )
    _, y, info = _pool(given, return_info=return_info, validate=validate)
    return (y, RobustPoolInfo(*info)) if return_info else y


_record = recorder(_operators.function("_robust_pool_forward"))


def _eager(
    x: Any,
    ptr: Any,
    penalty: Any,
    alpha: Any,
    dim: Any,
    keepdim: Any,
    weight: Any,
    solver: Any,
    max_iter: Any,
    tol: Any,
) -> Tensor | None:
    """The short way of plain arguments, which is all that most calls take; None for others."""
    done = _C.pool(x, ptr, penalty, alpha, dim, keepdim, weight, solver, max_iter, tol)
    if not isinstance(done, list):
        return done
    value, tensor = (1.0, alpha) if isinstance(alpha, Tensor) else (alpha, None)
    y: Tensor = _record(x, penalty, value, tensor, weight, ptr, done, solver, max_iter, tol)[0]
    return y if keepdim else y.squeeze(done)


def _pool(
    given: Arguments, *, return_info: bool, validate: bool
) -> tuple[tuple[int, ...], Tensor, Sequence[Tensor]]:
    """The pooled dims, the answers with keepdim, and what is told of them."""
    check_flag(given.function, "return_info", return_info)
    check_flag(given.function, "validate", validate)
    given = given.checked()
    if validate:
        given.validate()
    options = (given.solver, given.max_iter, given.tol)
    name = "_robust_pool_forward_info" if return_info else "_robust_pool_forward"
    if torch.compiler.is_compiling():
        _check_no_tangents(given)
        y = _compiled(given)
        # The operator has checked the arguments.
        dims = [0] if given.ptr is not None else _sorted_dims(given.x, given.dim)
        if not return_info:
            return tuple(dims), y, ()
        call = _operators.op(name)  # nobody uses the answer above, and compilers drop it
    else:
        dims = given.dims()
        call = _operators.function(name).apply
    y, _remainder, _curvature, *info = call(
        given.x, given.penalty, *given.inner_alpha(), given.weight, given.ptr, dims, *options
    )
    return tuple(dims), y, info


def _sorted_dims(x: Tensor, dims: Sequence[int]) -> list[int]:
    """The dims that valid ones name, as the inner operators take them."""
    if x.dim() == 0:
        return []
    return sorted(d % x.dim() for d in dims) or list(range(x.dim()))


def _compiled(given: Arguments) -> Tensor:
    """The public operators: what exported programs hold."""
    x, alpha = given.x, given.alpha
    options: dict[str, Any] = {"weight": given.weight, "alpha": alpha, "solver": given.solver}
    options |= {"max_iter": given.max_iter, "tol": given.tol}
    if given.ptr is not None:
        segments = torch.ops.ddn.segment_robust_pool
        call = segments.tensor if isinstance(alpha, Tensor) else segments.default
        return cast(Tensor, call(x, given.ptr, given.penalty, **options))
    sets = torch.ops.ddn.robust_pool
    call = sets.tensor if isinstance(alpha, Tensor) else sets.default
    return cast(Tensor, call(x, given.penalty, dim=given.dim, keepdim=True, **options))


def _check_no_tangents(given: Arguments) -> None:
    """Compilers would drop forward mode's tangents without a word."""
    for t in (given.x, given.alpha, given.weight):
        if not isinstance(t, Tensor):
            continue
        dual = torch.autograd.forward_ad.unpack_dual(t)  # type: ignore[no-untyped-call]
        if dual.tangent is not None:
            raise NotImplementedError(
                f"{given.function}: a tensor carries a forward-mode tangent under torch.compile; "
                "expected none: forward mode is for eager mode"
            )
