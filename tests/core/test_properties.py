"""Properties that hold for any set. Hypothesis draws the parameters of a set, NumPy the set."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ddn_cuda
from tests.support import contract
from tests.support import reference as ref

# Deterministic: a run that fails fails again. Each example costs about a millisecond.
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    # The device, dtype and penalty of a test do not change between its examples.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def problems(draw, finite_range=6):
    """A set in float64 and an alpha: clusters of several widths and places, duplicates, outliers,
    with or without a large offset, and alpha from far below to far above the spacing of the
    points."""
    n = draw(st.sampled_from([1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 49, 64, 100, 129, 257]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    clusters = draw(st.integers(1, 4))
    spread = 10.0 ** draw(st.integers(-3, 1))
    reach = 10.0 ** draw(st.integers(-1, 3))
    centers = rng.uniform(-reach, reach, clusters)
    x = centers[rng.integers(0, clusters, n)] + spread * rng.standard_normal(n)
    outliers = draw(st.sampled_from([0.0, 0.0, 0.1, 0.4]))
    x = np.where(rng.random(n) < outliers, 10 * reach * rng.standard_cauchy(n), x)
    grid = draw(st.sampled_from([None, None, 0.5, 4.0]))
    if grid is not None:  # duplicates, and points at distances of exactly alpha
        x = np.round(x / (grid * spread)) * (grid * spread)
    x = x + draw(st.sampled_from([0.0, 0.0, 1.0, -1e4]))
    scale = 10.0 ** draw(st.integers(-finite_range, finite_range))
    alpha = scale * spread * draw(st.sampled_from([1e-4, 0.1, 0.5, 1.0, 1.0, 2.0, 4.0, 30.0, 1e4]))
    return x * scale, alpha


def pool(x, penalty, alpha, device, dtype, solver="global"):
    """The set after rounding to the dtype, and its answer, both in float64."""
    points = torch.tensor(x, dtype=dtype, device=device)
    y = ddn_cuda.robust_pool(points, penalty, alpha, solver=solver)
    return points.double().cpu().numpy(), float(y)


@SETTINGS
@given(problem=problems())
def test_accuracy(problem, penalty, device, dtype):
    for solver in ("local",) if penalty in ref.CONVEX else ("local", "global"):
        x, y = pool(problem[0], penalty, problem[1], device, dtype, solver)
        contract.assert_answer(y, x, penalty, problem[1], dtype)


@SETTINGS
@given(problem=problems())
def test_the_answer_lies_among_the_points(problem, penalty, device, dtype):
    x, y = pool(problem[0], penalty, problem[1], device, dtype)
    # The guarantee for a mean is 4 eps.
    room = 4 * contract.EPS[dtype] * np.abs(x).mean() if penalty == "quadratic" else 0
    assert x.min() - room <= y <= x.max() + room


@pytest.mark.parametrize("penalty", ref.CONVEX)
@SETTINGS
@given(problem=problems())
def test_no_objective_above_that_of_mean_median_and_start(problem, penalty, device, dtype):
    x, y = pool(problem[0], penalty, problem[1], device, dtype)
    alpha = problem[1]
    d = contract.accuracy(y, alpha, dtype)
    if penalty == "quadratic":
        d += 4 * contract.EPS[dtype] * (np.abs(x).mean() + abs(y))
    value = ref.objective(y, x, penalty, alpha)
    for u in (x.mean(), np.median(x), contract.robust_starts(x, alpha)[0]):
        bound = (1 + contract.EXCESS[dtype]) * ref.objective(u, x, penalty, alpha)
        assert value <= bound + len(x) * d * d / 2


@SETTINGS
@given(problem=problems(finite_range=2), exponent=st.integers(-20, 20))
def test_answers_scale_with_their_points(problem, exponent, penalty, device, dtype):
    """Powers of two change no rounding, so the same one of several minima is found."""
    x, alpha = problem
    s = math.ldexp(1.0, exponent)
    seen, y = pool(x, penalty, alpha, device, dtype)
    scaled, z = pool(x * s, penalty, alpha * s, device, dtype)
    assert np.array_equal(seen * s, scaled)
    if determined(seen, y, penalty, alpha, dtype):
        d = 2 * contract.accuracy(y, alpha, dtype)
        if penalty == "quadratic":
            d = 8 * contract.EPS[dtype] * (np.abs(seen).mean() + abs(y))
        assert abs(z / s - y) <= d


def determined(x, y, penalty, alpha, dtype):
    """Whether the guarantee determines y, up to the choice of minimum."""
    if penalty == "quadratic":
        return True
    return contract.well_conditioned(y, contract.accuracy(y, alpha, dtype), x, penalty, alpha)


@pytest.mark.parametrize("penalty", ref.CONVEX)
@SETTINGS
@given(problem=problems(), shift=st.sampled_from([-1024.0, -3.0, 0.125, 7.0, 65536.0]))
def test_convex_answers_move_with_their_points(problem, shift, penalty, device, dtype):
    """Translation, on a grid on which it is exact."""
    x, alpha = problem
    step = np.abs(x).max() * 2.0**-10 if np.abs(x).max() > 0 else 1.0
    step = math.ldexp(1.0, math.frexp(step)[1])
    x, shift = np.round(x / step) * step, shift * step
    seen, y = pool(x, penalty, alpha, device, dtype)
    moved, z = pool(x + shift, penalty, alpha, device, dtype)
    assert np.array_equal(seen + shift, moved)
    if not determined(moved, z, penalty, alpha, dtype):
        return
    d = contract.accuracy(y, alpha, dtype) + contract.accuracy(z, alpha, dtype)
    if penalty == "quadratic":
        sizes = np.abs(seen).mean() + np.abs(moved).mean() + abs(y) + abs(z)
        d = 4 * contract.EPS[dtype] * sizes
    assert abs(z - shift - y) <= d


@pytest.mark.parametrize("penalty", ref.CONVEX)
@SETTINGS
@given(problem=problems(), seed=st.integers(0, 2**16))
def test_the_order_of_points_changes_convex_answers_by_rounding(
    problem, seed, penalty, device, dtype
):
    x, alpha = problem
    seen, y = pool(x, penalty, alpha, device, dtype)
    _, z = pool(np.random.default_rng(seed).permutation(x), penalty, alpha, device, dtype)
    if not determined(seen, y, penalty, alpha, dtype):
        return
    d = 2 * contract.accuracy(y, alpha, dtype)
    if penalty == "quadratic":
        d = 8 * contract.EPS[dtype] * (np.abs(seen).mean() + abs(y))
    assert abs(y - z) <= d


@SETTINGS
@given(problem=problems())
def test_mirrored_points_mirror_a_determined_convex_answer(problem, device, dtype):
    x, alpha = problem
    for penalty in ref.CONVEX:
        seen, y = pool(x, penalty, alpha, device, dtype)
        _, z = pool(-x, penalty, alpha, device, dtype)
        if determined(seen, y, penalty, alpha, dtype):
            d = 2 * contract.accuracy(y, alpha, dtype)
            if penalty == "quadratic":
                d = 8 * contract.EPS[dtype] * (np.abs(seen).mean() + abs(y))
            assert abs(y + z) <= d


@SETTINGS
@given(problem=problems())
def test_gradients(problem, penalty, device, dtype):
    x, alpha = problem
    points = torch.tensor(x, dtype=dtype, device=device, requires_grad=True)
    y = ddn_cuda.robust_pool(points, penalty, alpha)
    (g,) = torch.autograd.grad(y, points)
    y = float(y.detach())
    seen, gradient = points.detach().double().cpu().numpy(), g.double().cpu().numpy()
    assert np.isfinite(gradient).all()
    if determined(seen, y, penalty, alpha, dtype):
        contract.assert_gradient(gradient, y, seen, penalty, alpha, dtype)
    size = np.abs(gradient).sum()
    if size > 0:
        assert abs(gradient.sum() - 1) <= 16 * contract.EPS[dtype] * size
