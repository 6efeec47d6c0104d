"""Benchmarks reject wrong answers before timing, and report why a method is missing."""

import sys
import types

import numpy as np
import pytest
import torch

import ddn_cuda
from bench import compare, correctness, methods, nodes, workloads
from bench.workloads import Sets, Workload
from tests.support import oracle
from tests.support import reference as ref

# Proof

ROWS = Workload("rows", "", (6, 65))
IMAGE = Workload("image", "", (2, 3, 7, 7), (-2, -1))
GRAPHS = Workload("graphs", "", (0, 4), segments=5, shortest=3, longest=40)


@pytest.fixture
def sets():
    return workloads.make(
        Workload("w", "", (8, 3, 129)), "outliers", torch.float32, torch.device("cpu")
    )


def change(sets, monkeypatch, changed):
    """Our pool with answers changed by changed(y)."""
    right = ddn_cuda.robust_pool
    monkeypatch.setattr(ddn_cuda, "robust_pool", lambda *a, **k: changed(right(*a, **k)))


@pytest.mark.parametrize(("penalty", "solver"), methods.ours(list(ddn_cuda.PENALTIES)))
@pytest.mark.parametrize("data", ["outliers", "bimodal", "heavy-tailed"])
@pytest.mark.parametrize("dtype", list(workloads.DTYPES))
def test_right_answers_are_accepted(penalty, solver, data, dtype):
    for workload in (ROWS, IMAGE, GRAPHS):
        own = workloads.make(workload, data, workloads.DTYPES[dtype], torch.device("cpu"))
        assert correctness.check(penalty, own, 1.0, solver, most=5) == 5


@pytest.mark.parametrize("penalty", ddn_cuda.PENALTIES)
def test_wrong_answers_are_refused(sets, penalty, monkeypatch):
    change(sets, monkeypatch, lambda y: y + 1e-4)
    with pytest.raises(correctness.Wrong, match="an answer is"):
        correctness.check(penalty, sets, 1.0)


@pytest.mark.parametrize("penalty", methods.NONCONVEX)
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


@pytest.mark.parametrize("penalty", ddn_cuda.PENALTIES)
def test_wrong_gradients_are_refused(sets, penalty, monkeypatch):
    change(sets, monkeypatch, lambda y: y + 0.01 * (y - y.detach()))
    with pytest.raises(correctness.Wrong, match="a gradient is off"):
        correctness.check(penalty, sets, 1.0)


def test_answers_that_depend_on_the_batch_are_refused(sets, monkeypatch):
    change(sets, monkeypatch, lambda y: y + 1e-7 * y.numel())
    with pytest.raises(correctness.Wrong, match="depends on its batch"):
        correctness.check("huber", sets, 1.0, most=4)


@pytest.mark.parametrize("name", methods.REDUCTIONS)
def test_reductions_are_checked(sets, name, monkeypatch):
    assert correctness.check_reduction(name, sets) == 16
    wrong = lambda name: lambda x: x[..., 0]  # noqa: E731
    monkeypatch.setattr(sets, "reduction", wrong)
    with pytest.raises(correctness.Wrong, match=f"torch.{name}"):
        correctness.check_reduction(name, sets)


# Methods


@pytest.mark.parametrize("penalty", nodes.FORMULAS)
def test_formulas_are_derivatives_of_each_other(penalty):
    z = torch.linspace(-3, 3, 101, dtype=torch.float64, requires_grad=True)
    phi, psi, dpsi = (f(z, 0.7, torch) for f in nodes.FORMULAS[penalty])
    at = z.detach().numpy()
    np.testing.assert_allclose(phi.detach().numpy(), ref.phi(at, penalty, 0.7), 1e-14)
    (first,) = torch.autograd.grad(phi.sum(), z)
    torch.testing.assert_close(first, psi)
    np.testing.assert_allclose(ref.dpsi(at, penalty, 0.7), dpsi.detach().numpy(), 1e-12, 1e-14)
    as_numpy = [f(at, 0.7, np) for f in nodes.FORMULAS[penalty]]
    np.testing.assert_allclose(as_numpy, torch.stack([phi, psi, dpsi]).detach(), 1e-14)


@pytest.mark.parametrize("node", nodes.NODES)
@pytest.mark.parametrize("penalty", nodes.FORMULAS)
def test_nodes_find_the_minimum_and_its_gradient(node, penalty):
    x = workloads.outliers((6, 200), torch.Generator().manual_seed(0)).double().requires_grad_()
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
    x = workloads.outliers((4, 50), torch.Generator().manual_seed(0)).requires_grad_()
    y = nodes.compiled(node, "huber", 1.0, "aot_eager")(x)
    torch.testing.assert_close(y, nodes.NODES[node](x, "huber", 1.0))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient.sum(1), torch.ones(4))


def by_name(found):
    return {one.name: one for one in found}


def test_a_wrong_answer_is_refused_before_it_is_timed(sets, monkeypatch):
    change(sets, monkeypatch, lambda y: y + 1e-4)
    refused = by_name(methods.our_methods(sets, ["huber"], 1.0))["huber"]
    assert refused.pool is None
    assert refused.refused
    assert refused.skipped.startswith("refused: huber: an answer is")
    settings = compare.Settings(1, 1.0, 1.0, ("huber",))
    about = {"suite": "compare"}
    rows = list(compare.time_methods([refused], sets, sets.x.device, settings, about))
    assert [row["operation"] for row in rows] == ["copy", "all"]
    assert compare.refused(rows) == [f"huber: {refused.skipped}"]


def test_a_reduction_that_torch_lacks_is_skipped_and_ours_may_not_fail(sets, monkeypatch):
    def fail(x):
        raise RuntimeError("not implemented for this")

    for name, refused in (("torch.mean", False), ("huber", True)):
        found = methods.prove(name, sets, fail, lambda: 1.0)
        assert found.skipped == "failed: RuntimeError: not implemented for this"
        assert (found.pool, found.refused) == (None, refused)


def test_a_baseline_that_is_wrong_is_refused_with_the_share(sets, monkeypatch):
    monkeypatch.setitem(nodes.NODES, "scipy", lambda x, penalty, alpha: x.mean(-1))
    found = by_name(methods.baselines(sets, ["huber"], 1.0))
    assert found["scipy huber"].skipped == "refused: 100% of the answers are wrong"
    assert not found["scipy huber"].refused
    assert found["lbfgs huber"].right == 1


def test_a_baseline_that_fails_is_skipped_with_the_error(sets, monkeypatch):
    def fail(x, penalty, alpha):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setitem(nodes.NODES, "newton", fail)
    found = by_name(methods.baselines(sets, ["huber"], 1.0))
    assert found["newton huber"].skipped == "failed: RuntimeError: no compiler"


def test_baselines_take_the_first_of_the_sets_or_say_why_not(sets, monkeypatch):
    assert sets.first(129 * 3 + 5).count == 3
    assert sets.first(128) is None
    graphs = workloads.make(GRAPHS, "outliers", torch.float32, torch.device("cpu"))
    found = by_name(methods.baselines(graphs, ["huber"], 1.0))
    assert found["scipy huber"].skipped == "takes sets of one size here"
    assert by_name(methods.reductions(graphs))["torch.median"].skipped


def test_the_predecessor_is_skipped_with_a_reason(sets, monkeypatch):
    for module in (None, types.ModuleType("ddn.pytorch.robustpool")):
        monkeypatch.setitem(sys.modules, "ddn.pytorch.robustpool", module)
        monkeypatch.setitem(sys.modules, "ddn.pytorch", types.ModuleType("ddn.pytorch"))
        monkeypatch.setitem(sys.modules, "ddn", types.ModuleType("ddn"))
        found = by_name(methods.baselines(sets, ["huber"], 1.0))["anucvml/ddn huber"]
        assert found.pool is None
        assert found.skipped.startswith("not importable: ")


@pytest.mark.usefixtures("predecessor")
def test_the_share_of_the_predecessors_right_answers_is_stated(sets):
    found = by_name(methods.baselines(sets, ["huber"], 1.0))["anucvml/ddn huber"]
    assert found.pool is not None
    assert found.right == pytest.approx(0.5, abs=0.1)
