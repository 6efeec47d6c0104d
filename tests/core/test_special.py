"""Special sets: NaN, infinity, flat objectives, the ends of the number range."""

import math

import numpy as np
import pytest
import torch

import ddn_cuda
from tests.support import contract, sets
from tests.support import reference as ref

INF, NAN = math.inf, math.nan
SMALLEST = {torch.float32: 2.0**-149, torch.float64: 2.0**-1074}


def pool_and_gradient(x, penalty, alpha):
    x = x.clone().requires_grad_()
    y = ddn_cuda.robust_pool(x, penalty, alpha)
    (g,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), g


@pytest.mark.parametrize("n", [1, 5, 49, 1000, 20_000])
def test_nan_stays_in_its_set(n, penalty, device, dtype):
    x = torch.randn(9, n, dtype=dtype, device=device)
    clean_y, clean_g = pool_and_gradient(x, penalty, 1.0)
    others = torch.tensor([0, 1, 3, 4, 5, 7, 8], device=device)
    for place in (0, n // 2, n - 1):
        dirty = x.clone()
        dirty[2, place] = NAN
        dirty[6, :] = NAN
        y, g = pool_and_gradient(dirty, penalty, 1.0)
        assert torch.equal(y[others], clean_y[others])
        assert torch.equal(g[others], clean_g[others])
        assert y[[2, 6]].isnan().all()
        assert g[[2, 6]].isnan().all()


def test_nan_beside_infinity_is_nan(penalty, device, dtype):
    for row in ([NAN, INF], [INF, NAN, 1.0], [1.0, -INF, NAN, INF], [NAN, -INF, -INF]):
        y, g = pool_and_gradient(torch.tensor(row, dtype=dtype, device=device), penalty, 1.0)
        assert y.isnan()
        assert g.isnan().all()


INFINITE_SETS = [
    [INF, 1.0, 1.0],
    [-INF, 1.0, 1.0],
    [INF, -INF, 1.0, 2.5],
    [INF, 0.0, 0.25, 0.5, 1.0, 1.0, -1.0],
    [INF, INF, 0.0, 0.25, 0.5, 1.0, 1.0, -1.0],
    [-INF, -INF, -INF, INF, 0.0, 0.25, 0.5, 1.0, 1.0, -1.0],
    [INF, INF, -INF, -INF, 3.0],
    # As many infinite as finite points: Huber's minimisers begin alpha beyond the last finite one.
    [INF, 1.0],
    [-INF, 1.0],
    [INF, INF, 1.0, 2.5],
    [INF, INF, -INF, 1.0],
    [-INF, -INF, -INF, 1.0, 2.0, 4.0],
    # A majority.
    [INF, INF, 1.0],
    [-INF, -INF, -INF, 1.0, 2.5],
    [INF, INF, INF, -INF, 7.0],
    # No finite point.
    [INF],
    [-INF],
    [INF, INF, INF],
    [-INF, -INF],
    [INF, -INF],
    [INF, INF, -INF],
]


@pytest.mark.parametrize("points", INFINITE_SETS, ids=str)
@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_infinite_points(points, alpha, penalty, device, dtype):
    x = np.array(points)
    y, g = pool_and_gradient(torch.tensor(points, dtype=dtype, device=device), penalty, alpha)
    y, g = float(y), g.double().cpu().numpy()
    expected = ref.solve(x, penalty, alpha).y
    if not math.isfinite(expected):
        assert y == expected or (math.isnan(y) and math.isnan(expected))
        assert np.isnan(g).all() if math.isnan(expected) else not g.any()
        return
    if penalty in ref.CONVEX:
        assert abs(y - expected) <= contract.accuracy(expected, alpha, dtype)
    else:
        contract.assert_answer(y, x, penalty, alpha, dtype)
    assert np.isfinite(g).all()
    assert not g[np.isinf(x)].any()
    # Each gradient changes by a fraction of y's accuracy over alpha; the sum is one or, if flat, 0.
    exact = ref.gradient(x, expected if penalty in ref.CONVEX else y, penalty, alpha)
    assert np.allclose(g, exact, rtol=0, atol=5 * contract.STEP[dtype] + 64 * contract.EPS[dtype])


@pytest.mark.parametrize("n", [40, 1000, 20_000])
def test_a_few_infinite_points_in_a_large_set(n, penalty, device, dtype):
    """They add a constant with W and TQ, and have the influence of points at 1e12 with PH and H."""
    rng = np.random.default_rng(n)
    points = rng.standard_normal((4, n))
    points[0, :3] = INF
    points[1, :5] = -INF
    points[2, [1, 7, 9, n - 1]] = [INF, -INF, -INF, INF]
    points[3, n - 1] = INF
    x = torch.tensor(points, dtype=dtype, device=device)
    y, g = pool_and_gradient(x, penalty, 1.0)
    for row, answer, gradient in zip(x.double().cpu().numpy(), y, g, strict=True):
        expected = ref.solve(row, penalty, 1.0).y
        if penalty == "quadratic":
            assert float(answer) == expected or (answer.isnan() and math.isnan(expected))
            continue
        if ref.REGISTRY[penalty].psi_jumps:
            contract.assert_answer(float(answer), row, penalty, 1.0, dtype)
        else:
            assert abs(float(answer) - expected) <= contract.accuracy(expected, 1.0, dtype)
        assert not gradient[torch.tensor(np.isinf(row), device=device)].any()
        assert float(gradient.sum()) == pytest.approx(1, abs=64 * contract.EPS[dtype])


def test_infinite_points_touch_no_other_set(penalty, device, dtype):
    x = torch.randn(5, 49, dtype=dtype, device=device)
    clean_y, clean_g = pool_and_gradient(x, penalty, 1.0)
    x[2, ::2], x[3] = INF, -INF
    y, g = pool_and_gradient(x, penalty, 1.0)
    assert torch.equal(y[[0, 1, 4]], clean_y[[0, 1, 4]])
    assert torch.equal(g[[0, 1, 4]], clean_g[[0, 1, 4]])


@pytest.mark.parametrize("n", [2, 10, 64, 1000, 20_000])
@pytest.mark.parametrize("distance", [2.01, 9.0, 1e4])
def test_flat_huber_gives_the_midpoint_and_no_gradient(n, distance, device, dtype):
    alpha = 1.0
    points = sets.two_clusters(np.random.default_rng(n), 8, n, distance + 0.5 * (n > 2))
    if n == 2:
        points[:, 0], points[:, 1] = points[:, 0], points[:, 0] + distance
    x = torch.tensor(points, dtype=dtype, device=device)
    y, g = pool_and_gradient(x, "huber", alpha)
    assert not g.any()
    for row, answer in zip(x.double().cpu().numpy(), y, strict=True):
        solution = ref.solve(row, "huber", alpha)
        assert solution.flat
        assert abs(float(answer) - solution.y) <= contract.accuracy(solution.y, alpha, dtype)


def test_huber_is_not_flat_when_one_point_lies_within_alpha(device, dtype):
    x = torch.tensor([-5.0, -4.0, 0.25, 3.0, 6.0], dtype=dtype, device=device)
    y, g = pool_and_gradient(x, "huber", 1.0)
    assert float(y) == 0.25
    assert g.tolist() == [0, 0, 1, 0, 0]


def test_huber_touching_is_not_flat(device, dtype):
    """Two points exactly 2 alpha apart: one minimiser, at a breakpoint of both."""
    y, g = pool_and_gradient(torch.tensor([-1.0, 1.0], dtype=dtype, device=device), "huber", 1.0)
    assert abs(float(y)) <= contract.accuracy(0.0, 1.0, dtype)
    assert torch.isfinite(g).all()


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_gradient_is_zero_where_curvature_vanishes(penalty, device, dtype):
    """Stopped by max_iter where there is no inlier or f'' < 0."""
    x = torch.tensor([[-1.5, 1.5, -1.5, 1.5]], dtype=dtype, device=device)
    y = x.new_zeros(1, 1)
    g_x, g_weight, g_alpha = torch.ops.ddn._robust_pool_backward(
        torch.ones_like(y),
        *(x, y, y, torch.zeros_like(y)),
        *(penalty, 1.0, None, None, None, [1]),
        [True, True, True],
    )
    for g in (g_x, g_weight, g_alpha):
        assert not g.any()


def test_points_near_the_largest_number(penalty, device, dtype):
    """Finite points give a finite answer between them, and gradients that are finite."""
    big = torch.finfo(dtype).max
    rows = [
        [big, big, big],
        [-big, -big, -big],
        [big, -big, 1.0],
        [big, -big, big],
        [big, big, -big, -big],
        [big, big / 2, 1.0, 2.0, 3.0],
        [0.99 * big, big, 0.98 * big],
        [0.0, 1.0, 2.0, -big],
    ]
    for row in rows:
        x = torch.tensor(row, dtype=dtype, device=device)
        y, g = pool_and_gradient(x, penalty, 1.0)
        assert torch.isfinite(g).all()
        points = x.double().cpu().numpy()
        if penalty == "quadratic":
            small = points / 16  # whose sums do not overflow
            error = abs(float(y) / 16 - small.mean())
            assert error <= 4 * contract.EPS[dtype] * (np.abs(small).mean() + abs(small.mean()))
        else:
            assert points.min() <= float(y) <= points.max()
        if penalty in ref.CONVEX and penalty != "quadratic" and len(row) % 2:
            middle = float(np.median(points))
            assert abs(float(y) - middle) <= contract.accuracy(middle, 1.0, dtype) + 1


def test_subnormal_points(penalty, device, dtype):
    """Points a few smallest steps apart: the answer stays between them."""
    tiny = SMALLEST[dtype]
    for row in ([1, 2, 3, 9], [0, 0, 5], [-4, 4, 4, 4, -3], [7, 7, 7]):
        x = torch.tensor(row, dtype=torch.float64).mul(tiny).to(dtype).to(device)
        for alpha in (1e-15, 1.0, 1e15):
            y, g = pool_and_gradient(x, penalty, alpha)
            assert x.min() <= y <= x.max()
            assert torch.isfinite(g).all()


@pytest.mark.parametrize("base", [1.0, -1e4, 1e-20])
def test_points_one_rounding_apart(base, penalty, device, dtype):
    x = torch.full((5,), base, dtype=dtype, device=device)
    x[1:3] = torch.nextafter(x[:2], torch.full_like(x[:2], INF))
    for alpha in (1e-15, 1.0):
        y, g = pool_and_gradient(x, penalty, alpha)
        eps = contract.EPS[dtype] * abs(base) * (penalty == "quadratic")
        assert x.min() - eps <= y <= x.max() + eps
        assert torch.isfinite(g).all()


@pytest.mark.parametrize("bad", [0.0, -1.0, NAN, INF, -INF])
def test_a_bad_value_in_an_alpha_tensor_is_nan_for_its_set(bad, penalty, device, dtype):
    x = torch.randn(5, 49, dtype=dtype, device=device)
    alpha = torch.ones(5, 1, dtype=dtype, device=device)
    clean_y, clean_g = pool_and_gradient(x, penalty, alpha)
    alpha[3] = bad
    y, g = pool_and_gradient(x, penalty, alpha)
    others = torch.tensor([0, 1, 2, 4], device=device)
    assert torch.equal(y[others], clean_y[others])
    assert torch.equal(g[others], clean_g[others])
    assert y[3].isnan()
    assert g[3].isnan().all()


@pytest.mark.parametrize("alpha", [0.7, 1.0, 1.1139, 2.3, 5.1, 7.7])
def test_clusters_two_alpha_apart_have_no_gradient(alpha, device, dtype):
    """welsch: in the middle f'' is zero, a sum of rounding errors."""
    x = torch.tensor([0.0, 2 * alpha], dtype=dtype, device=device, requires_grad=True)
    w = torch.ones_like(x, requires_grad=True)
    y = ddn_cuda.robust_pool(x, "welsch", alpha, weight=w)
    assert abs(float(y.detach()) - alpha) <= 1e-2 * alpha  # the objective is of fourth order there
    for g in torch.autograd.grad(y, (x, w)):
        # Zero, or the value from the curvature beside the middle, of the order of one over its
        # square.
        assert (g.abs() <= 1e6).all()


def test_gradients_of_weights_do_not_overflow(device):
    """Quotients near the largest number, times the upstream gradient."""
    x = torch.tensor([0.0, 1e30], device=device)
    w = torch.full_like(x, 1e-30).requires_grad_()
    y = ddn_cuda.robust_pool(x, "quadratic", weight=w)
    (g,) = torch.autograd.grad(y, w, torch.tensor(10.0, device=device))
    assert torch.isfinite(g).all()
    assert g[0] < 0 < g[1] or g[0] > 0 > g[1]
