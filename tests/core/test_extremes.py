"""Extreme sets: points far apart, tiny weights, and minima that are equal to the last digit."""

import numpy as np
import pytest
import torch

import ddn_cuda
from ddn_cuda import Status
from tests.support import oracle
from tests.support import reference as ref


def isolated(rng, sets, points, exponent, decades):
    """Sets of isolated points, 10^exponent alpha apart, with weights over `decades`."""
    places = np.stack([rng.permutation(4 * points)[:points] for _ in range(sets)])
    x = (places - 2 * points + rng.uniform(-0.2, 0.2, places.shape)) * 10.0**exponent
    return x, 10.0 ** rng.uniform(-decades, 0, places.shape)


@pytest.mark.parametrize("exponent", [3, 6, 9, 12, 20, 28])
@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_isolated_points(penalty, exponent, dtype, device):
    rng = np.random.default_rng(exponent)
    for points in (2, 3, 7, 11, 40, 90):
        x, w = isolated(rng, 200, points, exponent, 20)
        x = torch.tensor(x, dtype=dtype, device=device)
        w = torch.tensor(w, dtype=dtype, device=device)
        y, info = ddn_cuda.robust_pool(
            x, penalty, 1.0, weight=w, dim=1, solver="global", return_info=True
        )
        # No two points share an inlier window: the answer is the smallest of the heaviest points.
        heaviest = w == w.amax(1, keepdim=True)
        expected = torch.where(heaviest, x, torch.inf).amin(1)
        near = 1e-6 if dtype == torch.float32 else 1e-10
        assert torch.allclose(y, expected, rtol=4 * torch.finfo(dtype).eps, atol=near)
        total = w.double().sum(1)
        limit = float(ref.phi(1e9, penalty, 1.0))
        # From the sum of the others: the difference of two large numbers would say nothing.
        least = limit * torch.where(x == expected[:, None], 0, w.double()).sum(1)
        # An error of the position raises a smooth objective; a truncated square is all or none.
        far = torch.tensor(oracle.accuracy(y.double().cpu().numpy(), 1.0, dtype), device=device)
        off = near**2 + (total * far**2 if penalty == "welsch" else 0)
        assert ((info.objective - least).abs() <= 1e-9 * least + off).all()
        assert (info.gap <= 1e-6 * least + off + 1e-14 * total).all()


@pytest.mark.parametrize("weight", [1e-42, 1e-40, "subnormal"])
def test_gradients_of_subnormal_weights(weight, penalty, dtype, device):
    if weight == "subnormal":
        weight = torch.finfo(dtype).smallest_normal / 64
    for values in ([3.0], [1.0, 1.0], [1.0, 1.25], [1.0, 1.25, 2.0]):
        x = torch.tensor(values, dtype=dtype, device=device, requires_grad=True)
        w = torch.full_like(x, weight).detach().requires_grad_()
        y = ddn_cuda.robust_pool(x, penalty, 1.0, weight=w)
        y.backward()
        assert min(values) <= y.item() <= max(values)
        assert torch.isfinite(x.grad).all()
        assert torch.isfinite(w.grad).all()
        sum_is_normal = w.detach().double().sum() >= 2 * torch.finfo(dtype).smallest_normal
        if penalty == "quadratic":
            assert x.grad.sum().item() == pytest.approx(1.0 if sum_is_normal else 0.0, abs=1e-5)


def test_the_leftmost_of_equal_minima_of_a_lattice(dtype, device):
    # All inner minima have equal neighbourhoods, except for the eight points nearest to an end.
    for points in (65, 200, 219, 257, 400):
        x = torch.arange(points, dtype=dtype, device=device) * 1.171875
        y, info = ddn_cuda.robust_pool(x, "welsch", 1.0, return_info=True)
        grid = torch.linspace(0, 16, 16 * 256 + 1, dtype=torch.float64)
        depth = torch.exp(-0.5 * (grid[:, None] - x.cpu().double()) ** 2).sum(1)
        told_apart = 4e-7 if dtype == torch.float32 else 4e-14
        equal = depth >= depth.max() - told_apart * (points - depth.max())
        # The first place with sufficient density is not yet the local maximum, which lies within
        # two spacings of the points.
        assert y.item() <= grid[equal][0].item() + 2 * 1.171875
        assert (info.gap <= 1e-6 * info.objective).all()


@pytest.mark.parametrize("apart", [2.0001, 2.0005, 2.002, 2.007, 2.014])
@pytest.mark.parametrize("copies", [1, 4, 65])
def test_the_left_one_of_two_close_minima(copies, apart, dtype, device):
    for centre in (0.0, 0.1, 0.3, 7.0, 1000.0):
        left = torch.tensor(centre - apart / 2, dtype=dtype)
        right = torch.tensor(centre + apart / 2, dtype=dtype)
        x = torch.stack([left, right]).repeat(copies).to(device)
        y = ddn_cuda.robust_pool(x, "welsch", 1.0)
        middle = 0.5 * (left.double() + right.double())
        # d^4 - 6 (h^2 - 1) = 0 near a pitchfork: minima at about +-sqrt(6 (h - 1)).
        assert y.double().item() < middle.item()
        found = oracle.minimum(x.cpu().double().numpy()[None], "welsch", np.ones(1), None)
        depth = 2 * copies - torch.exp(-0.5 * (y.cpu().double() - x.cpu().double()) ** 2).sum()
        share = 1e-6 if dtype == torch.float32 else 1e-12
        assert depth.item() <= found.value[0] * (1 + share)


@pytest.mark.parametrize("light", [1e-7, 1e-10, 1e-14, 1e-30])
def test_gap_of_light_points(light, dtype, device):
    x = torch.tensor([0, 1e4, 2e4], dtype=dtype, device=device)
    for place in range(3):
        w = torch.ones(3, dtype=dtype, device=device)
        w[place] = light
        for penalty in ref.NONCONVEX:
            y, info = ddn_cuda.robust_pool(x, penalty, 1.0, weight=w, return_info=True)
            assert y.item() == pytest.approx(1e4 if place == 0 else 0.0, abs=1e-6)
            assert info.gap.item() <= 1e-6 * info.objective.item()


@pytest.mark.parametrize("far", [1.7e7, 3.2e7])
def test_gap_far_from_zero(far, device):
    rng = np.random.default_rng(5)
    for points in (130, 257):
        x = torch.tensor(far + rng.normal(0, 1, (50, points)) * 3, device=device)
        _, info = ddn_cuda.robust_pool(x, "welsch", 1.0, return_info=True)
        assert (info.gap <= 1e-6 * info.objective).all()


@pytest.mark.parametrize("penalty", ref.CONVEX)
def test_gap_at_a_large_alpha(penalty, dtype, device):
    alpha = 1e15 if dtype == torch.float32 else 1e30
    x = torch.randn(100, dtype=dtype, generator=torch.Generator().manual_seed(1)).to(device)
    _, info = ddn_cuda.robust_pool(x, penalty, alpha, return_info=True)
    assert info.gap.item() <= (1e-6 if dtype == torch.float32 else 1e-12) * info.objective.item()


def test_gap_of_equal_points_and_an_infinite_one(dtype, device):
    for penalty in ref.NONCONVEX:
        x = torch.tensor([0.0, 0.0, torch.inf], dtype=dtype, device=device)
        y, info = ddn_cuda.robust_pool(x, penalty, 1.0, return_info=True)
        assert y.item() == 0
        assert info.objective.item() > 0
        assert info.gap.item() <= 1e-14


@pytest.mark.parametrize("alpha", [1e-40, 1e-37, 1e37, 0.0, -1.0, float("inf"), float("nan")])
def test_alphas_of_a_tensor_beyond_the_range(alpha, penalty, dtype, device):
    if dtype == torch.float64 and 0 < alpha < float("inf"):
        alpha = alpha**8
    x = torch.tensor([[0.0, 1.0, 5.0], [0.0, 1.0, 5.0]], dtype=dtype, device=device)
    x.requires_grad_()
    alphas = torch.tensor([[alpha], [1.0]], dtype=dtype, device=device)
    y, info = ddn_cuda.robust_pool(x, penalty, alphas, dim=1, keepdim=True, return_info=True)
    assert torch.isnan(y[0]).all()
    assert info.status[0].item() == Status.not_finite
    assert torch.equal(y[1], ddn_cuda.robust_pool(x[1], penalty, 1.0, keepdim=True))


def test_the_gap_of_a_set_of_subnormal_numbers(penalty, dtype, device):
    """The proof must terminate even if a width underflows to zero."""
    tiny = 5e-324 if dtype == torch.float64 else 1e-45
    for values in ([0.0, 0.0, tiny], [-3 * tiny, tiny, 2 * tiny], [0.0, 40 * tiny, 1000 * tiny]):
        x = torch.tensor(values, dtype=dtype, device=device)
        y, info = ddn_cuda.robust_pool(x, penalty, 1.0, return_info=True)
        assert x.min() <= y <= x.max()
        assert 0 <= info.gap.item() <= (1e-300 if dtype == torch.float64 else 1e-80)


def test_gradients_of_vanishing_curvature_and_large_weights(dtype, device):
    """A curvature that is a normal number only in the unit of the weights counts as zero."""
    far, large = (1e13, 1e10) if dtype == torch.float32 else (1e103, 1e10)
    for weight in (1.0, large, 2.0**40):
        x = torch.tensor([-far, far], dtype=dtype, device=device, requires_grad=True)
        alpha = torch.tensor(1.0, dtype=dtype, device=device, requires_grad=True)
        w = torch.full((2,), weight, dtype=dtype, device=device)
        y = ddn_cuda.robust_pool(x, "pseudo_huber", alpha, weight=w)
        for gradient in torch.autograd.grad(y, [x, alpha]):
            assert (gradient == 0).all()


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
def test_narrow_gradients_stay_finite(narrow, device):
    x = torch.tensor([0.0, 3e5, 6e5], device=device)
    weight = torch.ones(3, dtype=narrow, device=device, requires_grad=True)
    (gradient,) = torch.autograd.grad(ddn_cuda.robust_pool(x, "quadratic", weight=weight), weight)
    expected = torch.tensor([-1e5, 0.0, 1e5], device=device).clamp(
        -torch.finfo(narrow).max, torch.finfo(narrow).max
    )
    torch.testing.assert_close(gradient.float(), expected, rtol=1e-2, atol=0)
    x = torch.ones(2, dtype=narrow, device=device, requires_grad=True)
    most = torch.tensor(torch.finfo(narrow).max, dtype=narrow, device=device)
    y = ddn_cuda.robust_pool(x, "huber", weight=torch.tensor([1.0, 0.0], device=device))
    (gradient,) = torch.autograd.grad(y, x, most)
    assert torch.isfinite(gradient).all()
