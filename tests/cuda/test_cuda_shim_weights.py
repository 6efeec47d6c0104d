"""The CUDA kernels with weights, compiled for the host, agree with reference and oracle."""

import math

import numpy as np
import pytest
import torch

from tests.support import oracle
from tests.support import reference as ref
from tests.support.cuda_shim.cases import WEIGHTED_SIZES, incoming, landscapes, points
from tests.support.cuda_shim.shim import (
    in_every_schedule,
)

# ---- Weights -------------------------------------------------------------------------------------


def weights(x, rng):
    """Weights over a range of 1e6, a fifth of them zero, with NaN points there."""
    w = (10.0 ** rng.uniform(-3, 3, x.shape) * (rng.random(x.shape) < 0.8)).astype(x.dtype)
    w[:, 0] = 1
    return w, np.where(w > 0, x, np.nan).astype(x.dtype)


def judged(shim, x, w, penalty, dtype, solver):
    grad = incoming(len(x), x.dtype)

    def run():
        answer = shim.forward(x, penalty, weight=w, solver=solver)
        gradients = [
            shim.backward(grad, x, answer, penalty, weight=w, of=of) for of in ("points", "weights")
        ]
        return answer.y, *gradients, answer.remainder

    y, g, g_w, remainder = in_every_schedule(shim, run)
    scale = incoming(len(x), np.float64)[:, None]
    wide = [part.astype(np.float64) for part in (x, y, w, g, g_w)]
    verdict = oracle.judge(
        wide[1], wide[0], penalty, np.ones(len(x)), dtype, wide[2], wide[3] / scale
    )
    assert not len(verdict.violations), verdict.about(verdict.violations[0])
    assert not g[w == 0].any()
    g_w = wide[4] / scale
    for i in range(len(x)):
        z = wide[1][i] + float(remainder[i]) - np.nan_to_num(wide[0][i])
        total = (wide[2][i] * ref.dpsi(z, penalty, 1.0)).sum()
        if total < 1e-3 * wide[2][i].sum() * ref.dpsi_at_zero(penalty, 1.0):
            continue  # where y's error decides
        expected = np.where(np.isfinite(x[i]), -ref.psi(z, penalty, 1.0) / total, 0)
        tolerance = 1e-4 if dtype == torch.float32 else 1e-8
        assert np.abs(g_w[i] - expected).max() <= tolerance * (1 / total + np.abs(expected).max())
    return y


@pytest.mark.parametrize(("dtype", "n"), WEIGHTED_SIZES)
def test_weighted_answers_and_gradients(dtype, n, penalty, shim):
    rng = np.random.default_rng(n)
    x = landscapes(n, dtype)
    if (
        n > 2000
    ):  # the oracle's time grows with the square; sizes on both sides of a limit take turns
        x = x[n % 2 :: 2]
    w, x = weights(x, rng)
    judged(shim, x, w, penalty, dtype, "global")
    if penalty in ref.NONCONVEX:
        local = in_every_schedule(shim, lambda: [shim.forward(x, penalty, weight=w).y])[0]
        present = w > 0
        assert (np.where(present, x, np.inf).min(1) <= local).all()
        assert (np.where(present, x, -np.inf).max(1) >= local).all()


@pytest.mark.parametrize("n", [40, 2500, 9000])
def test_ones_for_weights_change_nothing_but_rounding(n, penalty, dtype, shim):
    x = points(n, dtype)
    for solver in ("local", "global"):
        plain = shim.forward(x, penalty, solver=solver)
        for unit in (1.0, 2.0**-20, 2.0**60):
            found = shim.forward(x, penalty, weight=np.full_like(x, unit), solver=solver)
            tolerance = 2e-5 if dtype == torch.float32 else 1e-11
            np.testing.assert_allclose(found.y, plain.y, rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(
                found.curvature / found.curvature.dtype.type(unit), plain.curvature, rtol=tolerance
            )


@pytest.mark.parametrize("n", [40, 600, 9000])
def test_weights_of_any_layout(n, penalty, dtype, shim):
    x = landscapes(n, dtype)[: 2 if n > 1000 else 6]
    w, x = weights(x, np.random.default_rng(n))
    spread_out = np.empty((n, 2 * len(x)), x.dtype).T[::2]
    spread_out[...] = w
    row = np.broadcast_to(w[1], x.shape)
    for solver in ("local", "global"):
        expected = shim.forward(x, penalty, weight=w, solver=solver)
        found = shim.forward(x, penalty, weight=spread_out, solver=solver)
        np.testing.assert_array_equal(found, expected)
        expected = shim.forward(np.nan_to_num(x), penalty, weight=row.copy(), solver=solver)
        found = shim.forward(np.nan_to_num(x), penalty, weight=row, solver=solver)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("n", [40, 2500, 9000])
@pytest.mark.parametrize("solver", ["local", "global"])
def test_special_weights(solver, n, penalty, dtype, shim):
    x = points(n, dtype, 6)
    w = np.ones_like(x)
    w[0] = 0
    w[1, n // 2] = -1
    w[2, n - 1] = math.nan
    w[3, 0] = math.inf
    w[4, :-1] = 0
    answer = in_every_schedule(shim, lambda: shim.forward(x, penalty, weight=w, solver=solver))
    y, _, curvature = answer
    assert y[0] == 0
    assert curvature[0] == 0
    assert np.isnan(y[1:4]).all()
    assert y[4] == x[4, -1]
    assert np.isfinite(y[5])
