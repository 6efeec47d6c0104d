"""Proof, before anything is timed, that what is timed is right.

Answers and gradients of some sets are checked in float64 against nothing but the definition of the
penalties: the Newton step that is left must be within the accuracy promised, and the gradient
must be phi''(y - x_i) / sum_j phi''(y - x_j).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import ddn_cuda

PENALTIES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "quadratic": lambda z, a: z**2 / 2,
    "pseudo_huber": lambda z, a: a**2 * ((1 + (z / a) ** 2).sqrt() - 1),
    "huber": lambda z, a: torch.where(z.abs() <= a, z**2 / 2, a * (z.abs() - a / 2)),
    "welsch": lambda z, a: 1 - torch.exp(-(z**2) / (2 * a**2)),
    "truncated_quadratic": lambda z, a: torch.where(z.abs() <= a, z**2, a**2 + 0 * z) / 2,
}
CONVEX = ("quadratic", "pseudo_huber", "huber")
KINKED = ("huber", "truncated_quadratic")


def derivatives(penalty: str, z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """phi'(z) and phi''(z), elementwise in float64."""
    z = z.detach().requires_grad_()
    first = torch.autograd.grad(PENALTIES[penalty](z, alpha).sum(), z, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), z)[0]
    return first.detach(), second


def accuracy_of_y(y: Tensor, alpha: float) -> Tensor:
    """The promised accuracy, in float64, of answers in their own dtype."""
    magnitude = y.detach().double().abs()
    if y.dtype == torch.float64:
        return 1e-10 * (alpha + magnitude)
    return 2 * torch.finfo(y.dtype).eps * magnitude + 4e-6 * alpha


def check(penalty: str, x: Tensor, alpha: float, *, sets: int = 64) -> int:
    """Checks pooling of the last dim of x and its gradient on some of its sets.

    Sets with a point so near a kink of the penalty that rounding decides its side are left out.

    Args:
        penalty: full name.
        x: [..., n] with n > 0, on any device.
        alpha: scale.
        sets: how many sets to look at, evenly spaced over the batch.

    Returns:
        The number of sets looked at, at least half of those asked for.

    Raises:
        AssertionError: an answer or a gradient is off, or too few sets could be looked at.
    """
    rows = x.detach().reshape(-1, x.shape[-1])
    chosen = torch.linspace(0, len(rows) - 1, min(sets, len(rows)), device=x.device).long()
    y = ddn_cuda.robust_pool(rows, penalty, alpha)[chosen]
    points = rows[chosen].clone().requires_grad_()
    alone = ddn_cuda.robust_pool(points, penalty, alpha)
    assert torch.equal(y, alone), f"{penalty}: a set's answer depends on its batch"
    (gradient,) = torch.autograd.grad(alone.sum(), points)

    x64, y64 = points.detach().double(), y.double()
    tolerance = accuracy_of_y(y, alpha)
    z = y64[:, None] - x64
    first, second = derivatives(penalty, z, alpha)
    clear = torch.ones_like(y, dtype=torch.bool)
    if penalty in KINKED:
        clear = ((z.abs() - alpha).abs() > 2 * tolerance[:, None]).all(-1)
    step = first.sum(-1) / second.sum(-1)
    worst = (step.abs() / tolerance)[clear].max()
    assert worst <= 1, f"{penalty}: an answer is {worst:.3g} times the promised accuracy off"

    _, at_minimum = derivatives(penalty, z - step[:, None], alpha)
    expected = at_minimum / at_minimum.sum(-1, keepdim=True)
    close = torch.isclose(gradient.double(), expected, rtol=1e-3, atol=1e-5 / x.shape[-1])
    assert close[clear].all(), f"{penalty}: a gradient is off"

    if penalty not in CONVEX:
        start = ddn_cuda.robust_pool(points.detach(), "huber", alpha).double()
        objective, bound = (
            PENALTIES[penalty](u[:, None] - x64, alpha).sum(-1) for u in (y64, start)
        )
        slack = 1e-6 * bound
        assert (objective <= bound + slack).all(), f"{penalty}: worse than where it started"
    count = int(clear.sum())
    assert 2 * count >= len(chosen), f"{penalty}: only {count} of {len(chosen)} sets are clear"
    return count
