"""The CUDA kernels of the global search, compiled for the host, agree with the oracle."""

import math

import numpy as np
import pytest

from tests.support import reference as ref
from tests.support.cuda_shim.cases import (
    GLOBAL_SIZES,
    NUMPY,
    assert_global,
    assert_global_gradient,
    incoming,
    landscapes,
    points,
)
from tests.support.cuda_shim.shim import (
    in_every_schedule,
)
from tests.support.sweeps import sweep

# ---- The kernels of the global search ------------------------------------------------------------


def search_and_differentiate(shim, x, penalty, alpha=1.0):
    """Like solve_and_differentiate(), with the forward outputs that the tests check."""
    answer = shim.forward(x, penalty, alpha, solver="global")
    grad = incoming(len(x), x.dtype)
    return answer.y, answer.curvature, shim.backward(grad, x, answer, penalty, alpha)


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
@pytest.mark.parametrize(("dtype", "n"), GLOBAL_SIZES)
def test_global_answers_and_gradients(dtype, n, penalty, shim):
    x = landscapes(n, dtype)
    y, _, grad_x = in_every_schedule(shim, lambda: search_and_differentiate(shim, x, penalty))
    g = grad_x.astype(np.float64) / incoming(len(x), np.float64)[:, None]
    for i in range(len(x)):
        assert_global(y[i], x[i], penalty, 1.0, dtype)
        assert_global_gradient(g[i], y[i], x[i], penalty, 1.0, dtype)


@pytest.mark.parametrize("n", sweep([12, 100, 2000, 8200], [12, 2000]))
@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_special_sets_of_the_global_search(n, penalty, dtype, shim):
    x = np.repeat(landscapes(n, dtype)[:2], 4, axis=0)
    x[0, n // 2] = math.nan
    x[1, [0, n - 1]] = math.inf
    x[2, ::3] = -math.inf
    x[3, : n - 1] = math.inf  # one finite point
    x[4] = -math.inf
    x[5, [0, 1]] = math.inf, -math.inf
    x[6] = 0.25
    x[7, [0, 1]] = 1e30, -1e30
    y, _, grad_x = in_every_schedule(shim, lambda: search_and_differentiate(shim, x, penalty))
    assert np.isnan(y[0])
    assert np.isnan(grad_x[0]).all()
    assert y[4] == -math.inf
    assert not grad_x[4].any()
    for i in (1, 2, 3, 5, 6, 7):
        assert_global(y[i], x[i], penalty, 1.0, dtype)
        assert np.isfinite(grad_x[i]).all()
        assert not grad_x[i, np.isinf(x[i])].any()
    assert y[3] == x[3, n - 1]
    assert y[6] == 0.25


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_more_points_than_are_counted_at_once(penalty, weighted, dtype, shim):
    x = np.random.default_rng(0).normal(0, 0.3, (1, 70_000)).astype(NUMPY[dtype])
    x[:, 66_000:] += 5  # the last ones that are counted
    weight = np.full_like(x, 0.75) if weighted else None

    def run():
        return [shim.forward(x, penalty, weight=weight, solver="global").y]

    (y,) = in_every_schedule(shim, run)
    assert_global(y[0], x[0], penalty, 1.0, dtype)


@pytest.mark.parametrize("n", sweep([300, 1200, 8200], [300, 1200]))
@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_global_search_with_an_alpha_per_set(n, penalty, dtype, shim):
    x = landscapes(n, dtype)
    alpha = np.geomspace(0.3, 100, len(x)).astype(x.dtype)

    def run():
        return search_and_differentiate(shim, x, penalty, alpha)

    y, _, _ = in_every_schedule(shim, run)
    for i, a in enumerate(alpha.tolist()):
        assert_global(y[i], x[i], penalty, a, dtype)


@pytest.mark.parametrize("n", sweep([64, 1200, 8200], [64, 1200]))
@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_layout_does_not_matter_to_the_global_search(n, penalty, dtype, shim):
    x = landscapes(n, dtype)
    answer = shim.forward(x, penalty, solver="global")
    padded = np.full((3, 4, 4, n // 4, 3), np.nan, x.dtype)
    transposed, apart = np.empty((n, len(x)), x.dtype).T, padded[:, 1:3, :, :, 2]
    for view, set_rank in ((transposed, 1), (apart, 2)):
        view[...] = x.reshape(view.shape)
        found = shim.forward(view, penalty, set_rank=set_rank, solver="global")
        np.testing.assert_array_equal(found, answer)


@pytest.mark.parametrize("n", sweep([64, 200, 1200, 8200], [64, 1200]))
@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_global_search_stopped_early(n, penalty, dtype, shim):
    """All threads of a block stop together, at a place in the range of the points."""
    x = landscapes(n, dtype)
    for max_iter in (0, 1, 2, 3, 5, 8, 13):

        def run(max_iter=max_iter):
            return shim.forward(x, penalty, max_iter=max_iter, solver="global")

        y = in_every_schedule(shim, run)[0]
        assert ((x.min(1) <= y) & (y <= x.max(1))).all()


def test_a_global_search_with_nothing_to_do(dtype, shim):
    for shape in ((0, 5), (0, 9000), (3, 0), (0, 0)):
        y = shim.forward(np.empty(shape, NUMPY[dtype]), "welsch", solver="global").y
        assert not y.any()  # empty sets give 0


@pytest.mark.parametrize("penalty", ref.CONVEX)
def test_convex_penalties_need_no_search(penalty, dtype, shim):
    x = points(33, dtype)
    local = shim.forward(x, penalty)
    np.testing.assert_array_equal(shim.forward(x, penalty, solver="global"), local)
