"""Compiled autograd captures the backward pass of pools that eager mode has called."""

from contextlib import nullcontext

import pytest
import torch

import ddn_cuda

OPS = torch.ops.ddn


def with_ptr(pool):
    return lambda x, *args, **options: pool(x, torch.tensor([0, 2, 5]), *args, **options)


POOLS = {
    "function": ddn_cuda.robust_pool,
    "info": lambda *args, **options: ddn_cuda.robust_pool(*args, return_info=True, **options)[0],
    "operator": OPS.robust_pool,
    "segments": with_ptr(ddn_cuda.segment_robust_pool),
    "segment operator": with_ptr(OPS.segment_robust_pool),
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def inputs_of(dtype, device):
    x = torch.linspace(-2, 3, 20, dtype=dtype, device=device).reshape(5, 4)
    alpha = torch.tensor(0.7, dtype=dtype, device=device)
    return [t.requires_grad_() for t in (x, alpha, torch.ones_like(x[:1]))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("name", POOLS)
def test_all_gradients_in_one_graph(name, dtype, device):
    """Points, an alpha and weights that sets share; bitwise equal to eager mode."""

    graphs = []

    def counting(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    def gradients(capture):
        x, alpha, weight = inputs = inputs_of(dtype, device)
        with device:
            y = POOLS[name](x.sin(), "welsch", alpha=alpha, weight=weight.exp())
        with capture:
            y.sum().backward()
        return [t.grad for t in inputs]

    compiler = torch.compile(backend=counting, fullgraph=True)
    found = gradients(torch._dynamo.compiled_autograd._enable(compiler, dynamic=False))
    assert len(graphs) == 1
    for a, b in zip(found, gradients(nullcontext()), strict=True):
        assert torch.equal(a, b)
