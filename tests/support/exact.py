"""Derivatives of answers and of penalties in 100 digits, from psi alone: differences.

Nothing is shared with the extension but the definition of psi; a difference quotient of so many
digits has more correct ones than a double holds.
"""

import math
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext

from tests.support.reference import REGISTRY

# No exponential of a far point overflows.
CONTEXT = Context(prec=100, Emax=MAX_EMAX, Emin=MIN_EMIN)
STEP = Decimal("1e-30")


def psi(z, penalty, alpha):
    """phi' / phi''(0)."""
    return alpha * REGISTRY[penalty].exact_psi(z / alpha)


def derivative(penalty, n, t):
    """The n-th derivative of psi(t alpha) / (alpha phi''(0)) by t, from a central difference; its
    error is a multiple of the square of the step."""
    with localcontext(CONTEXT):
        h, t = Decimal("1e-9"), Decimal(t)
        terms = (
            (-1) ** k * math.comb(n, k) * psi(t + (Decimal(n) / 2 - k) * h, penalty, 1)
            for k in range(n + 1)
        )
        return float(sum(terms) / h**n)


def _slope(u, x, w, penalty, alpha):
    return sum(b * psi(u - a, penalty, alpha) for a, b in zip(x, w, strict=True))


def _minimum(u, x, w, penalty, alpha):
    """The minimum near `u`."""
    for _ in range(12):
        h = STEP * alpha
        rise = _slope(u + h, x, w, penalty, alpha) - _slope(u - h, x, w, penalty, alpha)
        step = _slope(u, x, w, penalty, alpha) * 2 * h / rise
        u -= step
        if abs(step) < h * STEP:
            break
    return u


def by_alpha(y, x, w, penalty, alpha):
    """dy/dalpha, and the sum of its terms' magnitudes: what rounding is relative to."""
    with localcontext(CONTEXT):
        y, alpha = Decimal(y), Decimal(alpha)
        x, w = [Decimal(v) for v in x], [Decimal(v) for v in w]
        h = STEP * alpha
        y = _minimum(y, x, w, penalty, alpha)
        up = _minimum(y, x, w, penalty, alpha + h)
        down = _minimum(y, x, w, penalty, alpha - h)
        curvature = _slope(y + h, x, w, penalty, alpha) - _slope(y - h, x, w, penalty, alpha)
        terms = sum(
            b * abs(psi(y - a, penalty, alpha + h) - psi(y - a, penalty, alpha - h))
            for a, b in zip(x, w, strict=True)
        )
        return float((up - down) / (2 * h)), float(terms / curvature)


def by_scale(penalty, t):
    """d psi / d alpha at z = t alpha."""
    with localcontext(CONTEXT):
        t = Decimal(t)
        up, down = (psi(t, penalty, 1 + side * STEP) for side in (1, -1))
        return float((up - down) / (2 * STEP))
