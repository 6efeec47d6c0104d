"""How the reference solves one set: by a method that suits the penalty.

`penalty` is an entry of the reference's registry, `x` the set, without points that are not finite
unless these only pull.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize


class Solution(NamedTuple):
    """An answer and the interval [lo, hi] of minimisers it is the midpoint of."""

    y: float
    lo: float
    hi: float

    @property
    def flat(self):
        return self.hi > self.lo


def point(u):
    return Solution(float(u), float(u), float(u))


def solve_mean(x, penalty, alpha):
    return point(math.fsum(x) / len(x))


def solve_smooth(x, penalty, alpha):
    points = np.sort(x[np.isfinite(x)])
    pull = int((x == math.inf).sum()) - int((x == -math.inf).sum())
    center = points[(len(points) - 1) // 2]
    v = points - center

    def derivative(u):
        return penalty.psi(u - v, alpha).sum() - alpha * pull

    reach = len(x) * alpha if pull else 0.0
    lo, hi = v[0] - reach, v[-1] + reach
    if lo == hi or derivative(lo) >= 0:
        return point(center + lo)
    if derivative(hi) <= 0:
        return point(center + hi)
    tiny = 1e-15 * min(alpha, hi - lo)
    u = optimize.brentq(derivative, lo, hi, xtol=max(tiny, 5e-324), rtol=1e-15, maxiter=10_000)
    for _ in range(2):
        bend = math.fsum(penalty.dpsi(u - v, alpha))
        rise = math.fsum(penalty.psi(u - v, alpha)) - alpha * pull
        step = -rise / bend if bend > 0 else 0.0
        if abs(step) < 1e-6 * alpha:
            u = min(max(u + step, lo), hi)
    return point(center + u)


def solve_huber(x, penalty, alpha):
    # f' vanishes on an interval only without inliers and with as many points on the left as on the
    # right: between the two middle points, infinite ones included.
    points = np.sort(x)
    below, above = points[(len(x) - 1) // 2], points[len(x) // 2]
    if above - below > 2 * alpha:
        lo, hi = below + alpha, above - alpha
        middle = below / 2 + above / 2
        if math.isinf(middle):  # half-infinite: its finite end
            return Solution(hi if math.isinf(lo) else lo, lo, hi)
        return Solution(middle, lo, hi)
    # Otherwise the minimiser lies within alpha of the middle points: a bracket to search in.
    center = below
    v = points - center
    if math.isinf(center):  # as many infinite points as finite ones on one side: `above` is finite
        center, v = above, points - above
    breakpoints = np.concatenate([v - alpha, v + alpha])
    inside = (breakpoints >= -2 * alpha) & (breakpoints <= (above - below) + 2 * alpha)
    breakpoints = np.unique(breakpoints[np.isfinite(breakpoints) & inside])

    def derivative(u):
        return math.fsum(penalty.psi(u - v, alpha))

    # derivative(breakpoints[first]) <= 0 <= derivative(breakpoints[last])
    first, last = 0, len(breakpoints) - 1
    while last - first > 1:
        middle = (first + last) // 2
        if derivative(breakpoints[middle]) <= 0:
            first = middle
        else:
            last = middle
    u, at = breakpoints[first], derivative(breakpoints[first])
    to, there = breakpoints[last], derivative(breakpoints[last])
    if at < 0 < there:
        u = u - at * ((to - u) / (there - at))
    elif there == 0:
        u = to
    return point(float(center + u))


# ---- Minima of the penalties that are not convex -------------------------------------------------


def welsch_minima(penalty, points, base, start, stop, alpha):
    """All local minimisers, relative to `base`, around the sorted points [start, stop)."""
    # Beyond 10 alpha a point adds less than 2e-21 of what the nearest one does.
    near = slice(
        np.searchsorted(points, points[start] - 12 * alpha),
        np.searchsorted(points, points[stop - 1] + 12 * alpha, side="right"),
    )
    v = points[near] - base

    def derivative(u):
        return alpha * float(np.sum(penalty.psi(u - v, alpha)))

    lo, hi = -1.5 * alpha, points[stop - 1] - base + 1.5 * alpha
    if start + 1 == stop and len(v) == 1:
        return [0.0]
    grid = np.linspace(lo, hi, 2 + math.ceil((hi - lo) / (alpha / 32)))
    at = np.array([derivative(u) for u in grid])
    minima = [float(u) for u in grid[at == 0] if np.sum(penalty.dpsi(u - v, alpha)) > 0]
    for i in np.flatnonzero((at[:-1] < 0) & (at[1:] > 0)):
        minima.append(optimize.brentq(derivative, grid[i], grid[i + 1], xtol=1e-16 * alpha))
    return minima


def truncated_minima(penalty, points, base, start, stop, alpha):
    """As `welsch_minima`."""
    # Between neighbouring breakpoints v_i +- alpha the inliers stay the same: their mean is a local
    # minimum if and only if it lies there too.
    v = points[start:stop].astype(np.longdouble) - np.longdouble(base)
    breakpoints = np.unique(np.concatenate([v - alpha, v + alpha]))
    middles = (breakpoints[:-1] + breakpoints[1:]) / 2
    first = np.searchsorted(v, middles - alpha, side="left")
    last = np.searchsorted(v, middles + alpha, side="right")
    sums = np.concatenate([[np.longdouble(0)], np.cumsum(v)])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (sums[last] - sums[first]) / (last - first)
        inside = (last > first) & (means > breakpoints[:-1]) & (means < breakpoints[1:])
    return [
        float(math.fsum(v[a:b].astype(np.float64)) / (b - a))
        for a, b in zip(first[inside], last[inside], strict=True)
    ]
