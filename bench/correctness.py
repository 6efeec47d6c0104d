"""Verification of answers and gradients before they are timed.

The answers and gradients that are timed are checked for some of the sets, in float64, against
the definition of the penalties only: f' changes its sign within the guaranteed accuracy of an
answer; for global solvers no other candidate is better (for sets of at most ORACLE_POINTS points no
other u at all, by the certified bound of the oracle in tests/); and a gradient is
phi''(y - x_i) / sum_j phi''(y - x_j).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import ddn_cuda
from bench.workloads import Sets
from tests.support import oracle
from tests.support import reference as ref

SETS = 16  # sets that are checked, or fewer,
MOST_POINTS = 1 << 21  # so that at most so many points are checked
CANDIDATES = 32  # points of a set at which its objective must not be less
PART = 1 << 17  # points at a time, so that temporaries stay in the caches
ORACLE_POINTS = 1 << 14
EXCESS = 1e-6  # of the objective, as guaranteed for float32
BASELINE_EXCESS = 1e-4  # more than what a solver of low accuracy leaves
BASELINE_GRADIENT = 0.02  # of the sum of a gradient


class Wrong(AssertionError):  # noqa: N818, it says what the answer is
    """An answer or a gradient is not what was asked for: nothing is timed."""


def require(good: bool, message: str) -> None:
    if not good:
        raise Wrong(message)


def derivatives(penalty: str, z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """phi'(z) and phi''(z), elementwise in float64."""
    at = z.cpu().numpy()
    first, second = (torch.from_numpy(f(at, penalty, alpha)) for f in (ref.psi, ref.dpsi))
    return first.to(z.device), second.to(z.device)


def objective(penalty: str, u: Tensor | float, points: Tensor, alpha: float) -> float:
    parts = ((u - part).cpu().numpy() for part in points.split(PART))
    return sum(float(ref.phi(part, penalty, alpha).sum()) for part in parts)


class Sums(NamedTuple):
    """f' and f'' of a set at u, and the number of its points so near a breakpoint that rounding
    decides on which side they lie."""

    derivative: float
    curvature: float
    unsure: int


def sums(penalty: str, u: float, points: Tensor, alpha: float, doubt: float = 0) -> Sums:
    derivative, curvature, unsure = 0.0, 0.0, 0
    for part in points.split(PART):
        first, second = derivatives(penalty, u - part, alpha)
        derivative += first.sum().item()
        curvature += second.sum().item()
        unsure += int(_near_breakpoints(penalty, u - part, alpha, doubt).sum())
    return Sums(derivative, curvature, unsure)


def accuracy_of_y(y: Tensor, alpha: float) -> float:
    """The guaranteed accuracy of an answer in its own dtype, plus the spacing of float64 there."""
    magnitude = abs(y.item())
    if y.dtype == torch.float64:
        return 1e-10 * (alpha + magnitude)
    return 2 * torch.finfo(y.dtype).eps * magnitude + 4e-6 * alpha


def _near_breakpoints(penalty: str, z: Tensor, alpha: float, doubt: float) -> Tensor:
    """The points whose distance from y differs from alpha by rounding alone."""
    if not ref.REGISTRY[penalty].has_breakpoints:
        return torch.zeros_like(z, dtype=torch.bool)
    return (z.abs() - alpha).abs() <= doubt


def check_answer(penalty: str, y: Tensor, points: Tensor, alpha: float, solver: str) -> None:
    """Raises Wrong unless y, a number in its own dtype, answers the set of float64 `points`."""
    value, d = y.item(), accuracy_of_y(y, alpha)
    n = len(points)
    most_psi, second = derivatives(penalty, points.new_tensor([0.7 * alpha, 0]), alpha)
    bend, off = second[1].item(), f"more than the promised accuracy, {d:.3g}, off"
    at = sums(penalty, value, points, alpha, 2 * d)
    # The accuracy of y is guaranteed for sufficient curvature, that of the objective always.
    if at.curvature >= 1e-3 * n * bend:
        jump = alpha * at.unsure if ref.REGISTRY[penalty].psi_jumps else 0.0
        noise = 64 * 2.0**-52 * n * most_psi[0].item()
        for side in (-1, 1):
            rise = side * sums(penalty, value + side * d, points, alpha).derivative
            require(rise >= -jump - noise, f"{penalty}: an answer is {off}")
    found = objective(penalty, value, points, alpha)
    slack = n * bend * d * d / 2
    if solver == "local" and penalty not in ref.CONVEX:
        start = ddn_cuda.robust_pool(points.cpu(), "huber", alpha).item()
        bound = objective(penalty, start, points, alpha)
        require(found <= (1 + EXCESS) * bound + slack, f"{penalty}: worse than where it started")
        return
    candidates = CANDIDATES if n <= 1 << 20 else CANDIDATES // 4
    for u in points[:: max(1, n // candidates)]:
        bound = objective(penalty, u, points, alpha)
        require(found <= (1 + EXCESS) * bound + slack, f"{penalty}: no global minimum")
    if n <= ORACLE_POINTS:
        lower = oracle.minimum(points.cpu().numpy()[None], penalty, alpha).lower[0]
        excess = EXCESS if y.dtype != torch.float64 else 1e-12
        bound = (1 + excess) * max(float(lower), 0.0) * alpha**2 * bend + slack
        require(found <= bound, f"{penalty}: no global minimum")


def check_gradient(
    penalty: str, gradient: Tensor, y: float, doubt: float, points: Tensor, alpha: float
) -> None:
    """Raises Wrong unless a gradient, in its own dtype, is that of the answer y of float64
    `points`, where y is known up to `doubt`."""
    at = sums(penalty, y, points, alpha, 2 * doubt)
    if at.curvature == at.unsure == 0:
        require(not bool(gradient.any()), f"{penalty}: a gradient where there is no curvature")
        return
    # The gradient belongs to the unrounded answer.
    step = at.derivative / at.curvature if at.curvature > 0 else 0.0
    if ref.REGISTRY[penalty].psi_jumps or abs(step) > 2 * doubt:
        step = 0.0
    total = sums(penalty, y - step, points, alpha).curvature
    slack = 1e-3 + at.unsure / max(1.0, total)
    slack += 0.0 if gradient.dtype != torch.bfloat16 else 2.0**-7
    for part, given in zip(points.split(PART), gradient.split(PART), strict=True):
        expected = derivatives(penalty, y - step - part, alpha)[1] / total
        close = torch.isclose(given.double(), expected, rtol=slack, atol=1e-5 / len(points))
        close |= _near_breakpoints(penalty, y - part, alpha, 2 * doubt)
        require(bool(close.all()), f"{penalty}: a gradient is off")


def _chosen(sets: Sets, most: int) -> list[int]:
    return sets.some(max(1, min(most, MOST_POINTS * sets.count // sets.x.numel())))


def check(penalty: str, sets: Sets, alpha: float, solver: str = "global", most: int = SETS) -> int:
    """Checks our pool, forward and backward, on some of the sets that it will be timed on.

    Args:
        penalty: full name.
        sets: the points that will be pooled.
        alpha: scale.
        solver: "global" or "local".
        most: the number of sets to check, evenly spaced.

    Returns:
        The number of sets checked.

    Raises:
        Wrong: an answer or a gradient is off, or an answer depends on its batch.
    """
    leaf = sets.x.detach().requires_grad_()
    answers = sets.pool(penalty, alpha, solver)(leaf)
    (gradients,) = torch.autograd.grad(answers, leaf, torch.ones_like(answers))
    answers = answers.detach().flatten()
    chosen = _chosen(sets, most)
    for index in chosen:
        y, own = answers[index], sets.of(sets.x, index)
        alone = ddn_cuda.robust_pool(own, penalty, alpha, solver=solver)
        require(torch.equal(y, alone), f"{penalty}: a set's answer depends on its batch")
        unrounded = y
        if own.dtype == torch.bfloat16:
            # Solved in single precision and rounded once.
            unrounded = ddn_cuda.robust_pool(own.float(), penalty, alpha, solver=solver)
            half_spacing = math.ldexp(1 + 1e-4, math.frexp(unrounded.item())[1] - 9)
            off = abs(y.item() - unrounded.item())
            require(off <= half_spacing, f"{penalty}: not rounded once")
        points = own.double()
        check_answer(penalty, unrounded, points, alpha, solver)
        doubt = accuracy_of_y(unrounded, alpha)
        gradient = sets.of(gradients, index)
        check_gradient(penalty, gradient, unrounded.item(), doubt, points, alpha)
    return len(chosen)


REDUCTIONS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": lambda x: float(x.mean()),
    "amax": lambda x: float(x.max()),
    "median": lambda x: float(np.partition(x, (len(x) - 1) // 2)[(len(x) - 1) // 2]),
}


def check_reduction(name: str, sets: Sets, most: int = SETS) -> int:
    """As `check`, of torch's `mean`, `amax` or `median`; answers alone."""
    reduce = sets.reduction(name)
    assert reduce is not None
    answers = reduce(sets.x).flatten()
    chosen = _chosen(sets, most)
    for index in chosen:
        points = sets.of(sets.x, index)
        expected = REDUCTIONS[name](points.double().cpu().numpy())
        # Long sums of torch's have more rounding errors.
        scale = points.double().abs().mean().item() + abs(expected)
        off = abs(answers[index].item() - expected)
        require(off <= 64 * torch.finfo(points.dtype).eps * scale, f"torch.{name}: {off:.3g} off")
    return len(chosen)


def share_right(
    penalty: str, pool: Callable[[Tensor], Tensor], sets: Sets, alpha: float, most: int = SETS
) -> float:
    """The share of the checked sets that a baseline solves: its objective is at most
    BASELINE_EXCESS above the best one known, and its gradient within BASELINE_GRADIENT of the
    formula's at its own answer."""
    leaf = sets.x.detach().requires_grad_()
    answers = pool(leaf)
    (gradients,) = torch.autograd.grad(answers, leaf, torch.ones_like(answers))
    best = sets.pool(penalty, alpha, "global")(sets.x).flatten()
    answers = answers.detach().flatten()
    right = 0
    chosen = sets.some(most)
    for index in chosen:
        points, gradient = sets.of(sets.x, index).double(), sets.of(gradients, index).double()
        y = answers[index].double()
        least = objective(penalty, best[index].double(), points, alpha)
        if not objective(penalty, y, points, alpha) <= (1 + BASELINE_EXCESS) * least:
            continue
        second = derivatives(penalty, y - points, alpha)[1]
        expected = second / second.sum()
        off = (gradient - expected).abs().sum() / expected.abs().sum()
        right += int(off <= BASELINE_GRADIENT)
    return right / len(chosen)
