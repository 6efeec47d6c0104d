"""Sets whose points lie on several ranks, and DTensors.

Importing this module tells `torch.distributed.tensor` how `robust_pool` and `segment_robust_pool`
may be sharded (ddn_cuda/_dtensor.py).

- `sharded_robust_pool`: pools sets of which every rank holds some points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from ddn_cuda import _dtensor, _lockstep, _operators, _tables  # noqa: F401
from ddn_cuda._arguments import Arguments, check_flag
from ddn_cuda._C import PENALTIES
from ddn_cuda._roles import opmath

__all__ = ["sharded_robust_pool"]

_NAME = "sharded_robust_pool"
_FULL_NAMES = {short: name for name, short in PENALTIES.items()}


class _Options(NamedTuple):
    penalty: str
    dims: list[int]
    group: Any
    solver: str
    max_iter: int | None
    tol: float | None


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
    are never sent. After a first look of two all-reduces (11 numbers for each set), a descent
    all-reduces three numbers for each set and iteration; `solver="global"` for "welsch" and
    "truncated_quadratic" all-reduces tables besides, of at most 1 MiB at once (docs/distributed.md
    has the bytes and says what is proved). All of it is computed in float64.

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
        max_iter: bound on the iterations of each descent. A global search has several, and its
            tables do not count.

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
    the points of all ranks together. With `solver="local"` the descent of "welsch" and
    "truncated_quadratic" starts from the Huber answer of all points. The Huber descent, and that of
    the convex penalties, starts from the mean of what each rank's own points are pooled to by
    "huber", weighted with their weights: the iterations, and the last bits of an answer, depend on
    which rank holds which points.

    This waits for the device in every iteration, as all ranks decide together whether one more is
    needed; it is for eager mode. The ranks have to be of one kind of device: equal numbers have to
    lead all of them to equal decisions.

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
    options = _Options(
        _FULL_NAMES.get(penalty, penalty), dims, group, solver, own.max_iter, own.tol
    )
    y: Tensor = _ShardedPool.apply(  # type: ignore[no-untyped-call]
        own.x, *own.inner_alpha(), own.weight, options
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


class _Answer(NamedTuple):
    """As the operators have it, with y's shape."""

    y: Tensor
    remainder: Tensor
    curvature: Tensor  # over phi''(0)


class _ShardedPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        alpha_value: float,
        alpha: Tensor | None,
        weight: Tensor | None,
        options: _Options,
    ) -> Tensor:
        kept = [1 if d in options.dims else size for d, size in enumerate(x.shape)]
        answer = _solve(x, alpha_value, alpha, weight, options, kept)
        ctx.save_for_backward(x, *answer, alpha, weight)
        ctx.alpha_value, ctx.options = alpha_value, options
        return answer.y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, rest, curvature, alpha, weight = ctx.saved_tensors
        options: _Options = ctx.options
        by_x, _, by_alpha, by_weight, _ = ctx.needs_input_grad
        if all(x.shape[d] for d in options.dims):
            of_x, of_weight, of_alpha = _operators.op("_robust_pool_backward")(
                grad.contiguous(),
                x,
                y,
                rest,
                curvature,
                options.penalty,
                ctx.alpha_value,
                alpha,
                weight,
                None,
                options.dims,
                [by_x, by_weight, by_alpha],
            )
        else:
            of_x, of_weight, of_alpha = (
                torch.zeros_like(x),
                x.new_zeros(x.shape, dtype=opmath(x)),
                torch.zeros_like(y, dtype=opmath(x)),
            )
        if by_alpha:
            of_alpha = of_alpha.double().contiguous()
            dist.all_reduce(of_alpha, group=options.group)
            of_alpha = of_alpha.sum_to_size(alpha.shape).to(alpha.dtype)
        if by_weight:
            of_weight = of_weight.sum_to_size(weight.shape).to(weight.dtype)
        return (
            of_x if by_x else None,
            None,
            of_alpha if by_alpha else None,
            of_weight if by_weight else None,
            None,
        )


def _flattened(t: Tensor, dims: Sequence[int], points: int) -> Tensor:
    """[sets, points] of a tensor of x's shape."""
    kept = [d for d in range(t.dim()) if d not in dims]
    sets = math.prod(t.shape[d] for d in kept)
    return t.permute(*kept, *dims).reshape(sets, points)


def _solve(
    x: Tensor,
    alpha_value: float,
    alpha: Tensor | None,
    weight: Tensor | None,
    options: _Options,
    kept: Sequence[int],
) -> _Answer:
    penalty, dims = options.penalty, options.dims
    points = math.prod(x.shape[d] for d in dims)
    own = None
    if points:
        call = _operators.op("_robust_pool_forward")
        start = call(x, "huber", alpha_value, alpha, weight, None, dims, "local", None, None)
        own = start[0].double().flatten()
    flat = _flattened(x, dims, points)
    flat_weight = None
    if weight is not None:
        flat_weight = _flattened(weight.expand(x.shape), dims, points)
    shard = _lockstep.Shard(flat, flat_weight, options.group)
    double = x.dtype == torch.float64
    seen = _lockstep.survey(shard, own, torch.finfo(opmath(x)).max)
    if weight is None and bool((seen.points == 0).any()):
        raise ValueError(f"{_NAME}: `x` has no points on any rank; expected at least one point")
    if alpha is None:
        scale = torch.full_like(seen.lo, alpha_value)
    else:
        scale = alpha.to(opmath(x)).double().expand(kept).flatten()
    limit = (1 + 1e-6) * (1e30 if double else 1e15)
    spoilt = seen.spoilt | ~((scale >= 1 / limit) & (scale <= limit))
    weighted = weight is not None
    u, curvature = _directly(penalty, seen, scale, spoilt, weighted=weighted, double=double)
    is_open = curvature.isneginf()
    open_sets = torch.nonzero(is_open).squeeze(1)
    rounded = torch.zeros_like(u)
    if len(open_sets):
        found = _iteratively(shard, penalty, seen, scale, open_sets, options, double)
        u[open_sets], curvature[open_sets], rounded[open_sets] = found
    curvature, rounded = curvature * seen.unit, rounded * seen.unit
    real = opmath(x)
    y = u.reshape(kept).to(x.dtype)
    remainder = torch.where(torch.isfinite(y), u.reshape(kept) - y.double(), 0.0).to(real)
    if len(open_sets):
        # The curvature as the gradients' kernels have its terms, so that these sum to one: in
        # single precision a point may lie on the other side of a kink.
        of_points = torch.zeros_like(u[open_sets])
        if points:
            wide, one = x.to(real), torch.ones_like(remainder)
            along = one.new_ones(()).expand(x.shape)
            problem = (penalty, alpha_value, alpha, weight, None, dims)
            tangent = _operators.op("_robust_pool_jvp")
            moved = tangent(along, None, None, wide, y.to(real), remainder, one, *problem)
            of_points = moved.flatten()[open_sets].double()
        bends = torch.zeros_like(u)
        bends[open_sets] = shard.reduce(of_points)
        # Note [Vanishing curvature] in csrc/core/solve.h.
        eps = torch.finfo(real).eps
        vanishes = (curvature == 0) | ~(bends > 8 * eps * rounded)
        curvature = torch.where(is_open, torch.where(vanishes, 0.0, bends), curvature)
    curvature = torch.where(curvature < torch.finfo(real).tiny, 0.0, curvature)
    return _Answer(y, remainder, curvature.reshape(kept).to(real))


def _balance_doubt(weighted: bool, double: bool) -> float:
    """Weights of two sides that differ by less, in units of all, are equal."""
    return 4 * (2.0**-24 if weighted and not double else 2.0**-53)


def _directly(
    penalty: str,
    seen: _lockstep.Survey,
    alpha: Tensor,
    spoilt: Tensor,
    *,
    weighted: bool,
    double: bool,
) -> tuple[Tensor, Tensor]:
    """What needs no descent, as csrc/core/solve.h has it: u and the curvature, -inf for both where
    one is needed."""
    inf = math.inf
    total, finite = seen.total, seen.finite
    pull = seen.positive - seen.negative
    infinite = (seen.positive > 0) | (seen.negative > 0)
    agree = ~((seen.positive > 0) & (seen.negative > 0))
    u, curvature = torch.full_like(alpha, -inf), torch.full_like(alpha, -inf)

    def settle(which: Tensor, place: Any, bend: Any) -> None:
        """In order of falling precedence."""
        free = which & (curvature == -inf)
        u.copy_(torch.where(free, place, u))
        curvature.copy_(torch.where(free, bend, curvature))

    nan = torch.full_like(alpha, math.nan)
    settle(spoilt, nan, nan)
    settle(total == 0, torch.zeros_like(u), torch.zeros_like(u))
    mean = penalty == "quadratic"
    beyond = infinite if mean else finite == 0
    settle(
        beyond,
        torch.where(agree, torch.where(seen.positive > 0, inf, -inf), nan),
        torch.where(agree, 0.0, nan),
    )
    if penalty in ("huber", "pseudo_huber"):
        doubt = finite * (_balance_doubt(weighted, double) if penalty == "huber" else 0.0)
        side = torch.sign(pull)
        balanced = (pull.abs() <= finite + doubt) & (penalty == "huber")
        end = torch.where(side > 0, seen.hi, seen.lo) + side * alpha
        settle(
            infinite & (pull.abs() >= finite - doubt),
            torch.where(balanced, end, side * inf),
            torch.zeros_like(u),
        )
    if mean:
        settle(torch.ones_like(spoilt), seen.mean, finite)
    # Infinite points that do not balance pull the answer off the finite ones.
    settle(
        (seen.lo == seen.hi) & ((pull == 0) | (penalty not in _lockstep.CONVEX)), seen.lo, finite
    )
    return u, curvature


def _iteratively(
    shard: _lockstep.Shard,
    penalty: str,
    seen: _lockstep.Survey,
    alpha: Tensor,
    rows: Tensor,
    options: _Options,
    double: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """u, the curvature there, and the sum of what was rounded in that."""
    lo, hi, alpha = seen.lo[rows], seen.hi[rows], alpha[rows]
    pull, finite = (seen.positive - seen.negative)[rows], seen.finite[rows]
    if penalty in _lockstep.CONVEX:
        # Past every finite point the slope's sign is settled at the distance t alpha with
        # finite t / sqrt(1 + t^2) = |pull|.
        p = pull.abs()
        t = p / ((finite - p) * (finite + p)).sqrt()
        beyond = (1 + 2 * t) * alpha
        hi, lo = torch.where(pull > 0, hi + beyond, hi), torch.where(pull < 0, lo - beyond, lo)
    if options.tol is not None:
        step = options.tol * alpha
    else:
        step = (1e-12 if double else 1e-6) * torch.minimum(hi - lo, alpha)
    count = seen.points[rows].clamp(min=1)
    kink = alpha * (0.2 / count).clamp(1e-5, 2e-3)
    sets = _lockstep.Sets(rows, lo, hi, alpha, step, seen.total[rows], kink)
    start, limit = seen.start[rows], options.max_iter
    doubt = _balance_doubt(shard.weight is not None, double)
    if penalty in _lockstep.CONVEX:
        at = _lockstep.descend(shard, penalty, sets, start, limit)
        if penalty == "huber":
            flat, middle = _lockstep.find_flat(shard, sets, at, doubt)
            at = at._replace(u=middle, curvature=torch.where(flat, 0.0, at.curvature))
        rounded = at.curvature
    else:
        start = _lockstep.robust_start(shard, sets, start, limit, doubt)
        at = _lockstep.descend(shard, penalty, sets, start, limit)
        if options.solver == "global":
            at = _tables.search(shard, penalty, sets, at, finite, single=not double, max_iter=limit)
        rounded = at.curvature
        if penalty == "welsch":
            rounded = 2 * at.depth - at.curvature
    return at.u, at.curvature, rounded
