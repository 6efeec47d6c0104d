"""The tools of bench/: each must be able to find what it is there to find."""

import functools
import json
import re
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ddn_cuda
from bench import __main__ as bench
from bench import (
    compare,
    contenders,
    correctness,
    cuda_tests,
    gpu_check,
    growth,
    kernel_cases,
    kernel_resources,
    machine,
    nodes,
    profile_kernels,
    sanitizer_case,
    targets,
    targets_gpu,
    timing,
    workloads,
)
from bench.cuda_tests import NOT_RUN
from bench.gpu_check import Step, run_steps
from bench.kernel_resources import Kernel, parse_ptxas, short_name, verdict
from bench.timing import SELDOM, ratio, summarize, time_interleaved
from bench.workloads import Sets, Workload
from tests import conftest
from tests.support import ROOT, oracle

# What ptxas of CUDA 13 prints, with spills in one kernel and in a function that is no kernel.
REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z6kernelIdLi64EEvPT_' for 'sm_80'
ptxas info    : Function properties for _Z6kernelIdLi64EEvPT_
    512 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 96 registers, used 1 barriers, 512 bytes cumulative stack size, 512 bytes smem
ptxas info    : Compile time = 66.739 ms
ptxas info    : Compiling entry function '_Z6kernelIfLi8EEvPT_' for 'sm_90'
ptxas info    : Function properties for _Z6kernelIfLi8EEvPT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 29 registers, used 1 barriers
ptxas info    : Function properties for _Z6helperf
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
"""


def test_ptxas_report_is_parsed():
    double, single, helper = parse_ptxas(REPORT)
    assert double == Kernel("_Z6kernelIdLi64EEvPT_", "sm_80", 96, 512, 512, 8, 16)
    assert single == Kernel("_Z6kernelIfLi8EEvPT_", "sm_90", 29)
    assert helper == Kernel("_Z6helperf", "sm_90", 0, 0, 8, 4, 4)
    assert [k.spills for k in (double, single, helper)] == [True, False, True]


SPILLING: dict[str, Any] = {"arch": "sm_90", "spill_stores": 4, "spill_loads": 4}


@pytest.mark.parametrize(
    ("kernel", "accepted", "good"),
    [
        (Kernel("void f<Huber, float>(Args)", "sm_90"), {}, True),
        (Kernel("void f<Huber, float>(Args)", **SPILLING), {}, False),
        (Kernel("void f<Huber, float>(Args)", **SPILLING), {"Huber": "why"}, True),
        (Kernel("void f<Huber, float>(Args)", **SPILLING), {"Welsch": "why"}, False),
        (Kernel("helper(int)", **SPILLING), {}, False),
        (Kernel("void f<Huber, double>(float)", **SPILLING), {}, False),
        (Kernel("void f<Huber, double>(float)", **SPILLING), {"Huber, double": "why"}, True),
        (Kernel("void f<float>(Args)", **{**SPILLING, "arch": "sm_80"}), {"f<float>": "why"}, True),
        (Kernel("void f<float>(Args)", **{**SPILLING, "arch": "sm_80"}), {}, False),
    ],
)
def test_which_spills_are_accepted(kernel, accepted, good):
    assert verdict(kernel, accepted)[0] is good


def test_a_spilling_report_fails(tmp_path, capsys):
    report = tmp_path / "log"
    report.write_text(REPORT)
    assert kernel_resources.main(["--report", str(report)]) == 1
    report.write_text("\n".join(REPORT.splitlines()[6:10]))
    assert kernel_resources.main(["--report", str(report)]) == 0
    assert "kernel<float, 8>" in capsys.readouterr().out
    report.write_text("nothing compiled")
    with pytest.raises(SystemExit, match="no kernel found"):
        kernel_resources.main(["--report", str(report)])


def test_the_largest_spill_of_a_called_function_counts():
    less = """\
ptxas info    : Function properties for _Z6helperf
    0 bytes stack frame, 0 bytes spill stores, 4 bytes spill loads
"""
    assert parse_ptxas(REPORT + less) == parse_ptxas(REPORT)


def test_kernels_are_listed_and_functions_only_where_they_spill(capsys):
    kernels = [
        Kernel("void f<ddn::Huber, float, ddn::cuda::Block<8> >(A)", "sm_90", 96, 512),
        Kernel("void f<ddn::Huber, double, ddn::cuda::Block<8> >(A)", "sm_90", 128, 512, 8),
        Kernel("quiet(int)", "sm_90", stack=8),
    ]
    assert kernel_resources.print_table(kernels, {})
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert kernel_resources.print_table(kernels, {}, condensed=True)
    _, row = capsys.readouterr().out.splitlines()
    assert row.split() == [
        "sm_90",
        "96-128",
        "16-20",
        "512",
        "0-8",
        "0",
        "2",
        "f<Huber,",
        "Block<8>>",
    ]
    kernels.append(Kernel("helper(int)", **SPILLING))
    assert not kernel_resources.print_table(kernels, {}, condensed=True)
    assert "helper" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "condensed"),
    [
        ("f<Huber, float, Block<256>, false>", "f<Huber, Block<256>>"),
        ("global<Welsch, double, 128, true>", "global<Welsch, 128>"),
        ("backward<Huber, Half, float>", "backward<Huber>"),
        ("sort_by_size", "sort_by_size"),
    ],
)
def test_templates_of_kernels(name, condensed):
    assert kernel_resources.template(name) == condensed


def test_short_names_of_kernels():
    name = "void ddn::cuda::(anonymous namespace)::back<ddn::Huber, float>(ddn::BackwardArgs)"
    assert short_name(name) == "back<Huber, float>"


@pytest.mark.parametrize(
    ("registers", "arch", "warps"),
    [
        (32, "sm_90", 64),
        (32, "sm_86", 48),
        (33, "sm_90", 48),
        (128, "sm_80", 16),
        (255, "sm_90", 8),
    ],
)
def test_registers_limit_the_warps(registers, arch, warps):
    assert kernel_resources.warps_by_registers(Kernel("k", arch, registers)) == warps


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
    assert torch.equal(x[:88], x[512:])  # channels are dealt out in turn
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


# Proof


@pytest.fixture
def sets():
    return workloads.make(
        Workload("w", "", (8, 3, 129)), "outliers", torch.float32, torch.device("cpu")
    )


def change(sets, monkeypatch, changed):
    """Ours, spoilt by changed(y)."""
    right = ddn_cuda.robust_pool
    monkeypatch.setattr(ddn_cuda, "robust_pool", lambda *a, **k: changed(right(*a, **k)))


@pytest.mark.parametrize(("penalty", "solver"), contenders.ours(list(correctness.PENALTIES)))
@pytest.mark.parametrize("data", ["outliers", "bimodal", "heavy-tailed"])
@pytest.mark.parametrize("dtype", list(workloads.DTYPES))
def test_right_answers_are_accepted(penalty, solver, data, dtype):
    for workload in SMALL:
        own = workloads.make(workload, data, workloads.DTYPES[dtype], torch.device("cpu"))
        assert correctness.check(penalty, own, 1.0, solver, most=5) == 5


@pytest.mark.parametrize("penalty", correctness.PENALTIES)
def test_wrong_answers_are_refused(sets, penalty, monkeypatch):
    change(sets, monkeypatch, lambda y: y + 1e-4)
    with pytest.raises(correctness.Wrong, match="an answer is"):
        correctness.check(penalty, sets, 1.0)


@pytest.mark.parametrize("penalty", contenders.NONCONVEX)
def test_local_minima_are_refused_as_global_ones(penalty, monkeypatch):
    x = torch.cat([torch.randn(16, 60, dtype=torch.float64), torch.full((16, 40), 4.0)], 1)
    x[:, 60:] += 0.1 * torch.randn(16, 40, dtype=torch.float64)
    x[:, :60] *= 3
    right = ddn_cuda.robust_pool

    def local(x, penalty, alpha, dim=-1, solver="global"):
        return right(x, penalty, alpha, dim=dim, solver="local")

    own = Sets(x, (-1,))
    correctness.check(penalty, own, 0.5, "global")
    correctness.check(penalty, own, 0.5, "local")
    monkeypatch.setattr(ddn_cuda, "robust_pool", local)
    with pytest.raises(correctness.Wrong, match="no global minimum"):
        correctness.check(penalty, own, 0.5, "global")


@pytest.mark.parametrize("penalty", correctness.PENALTIES)
def test_wrong_gradients_are_refused(sets, penalty, monkeypatch):
    change(sets, monkeypatch, lambda y: y + 0.01 * (y - y.detach()))
    with pytest.raises(correctness.Wrong, match="a gradient is off"):
        correctness.check(penalty, sets, 1.0)


def test_answers_that_depend_on_the_batch_are_refused(sets, monkeypatch):
    change(sets, monkeypatch, lambda y: y + 1e-7 * y.numel())
    with pytest.raises(correctness.Wrong, match="depends on its batch"):
        correctness.check("huber", sets, 1.0, most=4)


@pytest.mark.parametrize("name", contenders.REDUCTIONS)
def test_reductions_are_checked(sets, name, monkeypatch):
    assert correctness.check_reduction(name, sets) == 16
    wrong = lambda name: lambda x: x[..., 0]  # noqa: E731
    monkeypatch.setattr(sets, "reduction", wrong)
    with pytest.raises(correctness.Wrong, match=f"torch.{name}"):
        correctness.check_reduction(name, sets)


# Contenders


@pytest.mark.parametrize("penalty", nodes.FORMULAS)
def test_formulas_are_derivatives_of_each_other(penalty):
    z = torch.linspace(-3, 3, 101, dtype=torch.float64, requires_grad=True)
    value, slope, curvature = (f(z, 0.7, torch) for f in nodes.FORMULAS[penalty])
    torch.testing.assert_close(value, correctness.PENALTIES[penalty](z, 0.7))
    (first,) = torch.autograd.grad(value.sum(), z)
    torch.testing.assert_close(first, slope)
    torch.testing.assert_close(correctness.derivatives(penalty, z, 0.7)[1], curvature)
    as_numpy = [f(z.detach().numpy(), 0.7, np) for f in nodes.FORMULAS[penalty]]
    np.testing.assert_allclose(as_numpy, torch.stack([value, slope, curvature]).detach(), 1e-14)


@pytest.mark.parametrize("node", nodes.NODES)
@pytest.mark.parametrize("penalty", nodes.FORMULAS)
def test_nodes_find_the_minimum_and_its_gradient(node, penalty):
    x = workloads.outliers((6, 200), generator()).double().requires_grad_()
    y = nodes.NODES[node](x, penalty, 2.0)
    found = oracle.minimum(x.detach().numpy(), penalty, 2.0)
    expected = found.anchor + 2.0 * found.v
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-5)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    ours = x.detach().clone().requires_grad_()
    (wanted,) = torch.autograd.grad(ddn_cuda.robust_pool(ours, penalty, 2.0).sum(), ours)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("node", ["lbfgs", "newton"])
def test_compiled_nodes_answer_as_the_others(node):
    x = workloads.outliers((4, 50), generator()).requires_grad_()
    y = nodes.compiled(node, "huber", 1.0, "aot_eager")(x)
    torch.testing.assert_close(y, nodes.NODES[node](x, "huber", 1.0))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient.sum(1), torch.ones(4))


def by_name(found):
    return {one.name: one for one in found}


def test_a_wrong_answer_is_refused_before_it_is_timed(sets, monkeypatch):
    change(sets, monkeypatch, lambda y: y + 1e-4)
    refused = by_name(contenders.our_contenders(sets, ["huber"], 1.0))["huber"]
    assert refused.pool is None
    assert refused.refused
    assert refused.skipped.startswith("refused: huber: an answer is")
    settings = compare.Settings(1, 1.0, 1.0, ("huber",))
    about = {"suite": "compare"}
    rows = list(compare.time_contenders([refused], sets, sets.x.device, settings, about))
    assert [row["operation"] for row in rows] == ["copy", "all"]
    assert compare.refused(rows) == [f"huber: {refused.skipped}"]


def test_a_reduction_that_torch_lacks_is_skipped_and_ours_may_not_fail(sets, monkeypatch):
    def fail(x):
        raise RuntimeError("not implemented for this")

    for name, refused in (("torch.mean", False), ("huber", True)):
        found = contenders.prove(name, sets, fail, lambda: 1.0)
        assert found.skipped == "failed: RuntimeError: not implemented for this"
        assert (found.pool, found.refused) == (None, refused)


def test_a_rival_that_is_wrong_is_refused_with_the_share(sets, monkeypatch):
    monkeypatch.setitem(nodes.NODES, "scipy", lambda x, penalty, alpha: x.mean(-1))
    found = by_name(contenders.rivals(sets, ["huber"], 1.0))
    assert found["scipy huber"].skipped == "refused: 100% of the answers are wrong"
    assert not found["scipy huber"].refused
    assert found["lbfgs huber"].right == 1


def test_a_rival_that_fails_is_skipped_with_the_error(sets, monkeypatch):
    def fail(x, penalty, alpha):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setitem(nodes.NODES, "newton", fail)
    found = by_name(contenders.rivals(sets, ["huber"], 1.0))
    assert found["newton huber"].skipped == "failed: RuntimeError: no compiler"


def test_rivals_take_the_first_of_the_sets_or_say_why_not(sets, monkeypatch):
    assert sets.first(129 * 3 + 5).count == 3
    assert sets.first(128) is None
    graphs = workloads.make(SMALL[2], "outliers", torch.float32, torch.device("cpu"))
    found = by_name(contenders.rivals(graphs, ["huber"], 1.0))
    assert found["scipy huber"].skipped == "takes sets of one size here"
    assert by_name(contenders.reductions(graphs))["torch.median"].skipped


def test_the_predecessor_is_skipped_with_a_reason(sets, monkeypatch):
    for module in (None, types.ModuleType("ddn.pytorch.robustpool")):
        monkeypatch.setitem(sys.modules, "ddn.pytorch.robustpool", module)
        monkeypatch.setitem(sys.modules, "ddn.pytorch", types.ModuleType("ddn.pytorch"))
        monkeypatch.setitem(sys.modules, "ddn", types.ModuleType("ddn"))
        found = by_name(contenders.rivals(sets, ["huber"], 1.0))["anucvml/ddn huber"]
        assert found.pool is None
        assert found.skipped.startswith("not importable: ")


@pytest.fixture
def predecessor(monkeypatch):
    """Something that is called as the predecessor is, half of whose answers are wrong."""
    module: Any = types.ModuleType("ddn.pytorch.robustpool")

    class Pool:
        @staticmethod
        def apply(x, method, alpha):
            assert (x.dim(), alpha.shape) == (4, (1,))
            y = ddn_cuda.robust_pool(x, method, alpha.item(), dim=(-2, -1))
            return torch.where(torch.arange(y.numel()) % 2 == 0, y, y + 1)

    for penalty, name in contenders.PREDECESSOR_METHODS.items():
        setattr(module, name, penalty)
    module.RobustGlobalPool2dFn = Pool
    for name in ("ddn", "ddn.pytorch"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "ddn.pytorch.robustpool", module)


@pytest.mark.usefixtures("predecessor")
def test_the_share_of_the_predecessors_right_answers_is_stated(sets):
    found = by_name(contenders.rivals(sets, ["huber"], 1.0))["anucvml/ddn huber"]
    assert found.pool is not None
    assert found.right == pytest.approx(0.5, abs=0.1)


# Targets


def test_every_target_of_the_table_is_there():
    goals = {points: targets.cpu_goals(points) for points in targets.CPU_SHAPES}
    assert all(len(column) == 7 * 3 for column in goals.values())
    forward = {
        points: {g.contender: g.goal for g in column if g.baseline == "torch.mean"}
        for points, column in goals.items()
    }
    assert forward[128]["truncated_quadratic (global)"] == 30
    assert forward[1024]["huber"] == forward[4096]["huber"] == 1.5
    assert [targets.cpu_goals(n)[7].goal for n in (1024, 128, 4096)] == [0.75, 0.85, 0.75]
    assert all(sets * points == 1 << 23 for points, sets in targets.CPU_SHAPES.items())
    names = {contenders.label(*pair) for pair in contenders.ours(ddn_cuda.PENALTIES)}
    assert set(targets.CPU_FORWARD) == set(targets.GPU_FORWARD) == names
    rows = list(targets.skipped_gpu("why"))
    assert len(rows) == 7 + 7 + 1 + 7 + 1 + 7 + 2 + 4 * 4
    assert all(row["skipped"] == "why" for row in rows)


def test_figures_are_held_against_goals_from_the_right_side():
    timing = summarize([1.0, 2.0, 3.0])
    assert targets.measured(timing, 2.0)["met"]
    assert not targets.measured(timing, 1.9)["met"]
    assert targets.measured(timing, 1.9, at_least=True)["met"]
    assert not targets.measured(timing, 2.1, at_least=True)["met"]


def test_launches_are_counted_above_the_baseline():
    above = targets_gpu.launches_above(summarize([7.0, 9.0]), summarize([5.0, 5.0]), 1.5)
    assert above.median == pytest.approx(2)


def test_the_training_step_trains():
    step = targets_gpu.make_step(
        ddn_cuda.RobustPool("huber", 1.0), torch.device("cpu"), batch=4, cloud=16
    )
    losses = [step().item() for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]
    other = targets_gpu.make_step(
        lambda x: torch.amax(x, -1), torch.device("cpu"), batch=4, cloud=16
    )
    assert other().item() != losses[0]


@pytest.fixture
def stand_in(monkeypatch, predecessor):
    """The CPU in the place of a GPU, with small shapes; without graphs and counts of memory."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(targets_gpu, "CUDA", cpu)
    monkeypatch.setattr(targets_gpu, "capture", lambda operation: operation)
    monkeypatch.setattr(targets_gpu, "SMALL", (4, 64))
    monkeypatch.setattr(targets_gpu, "PREDECESSOR_SETS", 16)
    monkeypatch.setattr(targets_gpu, "PREDECESSOR_POINTS", 64)
    step = functools.partial(targets_gpu.make_step, batch=4, cloud=16)
    monkeypatch.setattr(targets_gpu, "make_step", step)
    monkeypatch.setattr(targets, "GPU_SHAPE", (16, 64))

    def held(operation, wanted=0):
        operation()
        return 4096.0 + wanted

    monkeypatch.setattr(targets_gpu, "extra_memory", held)


@pytest.mark.usefixtures("stand_in")
def test_all_that_is_promised_of_a_gpu_is_measured():
    settings = compare.Settings(3, 5.0, 1.0, tuple(ddn_cuda.PENALTIES), backend="aot_eager")
    found = [row for part in targets.gpu_parts(settings) for row in part]
    assert not [row["skipped"] for row in found if row.get("skipped")]
    keys = ("what", "unit", "goal", "place")
    expected = [[row[key] for key in keys] for row in targets.skipped_gpu("")]
    measured = [[row[key] for key in keys] for row in found]
    assert sorted(measured) == sorted(expected)
    assert all(isinstance(row["met"], bool) and row["measured"] > 0 for row in found
               if row["unit"] != "launches above torch.amax")  # fmt: skip
    json.dumps(found)
    memory = [row for row in found if row["what"].startswith("memory of")]
    assert all(row["measured"] == 1 and not row["met"] for row in memory)
    assert "note" in memory[0]


@pytest.mark.usefixtures("cuda")
def test_small_batches_are_replayed_from_graphs():
    settings = compare.Settings(3, 5.0, 1.0, ("huber",))
    rows = list(targets_gpu.replayed(settings))
    assert [row["what"] for row in rows] == ["forward huber"]
    assert rows[0]["repetitions"] >= targets.LEAST_REPETITIONS


@pytest.mark.usefixtures("cuda")
def test_memory_is_counted_beyond_what_is_wanted():
    size = 8 << 20
    held = targets_gpu.extra_memory(lambda: torch.empty(size, dtype=torch.uint8, device="cuda"))
    assert held == size
    rest = targets_gpu.extra_memory(lambda: torch.empty(size, device="cuda"), wanted=size)
    assert rest == 3 * size


@pytest.mark.usefixtures("cuda")
def test_training_steps_are_timed():
    settings = compare.Settings(3, 5.0, 1.0, ("huber",))
    row = targets_gpu.training_step(False, settings)
    assert 0.1 < row["measured"] < 10


# The whole


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A quick run of all suites with two penalties: its file and what it holds."""
    path = tmp_path_factory.mktemp("bench") / "made" / "result.json"
    arguments = ["--quick", "--json", str(path), "--penalty", "huber", "welsch"]
    arguments += ["--workload", "image", "graphs", "--compiled", "none", "--device", "cpu"]
    arguments += ["--threads", "1", "--repetitions", "2", "--seconds", "5"]
    arguments += ["--allocator", "default"]  # malloc is that of all tests
    before = torch.get_num_threads()
    assert bench.main(arguments) == 0
    assert torch.get_num_threads() == before
    return path, json.loads(path.read_text())


def test_a_result_says_what_it_was_measured_on(run):
    _, result = run
    assert result["build"] == ddn_cuda.build_info()
    assert result["threads"] == [1]
    assert result["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert result["settings"]["penalties"] == ["huber", "welsch"]
    for key in ("commit", "machine", "command", "date", "seconds", "quick"):
        assert key in result
    assert set(result["clocks"]) == set(result["free_share_of_cores"]) == {"before", "after"}


def test_a_result_has_all_suites_contenders_and_samples(run):
    _, result = run
    rows = [row for row in result["rows"] if row["suite"] == "compare"]
    for workload, medians in (("image", 1), ("graphs", 0)):
        own = [row for row in rows if row["workload"] == workload and not row.get("skipped")]
        forward = {row["contender"] for row in own if row["operation"] == "forward"}
        ours = {"huber", "welsch (local)", "welsch (global)"}
        assert forward >= ours | {"torch.mean", "torch.amax"}
        assert ("torch.median" in forward) == bool(medians)
        both = {row["contender"] for row in own if row["operation"] == "forward+backward"}
        backward = {row["contender"] for row in own if row["operation"] == "backward"}
        assert forward == backward == both
    timed = [row for row in result["rows"] if "milliseconds" in row]
    for row in timed:
        ms = row["milliseconds"]
        assert len(ms["samples"]) == ms["repetitions"] >= 1
        assert ms["low"] <= ms["median"] <= ms["high"]
    assert {row["suite"] for row in timed} == {"compare", "growth", "targets"}
    assert any(row["scaled"] for row in rows)
    skipped = [row for row in result["rows"] if row.get("skipped")]
    assert not compare.refused(result["rows"])
    if not torch.cuda.is_available():
        assert {"cuda"} <= {row["device"] for row in skipped if row["suite"] == "targets"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_freed_memory_is_kept_where_asked():
    code = """
import resource, torch
from bench import machine

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with machine.kept_memory(False) as kept:
    print(kept, faults())
with machine.kept_memory(True) as kept:
    for _ in range(6):  # until there is a stretch for each
        faults()
    print(kept, faults())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    fresh, kept = (line.split() for line in done.stdout.splitlines())
    assert (fresh[0], kept[0]) == ("False", "True")
    assert int(kept[1]) < 0.1 * int(fresh[1])


def test_contenders_skipped_for_one_reason_share_a_line():
    about = {"workload": "w", "data": "d", "dtype": "t", "device": "cpu", "threads": 1, "alpha": 1}
    rows = [about | {"contender": name, "skipped": why} for name, why in ("ax", "by", "cx")]
    assert compare.as_text(rows).splitlines()[-2:] == ["skipped: a, c: x", "skipped: b: y"]


def test_a_busy_machine_is_told():
    assert machine.busy({"before": 0.99, "after": 0.98}) == ""
    assert machine.busy({"before": None}) == ""
    assert machine.busy({"before": 0.99, "after": 0.5}).endswith("50% of a core free")
    assert 0 < machine.free_share(1) <= 1.01


def test_lists_of_numbers_take_a_line_and_come_back():
    result = {"samples": [1.5, -2e-05, 3], "rows": [{"a": [1]}, {"b": []}], "text": "[1,\n 2]"}
    text = bench.to_json(result)
    assert json.loads(text) == result
    assert '"samples": [1.5, -2e-05, 3]' in text


def test_figures_are_drawn_and_tables_filled_from_the_file_alone(run, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the figures need matplotlib")
    path, result = run
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- targets cpu -->\nold\n<!-- end -->\nafter\n")
    arguments = ["plot", str(path), "--output", str(tmp_path / "images"), "--page", str(page)]
    assert bench.main(arguments) == 0
    made = {image.name for image in (tmp_path / "images").iterdir()}
    assert made == {"targets-cpu.png", "growth-cpu.png", "compare-cpu.png"}
    text = page.read_text()
    assert text.startswith("before\n<!-- targets cpu -->")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    row = next(r for r in result["rows"] if r["suite"] == "targets" and not r.get("skipped"))
    assert f"| {row['what']}, {row['unit']} | {row['measured']:.3g} / {row['goal']:g}" in text
    assert "(images/growth-cpu.png)" in text
    assert "Passes over a set" in text
    inside_a_check = tmp_path / "gpu-check.json"
    inside_a_check.write_text(json.dumps({"steps": [], "benchmark": result}))
    assert bench.main(["plot", str(inside_a_check), "--output", str(tmp_path / "again")]) == 0
    same = [(tmp_path / folder / "growth-cpu.png").read_bytes() for folder in ("images", "again")]
    assert same[0] == same[1]
    inside_a_check.write_text("{}")
    with pytest.raises(SystemExit, match="is no result"):
        bench.main(["plot", str(inside_a_check)])


def test_a_target_that_is_missed_is_said_to_be(run):
    _, result = run
    row = dict(next(r for r in result["rows"] if r["suite"] == "targets" and "met" in r))
    row |= {"measured": 2.0, "goal": 1.5, "met": False}
    assert targets.as_text([row]).endswith("not met")
    reason = {"skipped": "no GPU"}
    assert "1 targets skipped, cpu: no GPU" in targets.as_text([row | reason])


def test_without_a_name_each_case_is_run_once():
    cases = bench.cases(bench.parse([]))
    assert {case.workload.name for case in cases} == set(workloads.WORKLOADS)
    assert {case.data for case in cases} == set(workloads.DATA)
    assert {case.dtype for case in cases} == set(workloads.DTYPES)
    assert len(cases) == len(set(cases)) == 7 + 3 + 2
    named = bench.cases(bench.parse(["--workload", "image", "huge", "--dtype", "all"]))
    assert len(named) == 6


@pytest.mark.parametrize(
    "arguments",
    [["--workload", "none"], ["--repetitions", "0"], ["--alpha", "-1"], ["--threads", "x"]],
)
def test_bad_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.parse(arguments)
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_growth_covers_what_it_promises():
    places = list(growth.shapes(torch.device("cpu"), torch.float32, quick=False))
    assert {n for sweep, _, n in places if sweep == "points"} >= {16, 1 << 20}
    assert {s for sweep, s, _ in places if sweep == "sets"} >= {1, 10**6}


# gpu-check


def python_step(name, code, planned=10.0, **options):
    return Step(name, [sys.executable, "-c", code], planned, **options)


def test_steps_go_on_after_a_failure_and_are_recorded_each():
    recorded = []
    outcomes = run_steps(
        [
            python_step("good", "print('=== 3 passed in 1s ===')"),
            python_step("bad", "print('why'); raise SystemExit(3)"),
            python_step("needs bad", "", needs="bad"),
            Step("missing", ["no-such-command"], 5),
            Step("no folder", [sys.executable, "-c", ""], 5, cwd=ROOT / "no such folder"),
            python_step("needs good", "import os; assert os.environ['A'] == 'b'", needs="good",
                        env={"A": "b"}),
        ],
        60,
        lambda done: recorded.append(len(done)),
    )  # fmt: skip
    status = {outcome.name: outcome.status for outcome in outcomes}
    assert status == {
        "good": "passed",
        "bad": "failed",
        "needs bad": "not run",
        "missing": "failed",
        "no folder": "failed",
        "needs good": "passed",
    }
    assert recorded == [1, 2, 3, 4, 5, 6]
    assert outcomes[0].as_dict()["tests"] == "3 passed in 1s"
    assert "why" in outcomes[1].as_dict()["output_tail"]


def test_a_slow_step_takes_no_time_of_later_ones():
    slow = python_step("slow", "import time; print('so far', flush=True); time.sleep(60)", 1)
    start = time.monotonic()
    outcomes = run_steps([slow, python_step("later", "", 9)], 10, lambda done: None)
    assert [outcome.status for outcome in outcomes] == ["timed out after 1 s", "passed"]
    assert "so far" in outcomes[0].output
    assert time.monotonic() - start < 9


def test_no_step_starts_when_the_time_is_used_up():
    outcomes = run_steps([python_step("late", "")], 0.5, lambda done: None)
    assert outcomes[0].status == "not run"


@pytest.mark.parametrize(
    ("left", "planned", "most", "later", "expected"),
    [
        (100, 40, 0, (30, 30), 40),
        (120, 40, 0, (30, 30), 60),  # earlier steps left something
        (50, 40, 0, (30, 30), 20),  # an earlier one took more: all shrink alike
        (100, 40, 70, (30, 30), 70),
        (60, 40, 70, (30, 30), 60),
        (25, 40, 0, (), 25),
    ],
)
def test_the_seconds_of_a_step(left, planned, most, later, expected):
    step = Step("s", [], planned, most=most)
    assert gpu_check.allowance(step, [Step("l", [], p) for p in later], left) == expected


def test_a_step_is_told_when_to_end():
    code = "import sys; print('told', sys.argv[1])"
    step = Step("told", [sys.executable, "-c", code, "{seconds}"], 10)
    (outcome,) = run_steps([step], 20, lambda done: None)
    assert "told 16" in outcome.output


def test_a_step_beside_another_is_waited_for_at_its_own_turn(tmp_path):
    mark = tmp_path / "mark"
    outcomes = run_steps(
        [
            python_step("first", f"import time, os\nwhile not os.path.exists({str(mark)!r}): "
                        "time.sleep(0.01)"),
            python_step("beside", f"open({str(mark)!r}, 'w')", beside="first"),
            python_step("last", "", needs="beside"),
        ],
        60,
        lambda done: None,
    )  # fmt: skip
    assert [(o.name, o.status) for o in outcomes] == [
        ("first", "passed"),
        ("beside", "passed"),
        ("last", "passed"),
    ]


def test_a_step_beside_another_counts_its_own_seconds():
    first, beside = run_steps(
        [
            python_step("first", "import time; time.sleep(3)"),
            Step("beside", ["true"], 1, beside="first"),
        ],
        60,
        lambda done: None,
    )
    assert beside.seconds < 1.5 < first.seconds


def test_silence_is_no_success():
    """Of a sanitizer that could not attach and let the program run."""
    says = "SUMMARY: 0 errors"
    outcomes = run_steps(
        [
            python_step("watched", "print('========= ERROR SUMMARY: 0 errors')", says=says),
            python_step("unwatched", "", says=says),
        ],
        30,
        lambda done: None,
    )
    assert [outcome.status for outcome in outcomes] == ["passed", "failed"]
    assert outcomes[0].as_dict()["sanitizer"] == "ERROR SUMMARY: 0 errors"
    assert says in outcomes[1].as_dict()["output_tail"]


def test_what_a_step_writes_is_kept_whatever_it_is(tmp_path):
    artifact = gpu_check.Artifact("key", tmp_path / "file")
    assert artifact.read() is None
    artifact.path.write_text('{"a": [1]}')
    assert artifact.read() == {"a": [1]}
    artifact.path.write_text('{"a":')
    assert "unreadable" in artifact.read()


@pytest.fixture
def steps(tmp_path):
    return {step.name: step for step in gpu_check.plan("python3", "9.0", tmp_path)}


def test_the_plan_builds_for_the_gpu_and_apart_without_cuda(steps, tmp_path):
    assert steps["build"].env == {"DDN_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "9.0"}
    assert steps["cpu-only build"].env["DDN_CUDA"] == "0"
    tree = tmp_path / "cpu-only"
    assert steps["cpu-only build"].cwd == steps["cpu-only tests"].cwd == tree
    names = list(steps)
    for i, step in enumerate(steps.values()):
        assert {step.needs, step.beside} <= {None, *names[:i]}
    assert {step.needs for name, step in steps.items() if "build" not in name} == {
        "build",
        "cpu-only build",
    }


def test_the_seconds_of_the_plan_are_those_of_its_description(steps):
    assert sum(step.planned for step in steps.values()) == gpu_check.TOTAL_SECONDS == 480
    listed = re.findall(r"^ +(\d+)  ([a-z-]+(?: [a-z]+)?)(?:  |$)", gpu_check.__doc__, re.M)
    assert [(name, float(n)) for n, name in listed] == [(s.name, s.planned) for s in steps.values()]


def test_the_plan_measures_what_the_tools_take(steps, tmp_path):
    python, flag, module, *arguments = steps["timings"].command
    assert (python, flag, module) == ("python3", "-m", "bench")
    options = bench.parse(arguments)
    assert (options.suite, options.device) == (["targets"], ["cuda"])
    assert options.json == steps["timings"].artifact.path
    assert steps["timings"].artifact.key == "benchmark"
    python, flag, module, *arguments = steps["model"].command
    assert (python, flag, module) == ("python3", "-m", "bench.gpu_model")
    where = ["--json", str(tmp_path / "model.json")]
    assert arguments == ["--device", "cuda", "--seconds", "{seconds}", *where]


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_the_plan_runs_every_kernel_under_the_sanitizers(tool, steps):
    step = steps[tool]
    assert step.command[1:5] == ["--error-exitcode", "9", "--tool", tool]
    assert step.command[5:] == ["python3", "-m", "bench.sanitizer_case", "--seconds", "{seconds}"]
    assert re.search(step.says, "========= ERROR SUMMARY: 0 errors")
    assert re.search(step.says, "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors,")
    assert not re.search(step.says, "========= ERROR SUMMARY: 10 errors")


def test_the_copy_for_the_build_without_cuda_holds_no_build(tmp_path):
    tree = gpu_check.copy_sources(tmp_path / "tree")
    assert (tree / "csrc" / "ops" / "module.cpp").is_file()
    assert (tree / "tests" / "conftest.py").is_file()
    assert (tree / "build_toolkit.py").is_file()
    assert not list(tree.rglob("*.so"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpu_check_without_a_gpu_is_refused_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match="gpu-check: "):
        gpu_check.main(["--out", str(tmp_path)])


# What gpu-check runs


def test_the_cases_of_the_sanitizers_run():
    """On the CPU: that they reach every CUDA kernel is tested with the kernels."""
    everything = kernel_cases.cases()
    assert len(set(everything)) == len(everything)
    for case in everything:
        for output in sanitizer_case.run(case, torch.device("cpu")):
            assert output.double().isfinite().all(), case


def test_the_cases_of_the_sanitizers_stop_in_time(capsys):
    assert sanitizer_case.main(["--device", "cpu", "--seconds", "0"]) == sanitizer_case.NOT_ALL
    assert re.search(r"ran 0 of \d+ cases", capsys.readouterr().out)


JUNIT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="good[cuda]" time="1.5" />
<testcase classname="tests.test_a" name="bad[cuda]" time="2">
  <failure message="assert 1 == 2&#10;more">text</failure></testcase>
<testcase classname="tests.test_b" name="broken[cuda]" time="1"><error message="why">e</error>
</testcase>
<testcase classname="tests.test_b" name="other" time="0"><skipped message="needs two devices" />
</testcase>
<testcase classname="tests.test_b" name="late[cuda]" time="0">
  <skipped message="not run: the time is used up" /></testcase>
</testsuite></testsuites>"""


def test_reports_of_the_tests_are_summarized(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(JUNIT)
    assert cuda_tests.summarize([report, report]) == {
        "passed": 2,
        "failed": 4,
        "skipped": 2,
        "not_run": 2,
        "failures": [
            {"test": "test_a::bad[cuda]", "message": "assert 1 == 2"},
            {"test": "test_b::broken[cuda]", "message": "why"},
        ]
        * 2,
        "slowest_files_seconds": {"test_a": 7.0, "test_b": 2.0},
    }


def test_without_xdist_each_file_has_a_process(tmp_path):
    (one,) = cuda_tests.commands(["pytest"], 3, True, tmp_path)
    assert "-n 3 --dist worksteal" in " ".join(one)
    each = cuda_tests.commands(["pytest"], 3, False, tmp_path)
    assert [Path(command[-1]) for command in each] == sorted((ROOT / "tests").rglob("test_*.py"))
    for command in [one, *each]:
        assert " ".join(command).startswith("pytest -q -m cuda ")
    reports = {word for command in each for word in command if word.startswith("--junitxml=")}
    assert len(reports) == len(each)


@pytest.mark.parametrize("xdist", [True, False])
def test_the_tests_that_need_cuda_are_run_and_judged(xdist, tmp_path, monkeypatch, capsys):
    """Made-up files in place of tests/."""
    if xdist:
        pytest.importorskip("xdist", reason="needs pytest-xdist")
    folder = tmp_path / "tests"
    folder.mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = cuda: x\n")
    (folder / "test_good.py").write_text(
        "import os, pytest\n"
        "@pytest.mark.cuda\ndef test_it(): assert os.environ['DDN_REQUIRE_CUDA'] == '1'\n"
        "def test_other(): assert False\n"
    )
    (folder / "test_none.py").write_text("def test_it(): assert False\n")
    monkeypatch.setattr(cuda_tests, "ROOT", tmp_path)
    monkeypatch.setattr(cuda_tests.importlib.util, "find_spec", lambda name: xdist or None)
    report = tmp_path / "report.json"
    arguments = ["--json", str(report), "--workers", "2"]
    assert cuda_tests.main(arguments) == 0
    assert "=== 1 passed, 0 failed, 0 skipped, 0 not run in " in capsys.readouterr().out
    (folder / "test_late.py").write_text(
        "import os, pytest\n@pytest.mark.cuda\ndef test_it():\n"
        f"    assert float(os.environ['DDN_TEST_DEADLINE']) > 0\n    pytest.skip({NOT_RUN!r})\n"
    )
    (folder / "test_bad.py").write_text("import no_such_module\n")  # stops no other file
    assert cuda_tests.main([*arguments, "--seconds", "9"]) == 1
    found = json.loads(report.read_text())
    assert (found["passed"], found["not_run"]) == (1, 1)
    assert "no_such_module" in capsys.readouterr().out


def test_no_test_starts_after_the_deadline(monkeypatch):
    monkeypatch.setattr(conftest, "DEADLINE", time.time() + 60)
    conftest.pytest_runtest_setup(None)
    monkeypatch.setattr(conftest, "DEADLINE", time.time() - 1)
    with pytest.raises(pytest.skip.Exception, match=NOT_RUN):
        conftest.pytest_runtest_setup(None)


def test_tests_that_need_cuda_are_marked():
    def item(fixtures, **parameters):
        marks: list[Any] = []
        about = types.SimpleNamespace(fixturenames=fixtures, marks=marks, add_marker=marks.append)
        if parameters:
            about.callspec = types.SimpleNamespace(params=parameters)
        return about

    items = [item(["device"], device="cuda"), item(["cuda"]), item(["cuda"], n=1)]
    items += [item(["device"], device="cpu"), item([]), item(["n"], n="cuda")]
    conftest.pytest_collection_modifyitems(items)
    assert [len(one.marks) for one in items] == [1, 1, 1, 0, 0, 0]


# What ncu 2025 prints with --csv --page raw, shortened.
RAW_PAGE = """==PROF== Connected to process 1 (/usr/bin/python3)
==PROF== Disconnected from process 1
"ID","Process Name","Kernel Name","Block Size","gpu__time_duration.sum","launch__registers"
"","","","","ns","register/thread"
"0","python3","local_shared_memory","(256, 1, 1)","1,234.5","64"
"1","python3","global_shared_memory","(128, 1, 1)","2","nan"
"""


def test_raw_pages_of_ncu_are_parsed():
    first, second = profile_kernels.parse(RAW_PAGE)
    assert first["Kernel Name"] == "local_shared_memory"
    assert first["metrics"]["gpu__time_duration.sum"] == [1234.5, "ns"]
    assert second["metrics"]["launch__registers"][1] == "register/thread"
    with pytest.raises(ValueError, match="no table"):
        profile_kernels.parse("==ERROR== LibraryNotLoaded")


def stub_ncu(folder, body):
    ncu = folder / "ncu"
    ncu.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    ncu.chmod(0o755)
    return str(ncu)


def test_kernels_are_profiled_or_it_is_said_why_not(tmp_path):
    found, good = profile_kernels.profile(str(tmp_path / "no-ncu"), "python3")
    assert not good
    assert "no-ncu" in found["error"]
    write = "open(sys.argv[sys.argv.index('--log-file') + 1], 'w').write"
    refused = f"{write}('==ERROR== LibraryNotLoaded'); sys.exit(1)"
    found, good = profile_kernels.profile(stub_ncu(tmp_path, refused), "python3")
    assert not good
    assert "LibraryNotLoaded" in found["text"]
    found, good = profile_kernels.profile(stub_ncu(tmp_path, f"{write}({RAW_PAGE!r})"), "python3")
    assert not good
    assert "missing: ['backward']" in found["error"]
    assert len(found["launches"]) == 2
    whole = RAW_PAGE + '"2","python3","backward","(256, 1, 1)","3","40"\n'
    found, good = profile_kernels.profile(stub_ncu(tmp_path, f"{write}({whole!r})"), "python3")
    assert good
    assert len(found["launches"]) == 3


def test_the_profiled_kernels_are_in_the_sources():
    sources = "".join(file.read_text() for file in (ROOT / "csrc" / "cuda").glob("*.cu*"))
    for name in profile_kernels.KERNELS:
        assert re.search(rf"^    {name}\(const __grid_constant__ ", sources, re.M), name
