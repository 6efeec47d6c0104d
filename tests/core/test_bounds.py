"""The constants and inequalities of docs/global.md, by NumPy alone. The constants are read from the
sources, so a wrong constant fails the test."""

import math

import numpy as np
import pytest

from tests.support.bounds import BINS, CORE, FIFTH, LINE, THIRD, constant, kernel

PLACE_ERROR = constant(BINS, r"bin_place_error = ([\d.e-]+);")
BIN_ROUNDING = constant(BINS, r"bin_rounding = ([\d.e-]+);")
REACH = constant(BINS, r"/\*reach_alpha=\*/(\d+)\)")
MOST_BINS = 2048 + 2 * 64 + 2


def place_bits(source):
    return int(constant((CORE.parent / source).read_text(), r"int place_bits = (\d+);"))


@pytest.mark.parametrize(
    ("digits", "half_more"),
    [(place_bits("cpu/search_workspace.h"), 0.5), (place_bits("cuda/group_workspace.cuh"), 0.0)],
)
def test_a_place_in_single_precision_is_within_its_error_bound(digits, half_more):
    rng = np.random.default_rng(0)
    f32, one, worst = np.float32, 2.0**digits, 0.0
    for _ in range(200):
        alpha = 10 ** rng.uniform(-3, 3)
        width = alpha / rng.choice([8, 16, 32])
        origin = rng.uniform(-1, 1) * 2048 * width  # a point lies within a window of it
        base = f32(origin)
        offset = f32(origin - float(base))
        x = (origin + width * rng.uniform(0, 2112, 2000)).astype(f32)
        shift = f32(65 * one + half_more)
        place = shift - ((base - x) + offset) * f32(one / width)
        fixed = np.trunc(place.astype(float)) / one
        true = 65 + (x.astype(float) - origin) / width
        worst = max(worst, np.abs(fixed - true).max())
    assert worst <= PLACE_ERROR
    # Six roundings in the worst case, and the fixed point's.
    assert 6 * 2**-24 * MOST_BINS + 2.0**-digits * (half_more or 1) <= PLACE_ERROR <= 10 * worst


@pytest.mark.parametrize("penalty", ["welsch", "truncated_quadratic"])
def test_sums_over_bins_in_single_precision(penalty):
    """The bounds on a cell differ from exact ones by less than `bin_rounding` allows for; masses
    are far apart in size, so that every addition rounds."""
    rng = np.random.default_rng(2)
    f32, h = np.float32, 1 / 8 if penalty == "welsch" else 1 / 16
    reach = round(REACH / h) if penalty == "welsch" else round(1 / h) + 1
    t = np.arange(1, reach + 1)
    table = welsch_table(t, h) if penalty == "welsch" else parabola_table(t, h)
    pairs = [table[:2], table[3:5]] if penalty == "welsch" else [table[:2]]
    worst = 0.0
    for first, second in pairs:
        for _ in range(300):
            mass = 10 ** rng.uniform(-3, 6, 2 * reach + 1)
            moment = mass * rng.uniform(-0.51, 0.51, 2 * reach + 1)
            sums = []
            for number in (float, f32):
                m, o = mass.astype(number), moment.astype(number)
                a, b, c = number(m[reach] * number(0)), number(0), number(0)
                for k, (p, q) in enumerate(zip(first, second, strict=True), start=1):
                    left, right = reach - k, reach + k
                    a += (m[left] + m[right]) * number(p)
                    b += (o[left] - o[right]) * number(q)
                    c += (m[left] - m[right]) * number(q)
                sums.append(float((a - b) + number(0.5) * abs(c)))
            sides = mass[reach + 1 :] + mass[:reach][::-1]
            allowed = BIN_ROUNDING * (sides * (np.abs(first) + 1.02 * np.abs(second))).sum()
            worst = max(worst, abs(sums[1] - sums[0]) / allowed)
    assert 0.01 < worst <= 1
    max_reach = constant(BINS, r"int max_reach = (\d+);")
    assert (max_reach + 11) * 2**-24 <= BIN_ROUNDING


def test_errors_of_losses():
    """docs/global.md, A9: the change of the loss by a last step that no pass follows."""
    source = (CORE / "certify" / "candidates.h").read_text()
    for name, accepted, curvature in (("single", 1e-6, 1 / 16), ("double", 1e-12, 1)):
        allowed = constant(source, rf"last_step_{name} = ([\d.e-]+);")
        # The longest step that is accepted: 1.1 m max_d2psi s^2 = accepted curvature / 2.
        step = math.sqrt(0.5 * accepted * curvature / (1.1 * THIRD))
        assert 0.1 * allowed < 0.5 * curvature * step**2 <= allowed
    # Densities in single precision, at places of any accuracy.
    rng = np.random.default_rng(3)
    allowed, worst = constant(source, r"single_precision = ([\d.e-]+);"), 0.0
    f32 = np.float32
    for _ in range(200):
        alpha, u = 10 ** rng.uniform(-3, 3), 0.0
        u = alpha * rng.choice([0, 1, 1e3, 1e5]) * rng.uniform(-1, 1)
        x = (u + alpha * rng.normal(0, 2, 512)).astype(f32)
        t = ((f32(u) - x) + f32(u - float(f32(u)))) * f32(1 / f32(alpha))
        true = (u - x.astype(float)) / alpha
        for single, double in (
            (np.exp(f32(-0.5) * (t * t)), np.exp(-0.5 * true**2)),
            (np.maximum(1 - t * t, f32(0)), np.maximum(1 - true**2, 0)),
        ):
            error = abs(float(single.astype(float).sum()) - double.sum()) / len(x)
            worst = max(worst, error / (allowed + 2.0**-48 * abs(u) / alpha))
    assert 1e-3 < worst <= 1


def welsch_table(t, h):
    """Value, derivative, slack of value, curvature, third derivative and slack of curvature,
    at a distance of t bins of width h."""
    z, far = t * h, h * (1 + 2 * PLACE_ERROR)
    d = [kernel(z, n) for n in range(5)]
    slack = far**2 / 2 * (np.abs(d[2]) + THIRD * far) + np.abs(d[1]) * h * PLACE_ERROR
    curvature_slack = far**2 / 2 * (np.abs(d[4]) + FIFTH * far) + np.abs(d[3]) * h * PLACE_ERROR
    return d[0], d[1] * h, slack, d[2], d[3] * h, curvature_slack


def parabola_table(t, h):
    inside = np.abs(t) < round(1 / h)
    nearest = (np.abs(t) - 1 - 2 * PLACE_ERROR) * h
    value = np.where(inside, 1 - (t * h) ** 2, 0)
    slack = np.where(
        inside,
        0.25 * h * h * 1.01 + 6 * h * PLACE_ERROR,
        np.maximum(0, 1 - np.maximum(nearest, 0) ** 2),
    )
    return value, np.where(inside, -2 * t * h * h, 0), slack


def density(u, x, w, penalty, n=0):
    z = u[:, None] - x
    terms = kernel(z, n) if penalty == "welsch" else np.maximum(0, 1 - z * z)
    return (w * terms).sum(1)


def binned_sets(penalty):
    """Bins of width h of random sets, relative to the cell about 0: their places, masses, moments
    and points. A point lies up to PLACE_ERROR bins from its binned place."""
    rng = np.random.default_rng(1)
    h = 1 / 8 if penalty == "welsch" else 1 / rng.choice([16, 32])
    reach = round(REACH / h) if penalty == "welsch" else round(1 / h) + 1
    for trial in range(400):
        count = int(rng.choice([1, 2, 10, 100]))
        bins = rng.integers(-reach, reach + 1, count)
        if trial % 4 == 0:
            bins[:] = bins[0]
        offset = rng.uniform(-0.5, 0.5, count)
        if trial % 3 == 0:
            offset = rng.choice([-0.5, 0.5], count)
        x = h * (bins + offset + PLACE_ERROR * rng.uniform(-1, 1, count))
        yield h, -bins, rng.uniform(0.1, 2, count), offset, x


@pytest.mark.parametrize("penalty", ["welsch", "truncated_quadratic"])
def test_the_bound_on_a_cell(penalty):
    table = welsch_table if penalty == "welsch" else parabola_table
    violations_with_less = 0
    for h, t, w, offset, x in binned_sets(penalty):
        value, derivative, slack = table(t, h)[:3]
        u = np.linspace(-h / 2, h / 2, 101)
        there = density(u, x, w, penalty)
        middle = (w * (value - offset * derivative)).sum()
        room = abs((w * derivative).sum()) / 2
        assert there.max() <= middle + room + (w * slack).sum() + 1e-14
        assert there[50] >= middle - (w * slack).sum() - 1e-14
        less = 0.5 * (w * slack).sum()
        violations_with_less += there.max() > middle + room + less or there[50] < middle - less
    assert violations_with_less > 0  # half of the slack is not enough


def test_the_bound_on_the_curvature_in_a_cell():
    violations_with_less = 0
    for h, t, w, offset, x in binned_sets("welsch"):
        curvature, third, slack = welsch_table(t, h)[3:]
        u = np.linspace(-h / 2, h / 2, 101)
        there = density(u, x, w, "welsch", 2).max()
        middle = (w * (curvature - offset * third)).sum() + abs((w * third).sum()) / 2
        assert there <= middle + (w * slack).sum() + 1e-14
        violations_with_less += there > middle + 0.5 * (w * slack).sum()
    assert violations_with_less > 0


def test_what_lies_beyond_the_reach():
    h = 1 / 8
    beyond = np.linspace(REACH - h * PLACE_ERROR, 15, 1001)
    tail = math.exp(-((REACH - h) ** 2) / 2)
    assert kernel(beyond).max() <= tail <= 7e-6
    assert kernel(beyond, 2).max() <= (REACH - h) ** 2 * tail <= 1.65e-4


def test_a_maximum_is_not_narrow_and_a_small_minimum_is_alone():
    rng = np.random.default_rng(2)
    for penalty, factor in (("welsch", 0.5), ("truncated_quadratic", 1.0)):
        for _ in range(50):
            x, w = rng.uniform(-2, 2, 12), rng.uniform(0.1, 1, 12)
            u = np.linspace(-3, 3, 6001)
            d = density(u, x, w, penalty)
            top = u[np.argmax(d)]
            # The maximum lies up to half a step from the best place of the grid.
            away = np.abs(u - top) + 5e-4
            assert (d >= d.max() - factor * w.sum() * away**2).all()
    phi, second = 1 - kernel(LINE), -kernel(LINE, 2)
    assert (1 - second <= 3 * phi + 1e-15).all()
    assert (1 - second > 2.9 * phi).any()


def test_the_least_loss_of_all_windows_is_the_least_objective():
    rng = np.random.default_rng(3)
    for _ in range(100):
        x, w = np.sort(rng.uniform(-2, 2, 8)), rng.uniform(0.1, 1, 8)

        def objective(u, x=x, w=w):
            return (w * np.minimum(1, (np.reshape(u, (-1, 1)) - x) ** 2)).sum(1)

        losses = []
        for first in range(8):
            for last in range(first, 8):
                inside = slice(first, last + 1)
                mean = (w[inside] * x[inside]).sum() / w[inside].sum()
                squares = (w[inside] * (x[inside] - mean) ** 2).sum()
                losses.append(w.sum() - w[inside].sum() + squares)
                assert losses[-1] >= objective(mean)[0] - 1e-14
        u = np.linspace(-3, 3, 6001)
        least = objective(u).min()
        assert least - w.sum() * 5e-4**2 <= min(losses) <= least + 1e-14


def test_the_bound_on_a_cell_of_a_run():
    """The bounds of `narrow` in core/certify/narrowing.h, by the same formulas."""
    narrowing = (CORE / "certify" / "narrowing.h").read_text()
    cells = int(constant(narrowing, r"breakpoint_cells = (\d+);"))
    per_breakpoint = constant(narrowing, r"crossing, M::splat\(([\d.]+) \* g\)")
    rng = np.random.default_rng(4)
    over = 0
    for trial in range(200):
        half = rng.uniform(0.05, 0.5)
        g = 2 * half / cells
        breakpoints = rng.uniform(-half, half, 300)
        if trial % 3 == 0:  # many in one cell, at its very ends
            breakpoints[:200] = g * (rng.integers(0, 2, 200) + cells // 2) - half
        side = rng.choice([-1.0, 1.0], 300)
        x = np.concatenate([breakpoints + side, rng.uniform(half - 1, 1 - half, 50)])
        cell = np.clip(np.floor((breakpoints + half) / g), 0, cells - 1)
        moved = (cell + 0.5) * g - half + side
        for i in rng.integers(0, cells, 8):
            inside = np.concatenate([np.where(side < 0, cell > i, cell < i), np.full(50, True)])
            near = np.concatenate([breakpoints + side, x[300:]])[inside]
            # t to first order in the offset: t^2 is short of the offset's square.
            middle = np.concatenate([moved, x[300:]])[inside]
            squares = (middle**2 + 2 * middle * (near - middle)).sum()
            left = i * g - half
            v = np.clip(near.mean(), left, left + g)
            value = len(near) - (squares - 2 * near.sum() * v + len(near) * v * v)
            slack = 300 * g * g / 4
            u = np.linspace(left, left + g, 33)
            there = density(u, x, np.ones_like(x), "truncated_quadratic").max()
            crossing = (cell == i).sum()
            assert there <= value + per_breakpoint * g * crossing + 1e-11
            assert there >= value - slack - 1e-11
            over += there > value + 0.4 * per_breakpoint * g * crossing
    assert over > 0  # less for each breakpoint is not enough
