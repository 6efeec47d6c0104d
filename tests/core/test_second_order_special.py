"""Derivatives up to second order where the implicit function theorem does not hold, and for special
points."""

import math

import pytest
import torch

import ddn_cuda
from tests.support import problems
from tests.support import reference as ref
from tests.support.problems import NAMES

# ---- Where the theorem does not hold, and special points ----------------------------------------


def every_derivative(x, penalty, alpha, weight, still=None):
    """First and second derivatives, in reverse and forward mode. The weights of the points in
    `still` have zero tangents."""
    inputs = [t.detach().clone().requires_grad_() for t in (x, alpha, weight)]

    def pool(x, alpha, weight):
        return ddn_cuda.robust_pool(x, penalty, alpha, weight=weight)

    first = torch.autograd.grad(pool(*inputs).sum(), inputs, create_graph=True)
    generator = torch.Generator().manual_seed(1)
    directions = [
        torch.randn(t.shape, dtype=x.dtype, generator=generator).to(x.device) for t in inputs
    ]
    if still is not None:
        directions[2][still] = 0
    total = sum((g * v).sum() for g, v in zip(first, directions, strict=True))
    second = torch.autograd.grad(total, inputs)
    values = tuple(t.detach() for t in inputs)
    _, moved = torch.func.jvp(pool, values, tuple(directions))
    return {
        **{f"d{name}": g.detach() for name, g in zip(NAMES, first, strict=True)},
        **{f"dd{name}": g for name, g in zip(NAMES, second, strict=True)},
        "dy": moved,
    }


@pytest.mark.parametrize("distance", [2.5, 1e3])
def test_flat_sets_move_nothing(distance, device, dtype):
    x = torch.tensor([[0.0, 0.1, distance, distance + 0.1]], dtype=dtype, device=device)
    alpha, weight = x.new_ones(1, 1), torch.ones_like(x)
    assert ddn_cuda.robust_pool(x, "huber", return_info=True)[1].status == ddn_cuda.Status.flat
    for name, derivative in every_derivative(x, "huber", alpha, weight).items():
        assert not derivative.any(), name  # which is not NaN either


@pytest.mark.parametrize("empty", ["weight", "mask"])
def test_empty_sets_move_nothing(empty, penalty, device, dtype):
    x = torch.tensor([[0.0, 2.0, math.nan]], dtype=dtype, device=device)
    if empty == "weight":
        for name, derivative in every_derivative(
            x, penalty, x.new_ones(1, 1), torch.zeros_like(x)
        ).items():
            assert not derivative.any(), name
        return
    x.requires_grad_()
    y = ddn_cuda.robust_pool(x, penalty, weight=torch.zeros(3, device=device) > 0)
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), x)
    assert not g.any()
    assert not h.any()


@pytest.mark.parametrize("far", [math.inf, -math.inf, 1e300])
def test_points_far_away(far, penalty, device):
    """They exert no influence or, with convex penalties, an influence of w alpha like a point at
    1e6."""
    problem = problems.regular(penalty, problems.Shapes((2, 9), -1, (2, 1), (2, 9)), device)
    if penalty == "quadratic":
        pytest.skip("a mean follows its far points; with one at infinity nothing moves it")
    x, alpha, weight, _ = problem
    still = (0, 4) if math.isinf(far) else None
    x[0, 4] = far
    found = every_derivative(x, penalty, alpha, weight, still)
    x[0, 4] = math.copysign(1e6, far)
    expected = every_derivative(x, penalty, alpha, weight, still)
    for name, derivative in found.items():
        assert torch.isfinite(derivative).all(), name
        # pseudo_huber: at 1e6, psi falls short of alpha by (1e-6)^2 / 2.
        close = torch.isclose(derivative, expected[name], rtol=1e-9, atol=1e-9)
        if math.isinf(far) and name in ("dweight", "ddweight"):
            # Zero for an infinite point, by convention.
            assert derivative[0, 4] == 0, (name, derivative[0, 4])
            close[0, 4] = True
        assert close.all(), (name, derivative, expected[name])


def test_sets_whose_answer_is_infinite_move_nothing(device, dtype):
    x = torch.tensor([[math.inf, math.inf, 0.0]], dtype=dtype, device=device)
    for penalty in ref.CONVEX:
        derivatives = every_derivative(x, penalty, x.new_ones(1, 1), torch.ones_like(x))
        for name, derivative in derivatives.items():
            assert not derivative.any(), (penalty, name)


def test_nan_stays_in_its_set(penalty, device, dtype):
    problem = problems.regular(penalty, problems.Shapes((3, 9), -1, (3, 1), (3, 9)), device, dtype)
    x, alpha, weight, _ = problem
    expected = every_derivative(x, penalty, alpha, weight)
    x[1, 4] = math.nan
    for name, derivative in every_derivative(x, penalty, alpha, weight).items():
        assert torch.equal(derivative[[0, 2]], expected[name][[0, 2]]), name
        assert derivative[1].isnan().all(), name


def test_a_point_without_weight(penalty, device):
    """dy/dw = -psi/H; x's derivatives are zero; second derivatives are the limit for vanishing
    weight."""
    problem = problems.regular(penalty, problems.Shapes((2, 9), -1, (2, 1), (2, 9)), device)
    x, alpha, weight, _ = problem
    weight[:, 3] = 0
    found = every_derivative(x, penalty, alpha, weight)
    y = ddn_cuda.robust_pool(x, penalty, alpha, weight=weight)
    for i in range(2):
        z, at = (y[i] - x[i]).cpu().numpy(), alpha[i].item()
        curvature = math.fsum(weight[i].cpu().numpy() * ref.dpsi(z, penalty, at))
        expected = -ref.psi(z, penalty, at) / curvature
        assert found["dweight"][i].tolist() == pytest.approx(expected.tolist(), abs=1e-10)
    assert not found["dx"][:, 3].any()
    weight[:, 3] = 1e-9
    for name, expected in every_derivative(x, penalty, alpha, weight).items():
        # 1e-9 times the next derivative, a number of order 10.
        torch.testing.assert_close(found[name], expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_point_without_weight_or_value(value, penalty, device, dtype):
    """All its derivatives are zero; those of the other points equal those without it."""
    problem = problems.regular(penalty, problems.Shapes((2, 9), -1, (2, 1), (2, 9)), device, dtype)
    x, alpha, weight, _ = problem
    weight[:, 3] = 0
    expected = every_derivative(x, penalty, alpha, weight)
    x[:, 3] = value
    kept = [i for i in range(9) if i != 3]
    for name, derivative in every_derivative(x, penalty, alpha, weight).items():
        if name in ("dx", "dweight", "ddx", "ddweight"):
            assert not derivative[:, 3].any(), name
            derivative, expected[name] = derivative[:, kept], expected[name][:, kept]
        # The tangent of a finite point's weight enters every second derivative and dy, so only
        # unaffected entries are compared.
        if name in ("dx", "dweight", "dalpha"):
            assert torch.equal(derivative, expected[name]), name
        assert torch.isfinite(derivative).all(), name
