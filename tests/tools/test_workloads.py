"""The workloads and timing of benchmarks: points are as documented, operations are interleaved."""

import time

import pytest
import torch

import ddn_cuda
from bench import timing, workloads
from bench.timing import SELDOM, ratio, summarize, time_interleaved
from bench.workloads import Workload

# Timing


def test_percentiles():
    found = summarize([float(i) for i in range(11)])
    assert (found.low, found.median, found.high, found.repetitions) == (1, 5, 9, 11)


def test_operations_are_interleaved_and_the_budget_holds():
    calls = []
    operations = {name: lambda name=name: calls.append(name) for name in "ab"}
    cpu = torch.device("cpu")
    timings = time_interleaved(operations, cpu, rounds=3, budget_seconds=60)
    assert "".join(calls) == "aabb" + "ab" * 3
    assert timings["a"].repetitions == 3
    assert time_interleaved(operations, cpu, rounds=9, budget_seconds=0)["b"].repetitions == 1


def test_slow_operations_run_seldom_and_the_rest_each_round():
    calls = []
    operations = {name: lambda name=name: calls.append(name) for name in "ab"}
    cpu = torch.device("cpu")
    rounds = SELDOM + 1
    timings = time_interleaved(operations, cpu, rounds=rounds, budget_seconds=60, seldom=["b"])
    assert timings["a"].repetitions == rounds
    assert timings["b"].repetitions == 2


def test_ratios_are_of_medians_with_the_spread_within_the_rounds():
    times = ratio(summarize([2.0, 4.0, 12.0]), summarize([1.0, 2.0, 3.0]))
    assert times.median == 2
    assert times.samples == (2, 2, 4)


@pytest.mark.parametrize(("host", "flushes"), [(0, 1), (0.4e-3, 1), (3.2e-3, 7), (1, 20)])
def test_a_gpu_is_kept_busy_until_the_operation_is_launched(host, flushes, monkeypatch):
    clock = object.__new__(timing._GpuClock)
    clock.flush_seconds = 1e-3
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "synchronize", lambda: None)
        patched.setattr(time, "perf_counter", iter([0.0, host]).__next__)
        found = clock.prepare(lambda: None)
    assert found == flushes


# Points and workloads


def generator():
    return torch.Generator().manual_seed(0)


def test_points_have_the_outliers_they_are_said_to_have():
    x = workloads.outliers((100_000,), generator()).double()
    far = x[x.abs() > 5]
    assert far.abs().max() <= 10
    assert abs(len(far) / len(x) - 0.05) < 0.005
    assert abs((far > 0).double().mean() - 0.5) < 0.05


def test_two_modes_have_the_shares_they_are_said_to_have():
    x = workloads.bimodal((100_000,), generator())
    left, right = x[x < 0], x[x > 0]
    assert abs(len(left) / len(x) - 0.55) < 0.01
    assert abs(left.mean() + 3) < 0.02
    assert abs(right.std() - 1) < 0.02


def test_heavy_tails_are_those_of_two_degrees_of_freedom():
    x = workloads.heavy_tailed((1_000_000,), generator())
    for quantile, expected in ((0.75, 0.8165), (0.95, 2.9200), (0.995, 9.9248)):
        assert x.double().sort().values[int(quantile * len(x))] == pytest.approx(expected, rel=0.02)


def test_activations_have_exact_zeros_and_are_those_of_a_network(monkeypatch):
    pytest.importorskip("sklearn", reason="the network learns scikit-learn's digits")
    monkeypatch.setattr(workloads, "CLOUDS", 2)
    monkeypatch.setattr(workloads, "MOST_DISTINCT", 64)
    workloads._features.cache_clear()
    x = workloads.activations((600, 100), generator())
    workloads._features.cache_clear()
    assert x.min() == 0
    assert 0.2 < (x == 0).double().mean() < 0.8
    assert x.max() < 30
    assert torch.equal(x[:88], x[512:])  # channels are assigned cyclically
    assert len({tuple(row.tolist()) for row in x}) > 400
    assert max(len(row.unique()) for row in x) <= 64


@pytest.mark.parametrize("data", sorted(set(workloads.DATA) - {"activations"}))
def test_points_are_the_same_each_time(data):
    cpu = torch.device("cpu")
    one, other = (
        workloads.make(Workload("w", "", (3, 50)), data, torch.float64, cpu).x for _ in range(2)
    )
    assert torch.equal(one, other)


def test_workloads_are_as_large_as_promised():
    sizes = {name: (w.sets, w.points) for name, w in workloads.WORKLOADS.items()}
    assert sizes["pointnet-32"] == (32 * 1024, 32 << 20)
    assert sizes["pointnet-128"] == (128 * 1024, 256 << 20)
    assert sizes["modelnet"] == (8 * 1024, 8 << 20)
    assert sizes["image"] == (256 * 2048, 256 * 2048 * 49)
    assert sizes["ensemble"] == (100_000, 1_000_000)
    assert sizes["huge"] == (1, 1 << 24)
    graphs = workloads.WORKLOADS["graphs"].lengths()
    assert 10 <= min(graphs) < 11
    assert 9_900 < max(graphs) <= 10_000
    assert graphs != sorted(graphs)


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_workloads_are_scaled_by_taking_fewer_sets(name):
    whole = workloads.WORKLOADS[name]
    small = whole.scaled(1 << 20)
    assert small.points <= 1 << 20 or small.sets == 1 or small.shape[0] == 1
    assert small.points_per_set == whole.points_per_set
    assert whole.scaled(whole.points) == whole


SMALL = [
    Workload("rows", "", (6, 65)),
    Workload("image", "", (2, 3, 7, 7), (-2, -1)),
    Workload("graphs", "", (0, 4), segments=5, shortest=3, longest=40),
]


@pytest.mark.parametrize("workload", SMALL, ids=lambda w: w.name)
def test_sets_are_those_that_are_pooled(workload):
    sets = workloads.make(workload, "outliers", torch.float64, torch.device("cpu"))
    assert sets.count == workload.sets
    assert sets.x.numel() == workload.points
    y = sets.pool("welsch", 1.0, "global")(sets.x).flatten()
    mean = sets.reduction("mean")(sets.x).flatten()
    for i in range(sets.count):
        points = sets.of(sets.x, i)
        assert torch.equal(y[i], ddn_cuda.robust_pool(points, "welsch", 1.0))
        assert mean[i] == pytest.approx(points.mean())
