"""The certified global minimum of sets that lie on several ranks.

Branch and bound on the depth D of docs/global.md, u and x in units of alpha: the range of a set is
cut into cells; sums over the points of all ranks bound D on each of them; cells that cannot hold
the maximum are discarded, the others are cut again or resolved. docs/distributed_search.md derives it and
says what is proved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ddn_cuda._lockstep import (
    INF,
    SERIES_RADIUS,
    TABLE_CELLS,
    TERMS,
    Place,
    Sets,
    Shard,
    descend,
)

FIRST_CELLS = 16  # of a set, at most
PARTS = 8  # into which a cell is cut, at most
ROUNDING = 4e-15  # of a depth, in units of the weight
_LEAST_RADIUS = 1e-9  # in units of alpha
_NEWTON_STEPS = 8


class Cells(NamedTuple):
    """Places for u, [cells] each."""

    owner: Tensor  # which of the sets
    centre: Tensor
    radius: Tensor

    def of(self, which: Tensor) -> Cells:
        return Cells(*(t[which] for t in self))

    def cut(self, parts: Tensor) -> Cells:
        """Each into so many."""
        owner, centre, radius = (t.repeat_interleave(parts) for t in self)
        count = parts.repeat_interleave(parts)
        place = torch.arange(len(owner), device=count.device)
        place = place - (parts.cumsum(0) - parts).repeat_interleave(parts)
        shift = (2 * place + 1 - count) / count
        return Cells(owner, centre + radius * shift, radius / count)


class Best:
    """The deepest places that are known of each set."""

    def __init__(self, sets: Sets, at: Place, mass: Tensor, excess: float) -> None:
        self.mass, self.excess = mass, excess
        self.depth = at.depth.clone()
        self.owners = [torch.arange(len(at.u), device=at.u.device)]
        self.places, self.depths = [at.u], [at.depth]

    def enough(self) -> Tensor:
        """Depths up to this one need not be looked at."""
        allowed = 0.25 * self.excess * (self.mass - self.depth)
        return self.depth + torch.maximum(allowed, ROUNDING * self.mass)

    def offer(self, owner: Tensor, u: Tensor, depth: Tensor) -> None:
        """Depths that are attained."""
        self.depth.scatter_reduce_(0, owner, depth, "amax")
        close = depth >= self.depth[owner] - 1e-3 * self.mass[owner]
        self.owners.append(owner[close])
        self.places.append(u[close])
        self.depths.append(depth[close])

    def candidates(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Places from which the minimum is reached: of those nearer than a thousandth of alpha to
        each other the deepest."""
        owner, u, depth = torch.cat(self.owners), torch.cat(self.places), torch.cat(self.depths)
        # A descent from a place this deep ends no lower.
        near = 1e-7 * self.mass[owner] + 2 * (self.enough() - self.depth)[owner]
        close = torch.nonzero(depth >= self.depth[owner] - near).squeeze(1)
        owner, u, depth = owner[close], u[close], depth[close]
        order = torch.argsort(u, stable=True)
        order = order[torch.argsort(owner[order], stable=True)]
        owner, u, depth = owner[order], u[order], depth[order]
        new = torch.ones_like(owner, dtype=torch.bool)
        new[1:] = (owner[1:] != owner[:-1]) | (u[1:] - u[:-1] > 1e-3 * alpha[owner[1:]])
        label = torch.cumsum(new, 0) - 1
        deepest = torch.full_like(depth[new], -INF).scatter_reduce_(0, label, depth, "amax")
        first = torch.nonzero(depth == deepest[label]).squeeze(1)
        keep = torch.ones_like(first, dtype=torch.bool)
        keep[1:] = label[first[1:]] != label[first[:-1]]
        return owner[first[keep]], u[first[keep]]


def numbers_per_cell(penalty: str, series: bool) -> int:
    """What a table holds of a cell, in doubles."""
    if penalty == "truncated_quadratic":
        return 5
    return TERMS if series else 2


def _table(shard: Shard, penalty: str, sets: Sets, cells: Cells, series: bool) -> Tensor:
    """[numbers_per_cell, cells], in one all-reduce for every TABLE_CELLS cells."""
    parts = []
    for first in range(0, len(cells.centre), TABLE_CELLS):
        last = min(first + TABLE_CELLS, len(cells.centre))
        some = cells.of(torch.arange(first, last, device=cells.centre.device))
        alpha = sets.alpha[some.owner]
        radius = some.radius / alpha

        def terms(
            rows: slice,
            x: Tensor,
            some: Cells = some,
            alpha: Tensor = alpha,
            radius: Tensor = radius,
        ) -> Iterable[Tensor]:
            t = (some.centre[rows, None] - x) / alpha[rows, None]
            r = radius[rows, None]
            if penalty == "truncated_quadratic":
                return _parabolas(t, r)
            if series:
                return _hermite(t)
            nearest = (t.abs() - r).clamp(0, 40)
            return torch.exp(-0.5 * nearest * nearest), torch.exp(-0.5 * t.clamp(-40, 40) ** 2)

        count = numbers_per_cell(penalty, series)
        parts.append(shard.sums(sets.rows[some.owner], count, terms))
    return torch.cat(parts, 1)


def _parabolas(t: Tensor, r: Tensor) -> tuple[Tensor, ...]:
    """Of the points inside for the whole cell weight, slope and depth; a bound of what the others
    add; and the depth at the centre."""
    distance = t.abs()
    inside = distance <= 1 - r
    square = torch.where(distance <= 1, t * t, 1.0)
    nearest = (distance - r).clamp(0, 1)
    return (
        inside.double(),
        torch.where(inside, t, 0.0),
        torch.where(inside, 1 - square, 0.0),
        torch.where(inside, 0.0, 1 - nearest * nearest),
        1 - square,
    )


def _hermite(t: Tensor) -> Iterator[Tensor]:
    """The coefficients of exp(-(t + s)^2 / 2) as a power series in s; core/certify/series.h."""
    t = t.clamp(-40, 40)
    term, before = torch.exp(-0.5 * t * t), torch.zeros_like(t)
    for k in range(TERMS):
        yield term
        term, before = -(t * term + before) / (k + 1), term


def _shifts(device: torch.device) -> Tensor:
    """[2, TERMS, TERMS]: what makes a polynomial in s in [-1, 1] one in each half of that."""
    shift = torch.zeros(2, TERMS, TERMS, dtype=torch.float64)
    for side, centre in enumerate((-0.5, 0.5)):
        for k in range(TERMS):
            for j in range(k + 1):
                shift[side, j, k] = math.comb(k, j) * centre ** (k - j) * 0.5**j
    return shift.to(device)


def _resolve_series(cells: Cells, series: Tensor, alpha: Tensor, best: Best) -> None:
    """The maxima of the depths on cells no larger than SERIES_RADIUS, from their power series
    [TERMS, cells]: no points are touched, and nothing is sent."""
    shifts = _shifts(series.device)
    powers = torch.arange(TERMS, device=series.device, dtype=torch.float64)
    radius = cells.radius / alpha[cells.owner]
    # In s = distance from the centre / radius.
    a = series * radius ** powers[:, None]
    owner, centre, width = cells.owner, cells.centre, cells.radius
    while len(owner):
        best.offer(owner, centre, a[0])
        upper = a[0] + a[1:].abs().sum(0)
        bend = 2 * a[2] + (powers[3:, None] * (powers[3:, None] - 1) * a[3:].abs()).sum(0)
        keep = upper > best.enough()[owner]
        keep &= (width / alpha[owner] > _LEAST_RADIUS) & (width > 4e-16 * centre.abs())
        concave = keep & (bend < 0)
        if bool(concave.any()):
            some = torch.nonzero(concave).squeeze(1)
            c, s = a[:, some], torch.zeros_like(a[0, some])
            for _ in range(_NEWTON_STEPS):
                p = s ** powers[:, None]
                slope = (c[1:] * powers[1:, None] * p[:-1]).sum(0)
                curve = (c[2:] * (powers[2:] * (powers[2:] - 1))[:, None] * p[:-2]).sum(0)
                s = (s - slope / curve).clamp(-1, 1)
            p = s ** powers[:, None]
            slope = (c[1:] * powers[1:, None] * p[:-1]).sum(0)
            value = (c * p).sum(0)
            best.offer(owner[some], centre[some] + s * width[some], value)
            # By concavity nothing in the cell is deeper than value and this.
            ahead = torch.where(slope > 0, 1 - s, 1 + s)
            slack = torch.minimum(slope.abs() * ahead, slope * slope / (-2 * bend[some]))
            keep[some] = value + slack > best.enough()[owner[some]]
        index = torch.nonzero(keep).squeeze(1)
        owner = owner[index].repeat(2)
        a = torch.cat([shifts[side] @ a[:, index] for side in range(2)], 1)
        half = 0.5 * width[index]
        centre = torch.cat([centre[index] - half, centre[index] + half])
        width = half.repeat(2)


def _resolve_parabolas(cells: Cells, table: Tensor, alpha: Tensor, best: Best) -> Tensor:
    """Which cells are to be cut."""
    weight, slope, depth, entering, at_centre = table
    radius = cells.radius / alpha[cells.owner]
    best.offer(cells.owner, cells.centre, at_centre)
    place = torch.where(weight > 0, -slope / weight, 0.0)
    place = torch.minimum(torch.maximum(place, -radius), radius)
    top = depth - 2 * place * slope - weight * place * place
    exact = entering == 0
    u = cells.centre + place * alpha[cells.owner]
    best.offer(cells.owner[exact], u[exact], top[exact])
    mass = best.mass[cells.owner]
    upper = torch.minimum(top + entering, at_centre + mass * radius * radius)
    left: Tensor = ~exact & (upper > best.enough()[cells.owner])
    return left


def _losses(shard: Shard, penalty: str, sets: Sets, u: Tensor) -> Tensor:
    """Weight less depth without cancellation, of the finite points."""

    def terms(some: slice, x: Tensor) -> tuple[Tensor, ...]:
        t = ((u[some, None] - x) / sets.alpha[some, None]).clamp(-40, 40)
        finite = torch.isfinite(x)
        if penalty == "welsch":
            return (torch.where(finite, -torch.expm1(-0.5 * t * t), 0.0),)
        return (torch.where(finite, (t * t).clamp(max=1), 0.0),)

    return shard.sums(sets.rows, 1, terms)[0]


def search(
    shard: Shard,
    penalty: str,
    sets: Sets,
    local: Place,
    mass: Tensor,
    *,
    single: bool,
    max_iter: int | None,
) -> Place:
    """The global minima, from local ones.

    mass: weight of the finite points. single: whether the accuracy is that of float32.
    """
    best = Best(sets, local, mass, 1e-6 if single else 1e-12)
    # A set whose range is short begins with cells that have a series.
    wanted = (sets.hi - sets.lo) / (2 * SERIES_RADIUS * sets.alpha)
    whole = Cells(
        torch.arange(len(mass), device=mass.device),
        0.5 * sets.lo + 0.5 * sets.hi,
        0.5 * sets.hi - 0.5 * sets.lo,
    )
    cells = whole.cut(wanted.ceil().clamp(1, FIRST_CELLS).long())
    while len(cells.owner):
        alpha = sets.alpha[cells.owner]
        # Where numbers have no finer steps, the centre stands for the cell.
        fine = cells.radius > 4e-16 * cells.centre.abs()
        if penalty == "truncated_quadratic":
            table = _table(shard, penalty, sets, cells, series=False)
            keep = _resolve_parabolas(cells, table, sets.alpha, best)
        else:
            short = cells.radius <= SERIES_RADIUS * (1 + 1e-9) * alpha
            keep = torch.zeros_like(short)
            index = torch.nonzero(~short).squeeze(1)
            if len(index):
                some = cells.of(index)
                upper, at_centre = _table(shard, penalty, sets, some, series=False)
                best.offer(some.owner, some.centre, at_centre)
                keep[index] = upper > best.enough()[some.owner]
            index = torch.nonzero(short).squeeze(1)
            if len(index):
                some = cells.of(index)
                series = _table(shard, penalty, sets, some, series=True)
                _resolve_series(some, series, sets.alpha, best)
        cells = cells.of(torch.nonzero(keep & fine).squeeze(1))
        parts = torch.full_like(cells.owner, PARTS)
        if penalty == "welsch":
            # No more than make them short.
            parts = cells.radius / (SERIES_RADIUS * sets.alpha[cells.owner])
            parts = parts.ceil().clamp(2, PARTS).long()
        cells = cells.cut(parts)
    owner, u = best.candidates(sets.alpha)
    found = descend(shard, penalty, sets.of(owner), u, max_iter)
    loss = _losses(shard, penalty, sets.of(owner), found.u)
    least = torch.full_like(mass, INF).scatter_reduce_(0, owner, loss, "amin")
    doubt = torch.maximum((2e-7 if single else 1e-14) * least, 4e-16 * mass)
    good = loss <= (least + doubt)[owner]
    smallest = torch.full_like(mass, INF)
    smallest.scatter_reduce_(0, owner, torch.where(good, found.u, INF), "amin")
    chosen = torch.nonzero(good & (found.u == smallest[owner])).squeeze(1)
    answer = torch.empty_like(owner[: len(mass)])
    answer[owner[chosen]] = chosen
    return Place(*(t[answer] for t in found))
