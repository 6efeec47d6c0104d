"""`ddn_cuda.pyg.RobustAggregation`: answers and gradients equal those of a loop over the sets."""

from __future__ import annotations

import math

import pytest
import torch

import ddn_cuda

pytest.importorskip("torch_geometric", reason="ddn_cuda.pyg needs torch-geometric")

from torch_geometric import Index

import ddn_cuda.pyg
from ddn_cuda.pyg import RobustAggregation
from tests.support.segments import LENGTHS, assert_same, indices, offsets, per_set

# Answers and gradients


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_answers_are_those_of_a_loop(lengths, penalty, device, dtype):
    x = (2 * torch.randn(sum(lengths), 3, dtype=dtype, device=device)).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    aggr = RobustAggregation(penalty, 0.8).to(device)
    expected = per_set(twin, lengths, penalty, 0.8)
    grad = torch.randn(len(lengths), 3, dtype=dtype, device=device)
    expected.backward(grad)
    for sets in (
        dict(ptr=offsets(lengths, device)),
        dict(index=indices(lengths, device), dim_size=len(lengths)),
        dict(index=indices(lengths, device).int(), dim_size=len(lengths)),
        dict(ptr=offsets(lengths, device), index=indices(lengths, device)),
    ):
        x.grad = None
        y = aggr(x, **sets)
        assert y.shape == (len(lengths), 3)
        assert (y.dtype, y.device) == (x.dtype, x.device)
        assert_same(y, expected)
        y.backward(grad)
        assert_same(x.grad, twin.grad)


def test_an_unsorted_index_gives_the_bits_of_a_sorted_one(penalty, device, dtype):
    """If the order of the points within each set is the same, as after a stable sort."""
    index = torch.randint(0, 9, (200,), device=device)
    index[index == 4] = 5  # nobody in set 4
    x = torch.randn(200, 3, dtype=dtype, device=device, requires_grad=True)
    order = torch.argsort(index, stable=True)
    twin = x.detach()[order].requires_grad_()
    aggr = RobustAggregation(penalty, 0.5).to(device)
    y, expected = aggr(x, index, dim_size=10), aggr(twin, index[order], dim_size=10)
    assert torch.equal(y, expected)
    assert (y[[4, 9]] == 0).all()
    grad = torch.randn_like(y)
    y.backward(grad)
    expected.backward(grad)
    assert torch.equal(x.grad[order], twin.grad)


def test_a_set_does_not_depend_on_the_others(penalty, device):
    x = 3 * torch.randn(60, 4, device=device)
    x[0, 0] = math.nan
    index = torch.arange(60, device=device) % 4
    aggr = RobustAggregation(penalty, 0.5).to(device)
    y = aggr(x, index)
    assert y[0, 0].isnan()
    for s in range(4):
        assert_same(y[s], aggr(x[s::4])[0])


def test_neither_index_nor_ptr_is_one_set(device):
    x = torch.randn(20, 3, device=device)
    y = RobustAggregation("huber", 0.5).to(device)(x)
    assert y.shape == (1, 3)
    assert_same(y[0], ddn_cuda.robust_pool(x, "huber", 0.5, dim=0))


def test_index_alone_counts_the_sets(device):
    x = torch.randn(4, 2, device=device)
    y = RobustAggregation("huber").to(device)(x, torch.tensor([0, 3, 3, 1], device=device))
    assert y.shape == (4, 2)
    assert (y[2] == 0).all()
    assert_same(y[[0, 1]], x[[0, 3]])


def test_no_points_at_all(device):
    x = torch.empty(0, 3, device=device, requires_grad=True)
    aggr = RobustAggregation("welsch").to(device)
    index = torch.empty(0, dtype=torch.int64, device=device)
    assert aggr(x, index).shape == (0, 3)
    y = aggr(x, index, dim_size=2)
    assert torch.equal(y, torch.zeros(2, 3, device=device))
    y.sum().backward()
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize(
    ("shape", "dim"),
    [
        ((30,), 0),
        ((30, 4), 0),
        ((2, 30, 4), -2),
        ((2, 30, 4), 1),
        ((4, 2, 30), -1),
        ((30, 2, 4), 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_sorted", [True, False])
def test_any_dim(shape, dim, is_sorted, device):
    lengths = [7, 0, 22, 1]
    x = torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True)
    index = indices(lengths, device)
    if not is_sorted:
        index = index[torch.randperm(30, device=device)]
    order = torch.argsort(index, stable=True)
    twin = x.detach().clone().requires_grad_()
    y = RobustAggregation("welsch", 0.9).to(device)(x, index, dim_size=4, dim=dim)
    expected = per_set(twin.movedim(dim, 0)[order], lengths, "welsch", 0.9).movedim(0, dim)
    assert y.shape == expected.shape == (*shape[: dim % len(shape)], 4, *shape[dim:][1:])
    assert_same(y, expected)
    grad = torch.randn_like(y)
    y.backward(grad)
    expected.backward(grad)
    assert_same(x.grad, twin.grad)


def test_gradcheck(penalty):
    index = torch.tensor([2, 0, 0, 2, 2, 0, 3, 2])
    x = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
    aggr = RobustAggregation(penalty, 5.0)  # no point near a breakpoint
    assert torch.autograd.gradcheck(lambda x: aggr(x, index, dim_size=4), x)


@pytest.mark.parametrize("shape", [(12, 3), (12, 1), (1, 3), (3,), ()], ids=str)
@pytest.mark.parametrize("kind", ["real", "mask"])
@pytest.mark.parametrize("is_sorted", [True, False])
def test_weights(shape, kind, is_sorted, device):
    lengths = [5, 0, 7]
    x = torch.randn(12, 3, dtype=torch.float64, device=device)
    weight = torch.rand(shape, dtype=torch.float64, device=device)
    if kind == "mask":
        weight = weight > 0.3
    else:
        weight.requires_grad_()
    index = indices(lengths, device)
    if not is_sorted:
        index = index[torch.randperm(12, device=device)]
    order = torch.argsort(index, stable=True)
    aggr = RobustAggregation("huber", 0.5).to(device)
    y = aggr(x, index, weight=weight)
    full = weight.expand(12, 3)[order]
    expected = per_set(x[order], lengths, "huber", 0.5, full)
    assert_same(y, expected)
    if kind == "real":
        grad = torch.randn_like(y)
        (found,) = torch.autograd.grad(y, weight, grad)
        (wanted,) = torch.autograd.grad(expected, weight, grad)
        assert found.shape == shape
        # The gradient of a broadcast weight is a sum over its points, here in a different order.
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_weights_of_a_batched_input(device):
    x = torch.randn(2, 12, 3, dtype=torch.float64, device=device)
    weight = torch.rand(12, 1, dtype=torch.float64, device=device)
    index = torch.arange(12, device=device) % 3
    aggr = RobustAggregation("huber", 0.5).to(device)
    y = aggr(x, index, weight=weight)
    for one, answer in zip(x, y, strict=True):
        assert_same(answer, aggr(one, index, weight=weight))


@pytest.mark.parametrize("options", [{"max_iter": 2}, {"tol": 0.5}, {"solver": "local"}], ids=str)
def test_options_are_handed_on(options, device):
    penalty = "welsch" if "solver" in options else "pseudo_huber"
    x = torch.randn(99, 40, dtype=torch.float64, device=device)
    x[60:] += 4
    y = RobustAggregation(penalty, 0.25, **options).to(device)(x)
    expected = ddn_cuda.robust_pool(x, penalty, 0.25, dim=0, **options)
    assert_same(y[0], expected)
    assert not torch.allclose(y, RobustAggregation(penalty, 0.25).to(device)(x), rtol=1e-9)


def test_a_sorted_index_is_not_sorted_again(device, monkeypatch):
    """On a CPU, and if PyG marks the index as sorted."""
    x = torch.randn(12, 3, device=device)
    index = indices([5, 0, 7], device)
    aggr = RobustAggregation("huber").to(device)
    expected = aggr(x, ptr=offsets([5, 0, 7], device))

    def refuse(*_, **__):
        raise AssertionError("sorted")

    monkeypatch.setattr(torch, "sort", refuse)
    assert_same(aggr(x, Index(index, is_sorted=True, dim_size=3)), expected)
    if device.type == "cpu":
        assert_same(aggr(x, index), expected)
    with pytest.raises(AssertionError, match="sorted"):
        aggr(x, index.flip(0))


def test_a_strided_index(device):
    x = torch.randn(12, 3, device=device)
    index = torch.stack([indices([5, 0, 7], device)] * 2, 1)[:, 1]
    aggr = RobustAggregation("huber").to(device)
    assert torch.equal(aggr(x, index), aggr(x, index.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype, device):
    x = torch.randn(12, 3, device=device).to(dtype).requires_grad_()
    y = RobustAggregation("huber", 0.5).to(device)(x, indices([5, 0, 7], device))
    assert y.dtype == dtype
    assert_same(y[2], ddn_cuda.robust_pool(x[5:], "huber", 0.5, dim=0))
    y.sum().backward()
    assert x.grad.dtype == dtype


@pytest.mark.parametrize("sets", ["index", "ptr"])
def test_it_compiles_without_a_graph_break(sets, device):
    """With `dim_size`; without it, PyG reads max(index)."""
    aggr = RobustAggregation("pseudo_huber", 0.5, learn_alpha=True).to(device)
    index = torch.arange(12, device=device) % 3
    given = (
        dict(index=index, dim_size=3) if sets == "index" else dict(ptr=offsets([5, 0, 7], device))
    )
    x = torch.randn(12, 4, device=device, requires_grad=True)
    torch.compiler.reset()
    y = torch.compile(aggr, fullgraph=True, backend="aot_eager")(x, **given)
    assert_same(y, aggr(x, **given))
    y.square().sum().backward()
    assert x.grad.abs().sum() > 0
    (parameter,) = aggr.parameters()
    assert parameter.grad.abs() > 0


def test_nothing_waits_for_the_gpu(cuda):
    """With `ptr`, or with `dim_size`, and whatever the order of the index."""
    aggr = RobustAggregation("welsch", 0.5, learn_alpha=True).to(cuda)
    x = torch.randn(60, 4, device=cuda, requires_grad=True)
    index = torch.randint(0, 5, (60,), device=cuda)
    ptr = offsets([20, 0, 40], cuda)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for sets in (dict(index=index, dim_size=5), dict(ptr=ptr)):
            aggr(x, **sets).square().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
