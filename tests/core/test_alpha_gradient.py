"""The gradient of alpha, including cases where a quotient of small numbers could lose digits."""

import numpy as np
import pytest
import torch

import ddn_cuda
from tests.support import contract, exact, problems, sets
from tests.support import reference as ref

# ---- The gradient of alpha -----------------------------------------------------------------------

RESOLUTION = {torch.float32: 2e-5, torch.float64: 1e-11}


def alpha_gradient(x, penalty, alpha, weight):
    alpha = alpha.detach().clone().requires_grad_()
    y = ddn_cuda.robust_pool(x, penalty, alpha, weight=weight)
    return y.detach(), torch.autograd.grad(y.sum(), alpha)[0]


def alpha_cases():
    """Names, points in units of alpha [sets, points], and alpha."""
    rng = np.random.default_rng(5)
    for alpha in (1e-8, 1.0, 1e8):
        near = sets.contaminated(rng, 4, 15)
        yield f"alpha_{alpha:g}", near / alpha, alpha
        yield f"alpha_{alpha:g}_of_its_width", near, alpha
        yield (
            f"alpha_{alpha:g}_outliers_1e8_away",
            np.concatenate([near, near[:, :4] * 1e8], axis=1),
            alpha,
        )


ALPHA_CASES = list(alpha_cases())


@pytest.mark.parametrize(("name", "units", "alpha"), ALPHA_CASES, ids=[c[0] for c in ALPHA_CASES])
def test_the_gradient_of_alpha(name, units, alpha, penalty, device, dtype):
    """Equal to exact differences of the answers, relative to the magnitude of the summed terms.

    The solver's step, 4e-6 alpha in float32 and 1e-12 in float64, moves each term by a few units.
    """
    del name
    rng = np.random.default_rng(len(units[0]))
    x = torch.tensor(units * alpha, dtype=dtype, device=device)
    weight = torch.tensor(rng.uniform(0.5, 1.5, units.shape), dtype=dtype, device=device)
    alphas = torch.full((len(x), 1), alpha, dtype=dtype, device=device)
    y, g = alpha_gradient(x, penalty, alphas, weight)
    close_by = ddn_cuda.robust_pool(x.double(), penalty, alphas.double(), weight=weight.double())
    assert (g != 0).any() == (penalty not in ("quadratic", "truncated_quadratic")) or alpha != 1
    for i in range(len(x)):
        points, weights = x[i].tolist(), weight[i].tolist()
        start, own = close_by[i].item(), alphas[i].item()
        assert abs(y[i].item() - start) <= contract.accuracy(start, own, dtype)
        expected, terms = exact.by_alpha(start, points, weights, penalty, own)
        off = abs(g[i].item() - expected)
        # The terms of an isolated point vanish except for the cube of y's rounding error.
        assert off <= RESOLUTION[dtype] * terms + 1e-18, f"set {i}: {g[i].item()}, not {expected}"


def test_the_gradient_of_alpha_against_the_reference(penalty, device):
    """Differences of the reference's answers; a step of 1e-5 leaves errors of 1e-9."""
    problem = problems.regular(penalty, problems.Shapes((3, 12), -1, (3, 1), ()), device)
    _, g = alpha_gradient(problem.x, penalty, problem.alpha, None)
    for points, alpha, found in zip(problem.x, problem.alpha, g, strict=True):
        row, at, h = points.cpu().numpy(), alpha.item(), 1e-5
        up, down = (ref.solve(row, penalty, at + side * h).y for side in (1, -1))
        assert found.item() == pytest.approx((up - down) / (2 * h), abs=1e-8)


def test_a_broadcast_alpha_gathers_its_gradients(penalty, device, dtype):
    problem = problems.regular(penalty, problems.Shapes((6, 5, 9), -1, (6, 5, 1), ()), device)
    x = problem.x.to(dtype)
    for shape in ((), (1,), (5, 1), (6, 1, 1), (1, 5, 1), (6, 5, 1)):
        alpha = torch.full(shape, 1.3, dtype=dtype, device=device)
        _, g = alpha_gradient(x, penalty, alpha, None)
        _, each = alpha_gradient(x, penalty, alpha.expand(6, 5, 1).contiguous(), None)
        assert g.shape == alpha.shape
        expected = each.double().sum_to_size(shape if shape else (1,)).reshape(shape)
        eps = contract.EPS[dtype]
        torch.testing.assert_close(g.double(), expected, rtol=0, atol=64 * eps)


def test_alpha_of_another_dtype(penalty, device, dtype):
    """The gradient has alpha's dtype."""
    x = torch.randn(4, 33, dtype=dtype, device=device)
    for other in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        alpha = torch.full((4, 1), 0.75, dtype=other, device=device)
        y, g = alpha_gradient(x, penalty, alpha, None)
        _, expected = alpha_gradient(x, penalty, alpha.to(dtype), None)
        assert y.dtype == dtype
        assert g.dtype == other
        assert torch.equal(g, expected.to(other))
