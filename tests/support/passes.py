"""What the passes over a rank's points of shared sets are to return: the numbers of
csrc/core/sharded_pass.h from the formulas of the reference."""

import math

import numpy as np

from tests.support import reference as ref

# In the order of `ddn::ShardedPass`.
KINDS = (
    "ends",
    "totals",
    "huber",
    "sums",
    "around",
    "nearest",
    "gaussians",
    "series",
    "parabolas",
    "losses",
)
TERMS = 16  # of a series
_COUNTS = {"ends": 3, "totals": 6, "gaussians": 2, "series": TERMS, "parabolas": 5, "losses": 1}


def numbers(kind, penalty):
    """How many a request is answered with."""
    if kind in ("huber", "sums"):
        penalty = "huber" if kind == "huber" else penalty
        entry = ref.REGISTRY[penalty]
        has_density = entry.flat or not entry.convex
        return 2 + has_density + bool(entry.bending)
    return _COUNTS.get(kind, 2)


def kinds(penalty):
    """The passes that the solves of a penalty ask for."""
    entry = ref.REGISTRY[penalty]
    descent = ["sums"] if entry.convex else ["huber", "sums"]
    around = ["around", "nearest"] if entry.flat or not entry.convex else []
    # By the certificate of a non-convex penalty.
    cells = {"welsch": ["gaussians", "series"], "truncated_quadratic": ["parabolas"]}
    search = [] if entry.convex else [*cells[penalty], "losses"]
    return ["ends", "totals", *([] if entry.is_mean else descent + around + search)]


def _gauss(t):
    return np.exp(-0.5 * np.minimum(np.abs(t), 37.0) ** 2)


def _density(z, penalty, alpha):
    return 1 - ref.phi(z, penalty, alpha) / ref.phi(1e9 * alpha, penalty, alpha)


def _sums(z, w, penalty, alpha, margin):
    unit = ref.dpsi_at_zero(penalty, alpha)
    found = [w @ (f(z, penalty, alpha) / unit) for f in (ref.psi, ref.dpsi)]
    if penalty == "huber":
        found.append(w @ (np.abs(np.abs(z) - alpha) <= margin))
    elif penalty not in ref.CONVEX:
        found.append(w @ _density(z, penalty, alpha))
    if ref.REGISTRY[penalty].bending:
        h = 1e-5 * alpha
        above, below = ref.dpsi(z + h, penalty, alpha), ref.dpsi(z - h, penalty, alpha)
        found.append(w @ (alpha * (above - below) / (2 * h * unit)))
    return found


def _series(t, w):
    """Coefficients of sum w exp(-(t + s)^2 / 2) in powers of s: by Hermite polynomials."""
    found = []
    for k in range(TERMS):
        hermite = np.polynomial.hermite_e.hermeval(t, [0] * k + [1])
        found.append((-1) ** k * (w @ (hermite * _gauss(t))) / math.factorial(k))
    return found


def expected(kind, penalty, x, weight, request):
    """request: (1 / the common unit, alpha, u, reach). Points are finite or infinite."""
    inverse_unit, alpha, u, reach = request
    x = np.asarray(x, np.float64)
    w = np.ones_like(x) if weight is None else np.asarray(weight, np.float64)
    x, w = x[w > 0], w[w > 0] * inverse_unit
    finite = np.isfinite(x)
    if kind == "ends":
        ends = [-x[finite].min(initial=np.inf), x[finite].max(initial=-np.inf)]
        largest = (w / inverse_unit).max(initial=-np.inf)
        return [*ends, largest]  # the unit is no more, and more than half of it
    if kind == "totals":
        total, down = w[finite].sum(), math.ldexp(1.0, -int(reach))
        sums = w[finite] @ x[finite] * down
        outside = [w[x == np.inf].sum(), w[x == -np.inf].sum(), 0]
        return [total, *outside, sums, total * u * down if math.isfinite(u) else sums]
    z = u - x
    if kind in ("huber", "sums"):
        return _sums(z, w, "huber" if kind == "huber" else penalty, alpha, reach)
    there = np.abs(z) >= reach
    if kind == "around":
        return [w[~there].sum(), w[there & (z > 0)].sum()]
    if kind == "nearest":
        left, right = x[there & (z >= 0)], x[there & (z <= 0)]
        return [left.max(initial=-np.inf), -right.min(initial=np.inf)]
    t, r = z / alpha, reach / alpha
    if kind == "series":
        return _series(t, w)
    if kind == "losses":
        return [w[finite] @ (1 - _density(z[finite], penalty, alpha))]
    nearest = np.maximum(np.abs(t) - r, 0)
    if kind == "gaussians":
        return [w @ _gauss(nearest), w @ _gauss(t)]
    inlier, density = np.abs(t) <= 1 - r, _density(t, "truncated_quadratic", 1.0)
    others = np.where(inlier, 0, _density(nearest, "truncated_quadratic", 1.0))
    return [
        w[inlier].sum(),
        w[inlier] @ t[inlier],
        w[inlier] @ density[inlier],
        w @ others,
        w @ density,
    ]
