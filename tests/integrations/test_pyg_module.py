"""`ddn_cuda.pyg.RobustAggregation` as a module: its alpha, state, errors, imports."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.utils.prune
from torch._subclasses.fake_tensor import FakeTensorMode

import ddn_cuda

pytest.importorskip("torch_geometric", reason="ddn_cuda.pyg needs torch-geometric")


import ddn_cuda.pyg
from ddn_cuda.pyg import RobustAggregation
from tests.support.segments import assert_same

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
    """A float64 set is solved with the exact alpha, not rounded to float32."""
    x = torch.randn(99, 4, dtype=torch.float64)
    y = RobustAggregation(penalty, 0.1)(x)[0]
    assert_same(y, ddn_cuda.robust_pool(x, penalty, 0.1, dim=0))


@pytest.mark.parametrize("name", ["pseudo_huber", "huber", "welsch"])
def test_the_gradient_of_a_learned_alpha(name):
    """Equal to central differences in log alpha."""
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
    quotient = (loss(at + step) - loss(at - step)) / (2 * step)
    assert quotient != 0
    assert parameter.grad.item() == pytest.approx(quotient, rel=1e-5)


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
    """For any aggregated dim; compared with one dense pool of each set and channel."""
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
def test_a_state_dict_passes_between_fixed_and_learned(learn_alpha):
    source = RobustAggregation("huber", torch.tensor([0.25, 2.0]), learn_alpha=learn_alpha)
    target = RobustAggregation("huber", torch.ones(2), learn_alpha=not learn_alpha)
    target.load_state_dict(source.state_dict())
    x = torch.randn(20, 2)
    torch.testing.assert_close(source(x), target(x))


@pytest.mark.parametrize("learn_alpha", [False, True])
def test_alpha_can_be_set(learn_alpha):
    aggr = RobustAggregation("huber", 0.25, learn_alpha=learn_alpha)
    aggr.alpha = 0.5
    x = torch.randn(20, 2)
    torch.testing.assert_close(aggr(x), RobustAggregation("huber", 0.5)(x))
    assert "alpha=0.5" in repr(aggr)
    with pytest.raises(ValueError, match=r"RobustAggregation: `alpha` is -1\.0; expected a float"):
        aggr.alpha = -1.0


def test_a_pruned_alpha():
    """Its parameter has another name."""
    aggr = RobustAggregation("huber", torch.tensor([0.25, 2.0]), learn_alpha=True)
    x = torch.randn(20, 2)
    expected = aggr(x)
    torch.nn.utils.prune.identity(aggr.scale, "log_alpha")
    assert torch.equal(aggr(x), expected)


@pytest.mark.parametrize("learn_alpha", [False, True])
def test_a_deferred_alpha(learn_alpha):
    with torch.device("meta"):
        aggr = RobustAggregation("huber", [0.25, 2.0], learn_alpha=learn_alpha)
        unknown = RobustAggregation("huber", torch.ones(2), learn_alpha=learn_alpha)
    aggr.to_empty(device="cpu").reset_parameters()
    unknown.to_empty(device="cpu").load_state_dict(aggr.state_dict())
    x = torch.randn(20, 2)
    expected = RobustAggregation("huber", torch.tensor([0.25, 2.0]))(x)
    for deferred in (aggr, unknown):
        torch.testing.assert_close(deferred(x), expected)


def test_fake_tensors():
    """An index without values is neither inspected nor checked."""
    with FakeTensorMode():
        aggr = RobustAggregation("huber", [0.25, 2.0], learn_alpha=True)
        y = aggr(torch.empty(5, 2), torch.empty(5, dtype=torch.int64), dim_size=3)
    assert y.shape == (3, 2)


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


# Each row: the arguments besides x of shape (4, 2), the exception, a pattern of its message.
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
    # None in sys.modules simulates a missing package.
    done = run_python("import sys; sys.modules['torch_geometric'] = None; import ddn_cuda.pyg")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ddn_cuda.pyg needs PyTorch Geometric")
    assert "pip install torch-geometric" in last
