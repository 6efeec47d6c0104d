"""Small sets, several of which are solved or staged at a time."""

import functools
from fractions import Fraction

import numpy as np
import pytest
import torch

import ddn_cuda
from tests.support import contract, sets
from tests.support import reference as ref
from tests.support.sweeps import sweep

# Sizes around multiples of the SIMD width, and around the limits of lane batches, for each dtype
# and instruction set.
SIZES = [2, 3, 4, 8, 9, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257]
SOLVERS = [
    (penalty, solver)
    for penalty in ddn_cuda.PENALTIES
    for solver in (["local"] if penalty in ref.CONVEX else ["local", "global"])
]


def pooled(x, penalty, alpha=0.5, **options):
    x = x.detach().clone().requires_grad_()
    y = ddn_cuda.robust_pool(x, penalty, alpha, **options)
    (grad,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), grad


def easy_and_hard(n, count, dtype, device):
    """One set of each special kind, among sets of one cluster with outliers."""
    rng = np.random.default_rng(n)
    x = torch.tensor(sets.contaminated(rng, count, n), dtype=dtype, device=device)
    x[1] = 7  # equal
    x[2, -1] = torch.nan
    x[3, 0] = torch.inf
    x[4] = torch.where(torch.arange(n, device=device) % 2 == 0, 3.0, -3.0)  # flat, or tied
    x[5] *= 1e6
    x[6] *= 1e-6
    x[7] += 1e4
    x[8] = torch.finfo(dtype).max * torch.sign(x[8])
    x[9] = torch.relu(x[9])
    return x


@pytest.mark.parametrize(("penalty", "solver"), SOLVERS)
@pytest.mark.parametrize("n", SIZES)
def test_no_set_knows_of_the_others(n, penalty, solver, device, dtype):
    x = easy_and_hard(n, 37, dtype, device)
    options = {"solver": solver, "return_info": True}
    y, info = ddn_cuda.robust_pool(x, penalty, 0.5, **options)
    _, grad = pooled(x, penalty, solver=solver)
    for i in (*range(12), 15, 16, 17, 36):
        alone, alone_info = ddn_cuda.robust_pool(x[i], penalty, 0.5, **options)
        _, alone_grad = pooled(x[i], penalty, solver=solver)
        equal = functools.partial(torch.testing.assert_close, rtol=0, atol=0, equal_nan=True)
        equal(y[i], alone)
        equal(grad[i], alone_grad)
        for of_all, of_one in zip(info, alone_info, strict=True):
            equal(of_all[i], of_one)
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(n)).to(device)
    equal(ddn_cuda.robust_pool(x[shuffled], penalty, 0.5, solver=solver), y[shuffled])


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
@pytest.mark.parametrize("alpha", sweep([0.3, 1.0, 3.0], [1.0]))
@pytest.mark.parametrize("n", [2, 3, 5, 10, 16, 33, 64, 128])
def test_no_place_has_a_smaller_objective(n, alpha, penalty, device, dtype):
    rng = np.random.default_rng(n)
    drawn = [sets.contaminated(rng, 40, n), *(sets.modes(rng, 20, n, k) for k in (2, 3, 5))]
    drawn.append(np.round(sets.modes(rng, 20, n, 2)))  # many ties
    x = torch.tensor(np.concatenate(drawn), dtype=dtype, device=device)
    y, info = ddn_cuda.robust_pool(x, penalty, alpha, return_info=True)
    points = x.cpu().double().numpy()
    excess = contract.EXCESS[dtype]
    for found, gap, row in zip(y.tolist(), info.gap.tolist(), points, strict=True):
        places = np.linspace(row.min(), row.max(), 4001)
        least = min(
            ref.phi(part[:, None] - row, penalty, alpha).sum(1).min()
            for part in np.array_split(places, 4)
        )
        own = ref.phi(found - row, penalty, alpha).sum()
        near = n * ref.dpsi_at_zero(penalty, alpha) * contract.accuracy(found, alpha, dtype) ** 2
        assert own <= (1 + excess) * least + near / 2 + 1e-13 * n
        assert gap <= excess * own + near / 2 + 1e-13 * n


@pytest.mark.parametrize(
    ("penalty", "points", "alpha"),
    [
        ("truncated_quadratic", [2.0**30, 2.0**30 + 2.0**-22], 2.0**-21),
        ("welsch", [17265701184.426353] + [17265701184.426357] * 2 + [17265701174.826355], 1.0),
        ("welsch", [1e12, 1e12 + 0.125, 1e12 + 0.3125], 1.0),
    ],
)
def test_the_gap_far_from_zero(penalty, points, alpha, device):
    """If no double is near the minimiser, the gap has to cover y's rounding."""
    x = torch.tensor(points, dtype=torch.float64, device=device)
    y, info = ddn_cuda.robust_pool(x, penalty, alpha, return_info=True)
    z = np.array([float(Fraction(y.item()) - Fraction(p)) for p in points])
    shifts = alpha * np.linspace(-0.5, 0.5, 100_001)
    objectives = ref.phi(z + shifts[:, None], penalty, alpha).sum(1)
    excess = ref.phi(z, penalty, alpha).sum() - objectives.min()
    assert float(info.gap) >= 0.999 * excess


def test_the_gap_of_a_flat_top(device):
    """Near the smallest concavity for which one descent proves a minimum."""
    points = [0.0] + [0.10000000149011612] * 3 + [2.1535871028900146] * 3
    x = torch.tensor(points, dtype=torch.float32, device=device)
    _, info = ddn_cuda.robust_pool(x, "welsch", 1.0, return_info=True)
    assert float(info.gap) <= 1e-6 * float(info.objective)


@pytest.mark.parametrize(("penalty", "solver"), SOLVERS)
def test_segments_of_all_lengths_side_by_side(penalty, solver, device, dtype):
    lengths = torch.randint(2, 300, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    lengths += [*SIZES, 1, 0, 2, 300, 3]
    rows = [torch.randn(n, 3, dtype=dtype, device=device) for n in lengths]
    ptr = torch.tensor([0, *lengths], device=device).cumsum(0)
    y = ddn_cuda.segment_robust_pool(torch.cat(rows), ptr, penalty, 0.5, solver=solver)
    for found, points in zip(y, rows, strict=True):
        if len(points) > 0:
            assert torch.equal(
                found, ddn_cuda.robust_pool(points, penalty, 0.5, dim=0, solver=solver)
            )


@pytest.mark.parametrize(("penalty", "solver"), SOLVERS)
def test_a_mask_leaves_the_bits_of_the_points(penalty, solver, device, dtype):
    x = easy_and_hard(200, 37, dtype, device)
    kept = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)).to(device)
    kept = kept < torch.linspace(0.02, 1.2, 37, device=device)[:, None]
    y = ddn_cuda.robust_pool(x, penalty, 0.5, weight=3.0 * kept, solver=solver)
    for found, points, some in zip(y, x, kept, strict=True):
        if some.any():
            expected = ddn_cuda.robust_pool(points[some], penalty, 0.5, solver=solver)
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("penalty", "solver"), SOLVERS)
@pytest.mark.parametrize("n", [5, 49, 128, 200])
def test_a_bound_on_the_passes(n, penalty, solver, device, dtype):
    """A limit that is not reached changes nothing; one that is reached is reported."""
    x = easy_and_hard(n, 37, dtype, device)[9:]
    options = {"solver": solver, "return_info": True}
    y, free = ddn_cuda.robust_pool(x, penalty, 0.5, **options)
    converged, stopped = int(ddn_cuda.Status.converged), int(ddn_cuda.Status.stopped_early)
    usual = free.status == converged
    for bound in (*range(1, 8), 12, 40):
        bounded, info = ddn_cuda.robust_pool(x, penalty, 0.5, max_iter=bound, **options)
        assert (info.iterations <= bound).all()
        assert bounded.isfinite().all()
        within = usual & (free.iterations <= bound)
        assert torch.equal(bounded[within], y[within])
        assert (info.status[within] == converged).all()
        assert (info.status[usual & ~within] == stopped).all()


@pytest.mark.parametrize("penalty", [p for p in ref.CONVEX if not ref.REGISTRY[p].is_mean])
@pytest.mark.parametrize("n", [5, 49, 200])
def test_a_tolerance(n, penalty, device, dtype):
    x = easy_and_hard(n, 37, dtype, device)[9:]
    y, free = ddn_cuda.robust_pool(x, penalty, 0.5, return_info=True)
    near, info = ddn_cuda.robust_pool(x, penalty, 0.5, tol=1e-2, return_info=True)
    assert (info.iterations <= free.iterations).all()
    assert (info.iterations < free.iterations).any()
    assert ((near - y).abs() <= 2 * 1e-2 * 0.5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [1, 7, 16, 17, 40])
@pytest.mark.parametrize("n", [2, 10, 130, 1000, 4096, 4097])
def test_sets_side_by_side_in_memory(n, channels, dtype, device):
    """Channels last: bitwise equal to the same sets stored contiguously."""
    x = torch.randn(3, n, channels).to(device, dtype)
    weight = torch.rand(n, channels).to(device)
    weight = weight if dtype != torch.float64 else weight.double()
    for penalty in ("quadratic", "huber"):
        for w in (None, weight):
            y, grad = pooled(x, penalty, dim=1, weight=w)
            rows, turned = x.transpose(1, 2).contiguous(), None if w is None else w.t().contiguous()
            expected, expected_grad = pooled(rows, penalty, dim=2, weight=turned)
            assert torch.equal(y, expected)
            assert torch.equal(grad, expected_grad.transpose(1, 2))
