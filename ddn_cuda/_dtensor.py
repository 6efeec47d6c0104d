"""How the inner operators may be sharded: `torch.distributed.tensor`'s rules for them.

Of a DTensor's dims those that are kept, batch or channels, may be sharded: every rank solves its
own sets, and nothing is sent. A pooled dim may not be, as its points would have to be gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

from ddn_cuda._operators import OPERATORS


def pooled_and_sharded(t: Any, dims: Sequence[int], rank: int) -> bool:
    """Whether t, which broadcasts to a tensor of `rank` dims, is sharded in one of `dims`."""
    return any(
        getattr(p, "dim", None) is not None and p.dim + rank - len(t.shape) in dims
        for p in t.placements
    )


def check(
    name: str, x: Any, weight: Any, dims: Sequence[int], alpha: Any = None, ptr: Any = None
) -> None:
    """Raises where points would have to be gathered, and where a plain tensor is beside a DTensor:
    torch's own message does not say which. x, weight: DTensors or their specs."""
    rank = len(x.shape)
    # Torch takes plain tensors of one element as replicated; within `implicit_replication`, all.
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


def _along(t: Any, dim: int, rank: int) -> Any:
    """The placement of t where a tensor of `rank` dims that it broadcasts to is sharded in dim."""
    own = dim - (rank - len(t.shape))
    return Shard(own) if own >= 0 and t.shape[own] != 1 else Replicate()


def _strategies(
    sets: Sequence[Any], tensors: Sequence[Any], outputs: Callable[[Any], list[Any]]
) -> list[tuple[list[Any], list[Any]]]:
    """sets: x, alpha, weight, ptr, dim; tensors: all arguments, of which those that are tensors get
    placements; outputs: their placements, by that of the sets."""
    x, _, weight, ptr, dims = sets
    rank = len(x.shape)
    check("robust_pool" if ptr is None else "segment_robust_pool", x, weight, dims)
    placements = [None, *(d for d in range(rank) if d not in dims)]
    found = []
    for d in placements:
        inputs = [
            None
            if not hasattr(t, "placements")
            else (Replicate() if d is None or t is ptr else _along(t, d, rank))
            for t in tensors
        ]
        found.append((outputs(Replicate() if d is None else Shard(d)), inputs))
    return found


def _forward(outputs: int) -> Callable[..., Any]:
    def rule(*args: Any) -> Any:
        x, _, _, alpha, weight, ptr, dim = args[:7]
        return _strategies((x, alpha, weight, ptr, dim), args, lambda p: [p] * outputs)

    return rule


def _gradients(at: int) -> Callable[..., Any]:
    """at: where the sets begin among the arguments."""

    def rule(*args: Any) -> Any:
        x, _, _, _, _, _, alpha, weight, ptr, dim, wanted = args[at : at + 11]

        def outputs(p: Any) -> list[Any]:
            # Nothing, an empty tensor, stands for what is not wanted.
            return [p if want else Replicate() for want in wanted]

        return _strategies((x, alpha, weight, ptr, dim), args, outputs)

    return rule


def _tangent(*args: Any) -> Any:
    x, _, _, _, _, _, alpha, weight, ptr, dim = args[3:13]
    return _strategies((x, alpha, weight, ptr, dim), args, lambda p: [p])


_RULES = {
    "_robust_pool_forward": _forward(3),
    "_robust_pool_forward_info": _forward(9),
    "_robust_pool_backward": _gradients(1),
    "_robust_pool_tangent": _tangent,
    "_robust_pool_double_backward": _gradients(4),
}


def register() -> None:
    """Registers the rules; once is enough."""
    propagator = DTensor._op_dispatcher.sharding_propagator
    for name, op in OPERATORS.items():
        register_sharding(op)(_RULES[name])
        # What was found for a call is found again by its tensors and the arguments from the first
        # `int` on, as register_sharding has it: `dim`, which is `int[]`, would be overlooked, and
        # what is pooled along one dim would be answered with the shapes of another.
        first = next(i for i, a in enumerate(op._schema.arguments) if "Tensor" not in str(a.type))
        info = propagator.op_to_schema_info[op]
        info.static_argnum = min(info.static_argnum, first)
