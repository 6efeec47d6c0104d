"""The sharding rules of the inner operators for `torch.distributed.tensor`.

Importing this module registers the rules. `import ddn_cuda` does not import it, because
`torch.distributed.tensor` is slow to load.

A DTensor may be sharded in kept dims (batch or channels): each rank solves its own sets without
communication. It may not be sharded in a pooled dim, because the points would have to be gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

from ddn_cuda._operators import OPERATORS
from ddn_cuda._roles import Operator, Role


def pooled_and_sharded(t: Any, dims: Sequence[int], rank: int) -> bool:
    """Whether t, which broadcasts to a tensor of `rank` dims, is sharded in one of `dims`."""
    return any(
        getattr(p, "dim", None) is not None and p.dim + rank - len(t.shape) in dims
        for p in t.placements
    )


def check(
    name: str, x: Any, weight: Any, dims: Sequence[int], alpha: Any = None, ptr: Any = None
) -> None:
    """Raises if points would have to be gathered, and if plain tensors and DTensors are mixed,
    where PyTorch's message does not name the argument. x, weight: DTensors or their specs."""
    rank = len(x.shape)
    # PyTorch treats plain one-element tensors as replicated, and all in `implicit_replication`.
    implicit = getattr(DTensor._op_dispatcher, "_allow_implicit_replication", False)
    for argument, t in (("alpha", alpha), ("weight", weight), ("ptr", ptr)):
        plain = isinstance(t, Tensor) and not isinstance(t, DTensor)
        if plain and t.numel() != 1 and not implicit:
            raise TypeError(
                f"{name}: `{argument}` is a plain tensor of shape {tuple(t.shape)}, and x a "
                "DTensor; expected a DTensor, such as a replicated one, or a number"
            )
    for argument, t in (("x", x), ("weight", weight)):
        if hasattr(t, "placements") and pooled_and_sharded(t, dims, rank):
            raise ValueError(
                f"{name}: `{argument}` is a DTensor with placements {tuple(t.placements)}, sharded "
                f"over pooled dims ({', '.join(map(str, dims))}); expected one sharded over dims "
                "that are kept: ddn_cuda.distributed.sharded_robust_pool pools sets whose points "
                "lie on several ranks"
            )


def without_data(t: Any) -> Any:
    """A meta tensor of the same shape and dtype; any other value unchanged."""
    return torch.empty(t.shape, dtype=t.dtype, device="meta") if isinstance(t, Tensor) else t


def _along(t: Any, dim: int, rank: int) -> Any:
    """The placement of t if the tensor of `rank` dims to which it broadcasts is sharded in dim."""
    own = dim - (rank - len(t.shape))
    return Shard(own) if own >= 0 and t.shape[own] != 1 else Replicate()


def _rule(operator: Operator) -> Callable[..., Any]:
    """The sharding rule of an operator, for `register_sharding`. It maps the arguments, with specs
    in place of DTensors, to the accepted placements of outputs and arguments."""

    def rule(*args: Any) -> list[tuple[list[Any], list[Any]]]:
        values = dict(zip(operator.arguments, args, strict=True))
        x, dims = values["x"], operator.value(Role.DIMS, args)
        ptr = operator.value(Role.OFFSETS, args)
        rank = len(x.shape)
        check(
            "robust_pool" if ptr is None else "segment_robust_pool", x, values.get("weight"), dims
        )
        found = []
        for d in (None, *(d for d in range(rank) if d not in dims)):
            inputs = [
                None
                if not hasattr(t, "placements")
                else (Replicate() if d is None or t is ptr else _along(t, d, rank))
                for t in args
            ]
            kept = Replicate() if d is None else Shard(d)
            found.append((operator.by_output(args, kept, empty=Replicate()), inputs))
        return found

    return rule


def register(operators: Sequence[Operator] = OPERATORS) -> None:
    """Registers the rules of operators. The import registers those of the package."""
    propagator = DTensor._op_dispatcher.sharding_propagator
    for operator in operators:
        register_sharding(operator.op)(_rule(operator))
        # PyTorch caches the result for a call by its tensors and its static arguments, which for
        # register_sharding begin at the first `int`. That would skip `dim`, an `int[]`, and a call
        # would get the result for another dim. So static arguments begin at the first non-tensor.
        roles = operator.arguments.values()
        first = next(i for i, role in enumerate(roles) if not role.is_tensor)
        info = propagator.op_to_schema_info[operator.op]
        info.static_argnum = min(info.static_argnum, first)


register()
