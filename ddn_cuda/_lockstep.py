"""Sets whose points lie on several ranks, solved by all ranks in lockstep.

Every rank holds some points of each of S sets and the same numbers about the sets. What a solver
wants to know about the points is summed on each rank and then over the ranks; from there on all
ranks do the same arithmetic on the same numbers, so that they take the same decisions and nobody
has to be told. That takes an all-reduce which gives all ranks the same bits (those of Gloo and NCCL
do) and ranks of one kind of device. All arithmetic is in double precision, whatever the points are.

`descend` is the descent of csrc/core/newton.h for many sets at once, with Newton's steps alone.
Depths, bounds and what they prove are those of docs/global.md, with other tables
(docs/distributed.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

CONVEX = ("quadratic", "pseudo_huber", "huber")
INF = math.inf
UNIT = 2.0**-53  # roundoff
FREE_PASSES = 40  # of a descent, before it halves what is left of its bracket
TERMS = 16  # of a power series
SERIES_RADIUS = 0.25  # of its stretch, in units of alpha
TABLE_CELLS = 2**13  # that one all-reduce is about
# Of a temporary: what a cache holds, or what keeps a GPU busy.
_ELEMENTS_CPU, _ELEMENTS_GPU = 2**16, 2**24


class Shard:
    """The points of S sets that this rank holds, [S, n], and their weights, [S, n] or None."""

    def __init__(self, x: Tensor, weight: Tensor | None, group: Any) -> None:
        self.x, self.weight, self.group = x, weight, group
        self.inverse_unit: Tensor | None = None  # [S], a power of two

    def reduce(self, numbers: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """Over the ranks, in place."""
        dist.all_reduce(numbers, op=op, group=self.group)
        return numbers

    def pieces(self, rows: Tensor) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """(which of the rows, points, weights) until all points of these sets have been seen once;
        points and weights [rows, points] in double precision. A point of zero weight is given as
        0, and so is one whose weight is none."""
        n = self.x.shape[1]
        if n == 0:
            return
        most = _ELEMENTS_CPU if self.x.device.type == "cpu" else _ELEMENTS_GPU
        width = min(n, most)
        height = max(1, most // width)
        for r in range(0, len(rows), height):
            some = rows[r : r + height]
            for c in range(0, n, width):
                x = self.x[some, c : c + width].double()
                w = None
                if self.weight is not None:
                    w = self.weight[some, c : c + width].double()
                    w = torch.where(torch.isfinite(w) & (w > 0), w, 0.0)
                    if self.inverse_unit is not None:
                        w = w * self.inverse_unit[some, None]
                    x = torch.where(w > 0, x, 0.0)
                yield slice(r, r + height), x, w

    def local(
        self, rows: Tensor, count: int, terms: Callable[[slice, Tensor], Iterable[Tensor]]
    ) -> Tensor:
        """[count, rows]: for each of the terms the sum of weight times term over local points."""
        sums = self.x.new_zeros(count, len(rows), dtype=torch.float64)
        for some, x, w in self.pieces(rows):
            for k, term in enumerate(terms(some, x)):
                sums[k, some] += (term if w is None else w * term).sum(1)
        return sums

    def sums(
        self, rows: Tensor, count: int, terms: Callable[[slice, Tensor], Iterable[Tensor]]
    ) -> Tensor:
        """The same over the points of all ranks."""
        return self.reduce(self.local(rows, count, terms))


# ---- The penalties -------------------------------------------------------------------------------


def terms_of(penalty: str, z: Tensor, alpha: Tensor, kink: Tensor) -> tuple[Tensor, ...]:
    """slope, curvature and depth of csrc/core/penalties.h, whose kernels sum over whole sets of one
    device only."""
    if penalty == "pseudo_huber":
        t = (z / alpha).clamp(-1e150, 1e150)
        r = (1 + t * t).rsqrt()
        return alpha * (t * r), r * r * r, torch.zeros_like(z)
    distance = z.abs()
    if penalty == "huber":
        inside, near = distance <= alpha, (distance - alpha).abs() <= kink
        return torch.maximum(torch.minimum(z, alpha), -alpha), inside.double(), near.double()
    if penalty == "welsch":
        t = (z / alpha).clamp(-40, 40)  # where the exponential is zero
        square = t * t
        e = torch.exp(-0.5 * square)
        return alpha * (t * e), (1 - square) * e, e
    if penalty != "truncated_quadratic":
        raise NotImplementedError(
            f"sharded_robust_pool: `penalty` is '{penalty}'; expected one of "
            "pseudo_huber, huber, welsch, truncated_quadratic, or quadratic"
        )
    inside = distance <= alpha
    t = torch.where(inside, z / alpha, 0.0)
    depth = torch.where(inside, 1 - t * t, 0.0)
    return torch.where(inside, z, 0.0), inside.double(), depth


class Survey(NamedTuple):
    """Of all ranks' points, [S] each; weights in the set's unit."""

    lo: Tensor  # of the finite points
    hi: Tensor
    finite: Tensor  # weight
    positive: Tensor  # weight of the points at infinity
    negative: Tensor
    spoilt: Tensor  # whether a point is NaN, a weight no weight, or the sum of these too large
    mean: Tensor  # of the finite points
    points: Tensor  # their number
    unit: Tensor
    start: Tensor

    @property
    def total(self) -> Tensor:
        return self.finite + self.positive + self.negative


def survey(shard: Shard, own_answers: Tensor | None, largest: float) -> Survey:
    """Two all-reduces, of three and of eight numbers for each set.

    own_answers: [S], what this rank's points alone would be pooled to, or None without points.
    largest: weights may not add up to more.
    """
    x, weight = shard.x, shard.weight
    sets = x.shape[0]
    rows = torch.arange(sets, device=x.device)
    # The least of lo, -hi and minus the largest weight.
    ends = x.new_full((3, sets), INF, dtype=torch.float64)
    for some, points, w in shard.pieces(rows):
        there = torch.isfinite(points) if w is None else torch.isfinite(points) & (w > 0)
        for k, values in enumerate((points, -points)):
            least = torch.where(there, values, INF).amin(1)
            ends[k, some] = torch.minimum(ends[k, some], least)
        least = -w.amax(1) if w is not None else -torch.ones_like(points[:, 0])
        ends[2, some] = torch.minimum(ends[2, some], least)
    lo, hi, heaviest = shard.reduce(ends, dist.ReduceOp.MIN)
    hi, heaviest = -hi, -heaviest
    # The power of two that brings the largest weight to [1, 2), and of points to [1/2, 1).
    exponent = torch.where(heaviest > 0, torch.frexp(heaviest).exponent - 1, 0)
    one = torch.ones_like(lo)
    unit = torch.ldexp(one, exponent.clamp(min=-1000))
    shard.inverse_unit = 1 / unit
    reach = torch.maximum(lo.abs(), hi.abs())
    reach = torch.where(torch.isfinite(reach), torch.frexp(reach).exponent, 0).clamp(min=-1000)
    # Two factors: one alone would overflow.
    halves = torch.ldexp(one, -(reach // 2)), torch.ldexp(one, -(reach - reach // 2))

    def terms(some: slice, points: Tensor) -> tuple[Tensor, ...]:
        finite = torch.isfinite(points)
        down = torch.where(finite, points, 0.0) * halves[0][some, None] * halves[1][some, None]
        return (
            finite.double(),
            (points == INF).double(),
            (points == -INF).double(),
            points.isnan().double(),
            down,
        )

    numbers = x.new_zeros(8, sets, dtype=torch.float64)
    numbers[:5] = shard.local(rows, 5, terms)
    if weight is not None:
        numbers[3] += (~(torch.isfinite(weight) & (weight >= 0))).sum(1)
    numbers[5] = x.shape[1]
    if own_answers is not None:
        good = torch.isfinite(own_answers)
        down = torch.where(good, own_answers, 0.0) * halves[0] * halves[1]
        numbers[6], numbers[7] = numbers[0] * down, numbers[0] * good
    finite, positive, negative, spoilt, mean, count, start, known = shard.reduce(numbers)
    up = 1 / halves[0], 1 / halves[1]
    mean = (mean / finite) * up[0] * up[1]
    start = torch.where(known > 0, (start / known) * up[0] * up[1], 0.5 * lo + 0.5 * hi)
    total = (finite + positive + negative) * unit
    return Survey(
        lo=lo,
        hi=hi,
        finite=finite,
        positive=positive,
        negative=negative,
        spoilt=(spoilt > 0) | ~(total <= largest),
        mean=torch.minimum(torch.maximum(mean, lo), hi),
        points=count,
        unit=unit,
        start=torch.minimum(torch.maximum(start, lo), hi),
    )


# ---- One descent ---------------------------------------------------------------------------------


class Sets(NamedTuple):
    """What descents of some sets share, [rows] each."""

    rows: Tensor  # which sets
    lo: Tensor
    hi: Tensor
    alpha: Tensor
    step: Tensor  # that is accepted
    total: Tensor  # weight
    kink: Tensor

    def of(self, which: Tensor) -> Sets:
        return Sets(*(t[which] for t in self))

    @property
    def range(self) -> Tensor:
        return self.hi - self.lo


class Place(NamedTuple):
    """Where descents ended and the sums there, [rows] each."""

    u: Tensor
    slope: Tensor
    curvature: Tensor
    depth: Tensor
    stopped: Tensor  # by max_iter

    def lasting(self, penalty: str) -> Tensor:
        """What curvature, at least, a small step leaves."""
        return self.curvature - self.depth if penalty == "huber" else self.curvature


def sums_at(shard: Shard, penalty: str, sets: Sets, u: Tensor) -> Tensor:
    """[3, rows] in one all-reduce of three numbers for each set."""

    def terms(some: slice, x: Tensor) -> tuple[Tensor, ...]:
        z = u[some, None] - x
        return terms_of(penalty, z, sets.alpha[some, None], sets.kink[some, None])

    return shard.sums(sets.rows, 3, terms)


_MAGNITUDE = 2**63 - 1


def _ordinal(x: Tensor) -> Tensor:
    """Integers in the order of the doubles; its own inverse but for the type."""
    bits = x.view(torch.int64)
    return torch.where(bits < 0, bits ^ _MAGNITUDE, bits)


def _between(a: Tensor, b: Tensor) -> Tensor:
    """The middle of two doubles, counted in doubles."""
    i, j = _ordinal(a), _ordinal(b)
    middle = (i & j) + ((i ^ j) >> 1)
    return torch.where(middle < 0, middle ^ _MAGNITUDE, middle).view(torch.float64)


def descend(
    shard: Shard, penalty: str, sets: Sets, start: Tensor, max_iter: int | None = None
) -> Place:
    """From `start`, never to a higher objective; one all-reduce in each round, of three numbers for
    each set that has not ended."""
    convex = penalty in CONVEX
    rounding = 4 * UNIT
    trial, near, far = start.clone(), start.clone(), start.clone()
    slope, curvature, depth = (torch.zeros_like(start) for _ in range(3))
    previous = 0.5 * sets.hi - 0.5 * sets.lo
    growth = torch.zeros_like(start)
    far_seen = torch.zeros_like(start, dtype=torch.bool)
    done = torch.zeros_like(far_seen)
    small = torch.minimum(sets.range, sets.alpha)
    passes = 0
    while True:
        active = torch.nonzero(~done).squeeze(1)
        if len(active) == 0 or passes == max_iter:
            break
        passes += 1
        at = torch.stack([slope, curvature, depth])
        at[:, active] = sums_at(shard, penalty, sets.of(active), trial[active])
        going = ~done
        # Higher than the best so far: beyond a minimum.
        higher = torch.zeros_like(done)
        if not convex and passes > 1:
            higher = going & (at[2] < depth - 8 * rounding * depth)
        lower = going & ~higher
        noise = rounding * (sets.total if convex else at[2])
        lasting = at[1] - at[2] if penalty == "huber" else at[1]
        accepted = torch.maximum(sets.step * lasting, noise * small)
        stationary = lower & (at[0].abs() <= accepted)
        if not convex:
            stationary &= at[1] >= -4 * noise
        right = at[0] < 0
        if passes == 1:
            far = torch.where(right, sets.hi, sets.lo)
        else:
            turned = lower & ~stationary & ((far > near) != right)
            moved = turned | higher
            far = torch.where(turned, near, torch.where(higher, trial, far))
            far_seen = far_seen | moved
            growth = torch.where(moved, 0.0, growth)
        near = torch.where(lower, trial, near)
        slope, curvature, depth = torch.where(lower, at, torch.stack([slope, curvature, depth]))
        done = done | stationary
        # The next trial.
        scale = torch.maximum(near.abs(), far.abs())
        done = done | ((far - near).abs() <= sets.step + 4.5e-16 * scale)
        half = 0.5 * far - 0.5 * near
        newton = -slope / curvature
        if convex:
            s = torch.where(newton.abs() <= previous.abs(), newton, half)
        else:
            steady = (curvature > 0) & (newton.abs() <= sets.alpha)
            # Where there is none: mean shift.
            s = torch.where(steady, newton, -slope / torch.maximum(curvature, depth))
            slow = going & (s.abs() > 0.5 * previous.abs())
            growth = torch.where(slow, growth + 1, growth)
            s = torch.where(slow, s * (1 + growth), s)
        landing = near + s
        inside = (s / half > 0) & torch.where(half > 0, landing < far, landing > far)
        s = torch.where(inside | ((landing == far) & ~far_seen), s, half)
        next_trial = _between(near, far) if passes > FREE_PASSES else near + s
        done = done | (next_trial == near)
        if passes > FREE_PASSES:
            done = done | (next_trial == far)
        trial = torch.where(done, near, next_trial)
        previous = torch.where(done, previous, s)
    return Place(near, slope, curvature, depth, ~done)


class Around(NamedTuple):
    """See csrc/core/set.h."""

    nearer: Tensor
    left: Tensor
    below: Tensor
    above: Tensor


def around(shard: Shard, sets: Sets, u: Tensor, radius: Tensor) -> Around:
    """Two all-reduces of two numbers for each set."""

    def terms(some: slice, x: Tensor) -> tuple[Tensor, ...]:
        z = x - u[some, None]
        nearer = z.abs() < radius[some, None]
        return nearer.double(), (~nearer & (z < 0)).double()

    nearer, left = shard.sums(sets.rows, 2, terms)
    ends = u.new_full((2, len(u)), INF)
    for some, x, w in shard.pieces(sets.rows):
        z = x - u[some, None]
        there = ~(z.abs() < radius[some, None])
        if w is not None:
            there &= w > 0
        # A point at u itself is on both sides.
        for k, side in enumerate((z <= 0, z >= 0)):
            value = torch.where(there & side, -x if k == 0 else x, INF).amin(1)
            ends[k, some] = torch.minimum(ends[k, some], value)
    below, above = shard.reduce(ends, dist.ReduceOp.MIN)
    return Around(nearer, left, -below, above)


def find_flat(shard: Shard, sets: Sets, at: Place, weighted_doubt: float) -> tuple[Tensor, Tensor]:
    """Whether Huber's minimisers form an interval there, and its middle. Note [Flat Huber
    objectives] in csrc/core/local_minimum.h."""
    flat, middle = torch.zeros_like(at.stopped), at.u.clone()
    some = torch.nonzero(~at.stopped & (at.lasting("huber") <= 0)).squeeze(1)
    if len(some) == 0:
        return flat, middle
    chosen, u = sets.of(some), at.u[some]
    slack = 4 * chosen.step + 4e-16 * u.abs()
    seen = around(shard, chosen, u, (chosen.alpha - slack).clamp(min=0))
    balanced = (chosen.total - 2 * seen.left).abs() <= weighted_doubt * chosen.total
    left, right = seen.below + chosen.alpha, seen.above - chosen.alpha
    ends = torch.isfinite(left) & torch.isfinite(right) & (right - left > 2 * slack)
    flat[some] = (seen.nearer == 0) & balanced & ends
    middle[some] = torch.where(flat[some], 0.5 * left + 0.5 * right, u)
    return flat, middle


def robust_start(
    shard: Shard, sets: Sets, start: Tensor, max_iter: int | None, weighted_doubt: float
) -> Tensor:
    """The Huber answer, or the point nearest to it where no point lies within alpha of it."""
    at = descend(shard, "huber", sets, start, max_iter)
    flat, u = find_flat(shard, sets, at, weighted_doubt)
    some = torch.nonzero(~at.stopped & (flat | (at.curvature == 0))).squeeze(1)
    if len(some):
        seen = around(shard, sets.of(some), u[some], torch.zeros_like(u[some]))
        lower = flat[some] | (u[some] - seen.below <= seen.above - u[some])
        u[some] = torch.where(lower, seen.below, seen.above)
    return torch.minimum(torch.maximum(u, sets.lo), sets.hi)
