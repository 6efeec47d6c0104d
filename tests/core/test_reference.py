"""The reference agrees with independent methods and with finite differences."""

import math

import numpy as np
import pytest

from tests.support import reference as ref
from tests.support import sets

NONCONVEX = ("welsch", "truncated_quadratic")


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def slope_is_zero(u, x, penalty, alpha):
    """f' changes sign within 1e-12 alpha of u (and the spacing of doubles there), up to the
    rounding of its terms."""
    d = 1e-12 * alpha + 4 * np.spacing(abs(u))
    noise = 8 * 2.0**-52 * np.abs(ref.psi(u - x, penalty, alpha)).sum()
    below, above = (ref.slope(u + side * d, x, penalty, alpha) for side in (-1, 1))
    return below <= noise and above >= -noise


@pytest.mark.parametrize("alpha", [0.3, 1.0, 7.0])
def test_derivatives_by_central_differences(penalty, alpha, rng):
    z = rng.uniform(-4, 4, 200) * alpha
    z = z[np.abs(np.abs(z) - alpha) > 1e-3 * alpha]  # no derivative at the breakpoints
    h = 1e-5 * alpha
    for f, g in ((ref.phi, ref.psi), (ref.psi, ref.dpsi)):
        difference = (f(z + h, penalty, alpha) - f(z - h, penalty, alpha)) / (2 * h)
        exact = g(z, penalty, alpha)
        # Truncation error, h^2 / 6 times a third derivative below 10 of its units, and rounding.
        assert np.allclose(difference, exact, rtol=1e-8, atol=1e-8 * np.abs(exact).max())


@pytest.mark.parametrize(
    ("penalty", "z", "alpha", "expected"),
    [
        ("quadratic", 3.0, 1.0, 4.5),
        ("pseudo_huber", 2.0, 2.0, 4 * (math.sqrt(2) - 1)),
        ("huber", 1.0, 2.0, 0.5),
        ("huber", 5.0, 2.0, 8.0),
        ("welsch", 2.0, 2.0, 1 - math.exp(-0.5)),
        ("truncated_quadratic", 1.0, 2.0, 0.5),
        ("truncated_quadratic", 5.0, 2.0, 2.0),
        ("pseudo_huber", 1e-9, 1.0, 5e-19),  # by cancellation: 0
        ("welsch", 1e-9, 1.0, 5e-19),
        ("pseudo_huber", 1e20, 1e-20, 1.0),
    ],
)
def test_literal_values(penalty, z, alpha, expected):
    assert float(ref.phi(z, penalty, alpha)) == pytest.approx(expected, rel=1e-14)
    assert float(ref.phi(-z, penalty, alpha)) == pytest.approx(expected, rel=1e-14)
    assert ref.dpsi_at_zero(penalty, alpha) == float(ref.dpsi(0.0, penalty, alpha))


@pytest.mark.parametrize("penalty", ref.CONVEX)
@pytest.mark.parametrize("case", sets.cases(), ids=lambda c: c.name)
def test_convex_answers_are_stationary(penalty, case):
    for x in case.points[:6]:
        solution = ref.solve(x, penalty, case.alpha)
        if penalty == "quadratic":
            assert solution.y == pytest.approx(np.longdouble(x).mean(), rel=1e-14, abs=1e-300)
        elif solution.flat:
            inner = np.linspace(solution.lo, solution.hi, 7)[1:-1]
            assert solution.y == pytest.approx(inner[2], rel=1e-15)
            assert [ref.slope(u, x, penalty, case.alpha) for u in inner] == [0, 0, 0, 0, 0]
        else:
            assert slope_is_zero(solution.y, x, penalty, case.alpha)


@pytest.mark.parametrize("penalty", ref.PENALTIES)
def test_agrees_with_lbfgs_on_easy_data(penalty, rng):
    """L-BFGS stops at a relative change of the objective of about 1e-16, or 1e-7 in the answer."""
    for n in (5, 40, 300):
        x = 3.0 + 0.3 * rng.standard_normal(n)
        found = ref.solve_lbfgs(x, penalty, 2.0)
        assert ref.solve(x, penalty, 2.0).y == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("penalty", NONCONVEX)
def test_agrees_with_lbfgs_started_nowhere_but_at_the_mean(penalty, rng):
    """Outliers on both sides leave the mean in the basin of the answer."""
    x = np.concatenate([0.2 * rng.standard_normal(80), [-30.0, 30.0, -45.0, 45.0]])
    assert ref.solve(x, penalty, 1.0).y == pytest.approx(ref.solve_lbfgs(x, penalty, 1.0), abs=1e-6)


@pytest.mark.parametrize("penalty", NONCONVEX)
@pytest.mark.parametrize("alpha", [0.05, 0.4, 1.5])
def test_global_answers_beat_a_brute_force_grid(penalty, alpha, rng):
    for x in (*sets.modes(rng, 4, 60, 3), *sets.contaminated(rng, 4, 60, 0.4)):
        solution = ref.solve(x, penalty, alpha)
        grid = np.linspace(x.min(), x.max(), 20_001)
        values = ref.phi(grid[:, None] - x, penalty, alpha).sum(1)
        least = ref.objective(solution.y, x, penalty, alpha)
        assert least <= values.min() * (1 + 1e-12)
        # A grid place lies within half a spacing of the minimum, and f'' is at most N phi''(0).
        half = (grid[1] - grid[0]) / 2
        bend = len(x) * ref.dpsi_at_zero(penalty, alpha)
        assert least >= values.min() - bend * half * half / 2 * (1 + 1e-9)


@pytest.mark.parametrize("penalty", NONCONVEX)
def test_every_local_minimum_is_listed(penalty, rng):
    """Descents on the grid, from everywhere, end at listed minima and reach all of them."""
    for x in sets.modes(rng, 3, 40, 3):
        alpha = 0.5
        minima = ref.local_minima(x, penalty, alpha)
        assert minima == sorted(minima)
        assert all(slope_is_zero(u, x, penalty, alpha) for u in minima)
        grid = np.linspace(x.min() - 1, x.max() + 1, 40_001)
        values = ref.phi(grid[:, None] - x, penalty, alpha).sum(1)
        lower = np.flatnonzero((values[1:-1] < values[:-2]) & (values[1:-1] < values[2:])) + 1
        spacing = grid[1] - grid[0]
        assert len(lower) == len(minima)
        assert np.allclose(grid[lower], minima, rtol=0, atol=spacing)


def test_huber_is_flat_between_two_clusters():
    solution = ref.solve(np.array([-5.0, -4.0, 3.0, 6.0]), "huber", 1.0)
    assert solution == (-0.5, -3.0, 2.0)
    assert not ref.solve(np.array([-5.0, -4.0, 3.0, 6.0, 7.0]), "huber", 1.0).flat
    assert not ref.solve(np.array([-1.0, 1.0]), "huber", 1.0).flat
    assert np.array_equal(ref.gradient(np.array([-5.0, 5.0]), 0.0, "huber", 1.0), [0.0, 0.0])


@pytest.mark.parametrize("penalty", ref.PENALTIES)
def test_alpha_far_below_the_spacing_of_doubles(penalty):
    """Positions are relative to a point: the answer to an odd set is next to its middle point."""
    x = np.array([1.0, 2.0, 2.0, 2.0, 1000.0])
    expected = x.mean() if penalty == "quadratic" else 2.0
    assert ref.solve(x, penalty, 1e-30).y == expected


@pytest.mark.parametrize("penalty", ref.PENALTIES)
def test_scale_equivariance_by_powers_of_two(penalty, rng):
    x = sets.contaminated(rng, 1, 33)[0]
    for k in (-90, -20, 20, 90):
        s = math.ldexp(1.0, k)
        scaled = ref.solve(x * s, penalty, 0.7 * s).y
        assert scaled == pytest.approx(s * ref.solve(x, penalty, 0.7).y, rel=1e-12)


@pytest.mark.parametrize("penalty", ref.PENALTIES)
def test_gradient_by_central_differences(penalty, rng):
    for x in (*sets.unimodal(rng, 3, 25), *sets.contaminated(rng, 3, 25, 0.1)):
        y = ref.solve(x, penalty, 1.0).y
        if np.abs(np.abs(y - x) - 1).min() < 1e-3:
            continue  # next to a kink
        h, exact = 1e-5, ref.gradient(x, y, penalty, 1.0)
        assert math.fsum(exact) == pytest.approx(1, abs=1e-14)
        for i in range(len(x)):
            up, down = x.copy(), x.copy()
            up[i] += h
            down[i] -= h
            difference = (ref.solve(up, penalty, 1.0).y - ref.solve(down, penalty, 1.0).y) / (2 * h)
            assert difference == pytest.approx(exact[i], abs=1e-7)


def test_gradient_is_zero_without_curvature():
    assert np.array_equal(ref.gradient(np.array([-1.0, 1.0]), 0.0, "welsch", 1.0), [0.0, 0.0])
    assert np.array_equal(
        ref.gradient(np.array([-3.0, 3.0]), 0.0, "truncated_quadratic", 1.0), [0.0, 0.0]
    )


def test_robust_starts():
    assert ref.robust_starts([-2.0, -1.0, 0.0, 5.0, 50.0], 3.0) == [
        ref.solve(np.array([-2.0, -1.0, 0.0, 5.0, 50.0]), "huber", 3.0).y
    ]
    assert ref.robust_starts([-8.0, -5.0, 5.0, 7.0], 1.0) == [-5.0]  # a tie: the smaller
    assert ref.robust_starts([-8.0, -5.0, 5.0, 7.0], 1.0, doubt=1e-9) == [-5.0, 5.0]


INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("x", "answers"),
    [  # quadratic, pseudo_huber, huber, welsch, truncated_quadratic
        ([1.0, NAN, 2.0], (NAN, NAN, NAN, NAN, NAN)),
        ([INF, INF], (INF, INF, INF, INF, INF)),
        ([-INF], (-INF, -INF, -INF, -INF, -INF)),
        ([INF, -INF], (NAN, NAN, NAN, NAN, NAN)),
        ([INF, 1.0], (INF, INF, 2.0, 1.0, 1.0)),
        ([-INF, 1.0], (-INF, -INF, 0.0, 1.0, 1.0)),
        ([INF, -INF, 1.0], (NAN, 1.0, 1.0, 1.0, 1.0)),
        ([INF, INF, 1.0], (INF, INF, INF, 1.0, 1.0)),
        ([INF, 1.0, 1.0], (INF, 1 + 1 / math.sqrt(3), 1.5, 1.0, 1.0)),
        ([-INF, 1.0, 1.0], (-INF, 1 - 1 / math.sqrt(3), 0.5, 1.0, 1.0)),
        ([INF, INF, -INF, 1.0, 1.0], (NAN, 1 + 1 / math.sqrt(3), 1.5, 1.0, 1.0)),
        ([INF, INF, -INF, 1.0], (NAN, INF, 2.0, 1.0, 1.0)),
    ],
)
def test_points_that_are_not_finite(x, answers):
    for penalty, expected in zip(ref.PENALTIES, answers, strict=True):
        y = ref.solve(np.array(x), penalty, 1.0).y
        assert y == pytest.approx(expected, nan_ok=True, rel=1e-14), penalty
