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

    Each rank calls this with its own points; all get the same answer, which is that of
    `ddn_cuda.robust_pool` for the points of all ranks, to the accuracy that it promises. Points
    are never sent. Two all-reduces of 11 numbers per set give the statistics of the sets. Each
    iteration then all-reduces three numbers per set that has not converged (four for "welsch").
    `solver="global"` also all-reduces sums over cells for the penalties that are not convex, at
    most 1 MiB at a time. docs/distributed.md has the bytes and says what is proved. All sums are in
    float64.

    Args:
        x: this rank's points, any shape, a dtype of `robust_pool`. Shapes agree between ranks but
            for the pooled dims, which may be empty on some. Or a DTensor that is sharded over one
            pooled dim by one dim of its mesh; dims that are kept may be sharded by other dims of
            the mesh, evenly or not.
        penalty, alpha, solver, tol: as in `robust_pool`, and the same on all ranks. For a DTensor x
            a tensor alpha may be a DTensor, replicated over the mesh dim that shards the points.
        dim: the dim or dims to pool, together; `()` pools all.
        group: of the ranks, as `torch.distributed.new_group` returns it. None: all ranks; for a
            DTensor the mesh dim that shards the points, and nothing else is accepted.
        weight: of this rank's points, as in `robust_pool`; broadcasts against x.
        keepdim: whether pooled dims stay, with size 1.
        max_iter: bound on the iterations of each descent. A global search has several descents, and
            its passes over cells do not count.

    Returns:
        The answers, the same on all ranks; for a DTensor x a DTensor, replicated over the mesh dim
        that shards the points, and sharded over kept dims as x is.

    The gradient of points and weights needs no communication: it is made of y and the all-reduced
    curvature. That of an alpha that requires one is all-reduced, one number for each set. The
    gradient of y has to be the same on all ranks, as it is when all compute the same from it;
    ranks that each compute a part of a loss have to add up their gradients of y first. The gradient
    of `weight` is this rank's share where one weight belongs to points of several ranks. One
    differentiation in reverse mode.

    NaN, infinite points, weights of zero and flat objectives are treated as in `robust_pool`, of
    the points of all ranks together. With `solver="local"` the descent of a penalty that is not
    convex starts from the Huber answer of all points. The Huber descent, and that of
    the convex penalties, starts from the mean of what each rank's own points are pooled to by
    "huber", weighted with their weights: the iterations, and the last bits of an answer, depend on
    which rank holds which points.

    The function synchronises with the device in every iteration, since all ranks decide together
    whether another one is needed, and runs in eager mode only. The all-reduce has to return the
    same bits on all ranks, as Gloo's and NCCL's do.

    Raises:
        TypeError, ValueError, IndexError: as `robust_pool`, of what this rank was given: the other
            ranks then wait for it. ValueError also if no rank holds a point, and for a DTensor of
            other placements than above.
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
    """y as a DTensor. placed: as x is, but for the pooled dims, of which those in `gone` have been
    removed. The shape of all has to be given: dims that are kept may be sharded unevenly."""
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
    """The pooled dims, of those that are in range; in any order."""
    rank = given.x.dim()
    return [d % rank for d in given.dim if -rank <= d < rank] if given.dim else list(range(rank))


def _checked(given: Arguments) -> list[int]:
    """Checks as the operators do, and returns sorted dims. No points are none of x's faults."""
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
    """Those of this rank, the group, and y's placements with keepdim."""
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
        """Sharded as x is, where it has those dims."""
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
            # What each rank's part of x says of it has to be added up, but for alpha over the ranks
            # that share their sets: there it has been.
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
