"""Tracers other than Dynamo: torch.fx, TorchScript, torch.func.functionalize and ONNX export."""

import warnings

import pytest
import torch

import ddn_cuda


class Net(torch.nn.Module):
    """Learned and given alphas, functions, a module and segments."""

    def __init__(self):
        super().__init__()
        self.pool = ddn_cuda.RobustPool("welsch", 0.5, dim=1, learn_alpha=True)
        self.fixed = ddn_cuda.RobustPool("huber", 2.0)

    def forward(self, x, ptr):
        y = self.pool(x.sin(), x.abs())
        z = ddn_cuda.segment_robust_pool(x.flatten(0, 1), ptr, "huber", 0.7)
        return self.fixed(x), y, z, ddn_cuda.robust_pool(x, "pseudo_huber", weight=x > 0)


def example(device, batch=2):
    x = torch.randn(batch, 5, 3, device=device, requires_grad=True)
    return x, torch.tensor([0, 4, 4, 5 * batch], device=device)


def assert_same(found, net, device):
    """Values and gradients, of inputs that the tracer has not seen."""
    for batch in (2, 3):
        x, ptr = example(device, batch)
        results = []
        for module in (found, net):
            y = module(x, ptr)
            variables = [x, *module.parameters()]
            results.append((*y, *torch.autograd.grad(sum(t.sum() for t in y), variables)))
        assert len(results[0]) == len(results[1]) == 6
        assert all(map(torch.equal, *results))


def test_fx_makes_calls_nodes(device):
    net = Net().to(device)
    traced = torch.fx.symbolic_trace(net)
    targets = {node.target for node in traced.graph.nodes}
    assert {ddn_cuda.robust_pool, ddn_cuda.segment_robust_pool} <= targets
    assert_same(traced, net, device)


def test_fx_records_all_arguments(device):
    def f(x, w):
        y, info = ddn_cuda.robust_pool(
            x, "H", 0.5, dim=(0, 1), keepdim=True, weight=w, max_iter=1, return_info=True
        )
        return y, info.iterations, ddn_cuda.suggest_alpha(x, "W", dim=1)

    x = torch.randn(4, 5, device=device)
    for found, expected in zip(torch.fx.symbolic_trace(f)(x, x > 0), f(x, x > 0), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_jit_trace_differentiates(device):
    net = Net().to(device)
    traced = torch.jit.trace(net, example(device))
    assert_same(traced, net, device)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "scripted",
    [ddn_cuda.robust_pool, ddn_cuda.segment_robust_pool, ddn_cuda.RobustPool(), Net()],
    ids=["robust_pool", "segment_robust_pool", "RobustPool", "a network"],
)
def test_jit_script_raises_a_clear_error(scripted):
    with pytest.raises(NotImplementedError, match=r"cannot compile .*; expected torch\.export"):
        torch.jit.script(scripted)


def test_functionalize(device):
    x, ptr = (t.detach() for t in example(device))
    expected = Net().to(device)(x, ptr)
    functionalize = torch.func.functionalize
    for found, own in zip(functionalize(Net().to(device))(x, ptr), expected, strict=True):
        assert torch.equal(found, own)
    y, info = functionalize(lambda x: ddn_cuda.robust_pool(x, return_info=True))(x)
    assert torch.equal(y, ddn_cuda.robust_pool(x))
    assert info.status.shape == y.shape
    graph = torch.fx.experimental.proxy_tensor.make_fx(functionalize(Net().to(device)))(x, ptr)
    assert all(map(torch.equal, graph(x, ptr), expected))


@pytest.mark.parametrize("name", ["robust_pool", "segment_robust_pool"])
def test_functionalize_of_derivatives_raises_a_clear_error(name, device):
    x, ptr = torch.randn(5, 3, device=device), torch.tensor([0, 5], device=device)
    args = (ptr,) if name == "segment_robust_pool" else ()

    def f(x):
        return getattr(ddn_cuda, name)(x, *args).sum()

    func = torch.func
    for run in (
        lambda: func.functionalize(func.grad(f))(x),
        lambda: func.grad(func.functionalize(f))(x),
        lambda: func.functionalize(lambda x: func.jvp(f, (x,), (x,)))(x),
        lambda: func.functionalize(func.vmap(func.jacrev(f)))(x[None]),
    ):
        with pytest.raises(NotImplementedError, match=f"^{name}: torch.func.functionalize of deri"):
            run()


@pytest.mark.parametrize("is_onnx", [False, True])
def test_onnx_export_warns_at_once(is_onnx, monkeypatch, device):
    """While it captures the graph. It fails later, if the operator has no translation."""
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: is_onnx)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.export.export(Net().to(device), example(device))
    messages = [str(warning.message) for warning in caught]
    for name in ("robust_pool", "segment_robust_pool"):
        own = [m for m in messages if m.startswith(f"{name}: ONNX has no such operator. ")]
        assert bool(own) is is_onnx
        assert all(f"torch.ops.ddn.{name} in its custom_translation_table" in m for m in own)
