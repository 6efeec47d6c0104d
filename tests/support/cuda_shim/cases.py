"""Sizes and points for the CUDA kernels on the host."""

import numpy as np
import pytest
import torch

from tests.support import contract, sets
from tests.support import reference as ref


def sizes(single, double, few):
    """(dtype, n); all n except `few` are marked slow."""
    pairs = [(torch.float32, n) for n in single] + [(torch.float64, n) for n in double]
    slow = pytest.mark.slow
    return [pytest.param(*pair, marks=() if pair[1] in few else slow) for pair in pairs]


# Sizes on both sides of the limits between kernels, and beyond shared memory.
SIZES = sizes(
    (1, 31, 33, 255, 513, 2048, 2049, 5000, 16_384, 16_385, 20_000),
    (1, 31, 33, 255, 513, 1024, 1025, 5000, 8192, 8193, 20_000),
    few=(1, 33, 513, 2049, 16_385, 1025, 8193),
)
# The same for the global search, to reach each part of it.
GLOBAL_SIZES = sizes(
    (1, 2, 3, 63, 64, 65, 127, 129, 600, 2048, 2049, 8192, 8193),
    (1, 2, 3, 63, 64, 65, 127, 129, 600, 1024, 1025, 4096, 4097),
    few=(3, 64, 129, 2049, 8193, 1025, 4097),
)
# And with weights, for either solver.
WEIGHTED_SIZES = sizes(
    (1, 3, 64, 65, 129, 512, 513, 1024, 1025, 4096, 4097, 8192, 8193),
    (1, 3, 64, 65, 129, 256, 257, 512, 513, 2048, 2049, 4096, 4097),
    few=(3, 65, 513, 1025, 4097, 257),
)
NUMPY = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def num_sets(n):
    """Enough sets for several blocks if sets are small."""
    return 19 if n <= 33 else 5 if n <= 1024 else 2


def points(n, dtype, count=None):
    return sets.contaminated(np.random.default_rng(n), count or num_sets(n), n).astype(NUMPY[dtype])


def incoming(count, dtype):
    """A gradient per set, a power of two, which can be divided out without rounding."""
    return np.ldexp(np.where(np.arange(count) % 2, -1.0, 1.0), np.arange(count) % 7).astype(dtype)


def assert_right(x, y, grad_x, penalty, alpha, dtype):
    """Asserts that answers and gradients equal the reference's. alpha: a number or one per set."""
    seen, y = x.astype(np.float64), y.astype(np.float64)
    gradients = grad_x.astype(np.float64) / incoming(len(x), np.float64)[:, None]
    for i, a in enumerate(np.broadcast_to(alpha, len(x)).tolist()):
        contract.assert_answer(y[i], seen[i], penalty, a, dtype)
        d = contract.accuracy(y[i], a, dtype)
        if contract.well_conditioned(y[i], d, seen[i], penalty, a):
            contract.assert_gradient(gradients[i], y[i], seen[i], penalty, a, dtype)


def landscapes(n, dtype):
    """Sets [sets, n] with alpha = 1, for each path through the search."""
    rng = np.random.default_rng(n)
    few = min(n, 200)  # limited by the reference
    spread_out = rng.uniform(-1, 1, n) * np.where(rng.random(n) < few / n, 1e6, 0.5)
    found = [
        sets.unimodal(rng, 1, n)[0],
        sets.modes(rng, 1, n, 2)[0],
        spread_out,
        np.sign(spread_out) * 1e4 + rng.uniform(-0.3, 0.3, n),  # far from the robust start
        rng.integers(-6, 7, n) * 0.5,
        np.arange(n) % 64 / 8,  # flat almost to the last bit
    ]
    return rng.permuted(np.array(found), axis=1).astype(NUMPY[dtype])


def assert_global(y, x, penalty, alpha, dtype):
    """Asserts the guarantee of the documentation's section "What the answer is"."""
    x, y = x[np.isfinite(x)].astype(np.float64), float(y)
    assert x.min() <= y <= x.max()
    least = ref.objective(ref.solve(x, penalty, alpha).y, x, penalty, alpha)
    d = contract.accuracy(y, alpha, dtype)
    bound = contract.EXCESS[dtype] * least
    bound += len(x) * ref.dpsi_at_zero(penalty, alpha) * d * d / 2
    # A few roundings of the reference's terms.
    bound += 4 * contract.EPS[torch.float64] * least
    excess = ref.objective(y, x, penalty, alpha) - least
    assert excess <= bound, f"{penalty}, {len(x)} points, y={y!r}: {excess} above {least} > {bound}"


def assert_global_gradient(g, y, x, penalty, alpha, dtype):
    """Asserts the gradient of an answer y that has passed assert_global()."""
    x, y = x.astype(np.float64), float(y)
    if contract.well_conditioned(y, contract.accuracy(y, alpha, dtype), x, penalty, alpha):
        contract.assert_gradient(g, y, x, penalty, alpha, dtype)
