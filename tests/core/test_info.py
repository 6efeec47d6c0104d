"""`return_info=True`: the diagnostics of an answer are correct, above all its optimality gap."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from typing_extensions import assert_type

import ddn_cuda
from ddn_cuda import RobustPoolInfo, Status
from tests.support import contract, drawn, oracle
from tests.support import reference as ref

SETS = 64


def some(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def drawn_batch(parameters, dtype):
    """A batch with alpha rounded to the arithmetic type."""
    batch = drawn.batch(parameters, SETS, dtype)
    return batch._replace(alpha=drawn.rounded(batch.alphas[:, None].copy(), dtype))


def informed(batch, penalty, device, dtype, **options):
    """Answers [sets] and their info as NumPy arrays."""
    x = torch.tensor(batch.x, dtype=dtype, device=device)
    if batch.weight is not None:
        options["weight"] = torch.tensor(batch.weight, dtype=dtype, device=device)
    alpha = torch.tensor(batch.alphas[:, None].copy(), dtype=dtype, device=device)
    y, info = ddn_cuda.robust_pool(x, penalty, alpha, keepdim=True, return_info=True, **options)
    plain = ddn_cuda.robust_pool(x, penalty, alpha, keepdim=True, **options)
    assert torch.equal(y, plain)
    for part in info:
        assert part.shape == y.shape
        assert part.device == y.device
        assert not part.requires_grad
    arrays = [part[:, 0].cpu().numpy() for part in info]
    return y[:, 0].double().cpu().numpy(), ddn_cuda.RobustPoolInfo(*arrays)


def assert_true(batch, y, info, penalty, dtype, solver, bounded):
    x, w = oracle.present(batch.x, batch.weight)
    alpha = batch.alphas
    if batch.weight is not None:
        some_weight = (np.asarray(batch.weight) > 0).any(1)
        x, w, y, alpha = x[some_weight], w[some_weight], y[some_weight], alpha[some_weight]
        info = ddn_cuda.RobustPoolInfo(*(part[some_weight] for part in info))
        batch = batch.take(some_weight)
    unit = np.array([ref.dpsi_at_zero(penalty, float(a)) for a in alpha])
    s = (y[:, None] - x) / alpha[:, None]
    total = w.sum(1)

    # The oracle's objective is phi(.; 1) of scaled points, over phi''(0).
    scale = unit * alpha**2
    objective = scale * (w * ref.phi(s, penalty, 1.0)).sum(1)
    near = 1e-12 * objective + 1e-15 * scale * total
    assert (np.abs(info.objective - objective) <= near).all()
    derivative = unit * alpha * (w * ref.psi(s, penalty, 1.0)).sum(1)
    pull = unit * alpha * (w * np.abs(ref.psi(s, penalty, 1.0))).sum(1)
    bad = np.abs(info.residual - np.abs(derivative) / total) > (
        1e-12 * pull / total + 1e-290 * unit * alpha  # for points beyond Welsch's limit
    )
    assert not bad.any(), (info.residual[bad], derivative[bad], pull[bad], s[bad])
    bent = unit * (w * np.abs(ref.dpsi(s, penalty, 1.0))).sum(1)
    curvature = unit * (w * ref.dpsi(s, penalty, 1.0)).sum(1)
    # A point within rounding of a breakpoint may be on either side.
    edge = unit * (w * (np.abs(np.abs(s) - 1) < 1e-9)).sum(1)
    assert (np.abs(info.curvature - curvature) <= 1e-12 * bent + 1e-14 * unit * total + edge).all()

    found = oracle.minimum(batch.x, penalty, alpha, batch.weight)
    least, most = scale * found.lower, scale * found.value
    # No minimum below the proven bound, and no gap smaller than the excess.
    slack = 1e-12 * objective + 1e-14 * scale * total
    assert (info.objective - info.gap <= most + slack).all()
    assert (info.gap >= objective - most - slack).all()
    assert (info.gap >= 0).all()
    convex = penalty in ref.CONVEX
    if (convex or solver == "global") and not bounded:
        d = oracle.accuracy(y, alpha, dtype)
        if ref.REGISTRY[penalty].is_mean:
            d = d + 4 * contract.EPS[dtype] * ((w * np.abs(x)).sum(1) / total + np.abs(y))
        share = 1e-6 if dtype == torch.float32 else 1e-12
        allowed = share * objective + unit * total * d**2 / 2 + (most - least)
        assert (info.gap <= 4 * allowed + slack).all()
    assert (info.gap <= np.maximum(objective, 0) + slack).all() or convex


@some(40)
@given(
    parameters=drawn.parameters(),
    solver=st.sampled_from(["global", "local"]),
    max_iter=st.sampled_from([None, None, 1, 2, 3, 5, 9]),
)
def test_info_is_true(parameters, solver, max_iter, penalty, device, dtype):
    batch = drawn_batch(parameters, dtype)
    y, info = informed(batch, penalty, device, dtype, solver=solver, max_iter=max_iter)
    assert_true(batch, y, info, penalty, dtype, solver, max_iter is not None)
    if max_iter is not None:
        assert (info.iterations <= max_iter).all()
    else:
        assert not (info.status == Status.stopped_early).any()


@some(25)
@given(parameters=drawn.parameters(weighted=True), solver=st.sampled_from(["global", "local"]))
def test_info_with_weights(parameters, solver, penalty, device, dtype):
    batch = drawn_batch(parameters, dtype)
    y, info = informed(batch, penalty, device, dtype, solver=solver)
    assert_true(batch, y, info, penalty, dtype, solver, False)


def test_status_names():
    assert [status.name for status in Status] == [
        "converged",
        "stopped_early",
        "flat",
        "empty",
        "not_finite",
    ]
    assert [int(status) for status in Status] == list(range(5))


def status_of(x, penalty, **options):
    return Status(int(ddn_cuda.robust_pool(x, penalty, return_info=True, **options)[1].status))


def test_status(penalty, device, dtype):
    def points(*values):
        return torch.tensor(values, dtype=dtype, device=device)

    inf, nan = float("inf"), float("nan")
    assert status_of(points(3.0), penalty) == Status.converged
    assert status_of(points(3.0, 3.0, 3.0), penalty) == Status.converged
    assert status_of(points(0.0, 0.5, 3.0, 0.1), penalty) == Status.converged
    assert status_of(points(0.0, nan), penalty) == Status.not_finite
    assert status_of(points(inf, inf), penalty) == Status.not_finite
    assert status_of(points(inf, -inf), penalty) == Status.not_finite
    assert status_of(points(0.0, 1.0), penalty, weight=points(0.0, 0.0)) == Status.empty
    assert status_of(points(0.0, 1.0), penalty, weight=points(0.0, -1.0)) == Status.not_finite
    flat = Status.flat if penalty == "huber" else Status.converged
    assert status_of(points(0.0, 10.0), penalty) == flat
    assert status_of(points(0.0, 10.0, inf, -inf), "huber") == Status.flat
    if penalty != "quadratic":
        x = torch.linspace(0, 5, 100, dtype=dtype, device=device).square()
        assert status_of(x, penalty, max_iter=1) == Status.stopped_early
        bad = torch.tensor(-1.0, dtype=dtype, device=device)
        _, info = ddn_cuda.robust_pool(x, penalty, bad, return_info=True)
        assert int(info.status) == Status.not_finite
        for name in ("residual", "curvature", "objective", "gap"):
            assert getattr(info, name).isnan()


@pytest.mark.parametrize("penalty", ref.CONVEX)
def test_an_objective_that_is_infinite_proves_nothing(penalty, device, dtype):
    x = torch.tensor([0.0, 1.0, 0.5, float("inf")], dtype=dtype, device=device)
    if penalty == "quadratic":
        x[3] = torch.finfo(torch.float64).max if dtype == torch.float64 else float("inf")
    y, info = ddn_cuda.robust_pool(x, penalty, return_info=True)
    if torch.isfinite(y):
        assert info.objective == float("inf")
        assert info.gap == float("inf")


def test_points_at_infinity_add_a_constant(device, dtype):
    inf = float("inf")
    x = torch.tensor([0.0, 1.0, 0.5, 9.0], dtype=dtype, device=device)
    more = torch.cat([x, torch.tensor([inf, -inf, inf], dtype=dtype, device=device)])
    for penalty in ref.NONCONVEX:
        y, info = ddn_cuda.robust_pool(x, penalty, return_info=True)
        y_more, info_more = ddn_cuda.robust_pool(more, penalty, return_info=True)
        assert abs(y_more - y) < 1e-6
        limit = 1.0 if penalty == "welsch" else 0.5
        assert info_more.objective.item() == pytest.approx(info.objective.item() + 3 * limit)
        assert info_more.gap <= 1e-5 * info_more.objective


# ---- Where the theorem ceases to hold ------------------------------------------------------------


@pytest.mark.parametrize("solver", ["local", "global"])
def test_vanishing_curvature_on_both_sides(solver, device):
    """The negative curvature of two points at 2 alpha cancels that of a weight in the middle
    (welsch): H is a multiple of eps times sum |w phi''|, around the threshold of 8 eps."""
    x = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64, device=device)
    down = 3 * np.exp(-2.0)  # -phi'' at 2, of a penalty with alpha = 1
    size = 4 * down  # sum |w phi''|
    eps = 2.0**-52
    for share, defined in ((-64, False), (-16, False), (0, False), (2, False), (40, True)):
        weight = torch.tensor([1, 2 * down + share * eps * size, 1], device=device)
        weight = weight.to(torch.float64).requires_grad_()
        points = x.clone().requires_grad_()
        y, info = ddn_cuda.robust_pool(
            points, "welsch", weight=weight, solver=solver, max_iter=2, return_info=True
        )
        if y.item() != 0:  # the search may have moved to a minimum
            continue
        g, g_w = torch.autograd.grad(y, (points, weight))
        assert torch.isfinite(g).all()
        assert torch.isfinite(g_w).all()
        assert bool(g.any()) == defined, (share, info.curvature.item())
        if defined:
            assert g.sum().item() == pytest.approx(1, abs=0.2)


def test_a_point_at_the_breakpoint_counts_as_inside(device, dtype):
    """x at a distance of exactly alpha: phi'' = 1 there, by convention."""
    x = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.25], dtype=dtype, device=device, requires_grad=True)
    y, info = ddn_cuda.robust_pool(x, "huber", 1.0, return_info=True)
    assert y.item() == 0.25
    (g,) = torch.autograd.grad(y, x)
    assert info.curvature.item() == 5
    assert torch.equal(g, torch.full_like(g, 0.2))
    # No global minimum of the truncated quadratic has a point there.
    points = torch.tensor([[-1.0, 0.0, 1.0, 1.5]], dtype=dtype, device=device)
    one = points.new_ones(1, 1)
    for penalty in ("huber", "truncated_quadratic"):
        g, _, _ = torch.ops.ddn._robust_pool_backward(
            *(one, points, 0 * one, 0 * one, 3 * one, penalty, 1.0, None, None, None, [1]),
            [True, False, False],
        )
        torch.testing.assert_close(g * 3, points.new_tensor([[1.0, 1.0, 1.0, 0.0]]))


# ---- Losses far below the rounding of the weights ------------------------------------------------


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_weights_that_all_but_vanish(penalty, device, dtype):
    """A heavy cluster, and light points at distances of about alpha, which decide a minimum of at
    most a millionth of the weight."""
    rng = np.random.default_rng(3)
    sets, light = 500, 4
    heavy = 1e-9 * rng.standard_normal((sets, 3)) * rng.integers(0, 2, (sets, 1))
    far = rng.choice([-1.0, 1.0], (sets, light)) * (1 + 1e-8 * rng.standard_normal((sets, light)))
    x = drawn.rounded(np.concatenate([heavy, far], axis=1), dtype)
    w = np.concatenate([np.ones((sets, 3)), 10.0 ** rng.uniform(-12, -6, (sets, light))], axis=1)
    batch = drawn.Batch(x, 1.0, drawn.rounded(w, dtype), {"weights": "wide"})
    y, g = drawn.pool(batch, penalty, device, dtype)
    verdict = oracle.judge(y, batch.x, penalty, batch.alphas, dtype, batch.weight, g)
    assert not len(verdict.violations), verdict.about(verdict.violations[0])
    y, info = informed(batch, penalty, device, dtype)
    assert_true(batch, y, info, penalty, dtype, "global", False)


def test_the_gap_of_two_neighbouring_numbers(device):
    x = torch.tensor([100.0, 100.0], device=device)
    x[1] = torch.nextafter(x[1], x[1] + 1)
    _, info = ddn_cuda.robust_pool(x, "welsch", return_info=True)
    z = x.double() - x.double().mean()
    least = -torch.expm1(-z.square() / 2).sum()
    assert info.objective - info.gap <= least + 1e-16


def test_types_of_the_face() -> None:
    """mypy checks these assertions."""
    x, ptr = torch.zeros(3), torch.tensor([0, 3])
    for flag in (False, True):
        pooled = ddn_cuda.robust_pool(x, return_info=flag)
        assert_type(pooled, Tensor | tuple[Tensor, RobustPoolInfo])
        segments = ddn_cuda.segment_robust_pool(x, ptr, return_info=flag)
        assert_type(segments, Tensor | tuple[Tensor, RobustPoolInfo])
        assert isinstance(pooled, tuple) == isinstance(segments, tuple) == flag
    assert_type(ddn_cuda.robust_pool(x), Tensor)
    assert_type(ddn_cuda.robust_pool(x, return_info=True), tuple[Tensor, RobustPoolInfo])
    assert_type(Status(2).value, int)
