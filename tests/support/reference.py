"""The robust pools one set at a time in float64, by methods that share nothing with the extension.

Correctness only, no speed. A set is a 1-D float64 array `x`, `alpha` a Python float, and an answer
the minimiser over u of f(u) = sum_i phi(u - x_i; alpha). Each penalty is solved by the method that
suits it best:

    quadratic            the exactly rounded sum over the count
    pseudo_huber         bracketed root finding on f' (Brent), then Newton steps
    huber                f' is piecewise linear: bisection over its sorted kinks, then one division
    truncated_quadratic  every window of the sorted set that may be the set of inliers
    welsch               a dense grid around the points, Brent in each cell where f' changes sign

Positions are computed relative to a point of the set, so that they stay accurate where alpha is
far smaller than the spacing of doubles at the points.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize

PENALTIES = ("quadratic", "pseudo_huber", "huber", "welsch", "truncated_quadratic")
CONVEX = ("quadratic", "pseudo_huber", "huber")


class Solution(NamedTuple):
    """An answer and the interval [lo, hi] of minimisers it is the midpoint of."""

    y: float
    lo: float
    hi: float

    @property
    def flat(self):
        return self.hi > self.lo


# ---- The penalties: the documented formulas, free of cancellation and overflow -----------------


def _scaled(z, alpha):
    # Beyond 1e100 every term below has reached its limit; clipped there, no square overflows.
    with np.errstate(over="ignore"):
        return np.clip(np.asarray(z, np.float64) / alpha, -1e100, 1e100)


def phi(z, penalty, alpha):
    z = np.asarray(z, np.float64)
    t, size = _scaled(z, alpha), np.abs(z)
    if penalty == "quadratic":
        return z * z / 2
    if penalty == "pseudo_huber":
        return alpha * (size * (np.abs(t) / (1 + np.hypot(1, t))))
    if penalty == "huber":
        inner = np.minimum(size, alpha)
        return np.where(size <= alpha, inner * inner / 2, alpha * (size - alpha / 2))
    if penalty == "welsch":
        return -np.expm1(-t * t / 2)
    if penalty == "truncated_quadratic":
        inner = np.minimum(size, alpha)
        return inner * inner / 2
    raise ValueError(penalty)


def psi(z, penalty, alpha):
    """phi'."""
    z = np.asarray(z, np.float64)
    t = _scaled(z, alpha)
    if penalty == "quadratic":
        return z
    if penalty == "pseudo_huber":
        return alpha * (t / np.hypot(1, t))
    if penalty == "huber":
        return np.clip(z, -alpha, alpha)
    if penalty == "welsch":
        return t * np.exp(-t * t / 2) / alpha
    if penalty == "truncated_quadratic":
        return np.where(np.abs(z) <= alpha, z, 0.0)
    raise ValueError(penalty)


def dpsi(z, penalty, alpha):
    """phi''."""
    z = np.asarray(z, np.float64)
    t = _scaled(z, alpha)
    if penalty == "quadratic":
        return np.ones_like(z)
    if penalty == "pseudo_huber":
        return np.hypot(1, t) ** -3.0
    if penalty == "welsch":
        return (1 - t * t) * np.exp(-t * t / 2) / alpha / alpha
    if penalty in ("huber", "truncated_quadratic"):
        return np.where(np.abs(z) <= alpha, 1.0, 0.0)
    raise ValueError(penalty)


def dpsi_at_zero(penalty, alpha):
    return 1 / alpha / alpha if penalty == "welsch" else 1.0


def objective(u, x, penalty, alpha):
    return math.fsum(phi(u - x, penalty, alpha))


def slope(u, x, penalty, alpha):
    return math.fsum(psi(u - x, penalty, alpha))


def curvature(u, x, penalty, alpha):
    return math.fsum(dpsi(u - x, penalty, alpha))


# ---- The answers -------------------------------------------------------------------------------


def solve(x, penalty, alpha):
    """The global answer; for equal minima of a non-convex objective the smallest u."""
    x = np.asarray(x, np.float64)
    special = infinite(x, penalty, alpha)
    if special is not None:
        return special
    if np.abs(x[np.isfinite(x)]).max() > 1e300:  # differences could overflow
        down = math.ldexp(1.0, -100)
        return Solution(*(v / down for v in solve(x * down, penalty, alpha * down)))
    if penalty == "quadratic":
        return _point(math.fsum(x) / len(x))
    if penalty == "pseudo_huber":
        return _point(_solve_pseudo_huber(x, alpha))
    if penalty == "huber":
        return _solve_huber(x, alpha)
    minima = local_minima(x, penalty, alpha)
    values = [objective(u, x, penalty, alpha) for u in minima]
    return _point(minima[int(np.argmin(values))])


def infinite(x, penalty, alpha):
    """The answer where NaN or infinite points decide it, else None.

    An infinite point pulls with alpha in the pseudo-Huber and Huber objectives, and not at all in
    the Welsch and truncated quadratic ones.
    """
    if np.isnan(x).any():
        return _point(math.nan)
    finite = x[np.isfinite(x)]
    pull = int((x == math.inf).sum()) - int((x == -math.inf).sum())
    outliers = len(x) - len(finite)
    if outliers == 0:
        return None
    if len(finite) == 0 or penalty == "quadratic":
        return _point(math.copysign(math.inf, pull) if abs(pull) == outliers else math.nan)
    if penalty not in CONVEX:
        return solve(finite, penalty, alpha)
    if abs(pull) > len(finite) or (abs(pull) == len(finite) and penalty == "pseudo_huber"):
        return _point(math.copysign(math.inf, pull))
    return None


def _point(u):
    return Solution(float(u), float(u), float(u))


def _solve_pseudo_huber(x, alpha):
    points = np.sort(x[np.isfinite(x)])
    pull = int((x == math.inf).sum()) - int((x == -math.inf).sum())
    center = points[(len(points) - 1) // 2]
    v = points - center

    def derivative(u):
        return psi(u - v, "pseudo_huber", alpha).sum() - alpha * pull

    reach = len(x) * alpha if pull else 0.0
    lo, hi = v[0] - reach, v[-1] + reach
    if lo == hi or derivative(lo) >= 0:
        return center + lo
    if derivative(hi) <= 0:
        return center + hi
    tiny = 1e-15 * min(alpha, hi - lo)
    u = optimize.brentq(derivative, lo, hi, xtol=max(tiny, 5e-324), rtol=1e-15, maxiter=10_000)
    for _ in range(2):
        bend = curvature(u, v, "pseudo_huber", alpha)
        step = -(slope(u, v, "pseudo_huber", alpha) - alpha * pull) / bend if bend > 0 else 0.0
        if abs(step) < 1e-6 * alpha:
            u = min(max(u + step, lo), hi)
    return center + u


def _solve_huber(x, alpha):
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
    kinks = np.concatenate([v - alpha, v + alpha])
    inside = (kinks >= -2 * alpha) & (kinks <= (above - below) + 2 * alpha)
    kinks = np.unique(kinks[np.isfinite(kinks) & inside])

    def derivative(u):
        return slope(u, v, "huber", alpha)

    first, last = 0, len(kinks) - 1  # derivative(kinks[first]) <= 0 <= derivative(kinks[last])
    while last - first > 1:
        middle = (first + last) // 2
        if derivative(kinks[middle]) <= 0:
            first = middle
        else:
            last = middle
    u, at = kinks[first], derivative(kinks[first])
    to, there = kinks[last], derivative(kinks[last])
    if at < 0 < there:
        u = u - at * ((to - u) / (there - at))
    elif there == 0:
        u = to
    return _point(float(center + u))


def solve_lbfgs(x, penalty, alpha):
    """The way of the original declarative node: L-BFGS on the objective, started at the mean."""

    def value_and_slope(u):
        n = len(x)
        value = objective(u[0], x, penalty, alpha) / n
        return value, np.array([slope(u[0], x, penalty, alpha) / n])

    options = {"ftol": 0.0, "gtol": 1e-13, "maxiter": 10_000}
    start = np.array([np.mean(x)])
    found = optimize.minimize(value_and_slope, start, jac=True, method="L-BFGS-B", options=options)
    return float(found.x[0])


# ---- Minima of the penalties that are not convex -------------------------------------------------


def local_minima(x, penalty, alpha):
    """All local minimisers of a Welsch or truncated quadratic objective, in ascending order.

    At each of them f'' >= 0, so some point lies within alpha: between groups of points further
    apart than 2 alpha there is none.
    """
    points = np.sort(np.asarray(x, np.float64))
    starts = np.flatnonzero(np.concatenate([[True], np.diff(points) > 2 * alpha]))
    stops = np.concatenate([starts[1:], [len(points)]])
    within = {"welsch": _welsch_minima, "truncated_quadratic": _truncated_minima}[penalty]
    found = []
    for start, stop in zip(starts, stops, strict=True):
        base = points[start]
        found.extend(float(base + u) for u in within(points, base, start, stop, alpha))
    return sorted(found)


def _welsch_minima(points, base, start, stop, alpha):
    # Beyond 10 alpha a point adds less than 2e-21 of what the nearest one does.
    near = slice(
        np.searchsorted(points, points[start] - 12 * alpha),
        np.searchsorted(points, points[stop - 1] + 12 * alpha, side="right"),
    )
    v = points[near] - base

    def derivative(u):
        return alpha * float(np.sum(psi(u - v, "welsch", alpha)))

    lo, hi = -1.5 * alpha, points[stop - 1] - base + 1.5 * alpha
    if start + 1 == stop and len(v) == 1:
        return [0.0]
    grid = np.linspace(lo, hi, 2 + math.ceil((hi - lo) / (alpha / 32)))
    at = np.array([derivative(u) for u in grid])
    minima = [float(u) for u in grid[at == 0] if np.sum(dpsi(u - v, "welsch", alpha)) > 0]
    for i in np.flatnonzero((at[:-1] < 0) & (at[1:] > 0)):
        minima.append(optimize.brentq(derivative, grid[i], grid[i + 1], xtol=1e-16 * alpha))
    return minima


def _truncated_minima(points, base, start, stop, alpha):
    # Between neighbouring kinks v_i +- alpha the inliers stay the same: their mean is a local
    # minimum if and only if it lies there too.
    v = points[start:stop].astype(np.longdouble) - np.longdouble(base)
    kinks = np.unique(np.concatenate([v - alpha, v + alpha]))
    middles = (kinks[:-1] + kinks[1:]) / 2
    first = np.searchsorted(v, middles - alpha, side="left")
    last = np.searchsorted(v, middles + alpha, side="right")
    sums = np.concatenate([[np.longdouble(0)], np.cumsum(v)])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (sums[last] - sums[first]) / (last - first)
        inside = (last > first) & (means > kinks[:-1]) & (means < kinks[1:])
    return [
        float(math.fsum(v[a:b].astype(np.float64)) / (b - a))
        for a, b in zip(first[inside], last[inside], strict=True)
    ]


def robust_starts(x, alpha, doubt=0.0):
    """Where the documented local descent starts.

    That is the Huber minimiser at the same alpha, or, where no point lies within alpha of it, the
    nearest point and of two equally near ones the smaller. Usually one candidate; all of them where
    a choice hangs on distances that agree within `doubt`.
    """
    x = np.asarray(x, np.float64)
    u = solve(x, "huber", alpha).y
    x = x[np.isfinite(x)]
    if math.isinf(u):
        return [float(x.max() if u > 0 else x.min())]
    distance = np.abs(u - x)
    starts = []
    if distance.min() <= alpha + doubt:
        starts.append(float(u))
    if distance.min() > alpha - doubt:
        nearest = np.unique(x[distance <= distance.min() + doubt])
        starts.extend(float(p) for p in (nearest if doubt else nearest[:1]))
    return starts


# ---- The gradient --------------------------------------------------------------------------------


def gradient(x, y, penalty, alpha, eps=2.0**-52):
    """dy/dx by the implicit function theorem; zero where the curvature does not exceed 8 eps of the
    sum of its terms' magnitudes, at infinite points, and for an infinite answer."""
    x = np.asarray(x, np.float64)
    if np.isnan(x).any() or math.isnan(y):
        return np.full_like(x, math.nan)
    finite = np.isfinite(x)
    if math.isinf(y) or (penalty == "huber" and solve(x, penalty, alpha).flat):
        return np.zeros_like(x)
    terms = np.zeros_like(x)
    terms[finite] = dpsi(y - x[finite], penalty, alpha) / dpsi_at_zero(penalty, alpha)
    total = math.fsum(terms)
    if not total > 8 * eps * math.fsum(np.abs(terms)):
        return np.zeros_like(x)
    return terms / total
