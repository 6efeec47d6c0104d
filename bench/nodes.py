"""Baselines: robust pooling as one would write it without this library.

    scipy    a declarative node in pure Python: scipy.optimize solves one set after the other, the
             gradient is that of the implicit function theorem
    lbfgs    a declarative node in PyTorch: torch.optim.LBFGS on all sets together
    newton   Newton's method written out in PyTorch, so that autograd differentiates its steps

Each takes rows (S, n) of float32 or float64 (16-bit ones are solved in float32) and gives (S,).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch._functorch.config as functorch_config
from scipy import optimize
from torch import Tensor

from ddn_cuda._C import PENALTY_TRAITS

NEWTON_STEPS = 10
NONCONVEX = tuple(
    name for name, traits in PENALTY_TRAITS.items() if traits["certificate"] != "convex"
)


class Formulas(NamedTuple):
    """phi, phi' and phi'' of residuals z at scale a; `m` is numpy or torch, as z is."""

    phi: Callable[[Any, float, Any], Any]
    psi: Callable[[Any, float, Any], Any]
    dpsi: Callable[[Any, float, Any], Any]


def _inside(z: Any, a: float, m: Any) -> Any:
    return m.where(m.abs(z) <= a, m.ones_like(z), m.zeros_like(z))


def _welsch_kernel(z: Any, a: float, m: Any) -> Any:
    return m.exp(-0.5 * (z / a) ** 2)


# The formulas of the baselines, which are measured and therefore share no code with the library. A
# penalty that is not listed is timed without these baselines.
FORMULAS = {
    "quadratic": Formulas(
        lambda z, a, m: 0.5 * z * z, lambda z, a, m: z, lambda z, a, m: m.ones_like(z)
    ),
    "pseudo_huber": Formulas(
        lambda z, a, m: z * z / (1 + m.sqrt(1 + (z / a) ** 2)),
        lambda z, a, m: z / m.sqrt(1 + (z / a) ** 2),
        lambda z, a, m: (1 + (z / a) ** 2) ** -1.5,
    ),
    "huber": Formulas(
        lambda z, a, m: m.where(m.abs(z) <= a, 0.5 * z * z, a * (m.abs(z) - 0.5 * a)),
        lambda z, a, m: m.clip(z, -a, a),
        _inside,
    ),
    "welsch": Formulas(
        lambda z, a, m: -m.expm1(-0.5 * (z / a) ** 2),
        lambda z, a, m: z / (a * a) * _welsch_kernel(z, a, m),
        lambda z, a, m: (1 - (z / a) ** 2) / (a * a) * _welsch_kernel(z, a, m),
    ),
    "truncated_quadratic": Formulas(
        lambda z, a, m: 0.5 * m.clip(z * z, None, a * a),
        lambda z, a, m: z * _inside(z, a, m),
        _inside,
    ),
}


class _Implicit(torch.autograd.Function):
    """solve(x) with the gradient of the implicit function theorem."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, solve: Callable[[Tensor], Tensor], penalty: str, alpha: float
    ) -> Tensor:
        y = solve(x.detach())
        ctx.save_for_backward(x, y)
        ctx.penalty, ctx.alpha = penalty, alpha
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, y = ctx.saved_tensors
        curvature = FORMULAS[ctx.penalty].dpsi(y[:, None] - x, ctx.alpha, torch)
        total = curvature.sum(1, keepdim=True)
        return grad[:, None] * curvature / total, None, None, None


def _single(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def scipy_node(x: Tensor, penalty: str, alpha: float) -> Tensor:
    """One `scipy.optimize.minimize` per set, from the mean; if the penalty is not convex also from
    the median, and the better answer counts."""
    formulas = FORMULAS[penalty]

    def solve_one(points: np.ndarray) -> float:
        def value_and_derivative(u: np.ndarray) -> tuple[float, float]:
            z = u[0] - points
            value = formulas.phi(z, alpha, np).mean()
            return value, formulas.psi(z, alpha, np).mean()

        starts = [points.mean(), *([np.median(points)] if penalty in NONCONVEX else [])]
        options = {"ftol": 1e-15, "gtol": 1e-8}
        found = [
            optimize.minimize(
                value_and_derivative, [start], jac=True, method="L-BFGS-B", options=options
            )
            for start in starts
        ]
        return float(min(found, key=lambda f: f.fun).x[0])

    def solve(rows: Tensor) -> Tensor:
        answers = [solve_one(points) for points in rows.double().cpu().numpy()]
        return torch.tensor(answers, dtype=rows.dtype, device=rows.device)

    return _Implicit.apply(_single(x), solve, penalty, alpha).to(x.dtype)


def evaluate(u: Tensor, x: Tensor, penalty: str, alpha: float) -> tuple[Tensor, Tensor]:
    """The mean objectives of sets at u, and their derivatives."""
    z = u[:, None] - x
    formulas = FORMULAS[penalty]
    return formulas.phi(z, alpha, torch).mean(1), formulas.psi(z, alpha, torch).mean(1)


def lbfgs_node(
    x: Tensor, penalty: str, alpha: float, evaluate: Callable[..., Any] = evaluate
) -> Tensor:
    """`torch.optim.LBFGS` with a line search on the sum of all sets' objectives, from the means; if
    the penalty is not convex also from the medians, and of each set the better answer counts."""

    def descend(rows: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        u = start.clone()
        optimiser = torch.optim.LBFGS(
            [u],
            max_iter=200,
            tolerance_grad=1e-6 if rows.dtype == torch.float32 else 1e-10,
            tolerance_change=0,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            values, u.grad = evaluate(u, rows, penalty, alpha)
            return float(values.sum())

        with torch.no_grad():
            optimiser.step(closure)
            return u, evaluate(u, rows, penalty, alpha)[0]

    def solve(rows: Tensor) -> Tensor:
        y, value = descend(rows, rows.mean(1))
        if penalty in NONCONVEX:
            other, other_value = descend(rows, rows.median(1).values)
            y = torch.where(other_value < value, other, y)
        return y

    return _Implicit.apply(_single(x), solve, penalty, alpha).to(x.dtype)


def newton_node(x: Tensor, penalty: str, alpha: float) -> Tensor:
    """NEWTON_STEPS steps from the median. Where the curvature is below a quarter of phi'(z) / z,
    summed, that takes its place."""
    formulas, points = FORMULAS[penalty], _single(x)
    u = points.detach().median(1).values
    for _ in range(NEWTON_STEPS):
        z = u[:, None] - points
        psi = formulas.psi(z, alpha, torch)
        near = z.abs() < 1e-3 * alpha
        pull = torch.where(near, formulas.dpsi(0 * z, alpha, torch), psi / (z + near))
        curvature = formulas.dpsi(z, alpha, torch).sum(1)
        u = u - psi.sum(1) / torch.maximum(curvature, 0.25 * pull.sum(1).detach())
    return u.to(x.dtype)


def bound(
    node: Callable[[Tensor, str, float], Tensor], penalty: str, alpha: float
) -> Callable[[Tensor], Tensor]:
    return lambda x: node(x, penalty, alpha)


def compiled(name: str, penalty: str, alpha: float, backend: str) -> Callable[[Tensor], Tensor]:
    """`lbfgs` with its objective compiled, `newton` compiled as a whole, for fixed shapes."""
    # A backward pass is timed repeatedly, so its buffers must not be donated.
    functorch_config.donated_buffer = False
    if name == "lbfgs":
        inner = torch.compile(evaluate, backend=backend, fullgraph=True, dynamic=False)
        return partial(lbfgs_node, penalty=penalty, alpha=alpha, evaluate=inner)
    whole = torch.compile(newton_node, backend=backend, fullgraph=True, dynamic=False)
    return bound(whole, penalty, alpha)


NODES: dict[str, Callable[[Tensor, str, float], Tensor]] = {
    "scipy": scipy_node,
    "lbfgs": lbfgs_node,
    "newton": newton_node,
}
