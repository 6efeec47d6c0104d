"""`ddn_cuda.pyg.RobustAggregation` in layers and networks of PyTorch Geometric."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ddn_cuda

pytest.importorskip("torch_geometric", reason="ddn_cuda.pyg needs torch-geometric")

import torch_geometric.nn.aggr
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCNConv, GINConv, MessagePassing, PointNetConv, SAGEConv
from torch_geometric.nn.aggr import Aggregation, MultiAggregation
from torch_geometric.nn.resolver import aggregation_resolver

import ddn_cuda.pyg
from bench import graph_outliers as bench
from ddn_cuda.pyg import RobustAggregation
from tests.support.segments import assert_same

# In PyG


def test_it_is_an_aggregation():
    assert issubclass(RobustAggregation, Aggregation)


def ring(nodes, device):
    """Edges of a ring in both directions, unordered."""
    a = torch.arange(nodes, device=device)
    edges = torch.cat([torch.stack([a, (a + 1) % nodes]), torch.stack([(a + 1) % nodes, a])], 1)
    return edges[:, torch.randperm(2 * nodes, device=device)]


class Neighbours(MessagePassing):
    """A layer that aggregates the features of neighbours."""

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
    # Five neighbours each; with two, the answer would be the midpoint for any alpha.
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
    # PyG's repr of a layer includes its aggregation.
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
    """One thread, since the networks are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fall_of_loss(model, batches, steps, lr=1e-2):
    """The ratio of the last and the first loss; checks that all gradients are finite."""
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
    """Graphs of 8 to 12 nodes: rings (0) and stars (1), with noisy features and outliers."""
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
    if name != "truncated_quadratic":  # whose answer depends on alpha only through its inliers
        assert model.read_out.alpha.item() != alpha


class PointNetwork(nn.Module):
    """PointNet++: aggregates neighbourhoods of some points, then all of these."""

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
    """Flat and round clouds of 40 points, a tenth of them outliers."""
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
    # The replaced points were at the centre on average; 300 sets determine the mean to 0.01.
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
