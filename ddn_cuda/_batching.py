"""Rules for vmap: a batch is a further dim of kept sets, solved by the same kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


class _Lift:
    """Moves the batch dim of each operand to where the kernels take it: in front, or behind the
    points where those are cut into segments along the first dim.

    Args:
        size: of the batch.
        rank: dims of x, without the batch.
        segments: whether there are offsets.
    """

    def __init__(self, size: int, rank: int, segments: bool) -> None:
        self.size, self.rank, self.at = size, rank, 1 if segments else 0

    def whole(self, t: Tensor | None, batch_dim: int | None) -> Tensor | None:
        """Of x's or y's shape."""
        if t is None:
            return None
        if batch_dim is not None:
            return t.movedim(batch_dim, self.at)
        t = t.unsqueeze(self.at)
        return t.expand(*t.shape[: self.at], self.size, *t.shape[self.at + 1 :])

    def broadcast(self, t: Tensor | None, batch_dim: int | None) -> Tensor | None:
        """Of a shape that broadcasts to x's or y's."""
        if t is None:
            return None
        if batch_dim is None:
            return t.unsqueeze(self.at) if self.at == 1 and t.dim() == self.rank else t
        t = t.movedim(batch_dim, 0)
        missing = self.rank - (t.dim() - 1)
        return t.reshape(t.shape[0], *[1] * missing, *t.shape[1:]).movedim(0, self.at)

    def dims(self, dim: Sequence[int]) -> list[int]:
        return [d if d < self.at else d + 1 for d in dim]


def _rank(x: Tensor, batch_dim: int | None) -> int:
    return x.dim() - (batch_dim is not None)


def _check_offsets(batch_dim: int | None) -> None:
    if batch_dim is not None:
        raise NotImplementedError(
            "segment_robust_pool: `ptr` is batched by vmap; expected the same offsets for the "
            "whole batch"
        )


def _lift_sets(lift: _Lift, args: Sequence[Any], dims: Sequence[Any]) -> list[Any]:
    x, y, remainder, curvature, penalty, alpha_value, alpha, weight, ptr, dim = args[:10]
    return [
        *(lift.whole(t, d) for t, d in zip((x, y, remainder, curvature), dims, strict=False)),
        penalty,
        alpha_value,
        lift.broadcast(alpha, dims[6]),
        lift.broadcast(weight, dims[7]),
        ptr,
        lift.dims(dim),
        *args[10:],
    ]


def _lift_direction(lift: _Lift, direction: Sequence[Any], dims: Sequence[Any]) -> list[Any]:
    return [
        lift.whole(direction[0], dims[0]),
        lift.broadcast(direction[1], dims[1]),
        lift.broadcast(direction[2], dims[2]),
    ]


def _wanted_dims(wanted: Sequence[bool], at: int) -> tuple[int | None, ...]:
    return tuple(at if want else None for want in wanted)


# A rule takes the arguments of an inner operator with the places of their batch dims, and returns
# the arguments of the batched call with the places of its outputs' batch dims.
Rule = Callable[[int, Sequence[Any], Sequence[Any]], tuple[list[Any], Any]]


def _forward(outputs: int) -> Rule:
    def rule(size: int, in_dims: Sequence[Any], args: Sequence[Any]) -> tuple[list[Any], Any]:
        x, penalty, alpha_value, alpha, weight, ptr, dim, *rest = args
        _check_offsets(in_dims[5])
        lift = _Lift(size, _rank(x, in_dims[0]), ptr is not None)
        lifted = [
            lift.whole(x, in_dims[0]),
            penalty,
            alpha_value,
            lift.broadcast(alpha, in_dims[3]),
            lift.broadcast(weight, in_dims[4]),
            ptr,
            lift.dims(dim),
            *rest,
        ]
        return lifted, (lift.at,) * outputs

    return rule


def _backward(size: int, in_dims: Sequence[Any], args: Sequence[Any]) -> tuple[list[Any], Any]:
    _check_offsets(in_dims[9])
    lift = _Lift(size, _rank(args[1], in_dims[1]), args[9] is not None)
    lifted = [lift.whole(args[0], in_dims[0]), *_lift_sets(lift, args[1:], in_dims[1:])]
    return lifted, _wanted_dims(args[-1], lift.at)


def _tangent(size: int, in_dims: Sequence[Any], args: Sequence[Any]) -> tuple[list[Any], Any]:
    _check_offsets(in_dims[11])
    lift = _Lift(size, _rank(args[3], in_dims[3]), args[11] is not None)
    direction = _lift_direction(lift, args[:3], in_dims[:3])
    return [*direction, *_lift_sets(lift, args[3:], in_dims[3:])], lift.at


def _double_backward(
    size: int, in_dims: Sequence[Any], args: Sequence[Any]
) -> tuple[list[Any], Any]:
    _check_offsets(in_dims[12])
    lift = _Lift(size, _rank(args[4], in_dims[4]), args[12] is not None)
    grad = lift.whole(args[0], in_dims[0])
    direction = _lift_direction(lift, args[1:4], in_dims[1:4])
    lifted = [grad, *direction, *_lift_sets(lift, args[4:], in_dims[4:])]
    return lifted, _wanted_dims(args[-1], lift.at)


RULES: dict[str, Rule] = {
    "_robust_pool_forward": _forward(3),
    "_robust_pool_forward_info": _forward(9),
    "_robust_pool_backward": _backward,
    "_robust_pool_tangent": _tangent,
    "_robust_pool_double_backward": _double_backward,
}


def batched(name: str, call: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """The vmap rule of an inner operator that is called by `call`."""

    def rule(info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Any, Any]:
        lifted, out_dims = RULES[name](info.batch_size, in_dims, args)
        return call(*lifted), out_dims

    return rule
