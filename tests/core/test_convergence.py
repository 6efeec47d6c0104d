"""The number of passes, and sets for which a descent could end too early."""

import math

import numpy as np
import pytest
import torch

import ddn_cuda


@pytest.mark.parametrize(
    ("penalty", "alpha", "passes"),
    [("huber", 0.3, 6), ("pseudo_huber", 0.3, 8), ("welsch", 0.3, 25), ("welsch", 1.0, 12),
     ("truncated_quadratic", 1.0, 25)],
)  # fmt: skip
def test_ordinary_sets_take_few_passes(penalty, alpha, passes, device, dtype):
    """Newton's method converges quadratically; mean shift or bisection alone would not."""
    x = torch.randn(500, 1000, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    done = ddn_cuda.robust_pool(x, penalty, alpha)
    stopped = ddn_cuda.robust_pool(x, penalty, alpha, max_iter=passes)
    assert (done == stopped).double().mean() >= 0.99
    started = ddn_cuda.robust_pool(x, penalty, alpha, max_iter=1)
    assert (done == started).double().mean() < 0.5, "one pass is not to be enough"


@pytest.mark.parametrize("n", [16_384, 1 << 20])
def test_the_mean_of_a_long_set_of_alike_points(n, device, dtype):
    """Every addition rounds in the same direction."""
    x = torch.full((n,), 0.1, dtype=dtype, device=device)
    x[0], x[1] = 0.0, 0.2
    mean = math.fsum(x.double().tolist()) / n
    eps = torch.finfo(dtype).eps
    assert abs(float(ddn_cuda.robust_pool(x, "quadratic")) - mean) <= 4 * eps * 2 * mean


def test_a_huber_start_on_a_breakpoint(device, dtype):
    """The points at -1 lie at distance alpha from the mean 0 and leave the inliers right of it."""
    tiny = 2.0**-13 if dtype == torch.float32 else 2.0**-32
    points = [-1.0] * 400 + [-6.0] * 100 + [2.0] * 500 + [tiny, tiny]
    points[900] = 2 - 2 * tiny
    x = torch.tensor(points, dtype=dtype, device=device, requires_grad=True)
    y = ddn_cuda.robust_pool(x, "huber", 1.0)
    (gradient,) = torch.autograd.grad(y, x)
    assert abs(y.item() - tiny) <= (4e-6 if dtype == torch.float32 else 1e-10)
    assert gradient.unique().tolist() == [0.0, 0.5]


def test_ties_of_the_start_go_to_the_smaller_point(device):
    """Two points more than 2 alpha apart: Huber's answer is halfway, up to rounding."""
    pairs = np.random.default_rng(0).uniform(-10, 10, (2000, 2))
    pairs = pairs[np.abs(pairs[:, 0] - pairs[:, 1]) > 2.2]
    x = torch.tensor(pairs, device=device)
    y = ddn_cuda.robust_pool(x, "truncated_quadratic", 1.0)
    assert torch.equal(y, x.amin(-1))
