"""The CUDA kernels, compiled for the host: against the reference, in several orders of threads.

Also the shim itself: what it is to report, and that broken kernels do not pass.
"""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from bench import kernel_cases
from tests.support import ROOT, contract, oracle, sets
from tests.support import reference as ref
from tests.support.cuda_shim import probe
from tests.support.cuda_shim.mutations import MUTATIONS, mutate
from tests.support.cuda_shim.shim import (
    CSRC,
    HERE,
    OPTIMIZE,
    ORDERS,
    BFloat16,
    Direction,
    Info,
    ShimError,
    compile_units,
    in_every_schedule,
    link,
)
from tests.support.ptx_emulator.emulator import Emulator

# On each side of the sizes at which another kernel takes over, and what fits on no chip.
SIZES = {
    torch.float32: (1, 31, 33, 255, 513, 2048, 2049, 5000, 16_384, 16_385, 20_000),
    torch.float64: (1, 31, 33, 255, 513, 1024, 1025, 5000, 8192, 8193, 20_000),
}
# The same for the global search; each part of it is to be reached.
GLOBAL_SIZES = {
    torch.float32: (1, 2, 3, 63, 64, 65, 127, 129, 600, 2048, 2049, 8192, 8193),
    torch.float64: (1, 2, 3, 63, 64, 65, 127, 129, 600, 1024, 1025, 4096, 4097),
}
# And with weights, of either solver.
WEIGHTED_SIZES = {
    torch.float32: (1, 3, 64, 65, 129, 512, 513, 1024, 1025, 4096, 4097, 8192, 8193),
    torch.float64: (1, 3, 64, 65, 129, 256, 257, 512, 513, 2048, 2049, 4096, 4097),
}
NONCONVEX = [penalty for penalty in ref.PENALTIES if penalty not in ref.CONVEX]
NUMPY = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def num_sets(n):
    """Enough for several blocks where sets are small."""
    return 19 if n <= 33 else 5 if n <= 1024 else 2


def points(n, dtype, count=None):
    return sets.contaminated(np.random.default_rng(n), count or num_sets(n), n).astype(NUMPY[dtype])


def incoming(count, dtype):
    """A gradient per set, of powers of two: they can be divided out again without rounding."""
    return np.ldexp(np.where(np.arange(count) % 2, -1.0, 1.0), np.arange(count) % 7).astype(dtype)


def solve_and_differentiate(shim, x, penalty, alpha=1.0):
    """The forward kernel's three outputs and the gradient of x."""
    answer = shim.forward(x, penalty, alpha)
    return *answer, shim.backward(incoming(len(x), x.dtype), x, answer, penalty, alpha)


def assert_right(x, y, grad_x, penalty, alpha, dtype):
    """Answers and gradients are the reference's; alpha is a number or one for each set."""
    seen, y = x.astype(np.float64), y.astype(np.float64)
    gradients = grad_x.astype(np.float64) / incoming(len(x), np.float64)[:, None]
    for i, a in enumerate(np.broadcast_to(alpha, len(x)).tolist()):
        contract.assert_answer(y[i], seen[i], penalty, a, dtype)
        d = contract.accuracy(y[i], a, dtype)
        if contract.well_conditioned(y[i], d, seen[i], penalty, a):
            contract.assert_gradient(gradients[i], y[i], seen[i], penalty, a, dtype)


# ---- The kernels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "n"), [(dtype, n) for dtype in SIZES for n in SIZES[dtype]])
def test_answers_and_gradients(dtype, n, penalty, shim):
    x = points(n, dtype)
    y, _, _, grad_x = in_every_schedule(shim, lambda: solve_and_differentiate(shim, x, penalty))
    assert_right(x, y, grad_x, penalty, 1.0, dtype)


def as_shim_takes(array, dtype):
    return array.view(BFloat16) if array is not None and dtype == "bfloat16" else array


def run_case(shim, case):
    """What bench/sanitizer_case.py does with it on a GPU."""
    given = kernel_cases.arrays(case)
    x, weight = as_shim_takes(given.x, case.dtype), as_shim_takes(given.weight, case.weight)
    alpha = kernel_cases.ALPHA if given.alpha is None else given.alpha.reshape(-1)
    options = {"weight": weight, "ptr": given.ptr}
    info = Info.empty(given.grad.size) if case.info else None
    answer = shim.forward(x, case.penalty, alpha, solver=case.solver, info=info, **options)
    grad = as_shim_takes(given.grad.reshape(-1), case.dtype)
    for of in case.gradients:
        shim.backward(grad, x, answer, case.penalty, alpha, of=of, **options)
    if not case.second_order:
        return
    moving = given.direction
    direction = Direction(as_shim_takes(moving.x, case.dtype), moving.weight, moving.alpha.ravel())
    for of in ("answer", *case.gradients):
        shim.backward(grad, x, answer, case.penalty, alpha, of=of, direction=direction, **options)


def test_the_cases_of_the_sanitizers_reach_every_kernel(shim):
    """With PTX also that no report is made in any order of threads."""
    shim.forget_launches()
    for order in ORDERS if isinstance(shim, Emulator) else ORDERS[:1]:
        shim.configure(order, seed=7)
        for case in kernel_cases.cases():
            run_case(shim, case)
    kernels = shim.kernels()
    missed = [name for name, launched in kernels.items() if not launched]
    assert not missed
    assert len(kernels) >= 4 * len(ref.PENALTIES)
    if isinstance(shim, Emulator):
        assert {name: use.excesses() for name, use in shim.uses().items() if use.excesses()} == {}


@pytest.mark.parametrize("n", [33, 1100, 5000, 16_500])
@pytest.mark.parametrize("solver", ["local", "global"])
def test_info(solver, n, penalty, dtype, shim):
    x = points(n, dtype, 2)

    def run():
        info = Info.empty(len(x))
        answer = shim.forward(x, penalty, solver=solver, info=info)
        return answer.y, *info

    y, *info = in_every_schedule(shim, run)
    told = Info(*info)
    assert (told.status == 0).all()
    assert (told.iterations > 0).all() or penalty == "quadratic"
    for i, points_ in enumerate(x.astype(np.float64)):
        u, size = float(y[i]), 1e-12 * n
        assert abs(told.objective[i] - ref.objective(u, points_, penalty, 1.0)) <= size
        assert abs(told.residual[i] - abs(ref.slope(u, points_, penalty, 1.0)) / n) <= 1e-12
        assert abs(told.curvature[i] - ref.curvature(u, points_, penalty, 1.0)) <= size
        least = ref.objective(ref.solve(points_, penalty, 1.0).y, points_, penalty, 1.0)
        assert told.objective[i] - least <= told.gap[i] + size


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_nothing_to_do(shape, penalty, dtype, shim):
    x = np.empty(shape, NUMPY[dtype])
    y, remainder, curvature, grad_x = solve_and_differentiate(shim, x, penalty)
    assert y.shape == remainder.shape == curvature.shape == shape[:1]
    assert not np.any([y, remainder, curvature])  # empty sets give 0
    assert grad_x.shape == shape


@pytest.mark.parametrize("n", [32, 600, 5000, 16_500])
def test_layout_does_not_matter(n, penalty, dtype, shim):
    """Strided sets, merged and unmerged dims, any alignment: what contiguous ones give."""
    count = 6 if n == 32 else 2
    x = points(n, dtype, count)
    grad = incoming(count, x.dtype)
    answer = shim.forward(x, penalty)
    gradient = shim.backward(grad, x, answer, penalty)
    poisoned = np.full(16 * x.size, np.nan, x.dtype)
    layouts = {
        "transposed": (np.empty((n, count), x.dtype).T, 1),
        "with gaps": (poisoned.reshape(2 * count, 2 * n, -1)[1::2, 1::2, 3], 1),
        "misaligned": (poisoned[1 : 1 + x.size].reshape(count, n), 1),
        "pooled dims apart": (poisoned.reshape(count, 4, -1)[:, :, 5 : 5 + n // 4], 1),
        "pooled dims swapped": (np.empty((n // 4, count, 4), x.dtype).transpose(1, 2, 0), 1),
        "sets in two dims": (np.empty((count // 2, n, 2), x.dtype).transpose(0, 2, 1), 2),
    }
    for seed, (name, (view, set_rank)) in enumerate(layouts.items()):
        shim.configure(ORDERS[seed % 3], seed)
        view[...] = x.reshape(view.shape)
        found = shim.forward(view, penalty, set_rank=set_rank)
        np.testing.assert_array_equal(found, answer, err_msg=name)
        reversed_dims = np.empty(view.shape[::-1], x.dtype).T
        for into in (np.empty_like(view), reversed_dims, np.empty(view.shape, x.dtype)):
            into[...] = np.nan
            shim.backward(grad, view, found, penalty, set_rank=set_rank, into=into)
            np.testing.assert_array_equal(into.reshape(x.shape), gradient, err_msg=name)


@pytest.mark.parametrize("n", [33, 1024, 5000])
def test_alpha_per_set(n, penalty, dtype, shim):
    x = points(n, dtype)
    alpha = np.geomspace(0.5, 20, len(x)).astype(x.dtype)

    def run():
        return solve_and_differentiate(shim, x, penalty, alpha)

    y, _, _, grad_x = in_every_schedule(shim, run)
    assert_right(x, y, grad_x, penalty, alpha, dtype)


@pytest.mark.parametrize("n", [12, 1024, 5000, 16_500])
def test_special_sets(n, penalty, dtype, shim):
    """NaN, infinite points and flat objectives take ways of their own through the reductions."""
    x = points(n, dtype, 7)
    x[0, n // 2] = math.nan
    x[1, [0, n - 1]] = math.inf
    x[2, [0, n // 3, n - 1]] = math.inf, math.inf, -math.inf
    x[3] = -math.inf
    x[4] = 0.25
    x[5] = np.where(np.arange(n) % 2, -1, 1) * (20 + np.abs(x[5]))  # flat for Huber
    x[6, 0] = 1e30
    y, _, _, grad_x = in_every_schedule(shim, lambda: solve_and_differentiate(shim, x, penalty))
    assert np.isnan(y[0])
    assert np.isnan(grad_x[0]).all()
    for i in range(1, len(x)):
        seen, answer = x[i].astype(np.float64), float(y[i])
        expected = ref.solve(seen, penalty, 1.0)
        if not math.isfinite(expected.y):
            np.testing.assert_equal(answer, expected.y)
            np.testing.assert_array_equal(grad_x[i], 0 if math.isinf(answer) else math.nan)
            continue
        if penalty in ref.CONVEX and not np.isfinite(seen).all():
            assert abs(answer - expected.y) <= contract.accuracy(expected.y, 1.0, dtype)
        else:
            contract.assert_answer(answer, seen, penalty, 1.0, dtype)
        assert not grad_x[i, np.isinf(x[i])].any()
    if penalty == "huber":
        assert not grad_x[5].any()


def kinked(n, dtype):
    """Sets [3, n] with alpha = 1 for which lists of the points near kinks serve badly."""
    rng = np.random.default_rng(n)
    found = [
        np.where(rng.random(n) < 0.5, -1, 1) * rng.uniform(0.9, 1.1, n),  # all of them are near
        np.where(rng.random(n) < 0.7, 0, 40) + rng.normal(0, 0.3, n),  # the start is far away
        np.where(rng.random(n) < 0.8, 0, 3) + rng.normal(0, 0.7, n),  # it is out of reach
    ]
    return np.array(found).astype(NUMPY[dtype])


@pytest.mark.parametrize("n", [100, 2048, 2049, 9000])
@pytest.mark.parametrize("penalty", ["huber", "truncated_quadratic"])
def test_lists_of_points_near_kinks(n, penalty, dtype, shim):
    """Where there is no room for them, and where the descent leaves what they are good for: answers
    are right, and segments, which are given more room, have the same bits."""
    x = kinked(n, dtype)
    y, *others, grad_x = in_every_schedule(shim, lambda: solve_and_differentiate(shim, x, penalty))
    assert_right(x, y, grad_x, penalty, 1.0, dtype)
    segments = shim.forward(x.reshape(-1, 1), penalty, ptr=n * np.arange(len(x) + 1))
    np.testing.assert_array_equal(segments, (y, *others))


# ---- The kernels of the global search ------------------------------------------------------------


def search_and_differentiate(shim, x, penalty, alpha=1.0):
    """As solve_and_differentiate(); of the forward's outputs those that tests judge."""
    answer = shim.forward(x, penalty, alpha, solver="global")
    grad = incoming(len(x), x.dtype)
    return answer.y, answer.curvature, shim.backward(grad, x, answer, penalty, alpha)


def landscapes(n, dtype):
    """Sets [sets, n] with alpha = 1: for each way through the search."""
    rng = np.random.default_rng(n)
    few = min(n, 200)  # for the reference's sake
    spread_out = rng.uniform(-1, 1, n) * np.where(rng.random(n) < few / n, 1e6, 0.5)
    found = [
        sets.unimodal(rng, 1, n)[0],
        sets.modes(rng, 1, n, 2)[0],
        spread_out,
        np.sign(spread_out) * 1e4 + rng.uniform(-0.3, 0.3, n),  # far from the robust start
        rng.integers(-6, 7, n) * 0.5,
        np.arange(n) % 64 / 8,  # flat almost to the last bit
    ]
    return rng.permuted(np.array(found), axis=1).astype(NUMPY[dtype])


def assert_global(y, x, penalty, alpha, dtype):
    """The objective is what section "What the answer is" of the documentation promises."""
    x, y = x[np.isfinite(x)].astype(np.float64), float(y)
    assert x.min() <= y <= x.max()
    least = ref.objective(ref.solve(x, penalty, alpha).y, x, penalty, alpha)
    d = contract.accuracy(y, alpha, dtype)
    bound = contract.EXCESS[dtype] * least
    bound += len(x) * ref.dpsi_at_zero(penalty, alpha) * d * d / 2
    # A few roundings of the reference's own terms.
    bound += 4 * contract.EPS[torch.float64] * least
    excess = ref.objective(y, x, penalty, alpha) - least
    assert excess <= bound, f"{penalty}, {len(x)} points, y={y!r}: {excess} above {least} > {bound}"


def assert_global_gradient(g, y, x, penalty, alpha, dtype):
    """Of an answer y that assert_global() has found right."""
    x, y = x.astype(np.float64), float(y)
    if contract.well_conditioned(y, contract.accuracy(y, alpha, dtype), x, penalty, alpha):
        contract.assert_gradient(g, y, x, penalty, alpha, dtype)


@pytest.mark.parametrize("penalty", NONCONVEX)
@pytest.mark.parametrize(
    ("dtype", "n"), [(dtype, n) for dtype in GLOBAL_SIZES for n in GLOBAL_SIZES[dtype]]
)
def test_global_answers_and_gradients(dtype, n, penalty, shim):
    x = landscapes(n, dtype)
    y, _, grad_x = in_every_schedule(shim, lambda: search_and_differentiate(shim, x, penalty))
    g = grad_x.astype(np.float64) / incoming(len(x), np.float64)[:, None]
    for i in range(len(x)):
        assert_global(y[i], x[i], penalty, 1.0, dtype)
        assert_global_gradient(g[i], y[i], x[i], penalty, 1.0, dtype)


@pytest.mark.parametrize("n", [12, 100, 2000, 8200])
@pytest.mark.parametrize("penalty", NONCONVEX)
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
@pytest.mark.parametrize("penalty", NONCONVEX)
def test_more_points_than_are_counted_at_once(penalty, weighted, dtype, shim):
    x = np.random.default_rng(0).normal(0, 0.3, (1, 70_000)).astype(NUMPY[dtype])
    x[:, 66_000:] += 5  # the last ones that are counted
    weight = np.full_like(x, 0.75) if weighted else None

    def run():
        return [shim.forward(x, penalty, weight=weight, solver="global").y]

    (y,) = in_every_schedule(shim, run)
    assert_global(y[0], x[0], penalty, 1.0, dtype)


@pytest.mark.parametrize("n", [300, 1200, 8200])
@pytest.mark.parametrize("penalty", NONCONVEX)
def test_global_search_with_an_alpha_per_set(n, penalty, dtype, shim):
    x = landscapes(n, dtype)
    alpha = np.geomspace(0.3, 100, len(x)).astype(x.dtype)

    def run():
        return search_and_differentiate(shim, x, penalty, alpha)

    y, _, _ = in_every_schedule(shim, run)
    for i, a in enumerate(alpha.tolist()):
        assert_global(y[i], x[i], penalty, a, dtype)


@pytest.mark.parametrize("n", [64, 1200, 8200])
@pytest.mark.parametrize("penalty", NONCONVEX)
def test_layout_does_not_matter_to_the_global_search(n, penalty, dtype, shim):
    x = landscapes(n, dtype)
    answer = shim.forward(x, penalty, solver="global")
    padded = np.full((3, 4, 4, n // 4, 3), np.nan, x.dtype)
    transposed, apart = np.empty((n, len(x)), x.dtype).T, padded[:, 1:3, :, :, 2]
    for view, set_rank in ((transposed, 1), (apart, 2)):
        view[...] = x.reshape(view.shape)
        found = shim.forward(view, penalty, set_rank=set_rank, solver="global")
        np.testing.assert_array_equal(found, answer)


@pytest.mark.parametrize("n", [64, 200, 1200, 8200])
@pytest.mark.parametrize("penalty", NONCONVEX)
def test_global_search_stopped_early(n, penalty, dtype, shim):
    """All threads of a block stop together, at a place among the points."""
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


# ---- Weights -------------------------------------------------------------------------------------


def weights(x, rng):
    """As wide as 1e6 to one, a fifth of them zero; the points there are spoilt."""
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


@pytest.mark.parametrize(
    ("dtype", "n"), [(dtype, n) for dtype in WEIGHTED_SIZES for n in WEIGHTED_SIZES[dtype]]
)
def test_weighted_answers_and_gradients(dtype, n, penalty, shim):
    rng = np.random.default_rng(n)
    x = landscapes(n, dtype)
    w, x = weights(x, rng)
    judged(shim, x, w, penalty, dtype, "global")
    if penalty in NONCONVEX:
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
    x = landscapes(n, dtype)
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


# ---- The shim ------------------------------------------------------------------------------------


@pytest.fixture(params=ORDERS)
def ordered(request, shim):
    shim.configure(request.param, seed=5)
    return shim


def marked_line(name):
    lines = (HERE / "toys.cu").read_text().splitlines()
    (line,) = [i for i, text in enumerate(lines, 1) if text.endswith(f"// at {name}")]
    return f"toys.cu:{line}"


def test_shuffles(ordered):
    lane = np.arange(32)
    expected = [
        np.full(32, 3),
        lane // 8 * 8 + (lane + 3) % 8,
        np.where(lane >= 3, lane - 3, lane),
        np.where(lane % 4 >= 2, lane - 2, lane),
        np.where(lane + 5 < 32, lane + 5, lane),
        np.where(lane % 16 < 15, lane + 1, lane),
        lane ^ 16,
        np.where(lane & 4, lane ^ 4, lane),  # a lower segment may be read, a higher one not
    ]
    np.testing.assert_array_equal(ordered.toy("shuffles")[: 8 * 32], np.concatenate(expected))


def test_votes(ordered):
    thirds = sum(1 << i for i in range(0, 32, 3))
    halves = np.repeat([0xFFFF, 1 << 20], 16)
    expected = np.concatenate([np.repeat([thirds, 1, 10], 32), halves])
    np.testing.assert_array_equal(ordered.toy("votes")[:128], expected)
    expected = np.repeat([40, 85, 69, 120, 376], [32, 16, 16, 16, 16])
    np.testing.assert_array_equal(ordered.toy("reductions")[:96], expected)
    np.testing.assert_array_equal(ordered.toy("early_return")[:21], [(1 << 20) - 1] * 20 + [np.nan])


def test_blocks(ordered):
    np.testing.assert_array_equal(ordered.toy("block_sum")[:3], [70 * 69 / 2] * 3)
    expected = np.add.outer(1000 * np.arange(12), np.arange(60)).ravel()
    np.testing.assert_array_equal(ordered.toy("indices")[:720], expected)
    for name in ("large_shared", "threads_1024", "shared_48k"):
        ordered.toy(name)


def test_orders(shim):
    seen = []
    for order, seed in [("forward", 0), ("reversed", 0), ("random", 0), ("random", 1)]:
        shim.configure(order, seed)
        seen.append(shim.toy("order")[:96])
        np.testing.assert_array_equal(shim.toy("order")[:96], seen[-1])
    np.testing.assert_array_equal(seen[0], np.arange(96))
    np.testing.assert_array_equal(seen[1], np.arange(96)[::-1])
    for found in seen:
        np.testing.assert_array_equal(np.sort(found), seen[0])
    assert len({tuple(found) for found in seen}) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("divergent_barriers", "divergent barriers"),
        ("missed_barrier", r"of 64 threads 40 have returned, 24 wait in (__syncthreads|bar\.sync)"),
        ("mask_without_caller", "lacks its caller, lane 31 of warp 1"),
        ("missing_member", r"deadlock: .*waits in (__shfl_xor_sync|shfl\.sync).* for lane 16"),
        ("different_collectives", "lanes of warp . meet in different collectives"),
        ("different_masks", "mask 0xffffffff|deadlock"),
        ("inactive_lane", "reads from inactive lane 16"),
    ],
)
def test_misuse_is_reported_with_its_line(name, message, ordered):
    with pytest.raises(ShimError, match=message) as caught:
        ordered.toy(name)
    assert marked_line(name) in str(caught.value)
    ordered.toy("block_sum")  # the next launch is none the worse


def test_widths_are_powers_of_two(ordered, source_only):
    with pytest.raises(ShimError, match="width 24") as caught:
        ordered.toy("odd_width")
    assert marked_line("odd_width") in str(caught.value)


def test_unset_shared_memory_is_nan(ordered, source_only):
    assert np.isnan(ordered.toy("unset_shared")).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shared_overrun", "wrote outside its dynamic shared memory|out of bounds"),
        ("threads_1025", "block of 1025 x 1 x 1"),
        ("threads_0", "block of 0 x 1 x 1"),
        ("blocks_0", "grid of 0 x 1 x 1"),
        ("shared_above_48k", "49153 bytes of dynamic shared memory where 49152 are allowed"),
        ("shared_above_227k", "cannot allow 232449 bytes"),
    ],
)
def test_impossible_launches_are_reported(name, message, ordered):
    with pytest.raises(ShimError, match=message):
        ordered.toy(name)


# ---- Broken kernels do not pass ------------------------------------------------------------------


def run_probe(path, folder):
    """What is wrong with each order's results: {} where a library is sound."""
    out = folder / f"{path.stem}.npz"
    command = [sys.executable, "-m", probe.__name__, path, out]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return {"all": "no end"}
    if done.returncode < 0:
        return {"all": f"signal {-done.returncode}"}
    assert done.returncode == 0, done.stderr
    found = np.load(out)
    wrong = {}
    for order in ORDERS:
        if f"{order}/error" in found:
            wrong[order] = str(found[f"{order}/error"])
            continue
        try:
            for i, x in enumerate(probe.probe_sets()):
                for penalty in probe.PENALTIES:
                    y, g = (found[f"{order}/{penalty}/{i}/{part}"] for part in ("y", "gradient"))
                    g *= incoming(len(x), x.dtype)[:, None]
                    assert_right(x, y, g, penalty, probe.ALPHA, torch.float32)
            for i, x in enumerate(probe.searched_sets()):
                for penalty in probe.SEARCHED:
                    y, *others = (
                        found[f"{o}/global {penalty}/{i}/y"]
                        for o in (order, *ORDERS)
                        if f"{o}/error" not in found
                    )
                    assert all(np.array_equal(y, other) for other in others), "orders differ"
                    for one, points in zip(y, x, strict=True):
                        assert_global(one, points, penalty, probe.ALPHA, torch.float32)
        except AssertionError as error:
            wrong[order] = str(error)
    return wrong


@pytest.fixture(scope="session")
def mutants(source_only, library, tmp_path_factory):
    """The libraries of all mutations, by name."""
    folder = tmp_path_factory.mktemp("mutants")
    jobs = []
    for i, mutation in enumerate(MUTATIONS):
        into = folder / str(i)
        into.mkdir()
        csrc = mutate(into, mutation)
        jobs.append((csrc / "cuda" / mutation.unit, into, csrc, OPTIMIZE))
    libraries = {}
    for mutation, compiled in zip(MUTATIONS, compile_units(jobs), strict=True):
        rest = [o for name, o in library.objects.items() if name != mutation.unit]
        libraries[mutation.name] = link([compiled, *rest], compiled.parent / "libmutant.so")
    return libraries


def test_a_sound_library_passes_the_probe(source_only, library, tmp_path):
    assert run_probe(library.shim.path, tmp_path) == {}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutation_is_caught(mutation, mutants, tmp_path):
    wrong = run_probe(mutants[mutation.name], tmp_path)
    assert wrong, "no order of threads shows it"
    print("\n".join(f"{order}: {what[:200]}" for order, what in wrong.items()))


def test_a_mutation_that_finds_nothing_fails(tmp_path):
    with pytest.raises(AssertionError, match="0 matches"):
        mutate(tmp_path, MUTATIONS[0]._replace(pattern="no such text"))


def test_the_kernels_need_no_header_of_torch():
    for file in sorted((CSRC / "cuda").iterdir()):
        assert not re.search(r"#include <(torch|ATen|c10)/", file.read_text()), file.name
