"""The reference agrees with independent methods and with finite differences."""

import math

import numpy as np
import pytest
from scipy import optimize

from tests.support import contract, exact, sets
from tests.support import reference as ref


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def solve_lbfgs(x, penalty, alpha):
    """The way of the original declarative node: L-BFGS on the objective, started at the mean."""

    def value_and_derivative(u):
        n = len(x)
        value = ref.objective(u[0], x, penalty, alpha) / n
        return value, np.array([ref.derivative(u[0], x, penalty, alpha) / n])

    options = {"ftol": 0.0, "gtol": 1e-13, "maxiter": 10_000}
    start = np.array([np.mean(x)])
    found = optimize.minimize(
        value_and_derivative, start, jac=True, method="L-BFGS-B", options=options
    )
    return float(found.x[0])


def slope_is_zero(u, x, penalty, alpha):
    """f' changes sign within 1e-12 alpha of u (and the spacing of doubles there), up to the
    rounding of its terms."""
    d = 1e-12 * alpha + 4 * np.spacing(abs(u))
    noise = 8 * 2.0**-52 * np.abs(ref.psi(u - x, penalty, alpha)).sum()
    below, above = (ref.derivative(u + side * d, x, penalty, alpha) for side in (-1, 1))
    return below <= noise and above >= -noise


@pytest.mark.parametrize("penalty", ref.PENALTIES)
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


@pytest.mark.parametrize("penalty", ref.PENALTIES)
@pytest.mark.parametrize("alpha", [0.7, 1e-3, 1e6])
def test_formulas_have_the_digits_of_exact_ones(penalty, alpha):
    """Also near zero, where differences would cancel, and where phi'' of Welsch's changes sign."""
    t = np.array([1e-9, 1e-3, 0.1, 0.3, 0.5, 0.9, 1.1, 2.0, 3.0, 5.0])
    second = ref.dpsi_at_zero(penalty, alpha)
    for sign in (-1, 1):
        z = sign * alpha * t
        given = ref.psi(z, penalty, alpha) / (alpha * second)
        exactly = [exact.derivative(penalty, 0, float(v)) for v in z / alpha]
        assert np.allclose(given, exactly, rtol=1e-14, atol=0)
        given = ref.dpsi(z, penalty, alpha) / second
        exactly = [exact.derivative(penalty, 1, float(v)) for v in z / alpha]
        assert np.allclose(given, exactly, rtol=1e-13, atol=1e-15)
    assert float(ref.dpsi(0.0, penalty, alpha)) == second
    # phi is psi's integral from zero.
    value = ref.phi(1e-9 * alpha, penalty, alpha)
    assert value == pytest.approx(second * (1e-9 * alpha) ** 2 / 2, rel=1e-14)
    assert ref.phi(-alpha, penalty, alpha) == ref.phi(alpha, penalty, alpha)
    assert float(ref.phi(0.0, penalty, alpha)) == 0


@pytest.mark.parametrize("penalty", ref.PENALTIES)
def test_what_the_tests_know_of_a_penalty(penalty):
    entry = ref.REGISTRY[penalty]
    line = np.linspace(0, 8, 801) + 1e-4  # not at a breakpoint
    first = np.array([exact.derivative(penalty, 0, float(t)) for t in line])
    second = np.array([exact.derivative(penalty, 1, float(t)) for t in line])
    if entry.bending is not None:
        third = [abs(exact.derivative(penalty, 2, float(t))) for t in line]
        assert max(third) <= entry.bending <= 1.06 * max(third)
    assert entry.convex == (np.diff(first) >= 0).all()
    if entry.least_dpsi is None:
        assert (np.diff(second) <= 0).all()
    else:
        turn, least = entry.least_dpsi
        assert least == pytest.approx(second.min(), rel=1e-4)
        assert turn == pytest.approx(line[np.argmin(second)], abs=0.01)
    near, far = (exact.derivative(penalty, 0, t) for t in ("1.5", "1e6"))
    known = {"unbounded": far == 1e6, "none": far == 0, "reached": near == far == 1}
    assert known.get(entry.force, near < 1 and far == pytest.approx(1))
    below, above = (exact.derivative(penalty, 0, t) for t in ("1", "1.0000000000000001"))
    assert entry.psi_jumps == (abs(above - below) > 1e-6)


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
            assert [ref.derivative(u, x, penalty, case.alpha) for u in inner] == [0, 0, 0, 0, 0]
        else:
            assert slope_is_zero(solution.y, x, penalty, case.alpha)


@pytest.mark.parametrize("penalty", ref.PENALTIES)
def test_agrees_with_lbfgs_on_easy_data(penalty, rng):
    """L-BFGS stops at a relative change of the objective of about 1e-16, or 1e-7 in the answer."""
    for n in (5, 40, 300):
        x = 3.0 + 0.3 * rng.standard_normal(n)
        found = solve_lbfgs(x, penalty, 2.0)
        assert ref.solve(x, penalty, 2.0).y == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_agrees_with_lbfgs_started_nowhere_but_at_the_mean(penalty, rng):
    """Outliers on both sides leave the mean in the basin of the answer."""
    x = np.concatenate([0.2 * rng.standard_normal(80), [-30.0, 30.0, -45.0, 45.0]])
    assert ref.solve(x, penalty, 1.0).y == pytest.approx(solve_lbfgs(x, penalty, 1.0), abs=1e-6)


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
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


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
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
            continue  # next to a breakpoint
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
    assert contract.robust_starts([-2.0, -1.0, 0.0, 5.0, 50.0], 3.0) == [
        ref.solve(np.array([-2.0, -1.0, 0.0, 5.0, 50.0]), "huber", 3.0).y
    ]
    assert contract.robust_starts([-8.0, -5.0, 5.0, 7.0], 1.0) == [-5.0]  # a tie: the smaller
    assert contract.robust_starts([-8.0, -5.0, 5.0, 7.0], 1.0, doubt=1e-9) == [-5.0, 5.0]


INF, NAN = math.inf, math.nan
ABOVE, BELOW = "above 1", "below 1"  # where two points at 1 pull with half of their limit


@pytest.mark.parametrize(
    ("x", "answers"),
    [  # with a force that is unbounded, approached, reached, or none
        ([1.0, NAN, 2.0], (NAN, NAN, NAN, NAN)),
        ([INF, INF], (INF, INF, INF, INF)),
        ([-INF], (-INF, -INF, -INF, -INF)),
        ([INF, -INF], (NAN, NAN, NAN, NAN)),
        ([INF, 1.0], (INF, INF, 2.0, 1.0)),
        ([-INF, 1.0], (-INF, -INF, 0.0, 1.0)),
        ([INF, -INF, 1.0], (NAN, 1.0, 1.0, 1.0)),
        ([INF, INF, 1.0], (INF, INF, INF, 1.0)),
        ([INF, 1.0, 1.0], (INF, ABOVE, 1.5, 1.0)),
        ([-INF, 1.0, 1.0], (-INF, BELOW, 0.5, 1.0)),
        ([INF, INF, -INF, 1.0, 1.0], (NAN, ABOVE, 1.5, 1.0)),
        ([INF, INF, -INF, 1.0], (NAN, INF, 2.0, 1.0)),
    ],
)
def test_points_that_are_not_finite(x, answers):
    expected = dict(zip(("unbounded", "approached", "reached", "none"), answers, strict=True))
    for penalty, entry in ref.REGISTRY.items():
        y = ref.solve(np.array(x), penalty, 1.0).y
        answer = expected[entry.force]
        if answer in (ABOVE, BELOW):
            away = optimize.brentq(lambda t, p=penalty: float(ref.psi(t, p, 1.0)) - 0.5, 0, 9)
            answer = 1 + away if answer == ABOVE else 1 - away
        assert y == pytest.approx(answer, nan_ok=True, rel=1e-14), penalty
