"""suggest_alpha: its constants by quadrature, its results on drawn sets, and its errors."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

import ddn_cuda
from ddn_cuda import suggest_alpha
from ddn_cuda._C import PENALTY_TRAITS
from tests.support import reference as ref

ROBUST = [penalty for penalty, entry in ref.REGISTRY.items() if not entry.is_mean]
TUNING = {penalty: traits["tuning"] for penalty, traits in PENALTY_TRAITS.items()}


def efficiency(penalty, alpha):
    """The asymptotic efficiency for normal points: the variance of the mean over that of the pool.

    (E psi')^2 / E psi^2, and E psi' = E z psi by integration by parts, also where psi jumps.
    """

    def expectation(f):
        pieces = ((-12, -alpha), (-alpha, alpha), (alpha, 12))
        return sum(
            integrate.quad(lambda z: f(z) * math.exp(-z * z / 2), *piece, epsabs=1e-12)[0]
            for piece in pieces
        ) / math.sqrt(2 * math.pi)

    def psi(z):
        return float(ref.psi(z, penalty, alpha))

    return expectation(lambda z: z * psi(z)) ** 2 / expectation(lambda z: psi(z) ** 2)


@pytest.mark.parametrize("penalty", ROBUST)
def test_the_constants_give_95_percent(penalty):
    # Constants of four digits: the last one moves the efficiency by 7e-5 at most.
    assert efficiency(penalty, TUNING[penalty]) == pytest.approx(0.95, abs=1e-4)


@pytest.mark.parametrize("penalty", ROBUST)
def test_pools_of_normal_points_have_that_precision(penalty):
    # 40,000 answers determine a variance to 0.7%, and the ratio of two correlated ones better.
    x = torch.from_numpy(np.random.default_rng(3).normal(5, 2, (40_000, 100)))
    y = ddn_cuda.robust_pool(x, penalty, suggest_alpha(x, penalty, dim=()))
    assert (x.mean(1).var() / y.var()).item() == pytest.approx(0.95, abs=0.01)


def test_it_is_the_deviation_of_normal_points(device, dtype):
    x = torch.from_numpy(np.random.default_rng(4).normal(-7, 3, (2, 100_001))).to(device, dtype)
    x[0, :40_000] = 1e6
    alpha = suggest_alpha(x, "quadratic")
    assert alpha.shape == (2, 1)
    assert (alpha.dtype, alpha.device.type) == (dtype, device.type)
    # The estimate deviates by 1.17 / sqrt(n). 40% outliers on one side, in the limit: the median is
    # at 0.97 deviations and half of all points, 5/6 of the others, lie within 1.94 of it.
    assert alpha[1].item() == pytest.approx(3, rel=4 * 1.17 / math.sqrt(100_001))
    assert alpha[0].item() == pytest.approx(3 * 1.4826 * 1.94, rel=0.02)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10])
def test_it_is_numpys_median(n, penalty):
    points = np.random.default_rng(n).normal(size=(5, n))
    median = np.median(points, axis=1, keepdims=True)
    expected = np.median(np.abs(points - median), axis=1, keepdims=True)
    if n == 1:
        expected = np.abs(points) * np.finfo(float).eps / (1.4826 * TUNING[penalty])
    x = torch.from_numpy(points)
    alpha = suggest_alpha(x, penalty)
    expected = 1.4826 * TUNING[penalty] * expected
    assert np.allclose(alpha.numpy(), expected, rtol=1e-14, atol=0)
    assert torch.equal(alpha, suggest_alpha(x, ddn_cuda.PENALTIES[penalty]))


@pytest.mark.parametrize(
    ("dim", "shape"),
    [(-1, (3, 4, 1)), (0, (1, 4, 5)), ((0, 2), (1, 4, 1)), ((-1, 0), (1, 4, 1)), ((), (1, 1, 1))],
)
def test_dims_are_kept_and_the_scale_broadcasts(dim, shape, device):
    x = torch.randn(3, 4, 5, device=device)
    alpha = suggest_alpha(x, dim=dim)
    assert alpha.shape == shape
    dims = (dim,) if isinstance(dim, int) else dim or (0, 1, 2)
    ddn_cuda.robust_pool(x, alpha=alpha, dim=dims[-1] if len(dims) == 2 else dim)
    moved = x.movedim(dims, tuple(range(3 - len(dims), 3))).flatten(3 - len(dims))
    assert torch.equal(alpha.flatten(), suggest_alpha(moved).flatten())


def test_shapes_without_dims_or_sets():
    assert suggest_alpha(torch.tensor(3.0)).shape == ()
    assert suggest_alpha(torch.zeros(0, 4)).shape == (0, 1)


def test_scaling_and_shifting(penalty):
    x = torch.randn(6, 50, dtype=torch.float64)
    torch.testing.assert_close(
        suggest_alpha(3 - 20 * x, penalty), 20 * suggest_alpha(x, penalty), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_are_widened(dtype):
    x = torch.randn(3, 65).to(dtype)
    alpha = suggest_alpha(x)
    assert alpha.dtype == torch.float32
    assert torch.equal(alpha, suggest_alpha(x.float()))
    assert ddn_cuda.robust_pool(x, alpha=alpha, validate=True).dtype == dtype


def test_equal_points_give_the_least_scale_and_their_value(dtype):
    x = torch.tensor([[3.0, 3.0, 3.0, 1e6], [0.0, 0.0, 0.0, 5.0], [2.0] * 4], dtype=dtype)
    for penalty in ROBUST:
        alpha = suggest_alpha(x, penalty)
        y = ddn_cuda.robust_pool(x, penalty, alpha, validate=True)
        assert torch.allclose(y, x[:, 0], rtol=1e-6, atol=1e-14)


def test_it_has_no_gradient():
    x = torch.randn(5, requires_grad=True)
    assert not suggest_alpha(x).requires_grad


def test_points_that_are_not_finite():
    inf, nan = math.inf, math.nan
    x = torch.tensor([[0.0, 1.0, 2.0, inf], [0.0, 1.0, nan, 3.0], [inf] * 3 + [1.0]])
    alpha = suggest_alpha(x, "quadratic")
    assert alpha[0].item() == pytest.approx(1.4826)
    assert alpha[1:].isnan().all()
    assert suggest_alpha(torch.tensor([1e15, -1e15])).item() == pytest.approx(1e15)


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        (([1.0, 2.0],), TypeError, "suggest_alpha: `x`"),
        ((torch.ones(3, dtype=torch.int64),), TypeError, "suggest_alpha: `x` has dtype"),
        ((torch.ones(3), 2), TypeError, "suggest_alpha: `penalty`"),
        (
            (torch.ones(3), "hubert"),
            ValueError,
            "suggest_alpha: `penalty` is 'hubert'; expected one of",
        ),
        ((torch.ones(3, 0),), ValueError, "`x` has shape"),
    ],
)
def test_bad_arguments_are_named(arguments, error, names):
    with pytest.raises(error, match=names):
        suggest_alpha(*arguments)


@pytest.mark.parametrize(
    ("dim", "error"), [(3, IndexError), (1.0, TypeError), ((0, 0), ValueError), (None, TypeError)]
)
def test_bad_dims_are_named(dim, error):
    with pytest.raises(error, match="suggest_alpha: `dim` is"):
        suggest_alpha(torch.ones(2, 3), dim=dim)
