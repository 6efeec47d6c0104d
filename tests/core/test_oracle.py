"""The oracle agrees with the reference, its bounds hold, and its checks reject wrong answers."""

import numpy as np
import pytest
import torch

from tests.support import contract, drawn, oracle, sets
from tests.support import reference as ref
from tests.support.sweeps import sweep


def special_sets():
    """(name, points [sets, points], alpha) with minima that are tied, flat or hard to bracket."""
    rng = np.random.default_rng(5)
    lattice = np.arange(64.0)
    pairs = np.array([[-1.0, 1.0], [0.0, 2.0], [-9.0, -7.0], [1e6, 1e6 + 2.0]])
    return [
        # f'' and f''' vanish half way between two Welsch points 2 alpha apart.
        ("quartic", pairs, 1.0),
        ("quartic_and_others", np.concatenate([pairs, pairs + 37], axis=1), 1.0),
        # Flat to 1e-15 between the ends of a Welsch lattice much finer than alpha.
        ("dense_lattices", np.stack([lattice / 2, lattice / 4, lattice / 8, lattice / 3]), 1.0),
        ("dense_lattice_far_away", 1e4 + lattice[None] / 4, 1.0),
        ("singles", 21.0 * lattice[None, :20] + rng.uniform(-0.4, 0.4, (4, 20)), 1.0),
        ("ties_at_alpha", rng.integers(-3, 4, (40, 9)) * 1.0, 1.0),
        ("ties_at_two_alpha", rng.integers(-3, 4, (40, 9)) * 1.0, 0.5),
        ("lattice", rng.integers(-8, 9, (40, 12)) * 0.25, 1.0),
        ("wide", rng.uniform(-1e6, 1e6, (8, 40)), 1.0),
        (
            "wide_with_a_cluster",
            np.where(rng.random((8, 40)) < 0.3, 0.1, 1e6) * rng.random((8, 40)),
            1.0,
        ),
        ("tight", 5 + 1e-7 * rng.standard_normal((8, 20)), 1.0),
        (
            "tight_but_one",
            np.concatenate([1e-7 * rng.random((8, 20)), np.full((8, 1), 0.7)], 1),
            1.0,
        ),
        ("all_equal", np.full((2, 7), 0.1), 1e-3),
        ("one_point", rng.standard_normal((4, 1)), 1.0),
        ("modes", sets.modes(rng, 30, 30, 3, reach=4.0), 1.0),
        ("contaminated", sets.contaminated(rng, 20, 49), 0.3),
        ("heavy_tails", rng.standard_cauchy((10, 30)) ** 3, 0.5),
    ]


def assert_agrees(found, x, penalty, alpha):
    """The minima in `found` are no worse than the reference's, and its bounds are below them, up to
    rounding. x: lists or rows."""
    for i, points in enumerate(x):
        solution = ref.solve(points, penalty, alpha)
        s = (points - found.anchor[i]) / alpha
        y = (solution.y - found.anchor[i]) / alpha
        value = ref.objective(y, s, penalty, 1.0)
        # The reference's answer is rounded to a double at its distance from zero.
        rounding = len(points) * (4 * np.spacing(abs(solution.y)) / alpha) ** 2
        if penalty == "quadratic":
            rounding *= len(points)
        about = f"{penalty}, set {i}: {found.value[i]!r}, the reference {value!r}"
        assert found.lower[i] <= value, about
        assert found.value[i] <= value * (1 + 1e-13), about
        assert value <= found.value[i] * (1 + 2e-12) + rounding, about
        # The bounds are tight, well below the tolerance for float64.
        assert found.value[i] - found.lower[i] <= 2e-13 * found.value[i] + rounding + 1e-25, about
        there = ref.objective(found.v[i], s, penalty, 1.0)
        assert found.value[i] == pytest.approx(there, rel=1e-14, abs=0), about
        grid = np.linspace(s.min() - 0.1, s.max() + 0.1, 501)
        beside = found.v[i] + np.geomspace(1e-9, 10, 50)[:, None] * [-1, 1]
        for u in (grid, s, beside.ravel()):
            assert ref.phi(u[:, None] - s, penalty, 1.0).sum(1).min() >= found.lower[i], about


@pytest.mark.parametrize(("name", "x", "alpha"), special_sets(), ids=lambda v: str(v)[:30])
def test_agrees_with_the_reference_on_special_sets(name, x, alpha, penalty):
    assert_agrees(oracle.minimum(x, penalty, alpha), x, penalty, alpha)


@pytest.mark.parametrize("seed", sweep(range(25), range(10)))
def test_agrees_with_the_reference_on_drawn_sets(seed, penalty):
    p = drawn.random_parameters(np.random.default_rng(seed))
    batch = drawn.batch(p | {"alpha_each": False}, 8, torch.float64)
    # The reference resolves a group of points by its width over alpha / 32: not wider than 1e4.
    x = batch.x if p["spread"] < 30 else np.round(batch.x / batch.alpha, 3) * batch.alpha
    assert_agrees(oracle.minimum(x, penalty, batch.alpha), x, penalty, batch.alpha)


@pytest.mark.parametrize("seed", range(12))
def test_integer_weights_are_repeated_points(seed, penalty):
    p = drawn.random_parameters(np.random.default_rng(100 + seed), weighted=True)
    p |= {"alpha_each": False, "weights": "integers", "points": 1 + seed * 3}
    batch = drawn.batch(p, 12, torch.float64)
    found = oracle.minimum(batch.x, penalty, batch.alpha, batch.weight)
    filled = np.flatnonzero((batch.weight > 0).any(1))
    repeated = [np.repeat(batch.x[i], batch.weight[i].astype(int)) for i in filled]
    of_filled = oracle.Minimum(*(field[filled] for field in found))
    assert_agrees(of_filled, repeated, penalty, batch.alpha)


def test_huber_is_flat_for_weights_that_balance():
    x = np.array([[0.0, 9.0, 9.5, 77.0], [0.0, 9.0, 9.5, 77.0], [9.0, 9.0, 0.0, 9.0]])
    weight = np.array([[3.0, 1.0, 2.0, 0.0], [3.0, 1.0, 1.0, 0.0], [0.0, 2.0, 2.0, 0.0]])
    found = oracle.minimum(x, "huber", 1.0, weight)
    assert found.flat.tolist() == [7.0, 0.0, 7.0]
    middle = found.anchor + found.v
    assert middle[0] == middle[2] == 4.5
    assert middle[1] == pytest.approx(2 / 3)


def solved(batch, penalty, dtype):
    """The reference's answers and gradients, rounded to dtype."""
    y, g = [], []
    for x, alpha in zip(batch.x, batch.alphas, strict=True):
        y.append(ref.solve(x, penalty, alpha).y)
        g.append(ref.gradient(x, y[-1], penalty, alpha, contract.EPS[dtype]))
    return drawn.rounded(np.array(y), dtype), drawn.rounded(np.array(g), dtype)


@pytest.mark.parametrize("seed", sweep(range(20), range(8)))
def test_the_judge_accepts_the_reference(seed, penalty, dtype):
    p = drawn.random_parameters(np.random.default_rng(1000 + seed))
    batch = drawn.batch(p | {"points": min(p["points"], 33)}, 6, dtype)
    y, g = solved(batch, penalty, dtype)
    verdict = oracle.judge(y, batch.x, penalty, batch.alphas, dtype, gradient=g)
    assert not len(verdict.violations), verdict.about(verdict.violations[0])
    assert verdict.doubt.max() <= 0.05


@pytest.mark.parametrize("seed", range(8))
def test_the_judge_accepts_the_reference_on_repeated_points(seed, penalty, dtype):
    """Integer weights: the gradient of a point is the sum over its copies."""
    p = drawn.random_parameters(np.random.default_rng(2000 + seed), weighted=True)
    p |= {"points": min(p["points"], 17), "weights": "integers", "zeros": (0.0, 0.3, 0.9)[seed % 3]}
    batch = drawn.batch(p, 12, dtype)
    y, g = np.zeros(12), np.zeros(batch.x.shape)
    for i in np.flatnonzero((batch.weight > 0).any(1)):
        which = np.repeat(np.arange(batch.x.shape[1]), batch.weight[i].astype(int))
        x, alpha = batch.x[i, which], batch.alphas[i]
        y[i] = ref.solve(x, penalty, alpha).y
        np.add.at(g[i], which, ref.gradient(x, y[i], penalty, alpha, contract.EPS[dtype]))
    y, g = drawn.rounded(y, dtype), drawn.rounded(g, dtype)
    verdict = oracle.judge(y, batch.x, penalty, batch.alphas, dtype, batch.weight, g)
    assert not len(verdict.violations), verdict.about(verdict.violations[0])
    # A point of zero weight has no gradient.
    none = batch.weight == 0
    if none.any():
        wrong = oracle.judge(y, batch.x, penalty, batch.alphas, dtype, batch.weight, g + none)
        assert len(wrong.violations)


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
@pytest.mark.parametrize("seed", range(10))
def test_the_judge_rejects_local_minima_that_are_not_global(seed, penalty, dtype):
    """Every local minimum of the reference is stationary and has the gradient of a minimum. It is
    rejected if and only if its objective exceeds the tolerance."""
    rng = np.random.default_rng(seed)
    x = drawn.rounded(sets.modes(rng, 1, 40, 3)[0], dtype)
    minima = np.array(ref.local_minima(x, penalty, 0.5))
    values = np.array([ref.objective(u, x, penalty, 0.5) for u in minima])
    g = np.stack([ref.gradient(x, u, penalty, 0.5) for u in minima])
    many = np.repeat(x[None], len(minima), 0)
    y = drawn.rounded(minima, dtype)
    verdict = oracle.judge(y, many, penalty, 0.5, dtype, gradient=drawn.rounded(g, dtype))
    assert len(minima) >= 2
    assert verdict.position.max() <= 1
    accepted = verdict.worst <= 1
    assert accepted[np.argmin(values)]
    # The tolerance for y's accuracy is smaller than the relative one.
    above = values > values.min() * (1 + 2 * contract.EXCESS[dtype])
    assert above.any()
    assert not accepted[above].any()


def test_the_judge_rejects_the_smaller_cluster(dtype):
    x = np.array([[0.0, 0.01, 0.02, 0.03, 50.0, 50.01, 50.02, 50.03, 50.04]])
    x = drawn.rounded(x, dtype)
    for penalty in ref.NONCONVEX:
        for y, right in ((x[0, :4].mean(), False), (x[0, 4:].mean(), True)):
            y = drawn.rounded(np.array([y]), dtype)
            verdict = oracle.judge(y, x, penalty, 1.0, dtype)
            assert (verdict.excess[0] <= 1) == right
            assert verdict.position[0] <= 1


def test_the_judge_rejects_what_is_slightly_wrong(penalty, dtype):
    rng = np.random.default_rng(3)
    batch = drawn.Batch(drawn.rounded(sets.unimodal(rng, 10, 25), dtype), 1.0, None, {})
    y, g = solved(batch, penalty, dtype)
    d = oracle.accuracy(y, 1.0, dtype)
    if penalty == "quadratic":
        d = 4 * contract.EPS[dtype] * (np.abs(batch.x).mean(1) + np.abs(y))

    def violations(y, g):
        return len(oracle.judge(y, batch.x, penalty, 1.0, dtype, gradient=g).violations)

    assert violations(y, g) == 0
    # d includes y's rounding to float32, half an ulp.
    assert violations(y + 2.5 * d, g) == violations(y - 2.5 * d, g) == 10
    assert violations(y, g * (1 + 40 * contract.EPS[dtype])) == 10
    largest = np.zeros_like(g)
    largest[np.arange(10), np.argmax(np.abs(g), axis=1)] = 1
    assert violations(y, g + 1e-3 * (largest - g)) == 10
    assert violations(np.where(np.arange(10) == 4, np.nan, y), g) == 1
    assert violations(y, np.where(largest > 0, np.inf, g)) == 10


def test_zero_weights_count_for_nothing(penalty):
    rng = np.random.default_rng(9)
    x = sets.modes(rng, 20, 30, 3)
    weight = rng.random((20, 30)) * (rng.random((20, 30)) < 0.5)
    weight[0] = 0
    other = np.where(weight > 0, x, 1e3 * rng.standard_cauchy((20, 30)))
    for a, b in zip(
        oracle.minimum(x, penalty, 0.5, weight),
        oracle.minimum(other, penalty, 0.5, weight),
        strict=True,
    ):
        assert np.allclose(a[1:], b[1:], rtol=1e-12, atol=1e-12)
    y = np.zeros(20)
    verdict = oracle.judge(y, x, penalty, 0.5, torch.float64, weight, np.zeros((20, 30)))
    assert verdict.worst[0] == 0  # empty: the answer is 0
    assert len(verdict.violations) == 19


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_drawn_sets_have_local_minima_that_mislead(penalty, dtype):
    """These sets frequently expose a solver that is not global."""
    rng = np.random.default_rng(1)
    rejected, judged = 0, 0
    for _ in range(40):
        batch = drawn.batch(drawn.random_parameters(rng), 64, dtype)
        y, _ = drawn.pool(batch, penalty, "cpu", dtype, solver="local", gradient=False)
        verdict = oracle.judge(y, batch.x, penalty, batch.alphas, dtype)
        rejected, judged = rejected + len(verdict.violations), judged + len(y)
    assert 0.1 * judged < rejected < 0.6 * judged
