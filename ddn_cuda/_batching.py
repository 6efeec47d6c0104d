"""The vmap rules: the batch becomes a further kept dim, solved by the same kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ddn_cuda._roles import Operator, Role


class _Lift:
    """Moves the batch dim of each argument to the first position or, with segments along the first
    dim, to the second.

    Args:
        size: size of the batch.
        rank: number of dims of x without the batch.
        segments: whether there are offsets.
    """

    def __init__(self, size: int, rank: int, segments: bool) -> None:
        self.size, self.rank, self.at = size, rank, 1 if segments else 0

    def __call__(self, role: Role, value: Any, batch_dim: int | None) -> Any:
        if role is Role.DIMS:
            return [d if d < self.at else d + 1 for d in value]
        if role is Role.OFFSETS and batch_dim is not None:
            raise NotImplementedError(
                "segment_robust_pool: `ptr` is batched by vmap; expected the same offsets for the "
                "whole batch"
            )
        if value is None or not role.is_tensor or role is Role.OFFSETS:
            return value
        whole = role in (Role.POINTS, Role.ANSWERS)
        return self.whole(value, batch_dim) if whole else self.broadcast(value, batch_dim)

    def whole(self, t: Tensor, batch_dim: int | None) -> Tensor:
        """Lifts a tensor of x's or the answers' shape."""
        if batch_dim is not None:
            return t.movedim(batch_dim, self.at)
        t = t.unsqueeze(self.at)
        return t.expand(*t.shape[: self.at], self.size, *t.shape[self.at + 1 :])

    def broadcast(self, t: Tensor, batch_dim: int | None) -> Tensor:
        """Lifts a tensor that broadcasts to x's or the answers' shape."""
        if batch_dim is None:
            return t.unsqueeze(self.at) if self.at == 1 and t.dim() == self.rank else t
        t = t.movedim(batch_dim, 0)
        missing = self.rank - (t.dim() - 1)
        return t.reshape(t.shape[0], *[1] * missing, *t.shape[1:]).movedim(0, self.at)


def batched(operator: Operator, call: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """The vmap rule of an operator; `call` runs it."""

    def rule(info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Any, Any]:
        x = operator.places["x"]
        rank = args[x].dim() - (in_dims[x] is not None)
        lift = _Lift(info.batch_size, rank, operator.value(Role.OFFSETS, args) is not None)
        roles = operator.arguments.values()
        lifted = [lift(*each) for each in zip(roles, args, in_dims, strict=True)]
        return call(*lifted), operator.returned(operator.by_output(args, lift.at, empty=None))

    return rule
