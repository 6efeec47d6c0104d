"""Sets whose points lie on several ranks, and DTensors.

Importing this module tells `torch.distributed.tensor` how `robust_pool` and `segment_robust_pool`
may be sharded (ddn_cuda/_dtensor.py).

- `sharded_robust_pool`: pools sets of which every rank holds some points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from ddn_cuda import _dtensor, _sharded  # noqa: F401
from ddn_cuda._arguments import Arguments, check_flag

__all__ = ["sharded_robust_pool"]

_NAME = "sharded_robust_pool"


def sharded_robust_pool(
    x: Tensor,
    penalty: str = "huber",
    alpha: float | Tensor = 1.0,
    *,
    dim: int | Sequence[int] = -1,
    group: Any = None,
    weight: Tensor | None = None,
    keepdim: bool = False,
    solver: str = "global",
    max_iter: int | None = None,
    tol: float | None = None,
) -> Tensor:
    r"""Pools sets of which every rank holds some points: `robust_pool` of all of them together.

    Each rank calls this function with its own points. All ranks return the same answer: that of
    `ddn_cuda.robust_pool` for the points of all ranks, to the guaranteed accuracy. Points are never
    sent. Two all-reduces of 9 numbers per set compute the set statistics. Each iteration then
    all-reduces three numbers per set that has not converged (four for "welsch"). For non-convex
    penalties `solver="global"` also all-reduces sums over cells, at most 1 MiB at a time. All sums
    are in float64. docs/distributed.md lists the bytes and states what is proved.

    Args:
        x: this rank's points, of any shape and a dtype of `robust_pool`. The kept dims have the
            same sizes on all ranks; the pooled dims may differ and may be empty on some ranks. Or a
            DTensor of which one mesh dim shards one pooled dim; other mesh dims may shard kept
            dims, evenly or not.
        penalty, alpha, solver, tol: as in `robust_pool`, and the same on all ranks. For a DTensor x
            a tensor alpha may be a DTensor, replicated over the mesh dim that shards the points.
        dim: the dim or dims to pool, together; `()` pools all.
        group: the process group of the ranks, as returned by `torch.distributed.new_group`. None:
            all ranks. Must be None for a DTensor: its group is the mesh dim that shards the points.
        weight: the weights of this rank's points, as in `robust_pool`; broadcasts against x.
        keepdim: whether pooled dims stay, with size 1.
        max_iter: bound on the iterations of each descent. A global search has several descents;
            its passes over cells are not counted.

    Returns:
        The answers, the same on all ranks; for a DTensor x a DTensor, replicated over the mesh dim
        that shards the points, and sharded over kept dims as x is.

    Each rank computes the gradients of its own points and weights from y and the all-reduced
    curvature, without communication. The gradient of alpha is all-reduced, one number per set, if
    alpha requires one. The incoming gradient of y must be the same on all ranks. This holds if
    every rank computes the whole loss from y; ranks that each compute a part of the loss must sum
    their gradients of y first. If one weight applies to points of several ranks, each rank's
    gradient of it covers its own points only. Only one differentiation is supported, in reverse
    mode.

    NaN, infinite points, weights of zero and flat objectives are treated as in `robust_pool`, for
    the points of all ranks together. With `solver="local"` the descent of a non-convex penalty
    starts from the Huber answer of all points. The Huber descent itself, and the descents of the
    convex penalties, start from the mean of the ranks' own Huber answers, weighted by the ranks'
    total weights. The number of iterations and the last bits of an answer therefore depend on which
    rank holds which points.

    The function runs in eager mode only and synchronises with the device in every iteration, since
    all ranks decide together whether another one is needed. The all-reduce must return the same
    bits on all ranks, as Gloo's and NCCL's do.

    Raises:
        TypeError, ValueError, IndexError: as `robust_pool`, for the arguments of this rank; the
            other ranks then wait in an all-reduce. ValueError also if no rank holds a point, and
            for a DTensor with other placements than described above.
        RuntimeError: `torch.distributed` has no process group.
    """
    check_flag(_NAME, "keepdim", keepdim)
    given = Arguments(_NAME, x, penalty, alpha, dim, weight, None, solver, max_iter, tol).checked()
    own, placed = given, None
    if isinstance(x, DTensor):
        own, group, placed = _localised(given, group)
    elif isinstance(alpha, DTensor) or isinstance(weight, DTensor):
        raise TypeError(f"{_NAME}: `alpha` or `weight` is a DTensor, and x is none; expected x too")
    if not dist.is_initialized():
        raise RuntimeError(
            f"{_NAME}: torch.distributed has no process group; expected one: call "
            "torch.distributed.init_process_group first"
        )
    dims = _checked(own)
    options = _sharded.Options(penalty, dims, group, solver, own.max_iter, own.tol)
    y: Tensor = _sharded.ShardedPool.apply(  # type: ignore[no-untyped-call]
        own.x, *own.inner_alpha(), own.weight, options, _NAME
    )
    gone = [] if keepdim else dims
    if gone:
        y = y.squeeze(tuple(gone))
    return y if placed is None else _placed(y, x, placed, dims, gone)


def _placed(y: Tensor, x: Any, placed: list[Any], dims: list[int], gone: list[int]) -> Tensor:
    """y as a DTensor. placed: the placements of x, replicated on the mesh dim that shards the
    points. gone: the pooled dims that y does not have. The global shape is passed explicitly,
    because kept dims may be sharded unevenly."""
    shape = [1 if d in dims else size for d, size in enumerate(x.shape) if d not in gone]
    placements = [
        Shard(p.dim - sum(d < p.dim for d in gone)) if isinstance(p, Shard) else p for p in placed
    ]
    strides = torch.empty(shape, device="meta").stride()
    whole: Tensor = DTensor.from_local(
        y,
        x.device_mesh,
        placements,
        run_check=False,
        shape=torch.Size(shape),
        stride=strides,
    )
    return whole


def _pooled(given: Arguments) -> list[int]:
    """The pooled dims that are in range, in any order."""
    rank = given.x.dim()
    return [d % rank for d in given.dim if -rank <= d < rank] if given.dim else list(range(rank))


def _checked(given: Arguments) -> list[int]:
    """Checks as the operators do, and returns the sorted dims. An empty shard is valid."""
    x, weight = given.x, given.weight
    rank, pooled = x.dim(), _pooled(given)
    shape = [max(size, 1) if d in pooled else size for d, size in enumerate(x.shape)]
    like = x if list(x.shape) == shape else x.new_empty(shape)
    if like is not x and weight is not None:
        grown = [
            max(size, 1) if d + rank - weight.dim() in pooled else size
            for d, size in enumerate(weight.shape)
        ]
        weight = weight.new_empty(grown)
    return list(given._replace(x=like, weight=weight).dims())


def _localised(given: Arguments, group: Any) -> tuple[Arguments, Any, list[Any]]:
    """This rank's arguments, the group, and y's placements with keepdim."""
    x: Any = given.x
    mesh, rank, pooled = x.device_mesh, x.dim(), _pooled(given)
    by = [m for m, p in enumerate(x.placements) if isinstance(p, Shard) and p.dim in pooled]
    plain = all(type(p) in (Shard, Replicate) for p in x.placements)
    if len(by) != 1 or not plain or group is not None:
        raise ValueError(
            f"{_NAME}: `x` is a DTensor with placements {tuple(x.placements)}, and `group` is "
            f"{group!r}; expected placements of which one shards a pooled dim, the others being "
            "shards of dims that are kept or replicas, and no group"
        )
    placed = [Replicate() if m == by[0] else p for m, p in enumerate(x.placements)]

    def local(name: str, t: Any, points: bool) -> Any:
        """This rank's part of an argument that is sharded as x is, in the dims that it has."""
        if not isinstance(t, Tensor):
            return t
        if not isinstance(t, DTensor):
            if t.numel() == 1 and not t.requires_grad:
                return t
            raise TypeError(f"{_NAME}: `{name}` is a plain tensor; expected a DTensor, as x is one")
        wanted, shares = [], []
        for m, p in enumerate(x.placements):
            own = p.dim - (rank - t.dim()) if isinstance(p, Shard) else -1
            there = own >= 0 and t.shape[own] != 1 and (points or m != by[0])
            wanted.append(Shard(own) if there else Replicate())
            # Ranks with different parts of x compute partial gradients. Along the mesh dim that
            # shards the points ShardedPool has already summed the gradient of alpha.
            sharer = isinstance(p, Replicate) or (m == by[0] and not points)
            shares.append(wanted[-1] if there or sharer else Partial())
        if list(t.placements) != wanted:
            raise ValueError(
                f"{_NAME}: `{name}` is a DTensor with placements {tuple(t.placements)}; expected "
                f"{tuple(wanted)}, as x has {tuple(x.placements)}"
            )
        return t.to_local(grad_placements=shares)

    own = given._replace(
        x=x.to_local(),
        alpha=local("alpha", given.alpha, points=False),
        weight=local("weight", given.weight, points=True),
    )
    return own, mesh.get_group(by[0]), placed
