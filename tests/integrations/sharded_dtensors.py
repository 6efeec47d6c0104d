"""DTensors: answers and gradients equal those of one process. test_distributed.py starts
several."""

import importlib

import pytest
import torch

import ddn_cuda
from tests.support.ranks import check, close, pool

dist = torch.distributed

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
def modules_with_several_alphas():
    """`distribute_module`, deferred or not: the answers of one process; alpha can be reset and set,
    and only its own rank is needed for a repr."""
    Shard = tensors().Shard
    x = torch.randn(4, 3, 9)
    dist.broadcast(x, 0)
    for learn in (False, True):
        for alpha in (0.5, [[0.5], [1.0], [2.0]]):
            whole = ddn_cuda.RobustPool("huber", alpha, learn_alpha=learn)
            placed = ddn_cuda.RobustPool("huber", alpha, learn_alpha=learn)
            with torch.device("meta"):
                deferred = ddn_cuda.RobustPool("huber", alpha, learn_alpha=learn)
            for module in (placed, deferred):
                tensors().distribute_module(module, mesh())
            deferred = deferred.to_empty(device="cpu")
            for module in (placed, deferred):
                for dim in (0, 1):
                    y = module(distributed(x, Shard(dim)))
                    assert torch.allclose(y.full_tensor(), whole(x)), (learn, alpha, dim)
                module.alpha = 3.0
                assert torch.allclose(
                    module.alpha.full_tensor().double(), torch.tensor(3.0).double()
                )
                module.reset_parameters()
                assert torch.equal(module.double().alpha.full_tensor(), whole.double().alpha)
                if dist.get_rank() == 0:
                    assert repr(module) == repr(whole)
    with pytest.raises(TypeError, match=r"(?s)`alpha` is DTensor.*; expected .* full_tensor"):
        ddn_cuda.RobustPool(alpha=placed.alpha.detach())


@check
def learned_alphas_under_fsdp():
    """One alpha, of which other ranks have no part, and several; FSDP2, also deferred, and FSDP1
    with and without its original parameters."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    def network(device="cpu"):
        with torch.device(device):
            pool = ddn_cuda.RobustPool("huber", [[0.5], [1.0], [2.0]], dim=-1, learn_alpha=True)
            last = ddn_cuda.RobustPool("welsch", 2.0, learn_alpha=True)
            return torch.nn.Sequential(pool, torch.nn.Linear(3, 4), last)

    x = torch.randn(4, 3, 9)
    dist.broadcast(x, 0)
    whole = network()
    for p in whole.parameters():
        dist.broadcast(p.data, 0)
    expected = whole(x)
    expected.sum().backward()
    # FSDP2
    made, deferred = network(), network("meta")
    for model in (made, deferred):
        fully_shard(model, mesh=mesh())
    deferred.to_empty(device="cpu")
    for model in (made, deferred):
        for layer in (model[0], model[2]):
            layer.alpha = 3.0
            assert (layer.alpha.full_tensor() - 3).abs().max() < 1e-5
            layer.reset_parameters()
        for p, q in zip(model[1].parameters(), whole[1].parameters(), strict=True):
            p.data.copy_(distributed(q.data, tensors().Shard(0)))
        if dist.get_rank() == 0:
            assert repr(model[2]) == repr(whole[2])
        y = model(x)
        assert torch.allclose(y, expected, atol=1e-6)
        y.sum().backward()
        for p, q in zip(model.parameters(), whole.parameters(), strict=True):
            assert torch.allclose(p.grad.full_tensor(), q.grad, atol=1e-6)
    # FSDP1
    for original in (False, True):
        model = network()
        model.load_state_dict(whole.state_dict())
        model = FullyShardedDataParallel(
            model, device_id=torch.device("cpu"), use_orig_params=original
        )
        y = model(x)
        assert torch.allclose(y, expected, atol=1e-6)
        y.sum().backward()
        assert repr(model)
        with FullyShardedDataParallel.summon_full_params(model):
            model.module[2].alpha = 3.0
            assert float(model.module[2].alpha.detach()) == pytest.approx(3.0)


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
    """The placements of t, which broadcasts to a tensor of `rank` dims with placements `points`.
    mine: whether t has its own points if the pooled dim, the last, is sharded."""
    Shard, Replicate = tensors().Shard, tensors().Replicate
    found = []
    for p in points:
        own = p.dim - (rank - t.dim()) if isinstance(p, Shard) else -1
        there = own >= 0 and t.shape[own] > 1 and (mine or p.dim != rank - 1)
        found.append(Shard(own) if there else Replicate())
    return found


@check
def dtensors_sharded_over_a_pooled_dim():
    """Also over kept dims, evenly or not; some ranks may have no set."""
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
