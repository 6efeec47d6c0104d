"""One penalty of csrc/core/penalties.h, held against its entry in the reference.

Run by tests/tools/test_adding_a_penalty.py, in a copy of the tree: neither `ddn_cuda` nor torch's
compiler flags are needed. DDN_ONE_PENALTY is the library that one_penalty.cpp was compiled to.
"""

import ctypes
import math
import os
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tests.support import contract, drawn, exact, oracle, sets
from tests.support import reference as ref

LIBRARY = ctypes.CDLL(os.environ["DDN_ONE_PENALTY"])
LIBRARY.penalty_name.restype = ctypes.c_char_p
PENALTY = LIBRARY.penalty_name().decode()
ENTRY = ref.REGISTRY[PENALTY]
NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
CTYPE = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}
INF = math.inf

dtypes = pytest.mark.parametrize("dtype", contract.DTYPES, ids=["float32", "float64"])


class Pooled(NamedTuple):
    """Answers with what their info says, [sets], and gradients of their sum."""

    y: np.ndarray
    objective: np.ndarray
    gap: np.ndarray
    status: np.ndarray
    x: np.ndarray
    weight: np.ndarray
    alpha: np.ndarray


def pointer(array):
    return None if array is None else array.ctypes.data_as(ctypes.c_void_p)


def pool(x, alpha, dtype, weight=None):
    """Pools the rows of x; all arrays of the result are float64."""
    number = NUMPY[dtype]
    x = np.ascontiguousarray(x, number)
    alpha = np.ascontiguousarray(np.broadcast_to(alpha, len(x)), number)
    weight = None if weight is None else np.ascontiguousarray(weight, number)
    y, of_alpha = np.zeros(len(x), number), np.zeros(len(x), number)
    objective, gap, status = np.zeros(len(x)), np.zeros(len(x)), np.zeros(len(x), np.int64)
    of_x, of_weight = np.zeros_like(x), np.zeros_like(x)
    out = (y, objective, gap, status, of_x, of_weight, of_alpha)
    shape = (ctypes.c_int64(x.shape[0]), ctypes.c_int64(x.shape[1]))
    call = LIBRARY.pool_float32 if dtype == torch.float32 else LIBRARY.pool_float64
    call(pointer(x), *shape, pointer(weight), pointer(alpha), *map(pointer, out))
    return Pooled(*(array.astype(np.float64) for array in out))


@dtypes
@pytest.mark.parametrize("alpha", [1.0, 1e-6, 2.0**30])
def test_the_members_of_the_struct(alpha, dtype):
    number, eps = NUMPY[dtype], contract.EPS[dtype]
    size = np.concatenate([10.0 ** np.arange(-9, 1), np.linspace(0.05, 6, 150), [30.0, 1e3, 1e6]])
    z = (alpha * np.concatenate([size, -size])).astype(number)
    found = [np.zeros_like(z) for _ in range(4)] + [np.zeros(len(z))]
    call = LIBRARY.terms_float32 if dtype == torch.float32 else LIBRARY.terms_float64
    call(pointer(z), ctypes.c_int64(len(z)), CTYPE[dtype](alpha), *map(pointer, found))
    psi, dpsi, d2psi, dpsi_dalpha, value = (array.astype(np.float64) for array in found)
    z = z.astype(np.float64)
    t = z / float(number(alpha))
    first, second, third = ([exact.derivative(PENALTY, n, v) for v in t] for n in range(3))
    # t has two roundings, which a derivative multiplies.
    np.testing.assert_allclose(psi / alpha, first, rtol=8 * eps, atol=0)
    np.testing.assert_allclose(dpsi, second, rtol=0, atol=8 * eps)
    np.testing.assert_allclose(d2psi, third, rtol=0, atol=16 * eps)
    # psi = alpha f(t) has psi - t psi' for its derivative by alpha: by exact numbers, which cancel.
    by_alpha = [exact.by_scale(PENALTY, v) for v in t]
    np.testing.assert_allclose(dpsi_dalpha, by_alpha, rtol=64 * eps, atol=0)
    np.testing.assert_allclose(value, ref.phi(z, PENALTY, float(number(alpha))), rtol=1e-14)


@dtypes
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("seed", range(25))
def test_answers_gradients_and_info_of_drawn_sets(seed, weighted, dtype):
    p = drawn.random_parameters(np.random.default_rng(seed), weighted=weighted)
    batch = drawn.batch(p, 24, dtype)
    alphas = drawn.rounded(batch.alphas, dtype)
    found = pool(batch.x, alphas, dtype, batch.weight)
    verdict = oracle.judge(found.y, batch.x, PENALTY, alphas, dtype, batch.weight, found.x)
    assert not len(verdict.violations), f"{batch}: {verdict.about(verdict.violations[0])}"
    points, weights = oracle.present(batch.x, batch.weight)
    least = oracle.minimum(batch.x, PENALTY, alphas, batch.weight)
    present = np.ones_like(points) if batch.weight is None else batch.weight
    for i in np.flatnonzero((present > 0).any(1)):
        y, alpha, z, w = found.y[i], alphas[i], found.y[i] - points[i], weights[i]
        objective = float((w * ref.phi(z, PENALTY, alpha)).sum())
        assert found.objective[i] == pytest.approx(objective, rel=1e-12)
        assert 0 <= found.gap[i] <= objective
        unit = ENTRY.dpsi_at_zero(alpha) * alpha**2
        assert found.objective[i] - found.gap[i] <= least.value[i] * unit * (1 + 1e-12)
        # dy/dw = -psi / H, as far off as y is where H is not scarce.
        curvature = (w * ref.dpsi(z, PENALTY, alpha)).sum()
        if verdict.determined[i] and curvature >= 0.05 * w.sum() * ENTRY.dpsi_at_zero(alpha):
            off = np.abs(found.weight[i] + ref.psi(z, PENALTY, alpha) / curvature)
            room = 40 * contract.accuracy(float(y), alpha, dtype) / w.sum()
            assert off[present[i] > 0].max() <= room


@dtypes
@pytest.mark.parametrize("alpha", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("width", ["1", "alpha", "far outliers"])
def test_the_gradient_of_alpha(alpha, width, dtype):
    """As in tests/core/test_alpha_gradient.py."""
    rng = np.random.default_rng(5)
    near = sets.contaminated(rng, 3, 15)
    if width == "far outliers":
        near = np.concatenate([near, near[:, :4] * 1e8], axis=1)
    x = drawn.rounded(near if width == "1" else near * alpha, dtype)
    weight = drawn.rounded(rng.uniform(0.5, 1.5, x.shape), dtype)
    own = float(NUMPY[dtype](alpha))
    found = pool(x, own, dtype, weight)
    close_by = pool(x, own, torch.float64, weight).y
    resolution = 2e-5 if dtype == torch.float32 else 1e-11
    for i, given in enumerate(found.alpha):
        arguments = close_by[i], x[i].tolist(), weight[i].tolist(), PENALTY, own
        expected, terms = exact.by_alpha(*arguments)
        assert abs(given - expected) <= resolution * terms + 1e-18


@dtypes
@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_points_at_infinity(alpha, dtype):
    for points in (
        [INF, 1.0, 2.0, 4.0],
        [-INF, -INF, 1.0, 2.0, 4.0],
        [INF, -INF, 1.0, 2.5],
        [INF, 1.0],
        [INF, INF, 1.0],
        [INF, INF, -INF],
        [INF, -INF],
        [-INF, -INF],
        [math.nan, 1.0, INF],
    ):
        x = np.array([points])
        found, expected = pool(x, alpha, dtype), ref.solve(x[0], PENALTY, alpha).y
        if not math.isfinite(expected):
            assert np.array_equal(found.y, [expected], equal_nan=True)
            continue
        assert abs(found.y[0] - expected) <= contract.accuracy(expected, alpha, dtype)
        assert not found.x[np.isinf(x)].any()
        exactly = ref.gradient(x[0], expected, PENALTY, alpha)
        room = 5 * contract.STEP[dtype] + 64 * contract.EPS[dtype]
        assert np.allclose(found.x[0], exactly, rtol=0, atol=room)


@dtypes
def test_special_sets(dtype):
    """Equal points are returned as they are; a set without weight gives 0."""
    x = np.array([[0.1] * 7, [-3.3e-12] * 7, [7.7e14] * 7])
    assert np.array_equal(pool(x, 1.0, dtype).y, x[:, 0].astype(NUMPY[dtype]))
    empty = pool(x, 1.0, dtype, np.zeros_like(x))
    assert not empty.y.any()
    assert (empty.status == 3).all()
    large = sets.contaminated(np.random.default_rng(0), 2, 20_000)
    found = pool(large, 0.5, dtype)
    verdict = oracle.judge(
        found.y, drawn.rounded(large, dtype), PENALTY, 0.5, dtype, gradient=found.x
    )
    assert not len(verdict.violations), verdict.about(verdict.violations[0])
