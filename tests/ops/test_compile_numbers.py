"""Numbers of NumPy and symbolic numbers as arguments under torch.compile and torch.export."""

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

import ddn_cuda


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def pool(x, **options):
    return ddn_cuda.robust_pool(x, "welsch", **options)


def segments(x, **options):
    return ddn_cuda.segment_robust_pool(x, torch.tensor([0, 1, 4]), "welsch", **options)


@pytest.mark.parametrize("function", [pool, segments])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int64], ids=str)
def test_an_alpha_of_numpy_in_one_graph(kind, function, device):
    """As a tensor, so that another value compiles nothing."""
    counter = CompileCounter()
    compiled = torch.compile(
        lambda x, a: function(x, alpha=a), backend=counter, fullgraph=True, dynamic=False
    )
    x = torch.randn(4, 7, device=device)
    with device:
        for value in (1.7, 2.3):
            assert torch.equal(compiled(x, kind(value)), function(x, alpha=kind(value)))
    assert counter.frame_count == 1
    alpha = kind(1.7)
    torch._dynamo.reset()
    captured = torch.compile(lambda x: pool(x, alpha=alpha), backend="aot_eager", fullgraph=True)
    assert torch.equal(captured(x), pool(x, alpha=alpha))


STATIC = [
    {"dim": np.int64(0)},
    {"dim": (np.int64(0), np.int64(1))},
    {"max_iter": np.int32(2)},
    {"tol": np.float32(0.25)},
    {"tol": np.float64(0.25)},
]


@pytest.mark.parametrize("options", STATIC, ids=str)
def test_other_numbers_of_numpy_break_the_graph(options, device):
    """They select the kernel's work, so a graph needs their values, which it takes for tensors."""
    x = torch.randn(4, 7, device=device)

    def run(x, values):
        return pool(x, **dict(zip(options, values, strict=True)))

    values = tuple(options.values())
    compiled = torch.compile(run, backend="aot_eager")
    assert torch.equal(compiled(x, values), pool(x, **options))
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="expected a Python number under full"):
        torch.compile(run, backend="aot_eager", fullgraph=True)(x, values)


@pytest.mark.parametrize("options", STATIC, ids=str)
def test_a_module_keeps_python_numbers(options, device):
    module = ddn_cuda.RobustPool("welsch", np.float32(0.5), **options).to(device)
    x = torch.randn(4, 7, device=device)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), pool(x, alpha=0.5, **options))
    assert "np" not in repr(module)


@pytest.mark.parametrize("alpha", [np.bool_(True), np.complex64(1), True, "1"], ids=repr)
def test_what_is_no_number_raises(alpha, device):
    """With the message of eager mode, though without the value of a tensor."""
    compiled = torch.compile(lambda x, a: pool(x, alpha=a), backend="aot_eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"`alpha` is .*; expected a float or"):
        compiled(torch.ones(4, 7, device=device), alpha)


@pytest.mark.parametrize("divisor", [1, 8.0])
def test_an_alpha_from_a_symbolic_size(divisor, device):
    class Net(torch.nn.Module):
        def forward(self, x):
            size = x.shape[1]
            return pool(x, alpha=size if divisor == 1 else size / divisor)

    sizes = ({1: torch.export.Dim("points", min=2)},)
    program = torch.export.export(Net(), (torch.randn(3, 6, device=device),), dynamic_shapes=sizes)
    traced = torch.fx.experimental.proxy_tensor.make_fx(Net(), tracing_mode="symbolic")(
        torch.randn(3, 6, device=device)
    )
    for points in (5, 17):
        x = torch.randn(3, points, device=device)
        assert torch.equal(program.module()(x), Net()(x))
        assert torch.equal(traced(x), Net()(x))
