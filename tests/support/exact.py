"""Derivatives of answers in 100 digits, from phi' alone, by differences of minima.

Shares only the definition of phi' with the extension. With this many digits a difference quotient
is more accurate than a double.
"""

from decimal import Decimal, localcontext

DIGITS = 100
STEP = Decimal("1e-30")


def psi(z, penalty, alpha):
    """phi', for welsch times alpha^2; a constant factor does not change the minimum."""
    t = z / alpha
    if penalty == "quadratic":
        return z
    if penalty == "pseudo_huber":
        return z / (1 + t * t).sqrt()
    if penalty == "huber":
        return max(-alpha, min(alpha, z))
    if penalty == "welsch":
        return z * (-t * t / 2).exp()
    assert penalty == "truncated_quadratic"
    return z if abs(t) <= 1 else Decimal(0)


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
    """dy/dalpha, and the sum of the magnitudes of its terms, to which rounding is relative."""
    with localcontext() as context:
        context.prec = DIGITS
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
