"""Sets at which derivatives exist: far from every breakpoint, with well determined answers."""

from typing import NamedTuple

import numpy as np
import torch

import ddn_cuda
from tests.support import reference as ref
from tests.support import sets

OPS = torch.ops.ddn
NAMES = ("x", "alpha", "weight")


class Problem(NamedTuple):
    """A pooling problem; alpha and weight have shapes that broadcast."""

    x: torch.Tensor
    alpha: torch.Tensor
    weight: torch.Tensor
    dim: int | tuple[int, ...]

    def pool(self, penalty, **options):
        """Pools, as a function of x, alpha and weight."""
        return lambda x, alpha, weight: ddn_cuda.robust_pool(
            x, penalty, alpha, dim=self.dim, weight=weight, **options
        )


class Shapes(NamedTuple):
    """Of a problem. `ptr`: offsets of segments, in place of dim."""

    x: tuple[int, ...]
    dim: int | tuple[int, ...]
    alpha: tuple[int, ...]
    weight: tuple[int, ...]

    def __str__(self):
        return "-".join(str(part).replace(" ", "") for part in self)


# alpha for all, per set and per channel; weights with and without broadcasting; several dims.
SHAPES = [
    Shapes((7,), -1, (), (7,)),
    Shapes((2, 5), -1, (2, 1), (5,)),
    Shapes((2, 4, 3), 1, (3,), (4, 1)),
    Shapes((3, 2, 2), (0, 2), (2, 1), (3, 2, 2)),
    Shapes((2, 3), (), (1, 1), (2, 1)),
]


def regular(penalty, shapes, device, dtype=torch.float64, seed=0):
    """A problem whose answers are further than 1e-2 alpha from any breakpoint, with f'' > 0.2 W
    phi''(0).

    A fifth of the points are outliers.
    """
    rng = np.random.default_rng(seed)
    while True:
        points = sets.contaminated(rng, 1, int(np.prod(shapes.x)), outliers=0.2)
        parts = (
            points.reshape(shapes.x),
            rng.uniform(0.8, 1.6, shapes.alpha),
            rng.uniform(0.5, 1.5, shapes.weight),
        )
        x, alpha, weight = (torch.tensor(part, dtype=dtype) for part in parts)
        problem = Problem(x.to(device), alpha.to(device), weight.to(device), shapes.dim)
        if _is_regular(Problem(x, alpha, weight, shapes.dim), penalty):
            return problem


def _is_regular(problem, penalty):
    y = problem.pool(penalty, keepdim=True)(*problem[:3])
    z, alpha, weight = (
        t.double().expand(problem.x.shape).numpy()
        for t in (y.double() - problem.x, problem.alpha, problem.weight)
    )
    bent = torch.tensor(weight * ref.dpsi(z, penalty, alpha) / ref.dpsi_at_zero(penalty, alpha))
    share = bent.sum(problem.dim) / torch.tensor(weight).sum(problem.dim)
    return bool((np.abs(np.abs(z) / alpha - 1) > 1e-2).all() and (share > 0.2).all())


def moving(problem, moved):
    """The problem's tensors; the named ones are leaves that require gradients."""
    return tuple(
        t.detach().clone().requires_grad_(name in moved)
        for name, t in zip(NAMES, problem, strict=False)
    )


def scalar(penalty, alpha, weight):
    return lambda x: ddn_cuda.robust_pool(x, penalty, alpha, weight=weight).sin().sum()
