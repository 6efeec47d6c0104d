"""Certified global minima of Welsch's objective; see oracle.py."""

import math
from typing import NamedTuple

import numpy as np

from tests.support import reference as ref
from tests.support.objectives import (
    EPS,
    ROUNDING,
    Minimum,
    curvature,
    derivative,
    objective,
    scaled,
)

# ---- Welsch --------------------------------------------------------------------------------------
#
# min f = W - max D with the depth D(v) = sum_i w_i exp(-(v - s_i)^2 / 2). Cramer's inequality,
# abs(He_k(t)) exp(-t^2 / 4) < 1.0865 sqrt(k!), bounds D's k-th derivative by that times W, so that
# a Taylor series of TERMS terms on a cell of half-width HALF is off by less than REMAINDER W. In
# the Bernstein basis the largest coefficient is a bound of a polynomial on its cell, and splitting
# the cell makes the bound tight.
#
# That is accurate relative to W. Where min f is far smaller the following is accurate relative to
# f: as 1 - phi'' <= 3 phi, f'' >= W - 3 f. Let f <= W / 10 at two places. Between them f is at most
# the sum of the two (phi is quasi-convex), so that f'' >= 0.4 W there. So where f <= W / 10 there
# is one minimum at most, and it is above f - f'^2 / (0.8 W).

TERMS = 20
HALF = 0.501  # of cells 1 wide: rounding leaves no gap between them
REMAINDER = 1.0865 * HALF**TERMS / math.sqrt(math.factorial(TERMS))
NEAR = 10.5  # exp(-NEAR^2 / 2) = 1e-24: points further away are neglected
TIGHT = 0.1


def _bernstein_from_moments():
    """The matrix from a_j = sum_i w_i exp(-t_i^2 / 2) t_i^j to D's Bernstein coefficients on a cell
    with centre c and t_i = c - s_i: D(c + r) = exp(-r^2 / 2) sum_j a_j (-r)^j / j!."""
    degree = TERMS - 1
    series = np.zeros((TERMS, TERMS))  # [j, k]: share of a_j in the coefficient of (r / HALF)^k
    for j in range(TERMS):
        for m in range((degree - j) // 2 + 1):
            term = (-1) ** j / math.factorial(j) * (-0.5) ** m / math.factorial(m)
            series[j, j + 2 * m] = term * HALF ** (j + 2 * m)
    basis = np.zeros((TERMS, TERMS))  # [k, i]: (2 tau - 1)^k as Bernstein coefficients
    for k in range(TERMS):
        for i in range(TERMS):
            terms = (
                (-1) ** (k - p) * math.comb(k, p) * math.comb(degree - k, i - p)
                for p in range(max(0, i - degree + k), min(i, k) + 1)
            )
            basis[k, i] = sum(terms) / math.comb(degree, i)
    return series @ basis


def _halves():
    """De Casteljau's subdivision at the middle, as two matrices."""
    left = np.zeros((TERMS, TERMS))
    for i in range(TERMS):
        for j in range(i + 1):
            left[j, i] = math.comb(i, j) / 2.0**i
    return left, left[::-1, ::-1].copy()


_FROM_MOMENTS = _bernstein_from_moments()
_LEFT, _RIGHT = _halves()


class _Cells(NamedTuple):
    """Cells from `left` to `left + width` beside an anchor, each of one set, with D's coefficients
    there."""

    owner: np.ndarray
    anchor: np.ndarray
    left: np.ndarray
    width: np.ndarray
    depth: np.ndarray  # [cells, TERMS]

    def take(self, which):
        return _Cells(*(field[which] for field in self))


class _Deepest:
    """The place of largest density found in each set."""

    def __init__(self, sets):
        self.depth = np.full(sets, -np.inf)
        self.anchor, self.v = np.zeros(sets), np.zeros(sets)

    def offer(self, owner, anchor, v, depth):
        order = np.argsort(depth, kind="stable")  # for several of one set, the last one is stored
        last = np.full(len(self.depth), -1)
        last[owner[order]] = order
        sets = np.flatnonzero(last >= 0)
        sets = sets[depth[last[sets]] > self.depth[sets]]
        self.depth[sets] = depth[last[sets]]
        self.anchor[sets], self.v[sets] = anchor[last[sets]], v[last[sets]]


def welsch_minimum(x, w, alpha, penalty):
    rows, total = np.arange(len(x)), w.sum(1)
    middle = np.argmax(2 * np.cumsum(w, axis=1) >= total[:, None], axis=1)
    anchor, v = x[rows, middle], np.zeros(len(x))
    v = _polished(v, scaled(x, anchor, alpha), w)
    value = objective(v, scaled(x, anchor, alpha), w, penalty)
    upper = np.full(len(x), np.nan)  # of D
    rest = np.flatnonzero(value > TIGHT * total)
    if len(rest):
        deepest, upper[rest] = _deepest(x[rest], w[rest], alpha[rest])
        anchor[rest], v[rest] = deepest.anchor, deepest.v
        v = _polished(v, scaled(x, anchor, alpha), w)
    s = scaled(x, anchor, alpha)
    value, gradient = objective(v, s, w, penalty), derivative(v, s, w, penalty)
    error = np.abs(gradient) + ROUNDING * (w * np.abs(ref.psi(v[:, None] - s, penalty, 1.0))).sum(1)
    lower = np.where(
        value <= TIGHT * total,
        value * (1 - ROUNDING) - error**2 / (0.8 * total),
        total * (1 - 4 * EPS) - upper - REMAINDER * total,
    )
    return Minimum(anchor, v, value, np.minimum(lower, value), np.zeros_like(v))


def _polished(v, s, w):
    """Takes a few Newton steps if they lower f or, where rounding decides, reduce |f'|."""
    value, rise = objective(v, s, w, "welsch"), derivative(v, s, w, "welsch")
    for _ in range(5):
        bend = curvature(v, s, w, "welsch")
        there = v - rise / np.where(bend > 0, bend, np.inf)
        value_there, rise_there = (
            objective(there, s, w, "welsch"),
            derivative(there, s, w, "welsch"),
        )
        flatter = (value_there <= value * (1 + EPS)) & (np.abs(rise_there) < np.abs(rise))
        better = (value_there < value * (1 - ROUNDING)) | flatter
        v, value = np.where(better, there, v), np.where(better, value_there, value)
        rise = np.where(better, rise_there, rise)
    return v


def _deepest(x, w, alpha):
    """The place of largest density of each set and a bound of D, up to the remainder of the
    series."""
    cells = _cover(x, w, alpha)
    deepest, bound = _Deepest(len(x)), np.full(len(x), -np.inf)
    for level in range(45):
        for end, place in ((0, cells.left), (-1, cells.left + cells.width)):
            deepest.offer(cells.owner, cells.anchor, place, cells.depth[:, end])
        top = cells.depth.max(1)
        if level > 0:
            top = np.minimum(top, _concave_top(cells, deepest))
        # 1e-14: the rounding of the coefficients.
        alive = top > deepest.depth[cells.owner] * (1 + 1e-14)
        np.maximum.at(bound, cells.owner[~alive], top[~alive])
        cells = cells.take(alive)
        if not len(cells.owner):
            break
        half = cells.width / 2
        parts = (
            cells._replace(width=half, depth=cells.depth @ _LEFT),
            cells._replace(left=cells.left + half, width=half, depth=cells.depth @ _RIGHT),
        )
        cells = _Cells(*(np.concatenate(pair) for pair in zip(*parts, strict=True)))
    np.maximum.at(bound, cells.owner, cells.depth.max(1) if len(cells.owner) else 0.0)
    return deepest, np.maximum(bound, deepest.depth)


def _concave_top(cells, deepest):
    """A bound of D on each cell where it is concave, from its tangent and least bend at the place
    that Newton's method finds; infinity elsewhere. Near a maximum it is tight at once, where
    splitting takes twenty levels."""
    bound = np.full(len(cells.owner), np.inf)
    degree = TERMS - 1
    bend = degree * (degree - 1) * -np.diff(cells.depth, 2, axis=1).max(1)
    some = np.flatnonzero(bend > 1e-9 * cells.depth.max(1))
    if not len(some):
        return bound
    depth, bend = cells.depth[some], bend[some]
    first, second = degree * np.diff(depth, axis=1), np.diff(depth, 2, axis=1)
    second = degree * (degree - 1) * second
    at = np.argmax(depth, axis=1) / degree
    for _ in range(5):
        at = np.clip(at - _bernstein(first, at) / _bernstein(second, at), 0, 1)
    value, tilt = _bernstein(depth, at), _bernstein(first, at)
    step = np.clip(tilt / bend, -at, 1 - at)
    bound[some] = value + tilt * step - bend * step * step / 2
    place = cells.left[some] + at * cells.width[some]
    deepest.offer(cells.owner[some], cells.anchor[some], place, value)
    return bound


def _bernstein(coefficients, at):
    """The polynomials' values at [cells] in [0, 1]."""
    degree = coefficients.shape[1] - 1
    powers = np.arange(degree + 1)
    binomials = np.array([math.comb(degree, i) for i in powers], np.float64)
    basis = at[:, None] ** powers * (1 - at[:, None]) ** powers[::-1]
    return (coefficients * basis * binomials).sum(1)


def _cover(x, w, alpha):
    """Cells that cover all places between the outermost points and within alpha of a point.
    Elsewhere D is convex or, beyond the outermost points, falls."""
    # Bins of width alpha. A bin with points is covered from alpha before its first point, or from
    # the end of the previous cover, to alpha behind its last point.
    bins = np.floor((x - x[:, :1]) / alpha[:, None])
    new = np.ones(x.shape, bool)
    new[:, 1:] = np.diff(bins, axis=1) > 0
    owner, first = np.nonzero(new)
    opens, closes = np.ones(len(owner), bool), np.ones(len(owner), bool)  # bins at a set's ends
    opens[1:] = closes[:-1] = np.diff(owner) > 0
    last = np.full(len(owner), x.shape[1] - 1)
    last[:-1] = np.where(closes[:-1], x.shape[1] - 1, first[1:] - 1)
    anchor, unit = x[owner, first], alpha[owner]
    since = (x[owner, np.maximum(first - 1, 0)] - anchor) / unit
    left = np.where(opens, 0.0, np.maximum(-1.0, since + 1))
    right = (x[owner, last] - anchor) / unit + np.where(closes, 0.0, 1.0)
    count = np.maximum(np.ceil(right - left).astype(int), opens.astype(int))
    # The contributing points: a range of the sorted set around each bin.
    s = (x[owner] - anchor[:, None]) / unit[:, None]
    begin = (s < -1 - NEAR).sum(1)
    reach = (s <= 2 + HALF + NEAR).sum(1) - begin
    bin_of = np.repeat(np.arange(len(owner)), count)
    place = np.arange(len(bin_of)) - np.repeat(np.cumsum(count) - count, count)
    centre = left[bin_of] + 0.5 + place
    depth = np.empty((len(bin_of), TERMS))
    # Bins with few points nearby are batched to save time.
    for low, high in ((0, 4), (4, 16), (16, 64), (64, 256), (256, x.shape[1])):
        which = np.flatnonzero((reach[bin_of] > low) & (reach[bin_of] <= high))
        width = min(high, x.shape[1])
        for some in np.array_split(which, 1 + len(which) * width // 200_000):
            depth[some] = _moments(
                x, w, alpha, owner, anchor, begin, bin_of[some], centre[some], width
            )
    return _Cells(
        owner[bin_of],
        anchor[bin_of],
        centre - HALF,
        np.full(len(bin_of), 2 * HALF),
        depth @ _FROM_MOMENTS,
    )


def _moments(x, w, alpha, owner, anchor, begin, bins, centre, width):
    """a_j of cells with these centres beside their bins' anchors, from `width` points each."""
    index = begin[bins, None] + np.arange(width)
    real = index < x.shape[1]
    index = np.minimum(index, x.shape[1] - 1)
    rows = owner[bins, None]
    t = centre[:, None] - (x[rows, index] - anchor[bins, None]) / alpha[rows]
    t = np.where(real & (np.abs(t) < 2 * NEAR), t, 2 * NEAR)
    power = np.where(real, w[rows, index], 0.0) * np.exp(-t * t / 2)
    moments = np.empty((len(bins), TERMS))
    for j in range(TERMS):
        moments[:, j] = power.sum(1)
        power *= t
    return moments
