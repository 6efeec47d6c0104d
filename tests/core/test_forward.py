"""Answers equal the reference's, to the guaranteed accuracy, on every kind of data."""

import math

import numpy as np
import pytest
import torch

import ddn_cuda
from ddn_cuda._C import PENALTY_TRAITS
from tests.support import contract, sets
from tests.support import reference as ref

CASES = sets.cases()
CASES_OF_DOUBLE = sets.extremes_of_double()


def pool(points, penalty, alpha, device, dtype, solver="global"):
    """The points after rounding to the dtype, and the answers, both in float64."""
    x = torch.tensor(points, dtype=dtype, device=device)
    y = ddn_cuda.robust_pool(x, penalty, alpha, solver=solver)
    assert y.dtype == dtype
    assert y.device.type == device.type
    assert y.shape == x.shape[:-1]
    return x.double().cpu().numpy(), y.double().cpu().numpy()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("solver", ["global", "local"])
def test_accuracy(case, penalty, solver, device, dtype):
    if solver == "local" and penalty not in ref.NONCONVEX:
        return  # the same code
    seen, answers = pool(case.points, penalty, case.alpha, device, dtype, solver)
    for x, y in zip(seen, answers, strict=True):
        contract.assert_answer(float(y), x, penalty, case.alpha, dtype)


@pytest.mark.parametrize("case", CASES_OF_DOUBLE, ids=lambda case: case.name)
def test_accuracy_at_the_extremes_of_double(case, penalty, device):
    seen, answers = pool(case.points, penalty, case.alpha, device, torch.float64)
    for x, y in zip(seen, answers, strict=True):
        contract.assert_answer(float(y), x, penalty, case.alpha, torch.float64)


@pytest.mark.parametrize(
    ("points", "alpha"),
    [
        # Newton's step leads from one breakpoint exactly to another, at the far bracket end.
        (
            [
                0.74786776,
                0.71092247,
                0.70544274,
                0.73540002,
                0.73391624,
                0.72602678,
                0.70813199,
                0.71779944,
            ],
            0.005,
        ),
        (
            [
                -3.3843667,
                -0.41060282,
                -1.39647127,
                -1.28135096,
                -1.04429883,
                -2.84868779,
                -1.06063404,
                -1.69391474,
            ],
            0.1,
        ),
        # Newton's step leads to the far bracket end, beyond the minimum.
        ([0.0, 2.5, 3.5, 3.5], 1.0),
        ([-2.5, -44.5, -1.5, -1.5], 1.0),
        # Newton's step from the start leads exactly to the largest point.
        ([50.0, 50.0, 50.0, -100.0, 0.0], 0.01),
        ([1.24, -82.64, -82.64, -67.96, -67.92, 31.48, -82.64, 1.24], 0.04),
        # Points at a distance of exactly alpha, on both sides.
        ([0.0, 1.0, 0.5], 0.5),
        ([0.25, 0.35], 0.05),
        ([-1.0, 0.0, 0.0, 1.0], 1.0),
        ([-1.0, -1.0, 1.0, 1.0], 1.0),
    ],
    ids=lambda v: f"{len(v)}_points" if isinstance(v, list) else str(v),
)
def test_steps_that_end_on_a_breakpoint_or_a_point(points, alpha, penalty, device, dtype):
    seen, answers = pool([points], penalty, alpha, device, dtype)
    contract.assert_answer(float(answers[0]), seen[0], penalty, alpha, dtype)


@pytest.mark.parametrize("n", [5, 64, 1000, 9000])
def test_unimodal_sets_give_the_global_answer(n, penalty, device, dtype):
    """A narrow cluster and far outliers: the robust start lies in the basin of the best minimum."""
    alpha = 2.0
    points = sets.unimodal(np.random.default_rng(n), 4, n) + 3.0
    seen, answers = pool(points, penalty, alpha, device, dtype)
    for x, y in zip(seen, answers, strict=True):
        best = ref.solve(x, penalty, alpha).y
        if penalty == "quadratic":
            contract.assert_answer(float(y), x, penalty, alpha, dtype)
        elif contract.well_conditioned(best, 1e-3, x, penalty, alpha):
            assert abs(y - best) <= contract.accuracy(best, alpha, dtype)
        else:
            pytest.fail("the data of this test are to be well conditioned")


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_robust_start_resists_one_sided_outliers(penalty, device, dtype):
    """40% of the points at a distance of 1,000 alpha drag the mean, but not the answer, away."""
    points = np.random.default_rng(3).uniform(-0.4, 0.4, (5, 200))
    points[:, 120:] += 1000
    seen, answers = pool(points, penalty, 1.0, device, dtype)
    for x, y in zip(seen, answers, strict=True):
        expected = ref.solve(x[:120], penalty, 1.0).y
        assert abs(y - expected) <= contract.accuracy(expected, 1.0, dtype)


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
@pytest.mark.parametrize(
    ("points", "expected"),
    [
        # Huber's midpoint is equally near to both middle points; the answer is the smaller one.
        ([-8.0, -5.0, 5.0, 7.0], -5.0),
        ([-8.0, -6.0, 5.0, 7.0], -6.0),
        ([0.1, 0.7], 0.1),  # the midpoint of these is not representable
        ([-1.3, 77.7, 1e6, -1e3], -1.3),
        ([-1e3, 1.1, 1e15, 1e4], 1.1),
        # An odd set has one inlier, its middle point; the influences of the others cancel.
        ([-100.0, 0.0, 1.0, 2.0, 100.0], 1.0),
    ],
)
def test_documented_start(penalty, points, expected, device, dtype):
    """Lone points at least 10 alpha apart: the answer is the point that the start was moved to."""
    alpha = 0.05
    _, (y,) = pool([points], penalty, alpha, device, dtype, "local")
    expected = float(torch.tensor(expected, dtype=dtype))
    # Beyond 10 alpha a neighbour moves a Welsch minimum by less than 10 exp(-50) alpha.
    assert abs(y - expected) <= contract.accuracy(expected, alpha, dtype)


def test_a_large_alpha_leaves_the_mean(penalty, device, dtype):
    """With alpha = 1e6 ranges, every penalty is quadratic up to (range/alpha)^2 / 2."""
    points = sets.contaminated(np.random.default_rng(4), 6, 333)
    seen, answers = pool(points, penalty, 2e7, device, dtype)
    # In float32 twice the rounding of a mean of points up to 10.
    bound = 1e-6 * 10 if dtype == torch.float32 else 1e-11 * 10
    for x, y in zip(seen, answers, strict=True):
        assert abs(y - math.fsum(x) / len(x)) <= bound


@pytest.mark.parametrize("penalty", [p for p in ref.CONVEX if not ref.REGISTRY[p].is_mean])
def test_a_small_alpha_leaves_the_median(penalty, device, dtype):
    """The answer differs from the middle point of an odd set by at most alpha (and y's
    rounding)."""
    points = sets.contaminated(np.random.default_rng(5), 6, 333)
    alpha = 1e-9
    seen, answers = pool(points, penalty, alpha, device, dtype)
    for x, y in zip(seen, answers, strict=True):
        assert abs(y - np.median(x)) <= alpha + np.spacing(np.float32(abs(y))) * (
            dtype == torch.float32
        )


@pytest.mark.parametrize("n", [1, 2, 49, 1000, 70_000])
def test_equal_points_are_returned_as_they_are(n, penalty, device, dtype):
    values = [0.1, -3.3e-12, 7.7e14, 0.0, 1.0 / 3.0]
    x = torch.tensor(values, dtype=dtype, device=device)[:, None].expand(-1, n)
    for alpha in (1e-3, 1.0, 1e3):
        assert torch.equal(ddn_cuda.robust_pool(x, penalty, alpha), x[:, 0])


def test_short_names_and_full_names_agree(penalty, device, dtype):
    x = torch.randn(5, 40, dtype=dtype, device=device)
    short = ddn_cuda.PENALTIES[penalty]
    assert torch.equal(
        ddn_cuda.robust_pool(x, short, 0.5), ddn_cuda.robust_pool(x, penalty, alpha=0.5)
    )


def test_the_penalties_are_those_of_the_reference():
    names = {
        "quadratic": "Q",
        "pseudo_huber": "PH",
        "huber": "H",
        "welsch": "W",
        "truncated_quadratic": "TQ",
    }
    assert names.items() <= ddn_cuda.PENALTIES.items()
    assert tuple(ddn_cuda.PENALTIES) == tuple(PENALTY_TRAITS) == ref.PENALTIES
    assert len(set(ddn_cuda.PENALTIES.values())) == len(ddn_cuda.PENALTIES)
    for name, traits in PENALTY_TRAITS.items():
        entry = ref.REGISTRY[name]
        assert traits["alias"] == ddn_cuda.PENALTIES[name]
        assert (traits["certificate"] == "convex") == entry.convex
        assert traits["is_mean"] == entry.is_mean
        assert traits["is_smooth"] == bool(entry.bending)
        assert traits["has_breakpoints"] == entry.has_breakpoints
        assert traits["has_flat_minima"] == entry.flat


def test_global_is_local_for_convex_penalties(device, dtype):
    x = torch.randn(5, 40, dtype=dtype, device=device)
    for penalty in ref.CONVEX:
        assert torch.equal(
            ddn_cuda.robust_pool(x, penalty, solver="global"),
            ddn_cuda.robust_pool(x, penalty, solver="local"),
        )


def test_max_iter_bounds_the_passes(device):
    """Few passes stop short of the minimum; enough passes reach it to the last bit."""
    x = torch.tensor(sets.contaminated(np.random.default_rng(6), 20, 99), device=device)
    for penalty in ref.PENALTIES[1:]:
        done = ddn_cuda.robust_pool(x, penalty, 0.1)
        assert torch.equal(ddn_cuda.robust_pool(x, penalty, 0.1, max_iter=1000), done)
        stopped = ddn_cuda.robust_pool(x, penalty, 0.1, max_iter=1)
        assert not torch.equal(stopped, done)
        low, high = x.amin(-1), x.amax(-1)
        assert ((stopped >= low) & (stopped <= high)).all()


def test_tol_is_the_accepted_step(device):
    x = torch.tensor(sets.contaminated(np.random.default_rng(6), 50, 99), device=device)
    for penalty in ("pseudo_huber", "welsch"):
        done = ddn_cuda.robust_pool(x, penalty, 1.0)
        rough = ddn_cuda.robust_pool(x, penalty, 1.0, tol=0.1)
        assert not torch.equal(rough, done)
        # Newton's method contracts: after an accepted step of 0.1 alpha the remaining error is
        # shorter.
        assert ((rough - done).abs() <= 0.2).all()


@pytest.mark.parametrize("n", [16_383, 16_384, 16_385])
def test_sets_about_the_size_of_a_chunk(n, penalty, dtype, device):
    """The CPU sums sets larger than a chunk in a different way."""
    points = np.round(sets.contaminated(np.random.default_rng(n), 2, n) * 20) / 20
    for solver in ("local", "global"):
        x = torch.tensor(points, dtype=dtype, device=device)
        y = ddn_cuda.robust_pool(x, penalty, solver=solver)
        if solver == "global" or penalty in ref.CONVEX:
            for row, answer in zip(points, y.tolist(), strict=True):
                contract.assert_answer(answer, row, penalty, 1.0, dtype)
        again = ddn_cuda.robust_pool(x[:, : n - 1], penalty, solver=solver)
        assert ((y - again).abs() <= 1e-2).all()
