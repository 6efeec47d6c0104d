"""The CUDA kernels, compiled for the host, agree with the reference in several orders of
threads."""

import math

import numpy as np
import pytest

from bench import kernel_cases
from tests.support import contract, passes
from tests.support import reference as ref
from tests.support.cuda_shim.cases import NUMPY, SIZES, assert_right, incoming, points
from tests.support.cuda_shim.shim import (
    ORDERS,
    BFloat16,
    Direction,
    Info,
    in_every_schedule,
)
from tests.support.ptx_emulator.emulator import Emulator
from tests.support.sweeps import sweep


def solve_and_differentiate(shim, x, penalty, alpha=1.0):
    """The forward kernel's three outputs and the gradient of x."""
    answer = shim.forward(x, penalty, alpha)
    return *answer, shim.backward(incoming(len(x), x.dtype), x, answer, penalty, alpha)


# ---- The kernels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "n"), SIZES)
def test_answers_and_gradients(dtype, n, penalty, shim):
    x = points(n, dtype)
    y, _, _, grad_x = in_every_schedule(shim, lambda: solve_and_differentiate(shim, x, penalty))
    assert_right(x, y, grad_x, penalty, 1.0, dtype)


def as_shim_takes(array, dtype):
    return array.view(BFloat16) if array is not None and dtype == "bfloat16" else array


def run_case(shim, case):
    """Runs a case as bench/sanitizer_case.py does on a GPU."""
    given = kernel_cases.arrays(case)
    x, weight = as_shim_takes(given.x, case.dtype), as_shim_takes(given.weight, case.weight)
    alpha = kernel_cases.ALPHA if given.alpha is None else given.alpha.reshape(-1)
    options = {"weight": weight, "ptr": given.ptr}
    info = Info.empty(given.grad.size) if case.info else None
    if given.ptr is not None:
        np.testing.assert_array_equal(shim.offsets(given.ptr, len(x)), given.ptr)
    answer = shim.forward(x, case.penalty, alpha, solver=case.solver, info=info, **options)
    for kind in case.passes:
        asked = kernel_cases.PASS_SETS, kernel_cases.PASS_PARAMETERS
        shim.sharded(x, case.penalty, passes.KINDS[kind], *asked, weight=weight)
    grad = as_shim_takes(given.grad.reshape(-1), case.dtype)
    for of in case.gradients:
        shim.backward(grad, x, answer, case.penalty, alpha, of=of, **options)
    if not case.second_order:
        return
    moving = given.direction
    direction = Direction(as_shim_takes(moving.x, case.dtype), moving.weight, moving.alpha.ravel())
    for of in ("answer", *case.gradients):
        shim.backward(grad, x, answer, case.penalty, alpha, of=of, direction=direction, **options)


@pytest.mark.slow
def test_the_cases_of_the_sanitizers_reach_every_kernel(shim):
    """With PTX, also checks that the emulator reports no defect in any order of threads, on devices
    of compute capability 9.0, 8.0 and 8.6."""
    shim.forget_launches()
    runs = list(zip(ORDERS, (228, 164, 100), strict=True))
    for order, shared_kib in runs if isinstance(shim, Emulator) else runs[:1]:
        shim.configure(order, seed=7)
        shim.use_device(shared_kib=shared_kib)
        for case in kernel_cases.cases():
            run_case(shim, case)
    kernels = shim.kernels()
    missed = [name for name, launched in kernels.items() if not launched]
    assert not missed
    assert len(kernels) >= 4 * len(ref.PENALTIES)
    if isinstance(shim, Emulator):
        assert {name: use.excesses() for name, use in shim.uses().items() if use.excesses()} == {}


@pytest.mark.parametrize("n", sweep([33, 1100, 5000, 16_500], [33, 5000]))
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
        assert abs(told.residual[i] - abs(ref.derivative(u, points_, penalty, 1.0)) / n) <= 1e-12
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


@pytest.mark.parametrize("n", sweep([32, 600, 5000, 16_500], [32, 5000]))
def test_layout_does_not_matter(n, penalty, dtype, shim):
    """Strided sets, merged and unmerged dims, and any alignment give the result of contiguous
    sets."""
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


@pytest.mark.parametrize("n", sweep([33, 1024, 5000], [33, 1024]))
def test_alpha_per_set(n, penalty, dtype, shim):
    x = points(n, dtype)
    alpha = np.geomspace(0.5, 20, len(x)).astype(x.dtype)

    def run():
        return solve_and_differentiate(shim, x, penalty, alpha)

    y, _, _, grad_x = in_every_schedule(shim, run)
    assert_right(x, y, grad_x, penalty, alpha, dtype)


@pytest.mark.parametrize("n", sweep([12, 1024, 5000, 16_500], [12, 5000]))
def test_special_sets(n, penalty, dtype, shim):
    """NaN, infinite points and flat objectives take special paths through the reductions."""
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


def near_breakpoints(n, dtype):
    """Sets [3, n] with alpha = 1 that are hard for lists of the points near breakpoints."""
    rng = np.random.default_rng(n)
    found = [
        np.where(rng.random(n) < 0.5, -1, 1) * rng.uniform(0.9, 1.1, n),  # all of them are near
        np.where(rng.random(n) < 0.7, 0, 40) + rng.normal(0, 0.3, n),  # the start is far away
        np.where(rng.random(n) < 0.8, 0, 3) + rng.normal(0, 0.7, n),  # it is out of reach
    ]
    return np.array(found).astype(NUMPY[dtype])


@pytest.mark.parametrize("n", [100, 2048, 2049, 9000])
@pytest.mark.parametrize("penalty", ["huber", "truncated_quadratic"])
def test_lists_of_points_near_breakpoints(n, penalty, dtype, shim):
    """Lists that do not fit, and descents that leave the reach of a list: answers are right, and
    segments, which have more space, give the same bits."""
    x = near_breakpoints(n, dtype)
    y, *others, grad_x = in_every_schedule(shim, lambda: solve_and_differentiate(shim, x, penalty))
    assert_right(x, y, grad_x, penalty, 1.0, dtype)
    segments = shim.forward(x.reshape(-1, 1), penalty, ptr=n * np.arange(len(x) + 1))
    np.testing.assert_array_equal(segments, (y, *others))
