"""Sets whose points are sharded over several processes: answers and gradients equal those of one
process, and no points are sent. test_distributed.py starts the processes."""

import math

import numpy as np
import pytest
import torch

import ddn_cuda
from tests.support import contract, drawn, oracle
from tests.support import reference as ref
from tests.support.ranks import Counted, check, close, part, pool, together

dist = torch.distributed

# ---- The contract, judged by the oracle ----------------------------------------------------------


def judge_drawn(batches, sets, weighted):
    rng = np.random.default_rng(5 + weighted)
    for _ in range(batches):
        parameters = drawn.random_parameters(rng, weighted)
        for dtype in contract.DTYPES:
            batch = drawn.batch(parameters, sets, dtype)
            for penalty in ref.PENALTIES:
                x, options = part(torch.tensor(batch.x, dtype=dtype)), {}
                if batch.weight is not None:
                    w = part(torch.tensor(batch.weight, dtype=dtype))
                    options["weight"] = w.bool() if parameters["weights"] == "mask" else w
                    x = torch.where(w > 0, x, torch.nan)
                alpha = batch.alpha
                if not isinstance(alpha, float):
                    alpha = torch.tensor(alpha, dtype=dtype)
                x.requires_grad_()
                y = pool()(x, penalty, alpha, keepdim=True, **options)
                (g,) = torch.autograd.grad(y.sum(), x)
                g, y = together(g).double().numpy(), y.detach().squeeze(-1).double().numpy()
                if dist.get_rank() != 0:
                    continue
                verdict = oracle.judge(y, batch.x, penalty, batch.alphas, dtype, batch.weight, g)
                for i in verdict.violations:
                    raise AssertionError(
                        f"{penalty}, {dtype}, set {i}: {verdict.about(i)}, {batch}"
                    )


@check
def drawn_sets():
    judge_drawn(2, 32, weighted=False)


@check
def drawn_weighted_sets():
    judge_drawn(2, 32, weighted=True)


@check
def local_minima():
    """Stationary, with an objective not above that of the Huber answer of all points."""
    rng = np.random.default_rng(9)
    for _ in range(2):
        parameters = drawn.random_parameters(rng) | {"reach": 5.0, "offset": 0.0}
        for dtype in contract.DTYPES:
            batch = drawn.batch(parameters, 4, dtype)
            alpha = batch.alpha
            if not isinstance(alpha, float):
                alpha = torch.tensor(alpha, dtype=dtype)
            for penalty in ("welsch", "truncated_quadratic"):
                x = part(torch.tensor(batch.x, dtype=dtype))
                y = pool()(x, penalty, alpha, solver="local").double().numpy()
                for i, own in enumerate(batch.alphas):
                    contract.assert_answer(float(y[i]), batch.x[i], penalty, float(own), dtype)


# ---- Against one process -------------------------------------------------------------------------


def ordinary(dtype, sets=5, points=120):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((sets, 2, points)) * 0.4
    x[..., : points // 3] += 6
    x[1, 0, :9] = 1e4
    x[2] += 300
    return torch.tensor(x, dtype=dtype)


@check
def all_gradients():
    for dtype in (torch.float64, torch.float32):
        x = ordinary(dtype)
        alpha = torch.tensor([[0.8], [1.3]], dtype=dtype)
        weight = torch.tensor(np.random.default_rng(4).uniform(0.5, 2, x.shape), dtype=dtype)
        factor = torch.linspace(1, 2, 10, dtype=dtype).reshape(5, 2)
        for penalty in ref.PENALTIES:
            for solver in ("local", "global"):
                whole = [t.clone().requires_grad_() for t in (x, alpha, weight)]
                mine = [part(x), alpha, part(weight)]
                mine = [t.clone().requires_grad_() for t in mine]
                y0 = ddn_cuda.robust_pool(
                    whole[0], penalty, whole[1], weight=whole[2], solver=solver
                )
                y = pool()(mine[0], penalty, mine[1], weight=mine[2], solver=solver)
                assert y.shape == (5, 2)
                assert y.dtype == dtype
                close(y, y0, dtype, what=(penalty, solver))
                expected = torch.autograd.grad((y0 * factor).sum(), whole)
                found = torch.autograd.grad((y * factor).sum(), mine)
                relative = 1e-9 if dtype == torch.float64 else 1e-4
                for got, want in zip(
                    (together(found[0]), found[1], together(found[2])), expected, strict=True
                ):
                    room = relative * want.abs().max()
                    assert (got - want).abs().max() <= room, (penalty, solver, dtype)


@check
def the_same_on_all_ranks():
    for penalty in ref.PENALTIES:
        y = pool()(part(ordinary(torch.float64)), penalty)
        everywhere = together(y[None], 0)
        assert (everywhere == y).all()


@check
def dims_and_layouts():
    x = torch.randn(3, 8, 4, 6, dtype=torch.float64)
    dist.broadcast(x, 0)
    for dim in (1, (1, 3), (-3, 2), ()):
        for keepdim in (False, True):
            mine = part(x, 1).clone().requires_grad_()
            whole = x.clone().requires_grad_()
            y = pool()(mine, "welsch", 0.7, dim=dim, keepdim=keepdim)
            y0 = ddn_cuda.robust_pool(whole, "welsch", 0.7, dim=dim, keepdim=keepdim)
            assert y.shape == y0.shape
            close(y, y0, torch.float64)
            y.sum().backward()
            y0.sum().backward()
            assert torch.allclose(together(mine.grad, 1), whole.grad, rtol=1e-9, atol=1e-12)
    moved = part(x.permute(3, 0, 1, 2), 2)
    close(pool()(moved, dim=2), ddn_cuda.robust_pool(x, dim=1).permute(2, 0, 1), torch.float64)


@check
def sixteen_bits():
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.tensor(np.random.default_rng(8).standard_normal((4, 60))).to(dtype)
        mine, whole = part(x).clone().requires_grad_(), x.clone().requires_grad_()
        for penalty in ref.PENALTIES:
            y, y0 = pool()(mine, penalty), ddn_cuda.robust_pool(whole, penalty)
            assert y.dtype == dtype
            close(y, y0, dtype)
            (g,), (g0,) = (
                torch.autograd.grad(t.sum(), points) for t, points in ((y, mine), (y0, whole))
            )
            assert torch.allclose(together(g), g0, rtol=1e-2, atol=1e-4)


INF, NAN = math.inf, math.nan
SPECIAL = [
    [1.0, 1, 1, 1, 1, 1],
    [NAN, 0, 1, 2, 3, 4],
    [0, 1, 2, 3, 4, NAN],
    [0, 0, 0, 5, 5, 5],  # flat for huber
    [0, 0.1, 0.2, 50, 50.1, 50.3],
    [INF, 0, 1, 2, 3, 4],
    [0, 1, 2, 3, -INF, -INF],
    [0, 1, 2, INF, INF, INF],  # huber: a half-infinite interval
    [0, 1, INF, INF, INF, INF],
    [INF, INF, INF, INF, INF, INF],
    [INF, INF, INF, -INF, INF, INF],
    [-INF, 0, 0, 0, 0, INF],
    [1e300, 1e300, 1e300, 1e300, -1e300, -1.7e308],
    [5e-324, 0, 5e-324, 0, 5e-324, 1e-323],
    [-2, -1, 0, 0, 1, 2],
    [0, 3, 0, 3, 0, 3],
]


@check
def special_sets():
    x = torch.tensor(SPECIAL, dtype=torch.float64)
    world = dist.get_world_size()
    for shares in (None, [0] * world + [6]):  # all points on the last rank, too
        for penalty in ref.PENALTIES:
            mine, whole = (
                part(x, shares=shares).clone().requires_grad_(),
                x.clone().requires_grad_(),
            )
            for solver in ("global", "local")[: 1 if penalty in ref.CONVEX else 2]:
                y = pool()(mine, penalty, solver=solver)
                y0 = ddn_cuda.robust_pool(whole, penalty, solver=solver)
                close(y, y0, torch.float64, what=(penalty, solver, shares))
                (g,), (g0,) = (
                    torch.autograd.grad(t.nansum(), points)
                    for t, points in ((y, mine), (y0, whole))
                )
                same = torch.isclose(together(g), g0, rtol=1e-9, atol=1e-9, equal_nan=True)
                # Far from zero the guaranteed accuracy of an answer is worse than alpha: only one
                # of two may be near any point.
                apart = ((y - y0).abs() > 1e-6) & y.isfinite()
                same |= apart[:, None]
                assert same.all(), (penalty, solver, shares, together(g)[~same], g0[~same])
                assert apart.sum() <= 1


@check
def special_weights():
    x = torch.tensor([[NAN, 1, 2, 3, INF, 100.0]] * 6, dtype=torch.float64)
    w = torch.tensor(
        [
            [0, 0, 0, 0, 0, 0],
            [0, 1, 0, 0, 0, 0],
            [0, 1, 1, 2, 0, 0.1],
            [0, 1, 1, -1, 0, 0],
            [0, 1, NAN, 1, 0, 0],
            [0, 1e300, 1e300, 2e300, 0, 1e299],
        ],
        dtype=torch.float64,
    )
    for penalty in ref.PENALTIES:
        mine = part(x).clone().requires_grad_(), part(w).clone().requires_grad_()
        whole = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = pool()(mine[0], penalty, weight=mine[1])
        y0 = ddn_cuda.robust_pool(whole[0], penalty, weight=whole[1])
        close(y, y0, torch.float64, what=penalty)
        g, g0 = torch.autograd.grad(y.sum(), mine), torch.autograd.grad(y0.sum(), whole)
        for got, want in zip(g, g0, strict=True):
            assert torch.allclose(together(got), want, rtol=1e-9, atol=1e-9, equal_nan=True), (
                penalty
            )


@check
def alphas_that_are_none():
    alpha = torch.tensor([[1.0], [-1.0], [NAN], [0.0], [INF]])
    y = pool()(part(torch.arange(30.0).reshape(5, 6)), "huber", alpha)
    assert y.isfinite().tolist() == [True, False, False, False, False]


@check
def stopped_early():
    x = ordinary(torch.float64)
    for penalty in ref.PENALTIES:
        for limit in (1, 2):
            with Counted() as counted:
                y = pool()(part(x), penalty, solver="local", max_iter=limit)
            assert y.isfinite().all()
            # The statistics, two descents, the pass around the answer and the curvature.
            assert len(counted.sizes) <= 2 + 2 * limit + 4 + 1


# ---- What is sent --------------------------------------------------------------------------------


@check
def three_numbers_for_each_set_and_iteration():
    for penalty, most in (("pseudo_huber", 12), ("huber", 12), ("welsch", 30)):
        for points in (200, 5_000):
            x = ordinary(torch.float32, points=points)
            mine = part(x).clone().requires_grad_()
            with Counted() as counted:
                y = pool()(mine, penalty, solver="local")
            first, second, *descents, last = counted.sizes
            assert (first, second) == (3 * 10 * 8, 8 * 10 * 8)
            assert all(size <= 3 * 10 * 8 for size in descents)
            assert descents[0] == 3 * 10 * 8
            assert 1 <= len(descents) <= most, (penalty, len(descents))
            assert last == 10 * 8
            with Counted() as counted:
                y.sum().backward()
            assert counted.sizes == []
    with Counted() as counted:
        pool()(part(x), "quadratic")
    assert counted.sizes == [3 * 10 * 8, 8 * 10 * 8]


@check
def the_gradient_of_alpha_is_one_number_for_each_set():
    alpha = torch.tensor(1.0, requires_grad=True)
    y = pool()(part(ordinary(torch.float32)), "huber", alpha)
    with Counted() as counted:
        y.sum().backward()
    assert counted.sizes == [10 * 8]


@check
def tables_do_not_grow_with_the_points():
    for penalty in ("welsch", "truncated_quadratic"):
        total = []
        for points in (300, 12_000):
            with Counted() as counted:
                pool()(part(ordinary(torch.float32, points=points)), penalty)
            assert max(counted.sizes) <= 2**20
            total.append(sum(counted.sizes))
        # The large sets are 480 KB.
        assert max(total) < 300_000, (penalty, total)
        assert total[1] < 3 * total[0], (penalty, total)


# ---- Bad input -----------------------------------------------------------------------------------


@check
def bad_input():
    x = torch.randn(3, 4)
    for error, message, options in (
        (ValueError, "sharded_robust_pool: `penalty` is 'hubert'", {"penalty": "hubert"}),
        (IndexError, "sharded_robust_pool: ", {"dim": 2}),
        (ValueError, "sharded_robust_pool: `alpha`", {"alpha": -1.0}),
        (ValueError, "sharded_robust_pool: `solver`", {"solver": "best"}),
        (ValueError, "sharded_robust_pool: `weight`", {"weight": torch.rand(5)}),
        (ValueError, "sharded_robust_pool: `max_iter`", {"max_iter": 0}),
        (TypeError, "sharded_robust_pool: `keepdim`", {"keepdim": 1}),
        (TypeError, "sharded_robust_pool: `dim`", {"dim": 0.5}),
    ):
        with pytest.raises(error, match=message):
            pool()(x, **options)
    with pytest.raises(ValueError, match="`x` has no points on any rank"):
        pool()(x[:, :0])
    with pytest.raises(TypeError, match="sharded_robust_pool: "):
        pool()(x.long())
