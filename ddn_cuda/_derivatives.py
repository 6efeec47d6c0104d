"""Derivatives of the inner operators, written once for the two ways in which autograd meets them.

`Calls` holds the four inner operators, either as the operators themselves (registered with
`torch.library`; what compilers and `torch.autograd` use) or as `torch.autograd.Function`s (which
`torch.func` and forward mode need in eager mode). A derivative of one of them is made of others,
so that they are closed under differentiation up to second order:

- forward: reverse mode is `backward`, forward mode is `tangent`.
- backward: in the gradient of y it is linear, with the transpose `tangent`; by everything else it
  is differentiated by `double_backward`, in both modes, since second derivatives are symmetric.
- tangent: likewise, with `backward` as its transpose.
- double_backward: not differentiable; it raises.

y, remainder and curvature are functions of the other inputs. The derivatives by those are total
ones, so that nothing flows back through these three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Sets(NamedTuple):
    """The tail of the inner operators' arguments: points, their answers, and the problem."""

    x: Tensor
    y: Tensor
    remainder: Tensor
    curvature: Tensor
    penalty: str
    alpha_value: float
    alpha: Tensor | None
    weight: Tensor | None
    ptr: Tensor | None
    dim: Sequence[int]

    def tensors(self) -> tuple[Tensor | None, ...]:
        return (*self[:4], *self[6:9])

    def constants(self) -> tuple[str, float, Sequence[int]]:
        return self.penalty, self.alpha_value, self.dim

    @staticmethod
    def restored(tensors: Sequence[Any], constants: tuple[str, float, Sequence[int]]) -> Sets:
        penalty, alpha_value, dim = constants
        x, y, remainder, curvature, alpha, weight, ptr = tensors
        return Sets(x, y, remainder, curvature, penalty, alpha_value, alpha, weight, ptr, dim)


# What moves or is moved: points, their weights, alpha. As the inner operators order them.
Direction = tuple[Tensor | None, Tensor | None, Tensor | None]


class Calls(NamedTuple):
    """The inner operators; see the module's docstring."""

    forward: Callable[..., tuple[Tensor, ...]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    tangent: Callable[..., Tensor]
    double_backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


class InputGradients(NamedTuple):
    x: Tensor | None
    alpha: Tensor | None
    weight: Tensor | None


def _known(condition: bool | torch.SymBool) -> bool:
    """False of sizes that a compiler learns at run time alone."""
    if isinstance(condition, bool):
        return condition
    # Takes longer to import than all the rest; where there are such sizes, it has been.
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return guard_or_false(condition)


def sum_to(calls: Calls, each: Tensor, like: Tensor) -> Tensor:
    """Sums what was broadcast from the shape of `like`, in a fixed order: as a mean."""
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
        count = prod(each.shape[d] for d in dims)
        if _known(count == 0):
            return like.new_zeros(like.shape)
        options = ("quadratic", 1.0, None, None, None, dims, "local", None, None)
        each = calls.forward(each, *options)[0] * count
    return _rounded(each.reshape(like.shape), like)


def _rounded(each: Tensor, like: Tensor) -> Tensor:
    if like.dtype.itemsize < each.dtype.itemsize:
        # A finite gradient is not rounded to an infinity.
        most = torch.finfo(like.dtype).max
        each = each.clamp(-most, most)
    return each.to(like.dtype)


def _part(t: Tensor | None, x: Tensor, d: int, begin: int, length: int) -> Tensor | None:
    """The part of a tensor that broadcasts to x or y which belongs to a part of dim d of x."""
    if t is None:
        return None
    at = t.dim() - x.dim() + d
    return t if at < 0 or _known(t.shape[at] == 1) else t.narrow(at, begin, length)


def _cuts(sets: Sets, like: Tensor) -> tuple[int, list[tuple[int, int]]] | None:
    """Where to cut the sets so that float32 numbers for the points of a part take no more bytes
    than 16-bit x: a kept dim along which `like` is broadcast, in parts of at most half of it."""
    x = sets.x
    if x.dtype.itemsize >= 4 or hasattr(x, "placements"):
        return None
    lead = x.dim() - like.dim()
    for d, size in enumerate(x.shape):
        is_broadcast = d < lead or _known(like.shape[d - lead] == 1)
        if d in sets.dim or not is_broadcast or not _known(size >= 2):
            continue
        if size == 2:
            return d, [(0, 1), (1, 1)]
        third = (size + 1) // 3
        return d, [(0, third), (third, third), (2 * third, size - 2 * third)]
    return None


# An inner operator, `backward` or `double_backward`: of what comes before the sets, the sets, and
# which gradients are wanted.
Gradient = Callable[..., tuple[Tensor, Tensor, Tensor]]


def _of_weight_by_parts(
    calls: Calls,
    gradient: Gradient,
    before: Sequence[Tensor | None],
    sets: Sets,
    like: Tensor,
    d: int,
    cuts: Sequence[tuple[int, int]],
) -> Tensor:
    """The gradient of a weight, or of its direction, made and summed to the shape of `like` for one
    part of the sets after the other: until it is summed it has a number for each point."""
    wide, summed = like.to(torch.float32), []
    for cut in cuts:
        part = [_part(t, sets.x, d, *cut) for t in (*before, *sets.tensors()[:6])]
        own = Sets.restored([*part[len(before) :], sets.ptr], sets.constants())
        each = gradient(*part[: len(before)], *own, [False, True, False])[1]
        summed.append(sum_to(calls, each, wide))
        del each  # before the next one is made
    return _rounded(sum(summed[1:], summed[0]), like)


def _gradients(
    calls: Calls,
    gradient: Gradient,
    before: Sequence[Tensor | None],
    sets: Sets,
    likes: Direction,
    wanted: Sequence[bool],
) -> Direction:
    """The gradients that are wanted, of x, weight and alpha, in the shapes of `likes`."""
    wants = [want and like is not None for want, like in zip(wanted, likes, strict=True)]
    like_x, like_weight, like_alpha = likes
    of_weight = None
    if wants[1] and like_weight is not None and (found := _cuts(sets, like_weight)):
        of_weight = _of_weight_by_parts(calls, gradient, before, sets, like_weight, *found)
        wants[1] = False
    if not any(wants):
        return None, of_weight, None
    x, weight, alpha = gradient(*before, *sets, wants)
    if wants[1] and like_weight is not None:
        of_weight = sum_to(calls, weight, like_weight)
    of_x = x if like_x is sets.x or like_x is None else sum_to(calls, x, like_x)
    of_alpha = sum_to(calls, alpha, like_alpha) if wants[2] and like_alpha is not None else None
    return of_x if wants[0] else None, of_weight, of_alpha


def of_forward(calls: Calls, grad: Tensor, sets: Sets, wanted: Sequence[bool]) -> InputGradients:
    """The gradients of a solution; wanted: of x, weight, alpha."""
    likes = (sets.x, sets.weight, sets.alpha)
    x, weight, alpha = _gradients(calls, calls.backward, (grad,), sets, likes, wanted)
    return InputGradients(x, alpha, weight)


def of_derivative(
    calls: Calls, grad: Tensor, direction: Direction, sets: Sets, wanted: Sequence[bool]
) -> InputGradients:
    """The gradients of grad * tangent(direction), and the derivatives of backward(grad) in that
    direction, by x, alpha and weight."""
    if not any(wanted) or all(part is None for part in direction):
        return InputGradients(None, None, None)
    likes = (sets.x, sets.weight, sets.alpha)
    before = (grad, *direction)
    x, weight, alpha = _gradients(calls, calls.double_backward, before, sets, likes, wanted)
    return InputGradients(x, alpha, weight)


def of_direction(
    calls: Calls, grad: Tensor, direction: Direction, sets: Sets, wanted: Sequence[bool]
) -> Direction:
    """The gradients of grad * tangent(direction) by the parts of the direction."""
    if not any(wanted):
        return None, None, None
    return _gradients(calls, calls.backward, (grad,), sets, direction, wanted)


def along(calls: Calls, direction: Direction, sets: Sets) -> Tensor | None:
    """The tangent of y; None for one that is zero."""
    if all(part is None for part in direction):
        return None
    return calls.tangent(*direction, *sets)


def _third_order(segments: bool) -> NotImplementedError:
    name = "segment_robust_pool" if segments else "robust_pool"
    return NotImplementedError(
        f"{name}: this derivative is not supported; expected at most two differentiations, "
        "of which at most one is in forward mode. torch.autograd.functional.hvp needs three: "
        "vhp, or torch.func.jvp of torch.func.grad, give the same product"
    )


# ---- By the arguments of the inner operators -----------------------------------------------------


def _save(ctx: Any, sets: Sets, *others: Tensor | None) -> None:
    tensors = (*sets.tensors(), *others)
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.constants = sets.constants()
    ctx.set_materialize_grads(False)  # no zeros are made for what nobody asks for


def _load(ctx: Any) -> tuple[Sets, list[Any]]:
    tensors = ctx.saved_tensors
    return Sets.restored(tensors[:7], ctx.constants), list(tensors[7:])


def _none(count: int) -> tuple[None, ...]:
    return (None,) * count


class Rule:
    """The derivatives of one inner operator, as methods of an autograd function but for `calls`."""

    @staticmethod
    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        raise NotImplementedError

    @staticmethod
    def backward(calls: Calls, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        raise NotImplementedError

    @staticmethod
    def jvp(calls: Calls, ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError


class Forward(Rule):
    # x, penalty, alpha_value, alpha, weight, ptr, dim, solver, max_iter, tol

    @staticmethod
    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, penalty, alpha_value, alpha, weight, ptr, dim = inputs[:7]
        ctx.mark_non_differentiable(*output[1:])
        ctx.outputs = len(output)
        y, remainder, curvature = output[:3]
        answer = Sets(x, y, remainder, curvature, penalty, alpha_value, alpha, weight, ptr, dim)
        _save(ctx, answer)

    @staticmethod
    def backward(calls: Calls, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        if grad is None:
            return _none(10)
        sets, _ = _load(ctx)
        needs = ctx.needs_input_grad
        g = of_forward(calls, grad, sets, (needs[0], needs[4], needs[3]))
        return (g.x, None, None, g.alpha, g.weight, *_none(5))

    @staticmethod
    def jvp(calls: Calls, ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        sets, _ = _load(ctx)
        moved = along(calls, (tangents[0], tangents[4], tangents[3]), sets)
        return (moved, *_none(ctx.outputs - 1))


class Backward(Rule):
    # grad, x, y, remainder, curvature, penalty, alpha_value, alpha, weight, ptr, dim, wanted

    @staticmethod
    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.wanted = inputs[11]
        _save(ctx, Sets(*inputs[1:11]), inputs[0])

    @staticmethod
    def backward(calls: Calls, ctx: Any, *direction: Tensor | None) -> tuple[Tensor | None, ...]:
        sets, (grad,) = _load(ctx)
        # An empty tensor stands for an output that was not wanted, and so may its gradient.
        parts = zip(direction, ctx.wanted, strict=True)
        x, weight, alpha = (part if wanted else None for part, wanted in parts)
        needs = ctx.needs_input_grad
        moved = along(calls, (x, weight, alpha), sets) if needs[0] else None
        g = of_derivative(calls, grad, (x, weight, alpha), sets, (needs[1], needs[8], needs[7]))
        return (moved, g.x, *_none(5), g.alpha, g.weight, *_none(3))

    @staticmethod
    def jvp(calls: Calls, ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        sets, (grad,) = _load(ctx)
        direction = (tangents[1], tangents[8], tangents[7])
        parts = []
        if tangents[0] is not None:
            parts.append(calls.backward(tangents[0], *sets, ctx.wanted))
        if any(part is not None for part in direction):
            parts.append(calls.double_backward(grad, *direction, *sets, ctx.wanted))
        if not parts:
            return _none(3)
        return tuple(sum(outputs[1:], outputs[0]) for outputs in zip(*parts, strict=True))


class Tangent(Rule):
    # x_tangent, weight_tangent, alpha_tangent,
    # x, y, remainder, curvature, penalty, alpha_value, alpha, weight, ptr, dim

    @staticmethod
    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, Sets(*inputs[3:13]), *inputs[:3])

    @staticmethod
    def backward(calls: Calls, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        if grad is None:
            return _none(13)
        sets, (x, weight, alpha) = _load(ctx)
        needs = ctx.needs_input_grad
        by_direction = of_direction(calls, grad, (x, weight, alpha), sets, needs[:3])
        g = of_derivative(calls, grad, (x, weight, alpha), sets, (needs[3], needs[10], needs[9]))
        return (*by_direction, g.x, *_none(5), g.alpha, g.weight, *_none(2))

    @staticmethod
    def jvp(calls: Calls, ctx: Any, *tangents: Any) -> Tensor | None:
        sets, _ = _load(ctx)
        if any(tangents[i] is not None for i in (3, 9, 10)):
            raise _third_order(sets.ptr is not None)
        return along(calls, (tangents[0], tangents[1], tangents[2]), sets)


class DoubleBackward(Rule):
    # grad, x_tangent, weight_tangent, alpha_tangent,
    # x, y, remainder, curvature, penalty, alpha_value, alpha, weight, ptr, dim, wanted

    @staticmethod
    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.segments = inputs[12] is not None

    @staticmethod
    def backward(calls: Calls, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        raise _third_order(ctx.segments)

    @staticmethod
    def jvp(calls: Calls, ctx: Any, *tangents: Any) -> Any:
        raise _third_order(ctx.segments)


RULES: dict[str, type[Rule]] = {
    "_robust_pool_forward": Forward,
    "_robust_pool_forward_info": Forward,
    "_robust_pool_backward": Backward,
    "_robust_pool_tangent": Tangent,
    "_robust_pool_double_backward": DoubleBackward,
}
