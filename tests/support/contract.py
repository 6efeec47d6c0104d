"""The promised accuracy of an answer and of its gradient, as assertions about one set.

The tolerances are those of the documentation, none is wider. A set `x` is the float64 image of what
the extension was given, `y` the float64 image of what it returned.

For the penalties that are not convex no minimum is searched for. Where psi is continuous, f' <= 0
at y - d and f' >= 0 at y + d prove that a minimum lies between. Where psi jumps, y is the mean of
its inliers; a point within d of the breakpoint may count as one or not.
"""

import math

import numpy as np
import torch
from scipy import optimize

from tests.support import reference as ref

DTYPES = (torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)

# Relative excess of the objective over its minimum.
EXCESS = {torch.float32: 1e-6, torch.float64: 1e-12}
# Accuracy in units of alpha.
STEP = {torch.float32: 4e-6, torch.float64: 1e-10}
EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


def accuracy(y, alpha, dtype):
    """The promised |y - minimiser| where the curvature is not scarce."""
    if dtype == torch.float32:
        ulp = math.ldexp(1.0, max(math.frexp(y)[1] - 24, -149))
        return 2 * ulp + STEP[dtype] * alpha
    return STEP[dtype] * (alpha + abs(y))


def least_curvature(y, d, x, penalty, alpha):
    """A lower bound of f'' / phi''(0) on the whole of [y - d, y + d]."""
    z = np.abs(y - x)
    entry = ref.REGISTRY[penalty]
    if entry.has_breakpoints:
        return float(np.count_nonzero(z <= alpha - d))
    far = ref.dpsi(z + d, penalty, alpha) / ref.dpsi_at_zero(penalty, alpha)
    if entry.least_dpsi is None:
        return math.fsum(far)
    # phi'' falls up to `turn` and rises from there.
    turn, least = entry.least_dpsi[0] * alpha, entry.least_dpsi[1]
    near = ref.dpsi(np.maximum(z - d, 0), penalty, alpha) / ref.dpsi_at_zero(penalty, alpha)
    lowest = np.where((z - d <= turn) & (turn <= z + d), least, np.minimum(near, far))
    return math.fsum(lowest)


def well_conditioned(y, d, x, penalty, alpha):
    return least_curvature(y, d, x, penalty, alpha) >= 1e-3 * len(x)


def assert_answer(y, x, penalty, alpha, dtype):
    """`y` is what section "What the answer is" of the documentation promises where the answer is
    finite. Infinite points are for the penalties that are not convex alone: they count there only
    for the start of the descent."""
    about = f"{penalty}, alpha={alpha}, {len(x)} points, y={y!r}"
    assert math.isfinite(y), about
    assert np.isfinite(x).all() or penalty not in ref.CONVEX, "no promise about the objective"
    if ref.REGISTRY[penalty].is_mean:
        mean = ref.solve(x, penalty, alpha).y
        bound = 4 * EPS[dtype] * (math.fsum(np.abs(x) / len(x)) + abs(y))
        assert abs(y - mean) <= bound, f"{about}: mean {mean!r}, off by {abs(y - mean) / bound} d"
    elif penalty in ref.CONVEX:
        _assert_convex(y, x, penalty, alpha, dtype, about)
    else:
        _assert_local(y, x, penalty, alpha, dtype, about)


def _assert_convex(y, x, penalty, alpha, dtype, about):
    solution = ref.solve(x, penalty, alpha)
    d = accuracy(solution.y, alpha, dtype)
    if solution.flat or well_conditioned(solution.y, d, x, penalty, alpha):
        off = abs(y - solution.y) / d
        assert off <= 1, f"{about}: {solution} is expected, off by {off} d"
    least = ref.objective(solution.y, x, penalty, alpha)
    excess = ref.objective(y, x, penalty, alpha) - least
    bound = EXCESS[dtype] * least + len(x) * d * d / 2
    assert excess <= bound, f"{about}: objective above {least} by {excess} > {bound}"


def _assert_local(y, x, penalty, alpha, dtype, about):
    start = _start_objective(x, penalty, alpha, dtype)
    x = x[np.isfinite(x)]
    d, n = accuracy(y, alpha, dtype), len(x)
    bend = ref.dpsi_at_zero(penalty, alpha)
    entry = ref.REGISTRY[penalty]
    if entry.psi_jumps:
        assert _is_mean_of_inliers(y, d, x, alpha), f"{about}: not stationary"
    elif well_conditioned(y, d, x, penalty, alpha):
        # A few roundings of the reference's own terms.
        for side in (-1, 1):
            terms = ref.psi(y + side * d - x, penalty, alpha)
            noise = 64 * EPS[torch.float64] * math.fsum(np.abs(terms))
            rise = side * math.fsum(terms)
            assert rise >= -noise, f"{about}: no minimum within {d}, f'={rise} at y{side:+}d"
    else:
        # As stationary as a point within d of a stationary one: |f'| changes by N phi''(0) d at
        # most, f'' by d times its bending.
        rise = abs(ref.derivative(y, x, penalty, alpha))
        assert rise <= n * bend * d * (1 + 1e-9), f"{about}: not stationary, f'={rise}"
        curvature = ref.curvature(y, x, penalty, alpha) / bend
        room = n * (entry.bending * d / alpha + 4 * EPS[dtype])
        assert curvature >= -room, f"{about}: a maximum, f''={curvature} phi''(0)"
    least = ref.objective(y, x, penalty, alpha)
    # The start is known to `d` too; f' there is at most N alpha phi''(0).
    bound = (1 + EXCESS[dtype]) * start + n * bend * d * (alpha + d / 2)
    assert least <= bound, f"{about}: objective {least} above the start's {start}"


def _is_mean_of_inliers(y, d, x, alpha):
    z = y - x
    inside = np.abs(z) <= alpha - d
    unsure = ~inside & (np.abs(z) <= alpha + d)
    on_left, on_right = np.count_nonzero(unsure & (z > 0)), np.count_nonzero(unsure & (z < 0))
    # The sum of psi with k more of them on the left than on the right.
    sums = math.fsum(z[inside]) + alpha * np.arange(-on_right, on_left + 1)
    count = np.count_nonzero(inside) + on_left + on_right
    return bool(np.abs(sums).min() <= count * d)


def robust_starts(x, alpha, doubt=0.0):
    """Where the documented local descent starts.

    That is the Huber minimiser at the same alpha, or, where no point lies within alpha of it, the
    nearest point and of two equally near ones the smaller. Usually one candidate; all of them where
    a choice hangs on distances that agree within `doubt`.
    """
    x = np.asarray(x, np.float64)
    u = ref.solve(x, "huber", alpha).y
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


def _start_objective(x, penalty, alpha, dtype):
    """The objective of the documented start, the largest where rounding decides which it is."""
    center = ref.solve(x, "huber", alpha).y
    d = accuracy(center, alpha, dtype) if math.isfinite(center) else 0.0
    starts = robust_starts(x, alpha, doubt=2 * d)
    if np.isinf(x).any():
        x = x[np.isfinite(x)]
    elif not well_conditioned(center, d, x, "huber", alpha):
        # Huber's own promise leaves an interval: every start it could lead to.
        least = ref.objective(center, x, "huber", alpha)
        bound = (1 + EXCESS[dtype]) * least + len(x) * d * d / 2

        def above(u):
            return ref.objective(u, x, "huber", alpha) - bound

        ends = [center, center]
        for i, end in enumerate((x.min() - alpha, x.max() + alpha)):
            if above(end) > 0 > above(center):
                ends[i] = optimize.brentq(above, center, end)
        reach = np.linspace(*ends, 33)
        starts += [*reach, *(x[np.argmin(np.abs(x - u))] for u in reach)]
    return max(ref.objective(u, x, penalty, alpha) for u in starts)


def exact_minimum(y, x, penalty, alpha, dtype):
    """The minimiser that `y` stands for, to the accuracy of float64; psi does not jump, with which
    several minimisers may be rounded to the same float32."""
    if penalty in ref.CONVEX:
        return ref.solve(x, penalty, alpha).y
    d = 1.01 * accuracy(y, alpha, dtype)

    def derivative(u):
        return ref.derivative(u, x - y, penalty, alpha) * alpha

    assert derivative(-d) < 0 < derivative(d), f"{penalty}, y={y!r}: no minimum within {d}"
    return y + optimize.brentq(derivative, -d, d, xtol=1e-16 * alpha)


def assert_gradient(g, y, x, penalty, alpha, dtype):
    """`g` is dy/dx for finite x at the minimum that `y` stands for, where f'' is not scarce.

    The backward knows the unrounded answer, so that y's own rounding to float32 does not count:
    what remains is the solver's accuracy `d` in units of alpha.
    """
    eps, n = EPS[dtype], len(x)
    about = f"{penalty}, alpha={alpha}, {n} points, y={y!r}"
    inliers = g != 0
    entry = ref.REGISTRY[penalty]
    if entry.psi_jumps:
        # A minimum is the mean of its inliers: the gradient tells which of several it belongs to.
        assert inliers.any(), f"{about}: no gradient"
        center = math.fsum(x[inliers]) / np.count_nonzero(inliers)
        off = abs(center - y) / accuracy(y, alpha, dtype)
        assert off <= 1, f"{about}: the mean of the points with a gradient is {off} d away"
    else:
        center = exact_minimum(y, x, penalty, alpha, dtype)
    d = STEP[dtype] * alpha + 4 * EPS[torch.float64] * abs(center)
    if entry.bending:
        expected = ref.gradient(x, center, penalty, alpha, eps)
        total = least_curvature(center, 0.0, x, penalty, alpha)
        # Error of one term phi''(z_i) / phi''(0), through the point and through its rounding.
        term = entry.bending * d / alpha + 16 * eps
        bound = term / total + np.abs(expected) * n * term / total
        worst = np.argmax(np.abs(g - expected) - bound)
        assert np.all(np.abs(g - expected) <= bound), (
            f"{about}: {g[worst]} for point {worst}, expected {expected[worst]}+-{bound[worst]}"
        )
        return
    # The others weigh each inlier alike; a point at a breakpoint may count as one or not.
    distance = np.abs(center - x)
    reach = np.inf if entry.is_mean else alpha
    assert inliers[distance <= reach - d].all(), f"{about}: an inlier without gradient"
    assert not inliers[distance > reach + d].any(), f"{about}: an outlier with a gradient"
    share = 1 / np.count_nonzero(inliers)
    assert np.all(np.abs(g[inliers] - share) <= 2 * eps * share), f"{about}: {g}, not {share} each"
