"""The functions `robust_pool` and `segment_robust_pool`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast, overload

import torch
from torch import Tensor

from ddn_cuda import _C, _nested, _operators
from ddn_cuda._arguments import Arguments, check_flag
from ddn_cuda._autograd import recorder
from ddn_cuda._capture import as_node, is_proxy, needs_operators, refuse_script
from ddn_cuda._numbers import shown


class RobustPoolInfo(NamedTuple):
    """Diagnostics of each answer y, returned by `robust_pool(..., return_info=True)`.

    All are tensors of y's shape and device without gradient, evaluated at the returned (rounded) y.
    f is the objective, f(u) = sum_i w_i phi(u - x_i; alpha).

    Attributes:
        iterations: number of passes over the set (int64), not counting the first one, which
            computes range and mean. A pass over only the points near the breakpoints counts too. A
            global search counts all evaluations of the cells of a grid as one pass.
        residual: abs(f'(y)) divided by the sum of the weights (float64). Without weights, the sum
            is the number of points.
        curvature: f''(y) (float64), even if the gradient is zero by convention.
        objective: f(y) (float64).
        gap: the optimality gap, a proven upper bound of f(y) - min f (float64). Zero up to rounding
            for a converged convex penalty and for a global minimum. Equal to f(y) if no better
            bound is known (non-convex penalties with solver="local"). Infinite if f(y) is, for
            example for a convex penalty with a point at infinity.
        status: how the solve ended, a value of `ddn_cuda.Status` (int64): `converged`;
            `stopped_early` by `max_iter`; `flat` (the minimisers form an interval and y is its
            midpoint); `empty` (no positive weight, y is 0); `not_finite` (alpha, a weight, a point
            or y is not finite, or a weight is negative; y is NaN, or infinite like the points).

    residual, curvature, objective and gap are NaN if y is not finite.
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

    Each set of points along `dim` is solved independently, and the result is batch-invariant: the
    other sets do not change it, bitwise. The gradient comes from the implicit function theorem with
    H = sum_j w_j phi''(y - x_j): dy/dx_i = w_i phi''(y - x_i) / H, dy/dw_i = -phi'(y - x_i) / H and
    dy/dalpha = -sum_i w_i dphi'/dalpha(y - x_i) / H. If H vanishes (Huber, two equal clusters
    further apart than 2 alpha), the gradients are zero. Second derivatives and forward mode have
    closed forms too, and the transforms of `torch.func` are supported (docs/features.md).

    Args:
        x: points of any shape and strides; float16, bfloat16, float32 or float64. 16-bit points are
            solved in float32 and the result is rounded once. Autocast has no effect. Or a nested
            tensor of layout torch.jagged, whose ragged dim is pooled by `segment_robust_pool`; its
            lengths() may leave gaps between the sets, which may not overlap.
        penalty: a name or short name of `ddn_cuda.PENALTIES`, such as "huber" or "H";
            docs/penalties.md has their formulas.
        alpha: the scale of the penalty, in the units of x; points further than alpha from y count
            as outliers. A float from 1e-15 to 1e15 (float64: 1e-30 to 1e30), or a floating-point
            tensor on x's device that broadcasts against the output with `keepdim=True`, such as one
            value per channel. A tensor may require gradients. Its values are not checked: a value
            out of range makes the result of its set NaN.
        dim: the dim or dims to pool jointly; `()` pools all. For a nested x the ragged dim alone.
        keepdim: keep the pooled dims with size 1.
        weight: w >= 0, a floating-point tensor that broadcasts against x (without being expanded in
            memory), or a Boolean mask; False excludes the point. None: all ones. A point of zero
            weight is excluded, whatever its value. A set whose weights are all zero gives 0 and
            zero gradients. The values are not checked: a weight that is negative or not finite, or
            a sum that overflows x's dtype, makes the result of its set NaN. For a nested x: a
            nested tensor with x's offsets, or a dense one that broadcasts against x.values().
        solver: "global" or "local". Convex penalties have only one minimum, and both give the same.
            For the others, "global" returns a certified global minimum, the smallest one if several
            are equal. "local" returns the minimum that a safeguarded
            Newton method reaches from the Huber answer at the same alpha; if no point lies within
            alpha of that answer, from the point nearest to it (of two, the smaller).
        max_iter: limit of the solver's passes over a set, not counting the first pass (range and
            mean) and the last one (curvature). The passes of the Huber descent of "local" count. A
            solve stopped by the limit returns the best place that it has evaluated, and the
            gradient formula is applied there. None: no limit.
        tol: accepted size of the last Newton step, in units of alpha. None: 1e-6 in float32 and
            1e-12 in float64, times alpha or the range of the set, whichever is smaller.
        return_info: also return a `RobustPoolInfo`, which takes a few more passes.
        validate: also check the values of weight and of an alpha tensor, which synchronises with
            the device. Not available in compiled functions or under vmap, where values are unknown.

    Returns:
        A tensor of x's dtype and device, with x's shape without the pooled dims. With
        `return_info=True`, a tuple of this tensor and a `RobustPoolInfo`. For a nested x of shape
        (B, j, \*channels), dense tensors of shape (B, \*channels). An empty set of a nested x gives
        0 with status `empty`.

    A NaN among the points makes the result and the gradients of its set NaN, and affects no other
    set. The gradients are zero if the loss does not use the NaN, that is, if the incoming gradient
    is zero. A point at infinity has zero gradient. It exerts no influence with a non-convex penalty
    unless all points are infinite, and has the influence of any far point with a convex one whose
    influence is bounded.

    Raises:
        TypeError: an argument has the wrong type, or x, alpha or weight an unsupported dtype or
            layout: a nested tensor of layout torch.strided, or a MaskedTensor.
        ValueError: penalty, alpha, dim, solver, max_iter or tol has an invalid value; alpha or
            weight does not broadcast or is on another device; a pooled dim is empty; or dim is not
            the ragged dim of a nested x. Messages about a nested x may name `segment_robust_pool`
            and show the shape of x.values().
        IndexError: dim is out of range.
        NotImplementedError: for a third derivative, and for a second derivative that is forward
            mode twice.

    Source: S. Gould, R. Hartley, D. Campbell, "Deep Declarative Networks", IEEE TPAMI 44(8), 2022,
    proposition 4.4 (the gradient) and section 5.2 (the penalties).
    """
    if return_info is False and validate is False and not torch.compiler.is_compiling():
        y = _eager(x, None, penalty, alpha, dim, keepdim, weight, solver, max_iter, tol)
        if y is not None:
            return y
    if is_proxy(x, alpha, weight):
        options: dict[str, Any] = {"dim": dim, "keepdim": keepdim, "weight": weight}
        options |= {"solver": solver, "max_iter": max_iter, "tol": tol}
        options |= {"return_info": return_info, "validate": validate}
        return cast(Tensor, as_node(robust_pool, x, penalty, alpha, **options))
    check_flag("robust_pool", "keepdim", keepdim)
    if _nested.is_jagged(x):
        sets = _nested.segments("robust_pool", x, alpha, dim, weight)
        options = {"weight": sets.weight, "solver": solver, "max_iter": max_iter, "tol": tol}
        options |= {"return_info": return_info, "validate": validate}
        found: Any = segment_robust_pool(sets.x, sets.ptr, penalty, sets.alpha, **options)
        y, info = found if return_info else (found, ())
        y, *info = (sets.answers(t, keepdim) for t in (y, *info))
        return (y, RobustPoolInfo(*info)) if return_info else y
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
    r"""`robust_pool` over the segments of the first dim of x, that is, over ragged sets.

    Segment s has the rows ptr[s] to ptr[s + 1] - 1 of x, and each of its channels is a set. Answers
    and gradients are bitwise equal to those of `robust_pool` for the same points.

    Args:
        x: points of shape (T, \*channels), float16, bfloat16, float32 or float64, any strides.
        ptr: S + 1 ascending offsets from 0 to T (int64, on x's device). The values are not checked:
            they are clamped to this range, and an offset below its predecessor is raised to it.
            Rows in no segment have zero gradients.
        penalty, solver, max_iter, tol, return_info: as in `robust_pool`.
        alpha: as in `robust_pool`; a tensor broadcasts against the output, (S, \*channels).
        weight: as in `robust_pool`; broadcasts against x, such as (T, 1, ...).
        validate: also check the values of ptr, weight and an alpha tensor, which synchronises with
            the device.

    Returns:
        A tensor of shape (S, \*channels) and of x's dtype and device. With `return_info=True`, a
        tuple of this tensor and a `RobustPoolInfo`. An empty segment gives 0 with status `empty`.

    Raises:
        TypeError: ptr is not int64; otherwise as `robust_pool`.
        ValueError: ptr is not 1-dimensional or is on another device; otherwise as `robust_pool`.
    """
    plain = return_info is False and validate is False and isinstance(ptr, Tensor)
    if plain and not torch.compiler.is_compiling():
        y = _eager(x, ptr, penalty, alpha, 0, True, weight, solver, max_iter, tol)
        if y is not None:
            return y
    if is_proxy(x, ptr, alpha, weight):
        options: dict[str, Any] = {"weight": weight, "solver": solver, "max_iter": max_iter}
        options |= {"tol": tol, "return_info": return_info, "validate": validate}
        return cast(Tensor, as_node(segment_robust_pool, x, ptr, penalty, alpha, **options))
    if not isinstance(ptr, Tensor):
        raise TypeError(f"segment_robust_pool: `ptr` is {shown(ptr)}; expected an int64 tensor")
    given = Arguments(
        "segment_robust_pool", x, penalty, alpha, 0, weight, ptr, solver, max_iter, tol
    )
    _, y, info = _pool(given, return_info=return_info, validate=validate)
    return (y, RobustPoolInfo(*info)) if return_info else y


robust_pool.__prepare_scriptable__ = refuse_script  # type: ignore[attr-defined]
segment_robust_pool.__prepare_scriptable__ = refuse_script  # type: ignore[attr-defined]

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
    """The fast path for plain arguments (csrc/ops/module.cpp); None if an argument is not plain."""
    done = _C.pool(x, ptr, penalty, alpha, dim, keepdim, weight, solver, max_iter, tol)
    if not isinstance(done, list):
        return done
    if torch._C._get_tracing_state() is not None:
        # torch.jit.trace cannot record autograd functions. It records the operator if there is
        # nothing to differentiate; graphs that run it have its gradients nevertheless.
        with torch.no_grad():
            return _eager(x, ptr, penalty, alpha, dim, keepdim, weight, solver, max_iter, tol)
    value, tensor = (1.0, alpha) if isinstance(alpha, Tensor) else (alpha, None)
    y: Tensor = _record(x, penalty, value, tensor, weight, ptr, done, solver, max_iter, tol)[0]
    return y if keepdim else y.squeeze(done)


def _pool(
    given: Arguments, *, return_info: bool, validate: bool
) -> tuple[tuple[int, ...], Tensor, Sequence[Tensor]]:
    """The pooled dims, the answers with keepdim, and the tensors of `RobustPoolInfo`."""
    check_flag(given.function, "return_info", return_info)
    check_flag(given.function, "validate", validate)
    given = given.checked()
    if validate:
        given.validate()
    options = (given.solver, given.max_iter, given.tol)
    name = "_robust_pool_forward_info" if return_info else "_robust_pool_forward"
    if needs_operators(given.function):
        _check_no_tangents(given)
        y = _through_operators(given)
        # The operator has checked the arguments.
        dims = [0] if given.ptr is not None else _sorted_dims(given.x, given.dim)
        if not return_info:
            return tuple(dims), y, ()
        call = _operators.op(name)  # the answer above is unused, and compilers drop it
    else:
        dims = given.dims()
        call = _operators.function(name).apply
    y, _remainder, _curvature, *info = call(
        given.x, given.penalty, *given.inner_alpha(), given.weight, given.ptr, dims, *options
    )
    return tuple(dims), y, info


def _sorted_dims(x: Tensor, dims: Sequence[int]) -> list[int]:
    """Valid dims as the inner operators take them: sorted and non-negative."""
    if x.dim() == 0:
        return []
    return sorted(d % x.dim() for d in dims) or list(range(x.dim()))


def _through_operators(given: Arguments) -> Tensor:
    """Calls the public operators, so that exported programs contain these."""
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
    """Raises for forward-mode tangents, which compilers drop silently."""
    for t in (given.x, given.alpha, given.weight):
        if not isinstance(t, Tensor):
            continue
        dual = torch.autograd.forward_ad.unpack_dual(t)  # type: ignore[no-untyped-call]
        if dual.tangent is not None:
            raise NotImplementedError(
                f"{given.function}: a tensor carries a forward-mode tangent under torch.compile; "
                "expected none: forward mode is for eager mode"
            )
