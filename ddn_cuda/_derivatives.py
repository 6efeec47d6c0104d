"""Derivatives of the inner operators.

The derivatives of an inner operator are compositions of inner operators, closed under
differentiation up to second order:

- forward: reverse mode is `backward`, forward mode is `jvp`.
- backward: linear in the gradient of y, with transpose `jvp`. Its derivative by any other argument
  is `double_backward`, in both modes, because the Hessian is symmetric.
- jvp: likewise, with transpose `backward`.
- double_backward: not differentiable; it raises.

y, remainder and curvature are functions of the other inputs. The derivatives by the other inputs
are total derivatives, so no gradient flows through these three.

The formulas call an operator with `Values`, a mapping from names of arguments to values. They pass
on the mapping they receive; names that the operator does not have are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from ddn_cuda._roles import Derivative

Values = dict[str, Any]
# The differentiable arguments, in the order of `wanted` and of the gradients.
_VARIABLES = ("x", "weight", "alpha")
_SOLVED = ("x", "y", "remainder", "curvature", "alpha", "weight", "ptr")


def _known(condition: bool | torch.SymBool) -> bool:
    """Whether a condition is known to hold; false if it depends on symbolic sizes."""
    if isinstance(condition, bool):
        return condition
    # A slow import, which symbolic sizes imply has already happened.
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return guard_or_false(condition)


def sum_to(calls: Any, each: Tensor, like: Tensor) -> Tensor:
    """Sums `each` to the shape of `like`, which broadcasts to the shape of `each`. The order of
    summation is fixed, because the sum is computed as n times a mean by the pooling kernels."""
    lead = each.dim() - like.dim()
    dims = [
        d
        for d, size in enumerate(each.shape)
        if d < lead or (_known(like.shape[d - lead] == 1) and not _known(size == 1))
    ]
    if hasattr(each, "placements"):  # a DTensor, perhaps sharded in these dims
        sharded: Any = each.sum(dims, keepdim=True) if dims else each
        sharded = sharded.reshape(like.shape).to(like.dtype)
        placements = getattr(like, "placements", None)
        total: Tensor = (
            sharded.full_tensor()
            if placements is None
            else sharded.redistribute(placements=placements)
        )
        return total
    if dims:
        count = prod([each.shape[d] for d in dims])
        if _known(count == 0):
            return like.new_zeros(like.shape)
        mean = {"penalty": "quadratic", "alpha_value": 1.0, "solver": "local", "dim": dims}
        unused = dict.fromkeys(("alpha", "weight", "ptr", "max_iter", "tol"))
        each = calls.robust_pool_forward({"x": each, **mean, **unused})[0] * count
    return _rounded(each.reshape(like.shape), like)


def _rounded(each: Tensor, like: Tensor) -> Tensor:
    if like.dtype.itemsize < each.dtype.itemsize:
        # A finite gradient must not overflow in the narrower dtype.
        most = torch.finfo(like.dtype).max
        each = each.clamp(-most, most)
    return each.to(like.dtype)


def _part(t: Any, x: Tensor, d: int, begin: int, length: int) -> Any:
    """The slice of t, which broadcasts to x or y, for a slice of dim d of x."""
    if not isinstance(t, Tensor):
        return t
    at = t.dim() - x.dim() + d
    return t if at < 0 or _known(t.shape[at] == 1) else t.narrow(at, begin, length)


def _cuts(values: Values, like: Tensor) -> tuple[int, list[tuple[int, int]]] | None:
    """A dim and slices of it such that float32 numbers for the points of a slice take no more
    memory than 16-bit x: a kept dim along which `like` is broadcast, in slices of at most half."""
    x = values["x"]
    if x.dtype.itemsize >= 4 or hasattr(x, "placements"):
        return None
    lead = x.dim() - like.dim()
    for d, size in enumerate(x.shape):
        is_broadcast = d < lead or _known(like.shape[d - lead] == 1)
        if d in values["dim"] or not is_broadcast or not _known(size >= 2):
            continue
        if size == 2:
            return d, [(0, 1), (1, 1)]
        third = (size + 1) // 3
        return d, [(0, third), (third, third), (2 * third, size - 2 * third)]
    return None


# An inner operator, `backward` or `double_backward`.
Gradient = Callable[[Values], tuple[Tensor, Tensor, Tensor]]


def _of_weight_by_parts(
    calls: Any,
    gradient: Gradient,
    values: Values,
    like: Tensor,
    d: int,
    cuts: Sequence[tuple[int, int]],
) -> Tensor:
    """The gradient of a weight, or of its tangent, in the shape of `like`. It is computed and
    summed slice by slice to save memory, because it has one number per point before summation."""
    x, wide, summed = values["x"], like.to(torch.float32), []
    for cut in cuts:
        part = {n: v if n == "ptr" else _part(v, x, d, *cut) for n, v in values.items()}
        part["wanted"] = [False, True, False]
        each = gradient(part)[1]
        summed.append(sum_to(calls, each, wide))
        del each  # frees its memory before the next slice
    return _rounded(sum(summed[1:], summed[0]), like)


def _gradients(
    calls: Any, gradient: Gradient, values: Values, needs: set[str], tangents: str = ""
) -> Values:
    """The gradients of the `_VARIABLES` in `needs`, in their shapes. tangents: the suffix
    "_tangent" for the gradients of their tangents instead."""
    names = [name + tangents for name in _VARIABLES]
    x, weight, alpha = (values[name] if name in needs else None for name in names)
    found: Values = {}
    if weight is not None and (cuts := _cuts(values, weight)):
        found[names[1]] = _of_weight_by_parts(calls, gradient, values, weight, *cuts)
        weight = None
    wanted = [x is not None, weight is not None, alpha is not None]
    if not any(wanted):
        return found
    of_x, of_weight, of_alpha = gradient({**values, "wanted": wanted})
    if x is not None:
        found[names[0]] = of_x if x is values["x"] else sum_to(calls, of_x, x)
    if weight is not None:
        found[names[1]] = sum_to(calls, of_weight, weight)
    if alpha is not None:
        found[names[2]] = sum_to(calls, of_alpha, alpha)
    return found


def _as_direction(parts: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """Tangents of `_VARIABLES` by the operators' argument names; None if absent."""
    return {f"{name}_tangent": parts.get(name) for name in _VARIABLES}


def _second_order(calls: Any, given: Values, direction: Values, needs: set[str]) -> Values:
    """The gradients of grad * jvp(direction), which equal the directional derivatives of
    backward(grad)."""
    if all(part is None for part in direction.values()):
        return {}
    return _gradients(calls, calls.robust_pool_double_backward, {**given, **direction}, needs)


def _jvp(calls: Any, given: Values, direction: Values) -> Tensor | None:
    """The tangent of y; None if it is zero."""
    if all(part is None for part in direction.values()):
        return None
    tangent: Tensor = calls.robust_pool_jvp({**given, **direction})
    return tangent


def _third_order(given: Values) -> NotImplementedError:
    name = "robust_pool" if given["ptr"] is None else "segment_robust_pool"
    return NotImplementedError(
        f"{name}: this derivative is not supported; expected at most two differentiations, "
        "of which at most one is in forward mode. torch.autograd.functional.hvp needs three: "
        "vhp, or torch.func.jvp of torch.func.grad, give the same product"
    )


# ---- The operators -------------------------------------------------------------------------------


class Forward(Derivative):
    saves = _SOLVED

    @staticmethod
    def backward(
        calls: Any, given: Values, grads: Sequence[Tensor | None], needs: set[str]
    ) -> Values:
        return _gradients(calls, calls.robust_pool_backward, {**given, "grad": grads[0]}, needs)

    @staticmethod
    def jvp(calls: Any, given: Values, tangents: Mapping[str, Tensor]) -> list[Tensor | None]:
        return [_jvp(calls, given, _as_direction(tangents))]


class Backward(Derivative):
    saves = ("grad", *_SOLVED)

    @staticmethod
    def backward(
        calls: Any, given: Values, grads: Sequence[Tensor | None], needs: set[str]
    ) -> Values:
        # The gradient of an output that was not wanted may be an empty tensor.
        parts = zip(_VARIABLES, grads, given["wanted"], strict=True)
        direction = _as_direction({name: part for name, part, wanted in parts if wanted})
        found = _second_order(calls, given, direction, needs)
        if "grad" in needs:
            found["grad"] = _jvp(calls, given, direction)
        return found

    @staticmethod
    def jvp(calls: Any, given: Values, tangents: Mapping[str, Tensor]) -> list[Tensor | None]:
        direction, parts = _as_direction(tangents), []
        if "grad" in tangents:
            parts.append(calls.robust_pool_backward({**given, "grad": tangents["grad"]}))
        if any(part is not None for part in direction.values()):
            parts.append(calls.robust_pool_double_backward({**given, **direction}))
        if not parts:
            return [None] * 3
        return [sum(outputs[1:], outputs[0]) for outputs in zip(*parts, strict=True)]


class Jvp(Derivative):
    saves = (*_as_direction({}), *_SOLVED)

    @staticmethod
    def backward(
        calls: Any, given: Values, grads: Sequence[Tensor | None], needs: set[str]
    ) -> Values:
        given["grad"] = grads[0]
        direction = {name: given[name] for name in _as_direction({})}
        found = _gradients(calls, calls.robust_pool_backward, given, needs, "_tangent")
        return found | _second_order(calls, given, direction, needs)

    @staticmethod
    def jvp(calls: Any, given: Values, tangents: Mapping[str, Tensor]) -> list[Tensor | None]:
        if any(name in tangents for name in _VARIABLES):
            raise _third_order(given)
        return [_jvp(calls, given, {name: tangents.get(name) for name in _as_direction({})})]


class DoubleBackward(Derivative):
    saves = ("ptr",)

    @staticmethod
    def backward(
        calls: Any, given: Values, grads: Sequence[Tensor | None], needs: set[str]
    ) -> Values:
        raise _third_order(given)

    @staticmethod
    def jvp(calls: Any, given: Values, tangents: Mapping[str, Tensor]) -> list[Tensor | None]:
        raise _third_order(given)
