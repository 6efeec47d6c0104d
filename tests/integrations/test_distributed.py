"""Sets whose points lie on several processes, and DTensors: answers and gradients are those of one
process, and no points are sent. Two and three processes with Gloo, each started once; every check
below runs in all of them, and the tests report what came of it."""

import importlib
import math
import os
import pickle
import subprocess
import sys
import traceback
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

import ddn_cuda
from tests.support import contract, drawn, oracle
from tests.support import reference as ref

dist = torch.distributed
pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs torch.distributed, Gloo"
)

CHECKS: dict[str, Any] = {}
COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "all_to_all",
    "broadcast",
    "gather",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "send",
    "recv",
)


def check(function):
    CHECKS[function.__name__] = function
    return function


def pool():
    from ddn_cuda.distributed import sharded_robust_pool

    return sharded_robust_pool


def part(t, dim=-1, shares=None):
    """This rank's stretch of a tensor; stretches are of unequal length."""
    rank, world = dist.get_rank(), dist.get_world_size()
    n = t.shape[dim]
    ends = [round(n * (i / world) ** 1.3) for i in range(world + 1)] if shares is None else shares
    return t.narrow(dim, ends[rank], ends[rank + 1] - ends[rank])


def together(t, dim=-1):
    """All ranks' stretches."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, t)
    return torch.cat(parts, dim)


class Counted:
    """Collectives that are called within, as (name, bytes)."""

    def __enter__(self):
        self.calls: list[tuple[str, int]] = []
        self.kept = {name: getattr(dist, name) for name in COLLECTIVES}
        for name, call in self.kept.items():
            setattr(dist, name, self.counting(name, call))
        return self

    def counting(self, name, call):
        def counted(t, *args, **options):
            size = t.numel() * t.element_size() if isinstance(t, torch.Tensor) else -1
            self.calls.append((name, size))
            return call(t, *args, **options)

        return counted

    def __exit__(self, *_):
        for name, call in self.kept.items():
            setattr(dist, name, call)

    @property
    def sizes(self):
        assert {name for name, _ in self.calls} <= {"all_reduce"}, self.calls
        return [size for _, size in self.calls]


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
    """Stationary, and no higher than the Huber answer of all points together."""
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


def close(a, b, dtype, alpha=1.0, what=""):
    """To twice the promised accuracy: both are that close to the truth. NaN is NaN."""
    b = b.double()
    ulp = 0.0 if dtype == torch.float64 else 2 * torch.finfo(dtype).eps
    step = 1e-10 if dtype == torch.float64 else 4e-6
    room = 2 * (step * alpha + (ulp if ulp else 1e-10) * b.abs())
    a = a.double()
    same = (a == b) | (a.isnan() & b.isnan()) | ((a - b).abs() <= room)
    assert same.all(), f"{what}: {a[~same]}, expected {b[~same]}"


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
                # Far from zero the promised accuracy of an answer is more than alpha: only one of
                # two may be near any point.
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
            # The first look, two descents, the look around and the curvature.
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


# ---- DTensors ------------------------------------------------------------------------------------


def tensors():
    import torch.distributed.tensor as tensors

    return tensors


def mesh():
    return tensors().init_device_mesh("cpu", (dist.get_world_size(),))


def distributed(t, *placements):
    return tensors().distribute_tensor(t, mesh(), placements)


def quiet():
    from torch.distributed.tensor.debug import CommDebugMode

    return CommDebugMode()


@check
def dtensors_sharded_over_kept_dims():
    Shard, Replicate = tensors().Shard, tensors().Replicate
    # The same shapes and placements with different dims: what is found for one must not be taken
    # for the other.
    x = torch.randn(6, 6, 6, dtype=torch.float64)
    dist.broadcast(x, 0)
    for sharded, dim in ((0, 2), (0, 1), (0, (1, 2)), (1, 2), (1, 0), (2, 1), (2, 0), (0, -1)):
        for penalty in ("huber", "welsch"):
            points = distributed(x, Shard(sharded)).requires_grad_()
            whole = x.clone().requires_grad_()
            with quiet() as sent:
                y = ddn_cuda.robust_pool(points, penalty, dim=dim)
                (g,) = torch.autograd.grad(y.sum(), points)
            assert sent.get_total_counts() == 0
            y0 = ddn_cuda.robust_pool(whole, penalty, dim=dim)
            assert torch.equal(y.full_tensor(), y0), (sharded, dim, penalty)
            assert g.placements == (Shard(sharded),)
            assert torch.equal(g.full_tensor(), torch.autograd.grad(y0.sum(), whole)[0])
    assert torch.equal(
        ddn_cuda.robust_pool(distributed(x, Replicate())).full_tensor(), ddn_cuda.robust_pool(x)
    )


@check
def dtensors_with_alpha_and_weight():
    Shard, Replicate = tensors().Shard, tensors().Replicate
    x = torch.randn(6, 4, 9, dtype=torch.float64)
    alpha, weight = torch.rand(4, 1, dtype=torch.float64) + 0.5, torch.rand(6, 1, 9).double()
    for t in (x, alpha, weight):
        dist.broadcast(t, 0)
    for placement in (Replicate(), Shard(0)):
        whole = [t.clone().requires_grad_() for t in (x, alpha, weight)]
        mine = [
            distributed(x, Shard(0)).requires_grad_(),
            distributed(alpha, Replicate()).requires_grad_(),
            distributed(weight, placement).requires_grad_(),
        ]
        y = ddn_cuda.robust_pool(mine[0], "pseudo_huber", mine[1], weight=mine[2])
        y0 = ddn_cuda.robust_pool(whole[0], "pseudo_huber", whole[1], weight=whole[2])
        first = [
            torch.autograd.grad(t.sum(), inputs, create_graph=True)
            for t, inputs in ((y, mine), (y0, whole))
        ]
        second = [
            torch.autograd.grad(sum((t * t).sum() for t in g), inputs)
            for g, inputs in zip(first, (mine, whole), strict=True)
        ]
        for got, want in zip((*first[0], *second[0]), (*first[1], *second[1]), strict=True):
            assert torch.allclose(got.full_tensor(), want, rtol=1e-10, atol=1e-12)
        assert [t.placements for t in first[0]] == [t.placements for t in mine]


@check
def dtensors_in_modules_operators_and_info():
    Shard, Replicate = tensors().Shard, tensors().Replicate
    x = torch.randn(7, 12)
    dist.broadcast(x, 0)
    points = distributed(x, Shard(0)).requires_grad_()
    whole = ddn_cuda.RobustPool("welsch", learn_alpha=True)
    plain, placed = (ddn_cuda.RobustPool("welsch", learn_alpha=True) for _ in range(2))
    tensors().distribute_module(placed, mesh())
    whole(x).sum().backward()
    for module in (plain, placed):
        module(points).sum().backward()
        for p, q in zip(module.parameters(), whole.parameters(), strict=True):
            got = p.grad.full_tensor() if hasattr(p.grad, "placements") else p.grad
            assert torch.allclose(got, q.grad, rtol=1e-4)
    y = torch.ops.ddn.robust_pool(points, "huber")
    y.sum().backward()
    assert y.placements == (Shard(0),)
    _, info = ddn_cuda.robust_pool(points, "huber", return_info=True)
    assert info.status.full_tensor().shape == (7,)
    with torch.inference_mode():
        assert torch.equal(ddn_cuda.robust_pool(points).full_tensor(), ddn_cuda.robust_pool(x))
    ptr = torch.tensor([0, 3, 3, 7])
    rows = ddn_cuda.segment_robust_pool(distributed(x, Shard(1)), distributed(ptr, Replicate()))
    assert torch.equal(rows.full_tensor(), ddn_cuda.segment_robust_pool(x, ptr))


@check
def a_plain_tensor_beside_a_dtensor_is_named():
    x, plain = distributed(torch.randn(6, 4), tensors().Shard(0)), torch.rand(4) + 1
    with pytest.raises(TypeError, match=r"robust_pool: `weight` is a plain tensor of shape \(4,\)"):
        ddn_cuda.robust_pool(x, weight=plain)
    with pytest.raises(
        TypeError, match=r"robust_pool: `alpha` is a plain tensor of shape \(6, 1\)"
    ):
        ddn_cuda.robust_pool(x, alpha=torch.ones(6, 1))
    with pytest.raises(TypeError, match=r"segment_robust_pool: `ptr` is a plain tensor of shape"):
        ddn_cuda.segment_robust_pool(x, torch.tensor([0, 2, 6]))
    with importlib.import_module("torch.distributed.tensor.experimental").implicit_replication():
        y = ddn_cuda.robust_pool(x, weight=plain)
    assert torch.equal(y.full_tensor(), ddn_cuda.robust_pool(x.full_tensor(), weight=plain))
    one = torch.tensor(1.5)
    y = ddn_cuda.robust_pool(x, "huber", one)
    assert torch.equal(y.full_tensor(), ddn_cuda.robust_pool(x.full_tensor(), "huber", one))


@check
def a_pooled_dim_is_not_gathered():
    Shard, Replicate = tensors().Shard, tensors().Replicate
    x = torch.randn(6, 6)
    weight = distributed(torch.rand(6, 6), Shard(1))
    points = distributed(x, Shard(1))
    ptr = distributed(torch.tensor([0, 6]), Replicate())
    with quiet() as sent:
        for call in (
            lambda: ddn_cuda.robust_pool(points),
            lambda: ddn_cuda.robust_pool(distributed(x, Shard(0)), weight=weight),
            lambda: ddn_cuda.robust_pool(points, dim=(0, 1)),
            lambda: torch.ops.ddn.robust_pool(points),
            lambda: ddn_cuda.segment_robust_pool(distributed(x, Shard(0)), ptr),
        ):
            before = sent.get_total_counts()
            with pytest.raises((ValueError, RuntimeError), match="sharded_robust_pool"):
                call()
            scattered = sent.get_total_counts() - before
            assert scattered <= 1  # `distributed` itself
    with pytest.raises(ValueError, match=r"robust_pool: `x` is a DTensor .* pooled dims \(1\)"):
        ddn_cuda.robust_pool(points)


def placed_as(points, t, rank, mine):
    """The placements of t, which broadcasts to a tensor of `rank` dims that has `points`. mine:
    whether it has points of its own where the dim that is pooled, the last, is sharded."""
    Shard, Replicate = tensors().Shard, tensors().Replicate
    found = []
    for p in points:
        own = p.dim - (rank - t.dim()) if isinstance(p, Shard) else -1
        there = own >= 0 and t.shape[own] > 1 and (mine or p.dim != rank - 1)
        found.append(Shard(own) if there else Replicate())
    return found


@check
def dtensors_sharded_over_a_pooled_dim():
    """And over dims that are kept, evenly or not; some ranks may have no set at all."""
    Shard, Replicate = tensors().Shard, tensors().Replicate
    world = dist.get_world_size()
    meshes = [((world,), [Shard(2)])]
    shapes = [(world, 1), (1, world)] + ([(2, world // 2)] if world == 4 else [])
    for shape in shapes:
        for points in ([Shard(0), Shard(2)], [Shard(2), Shard(1)], [Replicate(), Shard(2)]):
            meshes.append((shape, points))
    for sizes, weighed in (((5, 4, 10), (5, 1, 10)), ((1, 7, 9), (9,))):
        x, weight = torch.randn(sizes, dtype=torch.float64), torch.rand(weighed).double()
        alpha = torch.rand(sizes[1], 1, dtype=torch.float64) + 0.5
        factor = torch.rand(sizes[:2], dtype=torch.float64)
        for t in (x, weight, alpha, factor):
            dist.broadcast(t, 0)
        whole = [t.clone().requires_grad_() for t in (x, alpha, weight)]
        y0 = ddn_cuda.robust_pool(whole[0], "welsch", whole[1], weight=whole[2])
        expected = torch.autograd.grad((y0 * factor).sum(), whole)
        for shape, points in meshes:
            what = (shape, points, sizes)
            device_mesh = tensors().init_device_mesh("cpu", shape)

            def place(t, has_points, device_mesh=device_mesh, points=points):
                placements = placed_as(points, t, 3, has_points)
                return tensors().distribute_tensor(t, device_mesh, placements)

            mine = [tensors().distribute_tensor(x, device_mesh, points)]
            mine += [place(alpha, False), place(weight, True)]
            mine = [t.requires_grad_() for t in mine]
            y = pool()(mine[0], "welsch", mine[1], weight=mine[2])
            kept = [p if p == Shard(0) or p == Shard(1) else Replicate() for p in points]
            assert list(y.placements) == kept, what
            assert y.shape == y0.shape, what
            close(y.full_tensor(), y0, torch.float64, what=what)
            scaled = y * tensors().distribute_tensor(factor, device_mesh, kept)
            found = torch.autograd.grad(scaled.sum(), mine)
            for got, want, t in zip(found, expected, mine, strict=True):
                assert got.shape == t.shape, what
                assert torch.allclose(got.full_tensor(), want, rtol=1e-9, atol=1e-12), what
            with_dim = pool()(mine[0], "welsch", mine[1], weight=mine[2], keepdim=True)
            assert torch.equal(with_dim.full_tensor().squeeze(-1), y.full_tensor()), what


@check
def dtensors_that_sharded_robust_pool_refuses():
    Shard, Replicate = tensors().Shard, tensors().Replicate
    x, weight = torch.randn(3, 4, 10), torch.rand(10)
    with pytest.raises(ValueError, match="expected placements of which one shards a pooled dim"):
        pool()(distributed(x, Shard(0)))
    with pytest.raises(TypeError, match="`weight` is a plain tensor; expected a DTensor"):
        pool()(distributed(x, Shard(2)), weight=weight)
    with pytest.raises(ValueError, match="`weight` is a DTensor with placements"):
        pool()(distributed(x, Shard(2)), weight=distributed(weight, Replicate()))


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


# ---- Processes -----------------------------------------------------------------------------------


def work(rank, world, folder, names):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    failed = {}
    for name in names:
        torch.manual_seed(0)
        try:
            CHECKS[name]()
        except BaseException:
            failed[name] = traceback.format_exc()
        # A rank that failed alone would leave the others waiting in the next check.
        dist.barrier()
    with open(f"{folder}/{rank}.pkl", "wb") as file:
        pickle.dump(failed, file)
    dist.destroy_process_group()
    # DTensor's caches keep groups and their threads, and such a thread that asks a finalising
    # interpreter for its lock aborts the process.
    os._exit(0)


def run(world, folder, names):
    """{name of a check: tracebacks of the ranks that failed}"""
    mp.spawn(work, (world, str(folder), names), nprocs=world)
    found: dict[str, list[str]] = {}
    for rank in range(world):
        with open(folder / f"{rank}.pkl", "rb") as file:
            for name, trace in pickle.load(file).items():
                found.setdefault(name, []).append(f"rank {rank}: {trace}")
    return found


@pytest.fixture(scope="module", params=[2, 3])
def failures(request, tmp_path_factory):
    return run(request.param, tmp_path_factory.mktemp("ranks"), list(CHECKS))


@pytest.mark.parametrize("name", CHECKS)
def test_on_several_ranks(name, failures):
    assert name not in failures, "\n".join(failures.get(name, []))


def test_a_mesh_of_two_by_two(tmp_path):
    name = "dtensors_sharded_over_a_pooled_dim"
    failures = run(4, tmp_path, [name])
    assert not failures, "\n".join(failures[name])


def test_without_a_process_group():
    with pytest.raises(RuntimeError, match="no process group; expected one"):
        pool()(torch.randn(3, 4))


def test_importing_the_package_does_not_load_dtensors():
    code = (
        "import sys, torch; old = set(sys.modules); import ddn_cuda; print(*set(sys.modules) - old)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "ddn_cuda.functional" in loaded
    assert not [name for name in loaded if name.startswith("torch.distributed.tensor")]
    assert "ddn_cuda.distributed" not in loaded
