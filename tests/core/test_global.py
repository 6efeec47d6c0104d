"""solver="global" returns the certified global minimum: tens of thousands of drawn sets for each
penalty, compared with `oracle` within the tolerances of `contract`."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ddn_cuda
from tests.support import drawn, oracle
from tests.support import reference as ref
from tests.support.sweeps import sweep

SETS = 128  # in a batch
# With both dtypes and with weights or not, even the smaller numbers are 21,000 sets per penalty.
BATCHES = sweep([60, 90], [60])
WEIGHTED_BATCHES = sweep([25, 45], [25])
LEAST_SHARE = 0.95  # of the batches that hypothesis has to draw


def some(examples):
    # Deterministic: a run that fails fails again.
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        # The device, dtype and penalty of a test do not change between its examples.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def assert_global(batch, penalty, device, dtype, solver="global"):
    y, g = drawn.pool(batch, penalty, device, dtype, solver)
    verdict = oracle.judge(y, batch.x, penalty, batch.alphas, dtype, batch.weight, g)
    # The oracle's minimum is far more accurate than required of the extension.
    assert verdict.doubt.max() <= 0.05
    if len(verdict.violations):
        i = verdict.violations[0]
        points = batch.x[i].tolist()
        weight = None if batch.weight is None else batch.weight[i].tolist()
        pytest.fail(
            f"{len(verdict.violations)} of {len(y)} sets, such as set {i}: {verdict.about(i)}; "
            f"{penalty}, alpha={batch.alphas[i]!r}, y={y[i]!r}, x={points}, weight={weight}"
        )
    return verdict


def assert_many_global(penalty, device, dtype, weighted, batches):
    judged = determined = 0

    @some(batches)
    @given(parameters=drawn.parameters(weighted))
    def judge(parameters):
        nonlocal judged, determined
        verdict = assert_global(drawn.batch(parameters, SETS, dtype), penalty, device, dtype)
        judged += SETS
        determined += int(verdict.determined.sum())

    judge()
    assert judged >= LEAST_SHARE * batches * SETS
    # Most sets determine y and its gradient too, not only the objective.
    assert determined >= 0.5 * judged


@pytest.mark.parametrize("batches", BATCHES)
def test_drawn_sets(batches, penalty, device, dtype):
    assert_many_global(penalty, device, dtype, False, batches)


@pytest.mark.parametrize("batches", WEIGHTED_BATCHES)
def test_weighted_sets(batches, penalty, device, dtype):
    assert_many_global(penalty, device, dtype, True, batches)


@pytest.mark.parametrize("outlier", [None, -42.0, 42.0])
def test_every_small_set_on_a_lattice(outlier, penalty, device, dtype):
    """All sets of up to five multiples of alpha / 2, with all combinations of distances of exactly
    alpha and 2 alpha, and of ties."""
    for n, places in ((1, 9), (2, 9), (3, 9), (4, 9), (5, 7)):
        x = np.array(list(combinations_with_replacement(np.arange(places) / 2, n)))
        if outlier is not None:
            x = np.insert(x, n, outlier, axis=1)
        assert_global(drawn.Batch(x, 1.0, None, {}), penalty, device, dtype)


@pytest.mark.parametrize("points", sweep([1000, 1024, 1025, 3000], [1025]))
@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_large_sets(points, penalty, device, dtype):
    rng = np.random.default_rng(points)
    for _ in range(4):
        parameters = drawn.random_parameters(rng) | {"points": points}
        assert_global(drawn.batch(parameters, 4, dtype), penalty, device, dtype)


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_modes_that_almost_tie(penalty, device, dtype):
    """Kernel densities that differ by less and by more than the errors of the first pass."""
    rng = np.random.default_rng(9)
    for points in (40, 500):
        cluster = rng.normal(0, 0.5, (1, points))
        narrower = 1 - 10 ** rng.uniform(-8, -2, (32, 1))
        both = np.concatenate([cluster * narrower - 4, np.repeat(cluster, 32, 0) + 4], axis=1)
        for x in (both, -both):
            x = np.asarray(torch.tensor(x).to(dtype).double())
            assert_global(drawn.Batch(x, 1.0, None, {}), penalty, device, dtype)


@some(15)
@given(parameters=drawn.parameters(), order=st.sampled_from(["sorted", "falling", "shuffled"]))
def test_any_order_of_the_points(parameters, order, penalty, device, dtype):
    batch = drawn.batch(parameters, SETS, dtype)
    keys = {"sorted": batch.x, "falling": -batch.x}.get(order)
    if keys is None:
        keys = np.random.default_rng(parameters["seed"]).random(batch.x.shape)
    x = np.take_along_axis(batch.x, np.argsort(keys, axis=1), 1)
    assert_global(batch._replace(x=x), penalty, device, dtype)


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
@pytest.mark.parametrize("far", [1e9, 1e12, 1e18, 1e30])
def test_points_so_far_that_alpha_is_below_their_spacing(far, penalty, device, dtype):
    """The answer is the place that most points share."""
    places = np.array([-3.0, -1.0, 0.25, 1.0, 2.0]) * far
    for heavy in range(5):
        for seed in range(4):
            rng = np.random.default_rng(seed)
            which = np.concatenate([rng.permutation(5)[:seed], [heavy, heavy, heavy]])
            which = np.concatenate([which, rng.integers(0, 5, 2)])
            shares = np.bincount(which, minlength=5)
            x = torch.tensor(rng.permuted(places[which]), dtype=dtype, device=device)
            y = ddn_cuda.robust_pool(x, penalty, 1.0)
            best = drawn.rounded(places[shares == shares.max()], dtype)
            distance = np.abs(best - y.double().item())
            assert (distance <= oracle.accuracy(best, 1.0, dtype)).any(), (x.tolist(), y.item())


# ---- Ties ----------------------------------------------------------------------------------------
#
# Copies of a cluster, exact in either precision, have equal minima by construction, and the answer
# is the smallest minimiser. Clusters are narrower than alpha / 2, so that each has one minimum.
# Copies are too far apart to interact, or are mirror images.


def clusters(rng, sets, n):
    """Points on a grid of alpha / 2^10, on [0, alpha / 2]."""
    return rng.integers(0, 513, (sets, n)) * 2.0**-10


def assert_smallest(x, cluster, first, alpha, penalty, device, dtype):
    """The answers are the minimisers of the leftmost copies."""
    assert np.array_equal(drawn.rounded(x * alpha, dtype), x * alpha)
    y, _ = drawn.pool(drawn.Batch(x * alpha, alpha, None, {}), penalty, device, dtype)
    least = oracle.minimum(cluster * alpha, penalty, alpha)
    expected = least.anchor + alpha * least.v + first * alpha
    d = oracle.accuracy(expected, alpha, dtype)
    assert (np.abs(y - expected) <= d).all(), np.abs(y - expected).max() / d


@some(20)
@given(
    seed=st.integers(0, 2**32 - 1),
    points=st.sampled_from([1, 2, 3, 5, 8, 16, 33]),
    copies=st.sampled_from([2, 2, 3, 5]),
    apart=st.sampled_from([64.0, 128.0, 1024.0]),
    shift=st.sampled_from([0.0, -3.0, 64.0, -1024.0]),
    alpha=st.sampled_from([1.0, 2.0**-20, 2.0**9]),
    shuffled=st.booleans(),
)
@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_of_equal_clusters_the_first_wins(
    seed, points, copies, apart, shift, alpha, shuffled, penalty, device, dtype
):
    rng = np.random.default_rng(seed)
    cluster = clusters(rng, 64, points)
    x = np.concatenate([cluster + shift + apart * i for i in range(copies)], axis=1)
    if shuffled:
        x = rng.permuted(x, axis=1)
    assert_smallest(x, cluster, shift, alpha, penalty, device, dtype)


@some(20)
@given(
    seed=st.integers(0, 2**32 - 1),
    points=st.sampled_from([1, 2, 3, 5, 8, 16, 33]),
    centre=st.sampled_from([48.0, 100.0, 1024.0]),
    alpha=st.sampled_from([1.0, 2.0**-20, 2.0**9]),
    shuffled=st.booleans(),
)
@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_of_mirror_images_the_negative_wins(
    seed, points, centre, alpha, shuffled, penalty, device, dtype
):
    rng = np.random.default_rng(seed)
    cluster = clusters(rng, 64, points)
    x = np.concatenate([cluster + centre, -cluster - centre], axis=1)
    if shuffled:
        x = rng.permuted(x, axis=1)
    assert_smallest(x, -cluster, -centre, alpha, penalty, device, dtype)


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_of_single_points_the_first_wins(penalty, device, dtype):
    rng = np.random.default_rng(2)
    for n in (2, 3, 17, 64, 300):
        first = np.zeros((1, 1))
        x = rng.permuted(np.arange(n) * 32.0)[None] - 96
        assert_smallest(x, first, x.min(), 1.0, penalty, device, dtype)


# ---- The same bits -------------------------------------------------------------------------------


def bits(x, penalty, alpha, weight=None):
    """Answer and gradient in one tensor."""
    x = x.detach().requires_grad_()
    options = {} if weight is None else {"weight": weight}
    y = ddn_cuda.robust_pool(x, penalty, alpha, keepdim=True, solver="global", **options)
    (g,) = torch.autograd.grad(y.sum(), x)
    return torch.cat([y.detach(), g], dim=-1)


def tensors(parameters, sets, device, dtype):
    batch = drawn.batch(parameters | {"alpha_each": False}, sets, dtype)
    return torch.tensor(batch.x, dtype=dtype, device=device), batch.alpha


@some(25)
@given(parameters=drawn.parameters())
def test_alone_and_in_a_batch(parameters, penalty, device, dtype):
    x, alpha = tensors(parameters, 67, device, dtype)
    expected = bits(x, penalty, alpha)
    assert torch.equal(bits(x, penalty, alpha), expected)  # in any run
    assert torch.equal(bits(x.flip(0), penalty, alpha).flip(0), expected)
    for i in (0, 1, 33, 65, 66):
        assert torch.equal(bits(x[i], penalty, alpha), expected[i])
    assert torch.equal(bits(x[30:41], penalty, alpha), expected[30:41])


@some(25)
@given(parameters=drawn.parameters(), stride=st.sampled_from([2, 3, 16]))
def test_at_any_stride(parameters, stride, penalty, device, dtype):
    x, alpha = tensors(parameters, 33, device, dtype)
    expected = bits(x, penalty, alpha)
    assert torch.equal(bits(x.t().contiguous().t(), penalty, alpha), expected)
    wide = torch.zeros(*x.shape, stride, dtype=dtype, device=device)
    wide[..., stride // 2] = x
    assert torch.equal(bits(wide[..., stride // 2], penalty, alpha), expected)


@some(15)
@given(parameters=drawn.parameters())
def test_with_any_number_of_threads(parameters, penalty, dtype):
    x, alpha = tensors(parameters, 200, "cpu", dtype)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = bits(x, penalty, alpha)
        for count in (2, 3):
            torch.set_num_threads(count)
            assert torch.equal(bits(x, penalty, alpha), expected)
    finally:
        torch.set_num_threads(threads)


@some(15)
@given(parameters=drawn.parameters(weighted=True))
def test_weighted_sets_alone_and_in_a_batch(parameters, penalty, device, dtype):
    batch = drawn.batch(parameters | {"alpha_each": False}, 67, dtype)
    x = torch.tensor(batch.x, dtype=dtype, device=device)
    weight = torch.tensor(batch.weight, dtype=dtype, device=device)
    expected = bits(x, penalty, batch.alpha, weight)
    assert torch.equal(bits(x, penalty, batch.alpha, weight), expected)
    for i in (0, 33, 66):
        assert torch.equal(bits(x[i], penalty, batch.alpha, weight[i]), expected[i])
    spread = weight.t().contiguous().t()
    assert torch.equal(bits(x, penalty, batch.alpha, spread), expected)


def test_convex_penalties_have_one_answer(device, dtype):
    """solver="global" and "local" give the same for convex penalties."""
    x, alpha = tensors(drawn.random_parameters(np.random.default_rng(4)), 64, device, dtype)
    for penalty in ref.CONVEX:
        local = ddn_cuda.robust_pool(x, penalty, alpha, solver="local")
        assert torch.equal(ddn_cuda.robust_pool(x, penalty, alpha, solver="global"), local)


@pytest.mark.parametrize(
    "points", [[-3.25, -2.25, -0.75, 0.25, 2.75, 3.75, 5.25, 6.25], [-3.0, -2.0, 2.0, 3.0]]
)
def test_of_mirrored_minima_the_smaller_one(points, device, dtype):
    """welsch: both minima have the same objective, up to the last digits."""
    x = torch.tensor(points, dtype=dtype, device=device)
    middle = (points[0] + points[-1]) / 2
    y = float(ddn_cuda.robust_pool(x, "welsch", 1.0))
    mirrored = float(ddn_cuda.robust_pool(2 * middle - x, "welsch", 1.0))
    assert y < middle - 0.5
    assert mirrored == pytest.approx(y, abs=1e-5)


def early_sets():
    rng = np.random.default_rng(0)
    return [
        [0.0, 0.01],
        [10.294295957555589, 1.1750686620271225, 10.318669805315603, 1.1782318873359217],
        *(rng.normal(size=n) + 8 * rng.integers(0, 3, n) for n in (5, 70, 300) for _ in range(4)),
    ]


@pytest.mark.parametrize("max_iter", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_a_search_cut_short_says_so(penalty, max_iter, device, dtype):
    """The answer lies in the range of the points; with status `converged` it is the global
    minimum."""
    Status = ddn_cuda.Status
    seen = set()
    for points in early_sets():
        x = torch.tensor(np.asarray(points), dtype=dtype, device=device)
        y, info = ddn_cuda.robust_pool(x, penalty, max_iter=max_iter, return_info=True)
        _, whole = ddn_cuda.robust_pool(x, penalty, return_info=True)
        assert x.min() <= y <= x.max()
        seen.add(int(info.status))
        excess = float(info.objective - whole.objective)
        assert excess <= float(info.gap) + 1e-6 * float(whole.objective) + 1e-9
        if info.status == Status.converged:
            assert excess <= 1e-6 * float(whole.objective) + 1e-9
    assert seen <= {Status.converged, Status.stopped_early}
    assert max_iter > 1 or Status.stopped_early in seen
