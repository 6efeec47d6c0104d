"""Certified global minima of many sets at once, in float64, and the judgement of answers by them.

Where `reference` solves one set by the plainest method there is, this oracle solves a batch in
milliseconds, so that tens of thousands of sets can be judged in a test. It shares the formulas of
the penalties with `reference` and nothing at all with the extension.

Everything is in units of alpha: a position is a double near by, mostly a point of the set (the
anchor), plus v alpha, which stays accurate at 1e6 alpha from zero, and an objective is

    f(v) = sum_i w_i phi(v - s_i; 1),    s_i = (x_i - anchor) / alpha,

phi(z; alpha) over phi''(0) alpha^2, so that curvatures at zero are 1 and f'' <= W = sum_i w_i.

    quadratic            the weighted mean, in extended precision
    other convex ones    bisection on f', which is monotone
    truncated_quadratic  every window of the sorted points no wider than 2 alpha
    welsch               Taylor series on cells that cover all places where a minimum can be,
                         bounded from both sides and split until the bounds meet
"""

from typing import NamedTuple

import numpy as np
import torch

from tests.support import contract
from tests.support import reference as ref
from tests.support.objectives import EPS, ROUNDING, Minimum, derivative, objective, scaled
from tests.support.welsch_minima import welsch_minimum

# ---- Minima --------------------------------------------------------------------------------------


def minimum(x, penalty, alpha, weight=None):
    """The certified minimum of each set x [sets, points], alpha a number or [sets], weight None or
    non-negative [sets, points]. A set whose weights are all zero is treated as one point at 0."""
    x, w = present(x, weight)
    alpha = np.broadcast_to(np.asarray(alpha, np.float64), len(x))
    order = np.argsort(x, axis=1, kind="stable")
    x, w = np.take_along_axis(x, order, 1), np.take_along_axis(w, order, 1)
    if ref.REGISTRY[penalty].is_mean:
        return _mean(x, w, alpha, penalty)
    solve = _convex if penalty in ref.CONVEX else SEARCHES[penalty]
    return solve(x, w, alpha, penalty)


def present(x, weight):
    """Points and weights with the points of zero weight moved onto another point of their set. The
    values of such points are arbitrary and must not affect the result."""
    x = np.array(x, np.float64)
    if weight is None:
        return x, np.ones_like(x)
    w = np.array(weight, np.float64)
    empty = ~(w > 0).any(1)
    x[empty], w[empty] = 0.0, 1.0
    somewhere = np.take_along_axis(x, np.argmax(w > 0, axis=1)[:, None], 1)
    return np.where(w > 0, x, somewhere), w


def _mean(x, w, alpha, penalty):
    wide, weights = x.astype(np.longdouble), w.astype(np.longdouble)
    mean = (weights * wide).sum(1) / weights.sum(1)
    anchor = mean.astype(np.float64)
    v = ((mean - anchor) / alpha).astype(np.float64)
    value = objective(v, scaled(x, anchor, alpha), w, penalty)
    # Any other place, such as that of v's rounding, is above the minimum by its square only.
    error = EPS * (w * np.abs(x)).sum(1) / w.sum(1) / alpha
    lower = value * (1 - ROUNDING) - w.sum(1) * error**2 / 2
    return Minimum(anchor, v, value, lower, np.zeros_like(v))


def _convex(x, w, alpha, penalty):
    rows = np.arange(len(x))
    before = np.cumsum(w, axis=1, dtype=np.longdouble)
    total = before[:, -1]
    middle = np.argmax(2 * before >= total[:, None], axis=1)  # the lower weighted median
    anchor = x[rows, middle]
    s = scaled(x, anchor, alpha)
    lo, hi = s[:, 0].copy(), s[:, -1].copy()
    for _ in range(120):
        v = (lo + hi) / 2
        if ((v == lo) | (v == hi)).all():
            break
        rising = derivative(v, s, w, penalty) >= 0
        lo, hi = np.where(rising, lo, v), np.where(rising, v, hi)
    v, flat = (lo + hi) / 2, np.zeros_like(lo)
    if ref.REGISTRY[penalty].flat:
        # Flat between two points more than 2 alpha apart with half of the weight on either side.
        excess = np.abs(2 * before - total[:, None]) / total[:, None]
        nearest = np.argmin(excess, axis=1)
        unbalanced = excess[rows, nearest]
        # Skips points of zero weight in between, which coincide with other points.
        same = np.cumsum(excess == unbalanced[:, None], axis=1)
        after = np.minimum(np.argmax(same, axis=1) + 1, x.shape[1] - 1)
        left, right = s[rows, nearest], s[rows, after]
        room = right - left - 2
        flat = np.where(unbalanced == 0, np.maximum(room, 0), 0.0)
        doubtful = (room > -1e-9) & (unbalanced < 1e-5) & ~((unbalanced == 0) & (room > 1e-9))
        v = np.where(flat > 0, (left + right) / 2, v)
        flat = np.where(doubtful, -1.0, flat)
    value = objective(v, s, w, penalty)
    # A tangent is below a convex f; the minimum lies in what is left of the bracket.
    drop = np.abs(derivative(v, s, w, penalty)) * np.maximum(np.abs(hi - v), np.abs(v - lo))
    drop = np.where(flat > 0, 0, drop)
    return Minimum(anchor, v, value, value * (1 - ROUNDING) - drop, flat)


def _truncated_quadratic(x, w, alpha, penalty):
    """The inliers of a minimum are neighbours among the sorted points, and its objective is

        1/2 (weight outside + sum over the window of w_i (s_i - mean)^2).

    For any other window this is above f(mean). So the minimum over all windows is that of f; no
    breakpoints have to be compared. Sums grow point by point in extended precision, by Welford's
    update, which adds positive terms only.
    """
    rows, n = np.arange(len(x)), x.shape[1]
    wide, weights = x.astype(np.longdouble) / alpha[:, None], w.astype(np.longdouble)
    zero = np.zeros((len(x), 1), np.longdouble)
    before = np.concatenate([zero, np.cumsum(weights, axis=1)], axis=1)
    after = np.concatenate([np.cumsum(weights[:, ::-1], axis=1)[:, ::-1], zero], axis=1)
    # Of the window that starts at each point: relative mean, weight, sum of squares about the mean.
    mean, weight, squares = np.zeros_like(wide), weights.copy(), np.zeros_like(wide)
    least = np.full(len(x), np.inf, np.longdouble)
    start, shift = np.zeros(len(x), int), np.zeros(len(x), np.longdouble)
    for size in range(1, n + 1):
        starts = n - size + 1
        if size > 1:
            mean, weight, squares = mean[:, :starts], weight[:, :starts], squares[:, :starts]
            difference = (x[:, size - 1 :] - x[:, :starts]).astype(np.longdouble) / alpha[:, None]
            if difference.min() > 2.001:
                break
            added = weights[:, size - 1 :]
            total = weight + added
            share = added / np.where(total > 0, total, 1)
            delta = difference - mean
            mean = mean + share * delta
            squares = squares + weight * share * delta * delta
            weight = total
        value = before[:, :starts] + after[:, size:] + squares
        # A window is told from its first point, which has to be one that is there.
        value = np.where(weights[:, :starts] > 0, value, np.inf)
        at = np.argmin(value, axis=1)
        better = value[rows, at] < least
        least = np.where(better, value[rows, at], least)
        start = np.where(better, at, start)
        shift = np.where(better, mean[rows, at], shift)
    anchor, v = x[rows, start], shift.astype(np.float64)
    value = objective(v, scaled(x, anchor, alpha), w, penalty)
    lower = (least / 2).astype(np.float64) * (1 - ROUNDING)
    return Minimum(anchor, v, value, np.minimum(lower, value), np.zeros_like(v))


# The certified search for the minimum of each penalty that is not convex.
SEARCHES = {"welsch": welsch_minimum, "truncated_quadratic": _truncated_quadratic}


# ---- Judgement -----------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """[sets] each: shares of what is allowed, above 1 a violation, 0 where nothing is promised."""

    excess: np.ndarray  # of the objective over its minimum
    position: np.ndarray  # distance to the minimiser, where the curvature determines it
    gradient: np.ndarray
    finite: np.ndarray
    determined: np.ndarray  # whether the curvature determines the answer and its gradient
    doubt: np.ndarray  # how far apart the oracle's own bounds are, as a share of allowed excess

    @property
    def worst(self):
        return np.maximum(np.maximum(self.excess, self.position), self.gradient)

    @property
    def violations(self):
        return np.flatnonzero(~self.finite | ~(self.worst <= 1))

    def about(self, i):
        """What was found of one set."""
        return ", ".join(f"{name} {field[i]:.3g}" for name, field in self._asdict().items())


def judge(y, x, penalty, alpha, dtype, weight=None, gradient=None):
    """Holds answers y [sets] to the sets x [sets, points] as the extension saw them (all of it in
    float64), and the gradients dy/dx, to section "What the answer is" of the documentation."""
    y = np.asarray(y, np.float64)
    finite = np.isfinite(y)
    empty = np.zeros(len(y), bool) if weight is None else ~(np.asarray(weight) > 0).any(1)
    # A point of zero weight has no gradient, and elsewhere counts as a copy of one that has.
    real = np.ones(np.shape(x), bool) if weight is None else np.asarray(weight) > 0
    x, w = present(x, weight)
    alpha = np.broadcast_to(np.asarray(alpha, np.float64), len(x))
    found = minimum(x, penalty, alpha, w)
    y, total = np.where(finite, y, 0.0), w.sum(1)
    d = accuracy(y, alpha, dtype) / alpha
    s = scaled(x, y, alpha)  # from here on all positions are relative to y, in units of alpha
    centre = (found.anchor - y) / alpha + found.v
    room, entry = d, ref.REGISTRY[penalty]
    if entry.is_mean:
        room = 4 * contract.EPS[dtype] * ((w * np.abs(x)).sum(1) / total + np.abs(y)) / alpha
        determined = np.ones(len(y), bool)
        position = np.abs(centre) / np.maximum(room, 1e-300)
    else:
        determined = least_curvature(np.zeros_like(y), d, s, w, penalty) >= 1e-3 * total
        position = np.zeros_like(y)
    if entry.convex and not entry.is_mean:
        sure = least_curvature(centre, d, s, w, penalty) >= 1e-3 * total
        position = np.where(sure | (found.flat > 0), np.abs(centre) / d, 0.0)
    elif not entry.convex and not entry.psi_jumps:
        centre, position = _nearest_minimum(s, w, d, determined, penalty)
    lower = np.maximum(found.lower, 0)
    allowed = contract.EXCESS[dtype] * lower + total * np.maximum(d, room) ** 2 / 2
    excess = (objective(np.zeros_like(y), s, w, penalty) - found.lower) / allowed
    share = np.zeros_like(y)
    if gradient is not None:
        g = np.asarray(gradient, np.float64)
        finite = finite & np.isfinite(g).all(1)
        g = np.where(np.isfinite(g), g, 0.0)
        if entry.bending:
            share = _smooth_gradient(g, y, s, w, real, centre, alpha, penalty, dtype)
        else:
            share = _inlier_gradient(g, y, s, w, real, centre, alpha, penalty, dtype)
        share = np.where(determined, share, 0.0)
        size = np.abs(g).sum(1)
        sums = np.abs(g.sum(1) - 1) / (16 * contract.EPS[dtype] * np.where(size > 0, size, 1))
        share = np.maximum(share, np.where(size > 0, sums, 0.0))
        share = np.maximum(share, np.where((found.flat > 4 * d) & (size > 0), np.inf, 0.0))
        share = np.where(empty, np.where(size > 0, np.inf, 0.0), share)
    excess = np.where(empty, np.where(y == 0, 0.0, np.inf), excess)
    position = np.where(empty, 0.0, position)
    doubt = (found.value - found.lower) / allowed
    return Verdict(excess, position, share, finite, determined & ~empty, doubt)


def accuracy(y, alpha, dtype):
    """`contract.accuracy` for a batch."""
    if dtype == torch.float32:
        ulp = np.ldexp(1.0, np.maximum(np.frexp(y)[1] - 24, -149))
        return 2 * ulp + contract.STEP[dtype] * alpha
    return contract.STEP[dtype] * (alpha + np.abs(y))


def least_curvature(v, d, s, w, penalty):
    """`contract.least_curvature` for a batch."""
    distance, d = np.abs(v[:, None] - s), d[:, None]
    entry = ref.REGISTRY[penalty]
    if entry.has_breakpoints:
        return (w * (distance <= 1 - d)).sum(1)
    far = ref.dpsi(distance + d, penalty, 1.0)
    if entry.least_dpsi is not None:
        turn, least = entry.least_dpsi
        near = ref.dpsi(np.maximum(distance - d, 0), penalty, 1.0)
        turns = (distance - d <= turn) & (turn <= distance + d)
        far = np.where(turns, least, np.minimum(near, far))
    return (w * far).sum(1)


def _nearest_minimum(s, w, d, determined, penalty):
    """The minimiser within d of 0, and its distance as a share of d: infinite where there is none.
    Both are for the sets whose curvature there is at least 1e-3 W only, 0 for the others."""
    centre, position = np.zeros_like(d), np.zeros_like(d)
    rows = np.flatnonzero(determined)
    s, w, d = s[rows], w[rows], d[rows]
    # What a few roundings of the terms of f' move its root by.
    noise = 64 * EPS * (w * np.abs(ref.psi(s, penalty, 1.0))).sum(1) / (1e-3 * w.sum(1))
    lo, hi = -d - noise, d + noise
    between = (derivative(lo, s, w, penalty) <= 0) & (derivative(hi, s, w, penalty) >= 0)
    for _ in range(40):
        v = (lo + hi) / 2
        rising = derivative(v, s, w, penalty) >= 0
        lo, hi = np.where(rising, lo, v), np.where(rising, v, hi)
    centre[rows] = (lo + hi) / 2
    position[rows] = np.where(between, np.abs(centre[rows]) / (d + noise), np.inf)
    return centre, position


def _ratio(error, bound):
    """Shares, the largest of each set; no error is a share of 0 of any bound."""
    return np.where(error == 0, 0.0, error / np.maximum(bound, 1e-300)).max(1)


def _smooth_gradient(g, y, s, w, real, centre, alpha, penalty, dtype):
    """As `contract.assert_gradient`: against the formula at the exact minimum, whose terms are
    known up to the solver's accuracy times their bending."""
    eps = contract.EPS[dtype]
    d = contract.STEP[dtype] + 4 * EPS * np.abs(y / alpha + centre)
    terms = w * ref.dpsi(centre[:, None] - s, penalty, 1.0)
    total = terms.sum(1)[:, None]
    scarce = total[:, 0] <= 8 * eps * np.abs(terms).sum(1)
    total = np.where(scarce[:, None], 1.0, total)
    expected = np.where(scarce[:, None], 0.0, terms / total)
    term = (ref.REGISTRY[penalty].bending * d + 16 * eps)[:, None]
    bound = (w + np.abs(expected) * w.sum(1)[:, None]) * term / total
    return _ratio(np.where(real, np.abs(g - expected), np.abs(g)), np.where(real, bound, 0))


def _inlier_gradient(g, y, s, w, real, centre, alpha, penalty, dtype):
    """Each inlier weighs its weight; a point at a breakpoint may count as one or not. Where psi
    jumps, a minimum is the mean of its inliers: the gradient tells of which."""
    entry = ref.REGISTRY[penalty]
    inliers = (g != 0) & real
    counted = np.where(inliers, w, 0.0)
    total = counted.sum(1)
    none = total == 0
    total = np.where(none, 1.0, total)
    worst = np.where(none, np.inf, 0.0)
    if entry.psi_jumps:
        centre = (counted * s).sum(1) / total
        worst = np.maximum(worst, np.abs(centre) * alpha / accuracy(y, alpha, dtype))
    if not entry.is_mean:
        near = contract.STEP[dtype] + 4 * EPS * np.abs(y / alpha + centre)
        distance = np.abs(centre[:, None] - s)
        missing = real & ~inliers & (distance <= 1 - near[:, None])
        strange = inliers & (distance > 1 + near[:, None])
        worst = np.where((missing | strange).any(1), np.inf, worst)
    else:
        worst = np.where((real & ~inliers).any(1), np.inf, worst)
    share = counted / total[:, None]
    # Counts are exact, sums of weights are rounded.
    slack = (2 if np.isin(w, (0, 1)).all() else 16) * contract.EPS[dtype]
    return np.maximum(worst, _ratio(np.abs(g - share), slack * share))
