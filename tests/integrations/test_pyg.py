"""`ddn_cuda.pyg.RobustAggregation`: what PyTorch Geometric asks of an aggregation, and networks."""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ddn_cuda

pytest.importorskip("torch_geometric", reason="ddn_cuda.pyg needs torch-geometric")

import torch_geometric.nn.aggr
from torch_geometric import EdgeIndex, Index
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv, GINConv, MessagePassing, PointNetConv, SAGEConv
from torch_geometric.nn.aggr import Aggregation, MultiAggregation
from torch_geometric.nn.resolver import aggregation_resolver

import ddn_cuda.pyg
from bench import graph_outliers as bench
from ddn_cuda.pyg import RobustAggregation

# Sizes of sets: one point, none, many, as first and as last.
LENGTHS = ([5, 1, 0, 17, 2], [0, 3, 0, 0], [4], [0, 0])


def offsets(lengths, device):
    return torch.tensor([0, *lengths], device=device).cumsum(0)


def indices(lengths, device):
    sets = torch.arange(len(lengths), device=device)
    return sets.repeat_interleave(torch.tensor(lengths, device=device))


def per_set(x, lengths, penalty, alpha, weight=None, **options):
    """The meaning: a loop over the sets of x (T, *channels), grouped."""
    answers = []
    pieces = x.split(lengths)
    weights = [None] * len(lengths) if weight is None else weight.split(lengths)
    for points, w in zip(pieces, weights, strict=True):
        if len(points):
            options |= {"dim": 0, "weight": w}
            answers.append(ddn_cuda.robust_pool(points, penalty, alpha, **options))
        else:
            answers.append(x.sum(0) * 0)
    return torch.stack(answers)


def assert_same(found, expected):
    """Equal to the last bit; NaN equals NaN."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


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
    aggr = RobustAggregation(penalty, 5.0)  # no point near a kink
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
        # A broadcast weight's gradient is a sum of all its points', in another order here.
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
    """On a CPU, and wherever PyG itself says that it is sorted."""
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
    """With `dim_size`: PyG itself reads max(index) where it is not given."""
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


# As a module


@pytest.mark.parametrize("learn_alpha", [False, True])
def test_alpha(learn_alpha):
    aggr = RobustAggregation("welsch", 0.3, learn_alpha=learn_alpha)
    assert len(list(aggr.parameters())) == learn_alpha
    assert len(list(aggr.buffers())) == (not learn_alpha)
    assert aggr.alpha.shape == ()
    assert aggr.alpha.item() == pytest.approx(0.3, rel=1e-6)
    assert aggr.alpha.requires_grad == learn_alpha


def test_a_fixed_alpha_is_the_number_that_was_given(penalty):
    """A float64 set is solved with that alpha, not with its float32 neighbour."""
    x = torch.randn(99, 4, dtype=torch.float64)
    y = RobustAggregation(penalty, 0.1)(x)[0]
    assert_same(y, ddn_cuda.robust_pool(x, penalty, 0.1, dim=0))


@pytest.mark.parametrize("name", ["pseudo_huber", "huber", "welsch"])
def test_the_gradient_of_a_learned_alpha(name):
    """Against central differences in log alpha."""
    x = torch.randn(40, 3, dtype=torch.float64)
    x[:8] += 3
    index = torch.arange(40) % 3

    def loss(log_alpha):
        aggr = RobustAggregation(name, math.exp(log_alpha))
        return aggr(x, index).square().sum().item()

    aggr = RobustAggregation(name, 1.2, learn_alpha=True).double()
    aggr(x, index).square().sum().backward()
    (parameter,) = aggr.parameters()
    at, step = parameter.item(), 1e-5
    slope = (loss(at + step) - loss(at - step)) / (2 * step)
    assert slope != 0
    assert parameter.grad.item() == pytest.approx(slope, rel=1e-5)


def test_a_learned_alpha_stays_positive_and_can_be_reset():
    aggr = RobustAggregation("huber", 0.5, learn_alpha=True)
    optimizer = torch.optim.SGD(aggr.parameters(), lr=100.0)
    x = torch.cat([torch.randn(20, 2), 5 + torch.rand(5, 2)])
    for sign in (1, -1, 1):
        optimizer.zero_grad()
        (sign * aggr(x).sum()).backward()
        optimizer.step()
        assert aggr.alpha > 0
    assert aggr.alpha.item() != pytest.approx(0.5)
    aggr.reset_parameters()
    assert aggr.alpha.item() == pytest.approx(0.5)


@pytest.mark.parametrize("learn_alpha", [False, True])
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
def test_an_alpha_tensor_goes_along_the_dims_of_the_output(dim, learn_alpha, device):
    """Whatever dim is aggregated: against one dense pool of each set and channel."""
    index = torch.tensor([0, 0, 1, 1, 1, 0], device=device)
    x = torch.randn(6, 6, 6, dtype=torch.float64, device=device)
    shape = [6, 6, 6]
    shape[dim] = 2
    for kept in itertools.product((False, True), repeat=3):
        alpha = 0.3 + torch.rand([n if k else 1 for n, k in zip(shape, kept, strict=True)])
        while alpha.dim() and alpha.shape[0] == 1:
            alpha = alpha[0]  # a shape of fewer dims, which broadcasts as well
        alpha = alpha.double()
        aggr = RobustAggregation("huber", alpha, learn_alpha=learn_alpha).to(device)
        found, own = aggr(x, index, dim=dim), aggr.alpha.detach().expand(shape)
        for s in range(2):
            chosen = x.index_select(dim, (index == s).nonzero()[:, 0])
            expected = ddn_cuda.robust_pool(
                chosen, "huber", own.select(dim, s).unsqueeze(dim), dim=dim
            )
            torch.testing.assert_close(found.select(dim, s), expected, rtol=1e-12, atol=1e-12)


def test_an_alpha_that_does_not_fit_the_output_raises(device):
    x = torch.randn(2, 6, 3, device=device)
    aggr = RobustAggregation("huber", torch.ones(2, 1, 1)).to(device)
    with pytest.raises(ValueError, match=r"`alpha` has shape \[2, 1, 1\]; .*output, \[1, 6, 3\]"):
        aggr(x, dim=0)


@pytest.mark.parametrize("learn_alpha", [False, True])
def test_state_dict(learn_alpha):
    source = RobustAggregation("huber", 0.25, learn_alpha=learn_alpha)
    target = RobustAggregation("huber", 3.0, learn_alpha=learn_alpha)
    x = torch.randn(20, 3)
    assert not torch.equal(source(x), target(x))
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(source(x), target(x))


@pytest.mark.parametrize("learn_alpha", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(copied, learn_alpha):
    aggr = RobustAggregation("W", 0.3, learn_alpha=learn_alpha, max_iter=50, tol=1e-3)
    twin = copied(aggr)
    x, index = torch.randn(20, 3), torch.arange(20) % 3
    assert torch.equal(aggr(x, index), twin(x, index))
    assert repr(aggr) == repr(twin)


def test_repr():
    assert repr(RobustAggregation()) == "RobustAggregation('huber', alpha=1, solver='global')"
    shown = repr(RobustAggregation("TQ", 0.25, learn_alpha=True, max_iter=7, tol=0.125))
    for part in ("'TQ'", "alpha=0.25", "learn_alpha=True", "max_iter=7", "tol=0.125"):
        assert part in shown
    assert "\n" not in shown


@pytest.mark.parametrize("to", [torch.float32, torch.float64])
@pytest.mark.parametrize("learn_alpha", [False, True])
def test_it_moves_with_its_model(to, learn_alpha, device):
    aggr = RobustAggregation("huber", 0.5, learn_alpha=learn_alpha).to(device, to)
    y = aggr(torch.randn(9, 2, dtype=to, device=device))
    assert y.dtype == to


# Errors


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf, 1e31])
def test_a_bad_alpha_raises(alpha):
    with pytest.raises(ValueError, match=r"`alpha` is .*expected a float in 1e-30 to 1e30"):
        RobustAggregation("huber", alpha)


def test_bad_arguments_raise():
    with pytest.raises(TypeError, match="`alpha` is '1'; expected a float"):
        RobustAggregation("huber", "1")
    with pytest.raises(TypeError, match="`learn_alpha` is 1; expected True or False"):
        RobustAggregation("huber", learn_alpha=1)
    x = torch.ones(4, 2)
    with pytest.raises(ValueError, match=r"`penalty`.*'l1'"):
        RobustAggregation("l1")(x)
    with pytest.raises(ValueError, match=r"`solver`.*'newton'"):
        RobustAggregation(solver="newton")(x)


# Each row: what the call adds to x of shape (4, 2), the exception, what of its message matters.
BAD_CALLS = [
    (dict(index=torch.zeros(4)), TypeError, r"`index` is of dtype torch.float32; expected int64"),
    (dict(index=torch.zeros(3, dtype=torch.int64)), ValueError, r"`index` has shape \[3\].*\[4\]"),
    (dict(index=torch.zeros(4, 2, dtype=torch.int64)), ValueError, r"`index` has shape \[4, 2\]"),
    (dict(index=torch.tensor([0, 1, 2, 3]), dim_size=3), ValueError, "'dim_size'.*'3'.*'4'"),
    (dict(index=torch.tensor([0, -1, 1, 0])), IndexError, r"`index` holds -1 to 1.*\[0, 2\)"),
    (dict(ptr=torch.tensor([0, 4]), dim_size=2), ValueError, "dim_size"),
    (dict(dim=2), ValueError, "dimension '2'"),
    (dict(dim=-3), ValueError, "dimension '-3'"),
    (dict(weight=torch.ones(3, 1)), ValueError, r"`weight` has shape \[3, 1\].*\[4, 2\]"),
    (dict(weight=torch.ones(2, 4, 2)), ValueError, r"`weight` has shape \[2, 4, 2\].*\[4, 2\]"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_CALLS)
def test_a_bad_call_raises(options, error, message):
    with pytest.raises(error, match=message):
        RobustAggregation()(torch.ones(4, 2), **options)


# In PyG


def test_it_is_an_aggregation():
    assert issubclass(RobustAggregation, Aggregation)


def ring(nodes, device):
    """Edges of a ring in both directions, in no order."""
    a = torch.arange(nodes, device=device)
    edges = torch.cat([torch.stack([a, (a + 1) % nodes]), torch.stack([(a + 1) % nodes, a])], 1)
    return edges[:, torch.randperm(2 * nodes, device=device)]


class Neighbours(MessagePassing):
    """What the neighbours hold, aggregated."""

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=x)

    def message(self, x_j):
        return x_j


def test_in_message_passing(penalty, device):
    x, edges = torch.randn(10, 3, device=device), ring(10, device)
    conv = Neighbours(aggr=RobustAggregation(penalty, 0.5)).to(device)
    y = conv(x, edges)
    for node in range(10):
        around = x[edges[0, edges[1] == node]]
        expected = ddn_cuda.robust_pool(around, penalty, 0.5, dim=0)
        assert_same(y[node], expected)


def test_a_node_without_neighbours_gets_zero(device):
    edges = torch.tensor([[0, 1], [1, 0]], device=device)
    conv = Neighbours(aggr=RobustAggregation("welsch")).to(device)
    assert (conv(torch.randn(4, 3, device=device), edges)[2:] == 0).all()


@pytest.mark.parametrize("order", ["row", "col"])
def test_with_an_edge_index_that_knows_its_order(order, device):
    x, edges = torch.randn(10, 3, device=device), ring(10, device)
    conv = Neighbours(aggr=RobustAggregation("huber", 0.5)).to(device)
    sorted_edges, _ = EdgeIndex(edges, sparse_size=(10, 10)).sort_by(order)
    assert_same(conv(x, sorted_edges), conv(x, edges))


@pytest.mark.parametrize(
    "make",
    [
        lambda aggr: SAGEConv(3, 5, aggr=aggr),
        lambda aggr: GCNConv(3, 5, aggr=aggr),
        lambda aggr: GINConv(nn.Linear(3, 5), aggr=aggr),
    ],
    ids=["SAGEConv", "GCNConv", "GINConv"],
)
def test_in_layers_of_pyg(make, device):
    aggr = RobustAggregation("pseudo_huber", 0.5, learn_alpha=True)
    conv = make(aggr).to(device)
    x = torch.randn(10, 3, device=device, requires_grad=True)
    # Five neighbours each: of two, the answer is the middle, whatever alpha is.
    edges = torch.randint(0, 10, (2, 50), device=device)
    edges[1] = torch.arange(50, device=device) % 10
    y = conv(x, edges)
    assert y.shape == (10, 5)
    y.square().sum().backward()
    assert x.grad.abs().sum() > 0
    (parameter,) = aggr.parameters()
    assert parameter.grad.abs() > 0
    with torch.no_grad():
        parameter.fill_(3.0)
    conv.reset_parameters()
    assert aggr.alpha.item() == pytest.approx(0.5)
    # PyG writes its layers down with their aggregation.
    assert "RobustAggregation('pseudo_huber'" in repr(conv.aggr_module)
    pickle.loads(pickle.dumps(conv))


def test_among_several(device):
    x, index = torch.randn(20, 3, device=device), torch.arange(20, device=device) % 4
    robust = RobustAggregation("welsch", 0.5)
    several = MultiAggregation(["mean", robust, "max"]).to(device)
    y = several(x, index)
    assert y.shape == (4, 9)
    assert torch.equal(y[:, 3:6], robust(x, index))


@pytest.fixture
def registered():
    ddn_cuda.pyg.register()
    yield
    del torch_geometric.nn.aggr.RobustAggregation


def test_pyg_finds_it_by_name_once_registered(registered, device):
    ddn_cuda.pyg.register()
    options = {"penalty": "welsch", "alpha": 0.25, "learn_alpha": True}
    for name in ("robust", "Robust", "RobustAggregation"):
        aggr = aggregation_resolver(name, **options)
        assert type(aggr) is RobustAggregation
        assert "'welsch', alpha=0.25, learn_alpha=True" in repr(aggr)
    conv = SAGEConv(3, 5, aggr="robust", aggr_kwargs={"penalty": "welsch"}).to(device)
    assert conv(torch.randn(10, 3, device=device), ring(10, device)).shape == (10, 5)
    several = MultiAggregation(["mean", "robust"], aggrs_kwargs=[{}, {"alpha": 2.0}])
    assert several.aggrs[1].alpha == 2


def test_pyg_does_not_find_it_unless_asked():
    with pytest.raises(ValueError, match="Could not resolve 'robust'"):
        aggregation_resolver("robust")


def test_as_a_read_out_of_a_batch(device):
    graphs = [Data(x=torch.randn(n, 3), num_nodes=n) for n in (4, 1, 9)]
    batch = Batch.from_data_list(graphs).to(device)
    aggr = RobustAggregation("huber", 0.5).to(device)
    by_index, by_ptr = aggr(batch.x, batch.batch), aggr(batch.x, ptr=batch.ptr)
    assert torch.equal(by_index, by_ptr)
    for graph, y in zip(graphs, by_index, strict=True):
        assert_same(y, aggr(graph.x.to(device))[0])


# Networks


@pytest.fixture
def one_thread():
    """For networks so small that threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fall_of_loss(model, batches, steps, lr=1e-2):
    """The last loss over the first; every gradient on the way is finite."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        for inputs, labels in batches:
            loss = F.cross_entropy(model(*inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            grads = [p.grad for p in model.parameters()]
            assert all(g is not None and g.isfinite().all() for g in grads)
            optimizer.step()
            losses.append(loss.item())
    return sum(losses[-len(batches) :]) / sum(losses[: len(batches)])


def rings_and_stars(count, device):
    """Graphs of 8 to 12 nodes: rings (0) and stars (1), noisy features, some of them absurd."""
    graphs = []
    for i in range(count):
        n = int(torch.randint(8, 13, ()))
        leaves = torch.arange(1, n)
        star = torch.cat([torch.stack([leaves, 0 * leaves]), torch.stack([0 * leaves, leaves])], 1)
        x = torch.randn(n, 2) + 0.5 * (2 * (i % 2) - 1)
        x[:1] += 50 * torch.randn(1, 2)
        graphs.append(Data(x=x, edge_index=star if i % 2 else ring(n, "cpu"), y=i % 2))
    return Batch.from_data_list(graphs).to(device)


class GraphNetwork(nn.Module):
    """GIN: two layers that aggregate neighbours, and a read-out, all robustly."""

    def __init__(self, penalty):
        super().__init__()

        def layer(width):
            mlp = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
            return GINConv(mlp, train_eps=True, aggr=RobustAggregation(penalty, 1.0))

        self.first, self.second = layer(2), layer(16)
        self.read_out = RobustAggregation(penalty, 1.0, learn_alpha=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x, edge_index, index, count):
        x = self.second(self.first(x, edge_index), edge_index)
        return self.head(self.read_out(x, index, dim_size=count))


@pytest.mark.parametrize("name", ["pseudo_huber", "huber", "welsch", "truncated_quadratic"])
def test_a_graph_network_trains(name, device, one_thread):
    model = GraphNetwork(name).to(device)
    batches = []
    for _ in range(2):
        batch = rings_and_stars(32, device)
        batches.append(((batch.x, batch.edge_index, batch.batch, 32), batch.y))
    alpha = model.read_out.alpha.item()
    assert fall_of_loss(model, batches, steps=60) < 1 / 5
    if name != "truncated_quadratic":  # whose answer does not move with alpha, but for its inliers
        assert model.read_out.alpha.item() != alpha


class PointNetwork(nn.Module):
    """PointNet++: neighbourhoods of some of the points, each aggregated; then all of them."""

    def __init__(self, penalty):
        super().__init__()
        local = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16))
        aggr = RobustAggregation(penalty, 1.0)
        self.conv = PointNetConv(local, nn.ReLU(), add_self_loops=False, aggr=aggr)
        self.lift = nn.Sequential(nn.Linear(19, 32), nn.ReLU(), nn.Linear(32, 32))
        self.read_out = RobustAggregation(penalty, 1.0)
        self.head = nn.Linear(32, 2)

    def forward(self, pos, index, count):
        centers = torch.arange(0, len(pos), 4, device=pos.device)
        near = torch.cdist(pos[centers], pos) < 0.8
        near &= index[centers, None] == index
        to, of = near.nonzero(as_tuple=True)  # grouped by center
        features = self.conv((None, None), (pos, pos[centers]), torch.stack([of, to]))
        features = self.lift(torch.cat([features, pos[centers]], 1))
        return self.head(self.read_out(features, index[centers], dim_size=count))


def test_a_point_network_trains(device, one_thread):
    """Flat and round clouds of 40 points, a tenth of the points anywhere."""
    clouds = torch.randn(24, 40, 3)
    clouds[::2, :, 2] *= 0.1
    clouds[:, :4] = 6 * torch.rand(24, 4, 3) - 3
    index = torch.arange(24, device=device).repeat_interleave(40)
    labels = torch.arange(24, device=device) % 2
    model = PointNetwork("huber").to(device)
    batches = [((clouds.reshape(-1, 3).to(device), index, 24), labels)]
    assert fall_of_loss(model, batches, steps=100) < 1 / 5


# The comparison with PyG's own


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """One run with few sets."""
    file = tmp_path_factory.mktemp("graph_outliers") / "new" / "graph_outliers.json"
    assert bench.main(["--sets", "300", "--output", str(file)]) == 0
    return json.loads(file.read_text())


def test_the_comparison_measures_what_it_says(comparison):
    rows = comparison["rows"]
    mean, median = rows["mean"], rows["median"]
    # The replaced points were at the centre, on average: 300 sets tell it to 0.01.
    for found, outliers in ((mean["shift_one"], 1), (mean["shift_share"], 10)):
        distances = comparison["settings"]["distances"]["one" if outliers == 1 else "share"]
        for shift, distance in zip(found, distances, strict=True):
            assert shift == pytest.approx(outliers / 32 * distance, abs=0.05)
    assert mean["gradient_of_outlier"] == pytest.approx(1 / 32)
    assert median["points_with_gradient"] == pytest.approx(1 / 32)
    assert rows["max"]["gradient_of_outlier"] == 1


def test_what_the_docs_say_of_outliers(comparison):
    rows = comparison["rows"]
    for name, row in rows.items():
        if name.startswith(("mean", "max", "softmax")):
            assert row["shift_one"][1] > 30, name
        elif not name.startswith("powermean"):
            assert abs(row["shift_one"][1]) < 0.1, name
        if name.startswith(("welsch", "truncated")):
            assert abs(row["shift_share"][2]) < 0.02, name
            assert row["gradient_of_outlier"] < 1e-4, name
    assert rows["median"]["clean_spread"] > 1.15
    assert max(rows[name]["clean_spread"] for name in rows if "alpha" in name) < 1.1


def test_the_table_of_the_docs_is_that_of_the_figures():
    result = json.loads(bench.RESULT.read_text())
    docs = (bench.RESULT.parent.parent.parent / "docs" / "graphs.md").read_text()
    assert bench.as_table(result) in docs


# Imports


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_importing_ddn_cuda_does_not_import_torch_geometric():
    done = run_python(
        "import sys, ddn_cuda, ddn_cuda.compat; "
        "assert not any(m.split('.')[0] == 'torch_geometric' for m in sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_without_torch_geometric_the_import_says_what_to_install():
    # None in sys.modules: as if it were not installed.
    done = run_python("import sys; sys.modules['torch_geometric'] = None; import ddn_cuda.pyg")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ddn_cuda.pyg needs PyTorch Geometric")
    assert "pip install torch-geometric" in last
