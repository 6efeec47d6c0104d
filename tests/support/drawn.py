"""Batches of sets drawn from parameters. Hypothesis or a random generator chooses the parameters
from one table, and NumPy draws the sets. Lengths are in units of alpha."""

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st

SIZES = (1, 2, 3, 4, 5, 6, 8, 12, 16, 17, 24, 31, 33, 49, 64, 65, 100, 129, 200)

# The values of each parameter. An entry that occurs twice is drawn twice as often.
TABLE = {
    "points": SIZES,
    "clusters": (1, 2, 2, 3, 4, 8),
    # Widths of clusters, from far below to far above alpha; 0: all points at one place.
    "spread": (0.0, 1e-4, 1e-2, 0.1, 0.3, 0.3, 1.0, 1.0, 3.0, 30.0, 1e4),
    # Clusters lie in +-reach; from 1e6 alpha on, sums over the set lose digits.
    "reach": (0.5, 2.0, 2.0, 5.0, 5.0, 30.0, 1e3, 1e6, 1e10),
    # Distances between the centres of clusters are multiples of this; None: any distance.
    "apart": (None, None, None, 1.0, 2.0),
    "outliers": (0.0, 0.0, 0.1, 0.4),
    "outlier_reach": (10.0, 10.0, 1e3, 1e6),
    "duplicates": (0.0, 0.0, 0.2, 0.7),
    # Points on multiples of this: ties, and distances of exactly alpha or 2 alpha.
    "lattice": (None, None, None, 0.0625, 0.25, 0.5, 1.0),
    "offset": (0.0, 0.0, 0.0, 1.0, -300.0, 1e4, -1e6),
    # alpha, or the median if each set of a batch has its own.
    "alpha": (1.0, 1.0, 0.1, 2.0**-20, 3e-9, 2.0**30, 7e7),
    "alpha_each": (False, False, True),
}
WEIGHTS = ("integers", "uniform", "wide", "vanishing", "mask")


class Batch(NamedTuple):
    """Sets [sets, points], alpha (a float or [sets, 1]) and weights ([sets, points] or None),
    rounded to a dtype but stored in float64."""

    x: np.ndarray
    alpha: float | np.ndarray
    weight: np.ndarray | None
    parameters: dict

    def __repr__(self):  # what hypothesis prints
        return f"Batch({self.parameters})"

    @property
    def alphas(self):
        """[sets]"""
        return np.broadcast_to(np.asarray(self.alpha, np.float64).reshape(-1), len(self.x))

    def take(self, which):
        alpha = self.alpha if isinstance(self.alpha, float) else self.alpha[which]
        weight = None if self.weight is None else self.weight[which]
        return Batch(self.x[which], alpha, weight, self.parameters)


def parameters(weighted=False):
    """A hypothesis strategy."""
    table = {name: st.sampled_from(values) for name, values in TABLE.items()}
    if weighted:
        table |= {"weights": st.sampled_from(WEIGHTS), "zeros": st.sampled_from((0.0, 0.3))}
    return st.fixed_dictionaries(table | {"seed": st.integers(0, 2**32 - 1)})


def random_parameters(rng, weighted=False):
    """Random parameters from a NumPy generator."""
    table = TABLE | ({"weights": WEIGHTS, "zeros": (0.0, 0.3)} if weighted else {})
    chosen = {name: values[rng.integers(len(values))] for name, values in table.items()}
    return chosen | {"seed": int(rng.integers(2**32))}


def batch(p, sets, dtype):
    """The batch of the parameters p, rounded to dtype."""
    rng = np.random.default_rng(p["seed"])
    n, shape = p["points"], (sets, p["points"])
    centers = rng.uniform(-p["reach"], p["reach"], (sets, p["clusters"]))
    if p["apart"] is not None:
        # Adjacent places, so that most pairs have exactly this distance.
        first = rng.integers(-3, 4, (sets, 1))
        centers = p["apart"] * (first + np.arange(p["clusters"])).astype(np.float64)
    # Clusters of different sizes, sometimes equal ones.
    which = np.minimum(rng.integers(0, p["clusters"], shape), rng.integers(0, p["clusters"], shape))
    x = np.take_along_axis(centers, which, 1)
    noise = rng.standard_normal(shape) if p["seed"] % 2 else rng.uniform(-1, 1, shape)
    x = x + p["spread"] * noise
    far = p["outlier_reach"] * rng.standard_cauchy(shape)
    x = np.where(rng.random(shape) < p["outliers"], far, x)
    if p["lattice"] is not None:
        x = np.round(x / p["lattice"]) * p["lattice"]
    twins = np.take_along_axis(x, rng.integers(0, n, shape), 1)
    x = np.where(rng.random(shape) < p["duplicates"], twins, x) + p["offset"]
    alpha = p["alpha"]
    if p["alpha_each"]:
        alpha = rounded(alpha * 2.0 ** rng.integers(-3, 4, (sets, 1)), dtype)
    return Batch(rounded(x * p["alpha"], dtype), alpha, _weights(p, rng, shape, dtype), p)


def rounded(values, dtype):
    return torch.tensor(values).to(dtype).double().numpy()


def _weights(p, rng, shape, dtype):
    if "weights" not in p:
        return None
    weight = {
        "integers": lambda: rng.integers(1, 6, shape).astype(np.float64),
        "uniform": lambda: rng.random(shape),
        "wide": lambda: 10.0 ** rng.uniform(-3, 3, shape),
        "vanishing": lambda: 10.0 ** rng.uniform(-14, 0, shape),
        "mask": lambda: (rng.random(shape) < 0.7).astype(np.float64),
    }[p["weights"]]()
    return rounded(np.where(rng.random(shape) < p["zeros"], 0.0, weight), dtype)


def pool(drawn, penalty, device, dtype, solver="global", gradient=True):
    """Answers [sets] and, if asked for, gradients [sets, points], as NumPy arrays in float64. The
    points of zero weight are NaN, because they must not matter."""
    import ddn_cuda  # where sets are only drawn it need not be built

    x = torch.tensor(drawn.x, dtype=dtype, device=device)
    options = {"solver": solver}
    if drawn.weight is not None:
        weight = torch.tensor(drawn.weight, dtype=dtype, device=device)
        options["weight"] = weight.bool() if drawn.parameters["weights"] == "mask" else weight
        x = torch.where(weight > 0, x, torch.nan)
    alpha = drawn.alpha
    if not isinstance(alpha, float):
        alpha = torch.tensor(alpha, dtype=dtype, device=device)
    x.requires_grad_(gradient)
    y = ddn_cuda.robust_pool(x, penalty, alpha, keepdim=True, **options).squeeze(-1)
    if not gradient:
        return y.double().cpu().numpy(), None
    (g,) = torch.autograd.grad(y.sum(), x)
    return y.detach().double().cpu().numpy(), g.double().cpu().numpy()
