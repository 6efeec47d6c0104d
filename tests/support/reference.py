"""The robust pools one set at a time in float64, by methods that share nothing with the extension.

Correctness only, no speed. A set is a 1-D float64 array `x`, `alpha` a Python float, and an answer
the minimiser over u of f(u) = sum_i phi(u - x_i; alpha). `REGISTRY` has one entry for each penalty:
its formulas, and what the tests have to know of it. An entry may name its own method of solution:

    smooth and convex    bracketed root finding on f' (Brent), then Newton steps: the default
    quadratic            the exactly rounded sum over the count
    huber                f' is piecewise linear: bisection over its breakpoints, then one division
    truncated_quadratic  every window of the sorted set that may be the set of inliers
    welsch               a dense grid around the points, Brent in each cell where f' changes sign

Positions are computed relative to a point of the set, so that they stay accurate where alpha is
far smaller than the spacing of doubles at the points.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

import numpy as np

from tests.support.single_set import (
    Solution,
    point,
    solve_huber,
    solve_mean,
    solve_smooth,
    truncated_minima,
    welsch_minima,
)


@dataclass(frozen=True)
class Penalty:
    """A penalty as the tests know it; formulas take float64 arrays z and a float alpha.

    Attributes:
        phi: free of cancellation and overflow, as are
        psi, dpsi: its first and second derivative by z.
        exact_psi: psi(alpha t) / (alpha phi''(0)) of a `Decimal` t, in its precision: psi, dpsi and
            the bounds are tested against it.
        bending: a bound on alpha |phi'''| / phi''(0), rounded up; None where phi'' jumps, which is
            at |z| = alpha.
        dpsi_at_zero: phi''(0), of alpha.
        convex: whether every local minimum is global.
        force: of a point far away, |psi| / phi''(0): "unbounded", alpha from a finite distance on
            ("reached") or in the limit ("approached"), or "none".
        flat: whether the minimisers may fill an interval.
        psi_jumps: whether psi jumps at |z| = alpha.
        least_dpsi: (t, phi''(alpha t) / phi''(0)) where that is least; None where it decreases to
            zero.
        solve, minima: its methods in tests/support/single_set.py: `solve` of a convex penalty,
            `minima` of one that is not.
    """

    phi: Callable
    psi: Callable
    dpsi: Callable
    exact_psi: Callable[[Decimal], Decimal]
    bending: float | None
    dpsi_at_zero: Callable[[float], float] = lambda alpha: 1.0
    convex: bool = True
    force: str = "approached"
    flat: bool = False
    psi_jumps: bool = False
    least_dpsi: tuple[float, float] | None = None
    solve: Callable = solve_smooth
    minima: Callable | None = None

    @property
    def is_mean(self):
        return self.force == "unbounded"

    @property
    def has_breakpoints(self):
        return self.bending is None


def phi(z, penalty, alpha):
    return REGISTRY[penalty].phi(np.asarray(z, np.float64), alpha)


def psi(z, penalty, alpha):
    """phi'."""
    return REGISTRY[penalty].psi(np.asarray(z, np.float64), alpha)


def dpsi(z, penalty, alpha):
    """phi''."""
    return REGISTRY[penalty].dpsi(np.asarray(z, np.float64), alpha)


def dpsi_at_zero(penalty, alpha):
    return REGISTRY[penalty].dpsi_at_zero(alpha)


def objective(u, x, penalty, alpha):
    return math.fsum(phi(u - x, penalty, alpha))


def derivative(u, x, penalty, alpha):
    return math.fsum(psi(u - x, penalty, alpha))


def curvature(u, x, penalty, alpha):
    return math.fsum(dpsi(u - x, penalty, alpha))


# ---- The answers -------------------------------------------------------------------------------


def solve(x, penalty, alpha):
    """The global answer; for equal minima of a non-convex objective the smallest u."""
    return _solve(np.asarray(x, np.float64).tobytes(), penalty, alpha)


@lru_cache(maxsize=128)  # several tests and assertions in a row solve the same set
def _solve(points, penalty, alpha):
    x = np.frombuffer(points, np.float64)
    special = infinite(x, penalty, alpha)
    if special is not None:
        return special
    if np.abs(x[np.isfinite(x)]).max() > 1e300:  # differences could overflow
        down = math.ldexp(1.0, -100)
        return Solution(*(v / down for v in solve(x * down, penalty, alpha * down)))
    entry = REGISTRY[penalty]
    if entry.convex:
        return entry.solve(x, entry, alpha)
    minima = local_minima(x, penalty, alpha)
    values = [objective(u, x, penalty, alpha) for u in minima]
    return point(minima[int(np.argmin(values))])


def infinite(x, penalty, alpha):
    """The answer where NaN or infinite points decide it, else None. A bounded psi is alpha at
    an infinite point."""
    force = REGISTRY[penalty].force
    if np.isnan(x).any():
        return point(math.nan)
    finite = x[np.isfinite(x)]
    pull = int((x == math.inf).sum()) - int((x == -math.inf).sum())
    outliers = len(x) - len(finite)
    if outliers == 0:
        return None
    if len(finite) == 0 or force == "unbounded":
        return point(math.copysign(math.inf, pull) if abs(pull) == outliers else math.nan)
    if force == "none":
        return solve(finite, penalty, alpha)
    if abs(pull) > len(finite) or (abs(pull) == len(finite) and force == "approached"):
        return point(math.copysign(math.inf, pull))
    return None


# ---- Minima of the penalties that are not convex -------------------------------------------------


def local_minima(x, penalty, alpha):
    """All local minimisers of an objective that is not convex, in ascending order.

    At each of them f'' >= 0, so some point lies within alpha: between groups of points further
    apart than 2 alpha there is none.
    """
    points = np.sort(np.asarray(x, np.float64))
    starts = np.flatnonzero(np.concatenate([[True], np.diff(points) > 2 * alpha]))
    stops = np.concatenate([starts[1:], [len(points)]])
    entry = REGISTRY[penalty]
    found = []
    for start, stop in zip(starts, stops, strict=True):
        base = points[start]
        found.extend(float(base + u) for u in entry.minima(entry, points, base, start, stop, alpha))
    return sorted(found)


# ---- The gradient --------------------------------------------------------------------------------


def gradient(x, y, penalty, alpha, eps=2.0**-52):
    """dy/dx by the implicit function theorem; zero where the curvature does not exceed 8 eps of the
    sum of its terms' magnitudes, at infinite points, and for an infinite answer."""
    x = np.asarray(x, np.float64)
    if np.isnan(x).any() or math.isnan(y):
        return np.full_like(x, math.nan)
    finite = np.isfinite(x)
    if math.isinf(y) or (REGISTRY[penalty].flat and solve(x, penalty, alpha).flat):
        return np.zeros_like(x)
    terms = np.zeros_like(x)
    terms[finite] = dpsi(y - x[finite], penalty, alpha) / dpsi_at_zero(penalty, alpha)
    total = math.fsum(terms)
    if not total > 8 * eps * math.fsum(np.abs(terms)):
        return np.zeros_like(x)
    return terms / total


# ---- The penalties -------------------------------------------------------------------------------


def _scaled(z, alpha):
    # Beyond 1e100 every term below has reached its limit; clipped there, no square overflows.
    with np.errstate(over="ignore"):
        return np.clip(z / alpha, -1e100, 1e100)


def _pseudo_huber(z, alpha):
    t = _scaled(z, alpha)
    return alpha * (np.abs(z) * (np.abs(t) / (1 + np.hypot(1, t))))


def _huber(z, alpha):
    size = np.abs(z)
    inner = np.minimum(size, alpha)
    return np.where(size <= alpha, inner * inner / 2, alpha * (size - alpha / 2))


def _welsch_dpsi(z, alpha):
    t = _scaled(z, alpha)
    return (1 - t * t) * np.exp(-t * t / 2) / alpha / alpha


def _inside(z, alpha):
    return np.where(np.abs(z) <= alpha, 1.0, 0.0)


REGISTRY = {
    "quadratic": Penalty(
        phi=lambda z, alpha: z * z / 2,
        psi=lambda z, alpha: z,
        dpsi=lambda z, alpha: np.ones_like(z),
        exact_psi=lambda t: t,
        bending=0.0,
        force="unbounded",
        solve=solve_mean,
    ),
    "pseudo_huber": Penalty(
        phi=_pseudo_huber,
        psi=lambda z, alpha: alpha * (_scaled(z, alpha) / np.hypot(1, _scaled(z, alpha))),
        dpsi=lambda z, alpha: np.hypot(1, _scaled(z, alpha)) ** -3.0,
        exact_psi=lambda t: t / (1 + t * t).sqrt(),
        bending=0.9,
    ),
    "huber": Penalty(
        phi=_huber,
        psi=lambda z, alpha: np.clip(z, -alpha, alpha),
        dpsi=_inside,
        exact_psi=lambda t: max(Decimal(-1), min(Decimal(1), t)),
        bending=None,
        force="reached",
        flat=True,
        solve=solve_huber,
    ),
    "welsch": Penalty(
        phi=lambda z, alpha: -np.expm1(-(_scaled(z, alpha) ** 2) / 2),
        psi=lambda z, alpha: _scaled(z, alpha) * np.exp(-(_scaled(z, alpha) ** 2) / 2) / alpha,
        dpsi=_welsch_dpsi,
        exact_psi=lambda t: t * (-t * t / 2).exp(),
        bending=1.4,
        dpsi_at_zero=lambda alpha: 1 / alpha / alpha,
        convex=False,
        force="none",
        least_dpsi=(math.sqrt(3), -2 * math.exp(-1.5)),
        minima=welsch_minima,
    ),
    "truncated_quadratic": Penalty(
        phi=lambda z, alpha: np.minimum(np.abs(z), alpha) ** 2 / 2,
        psi=lambda z, alpha: np.where(np.abs(z) <= alpha, z, 0.0),
        dpsi=_inside,
        exact_psi=lambda t: t if abs(t) <= 1 else Decimal(0),
        bending=None,
        convex=False,
        force="none",
        psi_jumps=True,
        minima=truncated_minima,
    ),
}
PENALTIES = tuple(REGISTRY)
CONVEX = tuple(name for name, entry in REGISTRY.items() if entry.convex)
NONCONVEX = tuple(name for name, entry in REGISTRY.items() if not entry.convex)
