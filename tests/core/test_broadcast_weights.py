"""Weights in float32 that are broadcast beside 16-bit points: their gradients are summed part by
part."""

import pytest
import torch

import ddn_cuda
from tests.support.sweeps import sweep

BROADCAST = [(), (6,), (5, 1), (1, 6), (4, 1, 1), (1, 5, 6)]


def weighted(half, shape, sizes, device):
    """A pool's inputs in 16 bits, and the same in float32. Two points 2 alpha apart, the end of one
    minimum between them, would have second derivatives without bound: alpha is large."""
    x = torch.randn(sizes, device=device).to(half)
    alpha = 2 + torch.rand(sizes[0], 1, 1, device=device)
    weight = 0.5 + torch.rand(shape, device=device)
    return (x, alpha, weight), (x.float(), alpha, weight)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize(
    "sizes", sweep([(4, 5, 6), (2, 5, 6), (7, 5, 6), (1, 5, 6)], [(4, 5, 6), (1, 5, 6)]), ids=str
)
@pytest.mark.parametrize("shape", BROADCAST, ids=str)
def test_gradients_of_broadcast_weights(shape, sizes, segments, half, penalty, device):
    """Those in float32, of first and second order and forward mode; x's and alpha's are as they
    are without a weight's."""
    shape = (sizes[0], *shape[1:]) if shape[:1] == (4,) else shape
    ptr = torch.tensor([0, 2, 5], device=device)

    def pool(x, alpha, weight):
        if segments:
            x, alpha = x.transpose(0, 1), alpha.transpose(0, 1)
            while weight.dim() < 3:
                weight = weight[None]
            weight = weight.transpose(0, 1)
            return ddn_cuda.segment_robust_pool(x, ptr, penalty, alpha, weight=weight)
        return ddn_cuda.robust_pool(x, penalty, alpha, weight=weight, dim=1)

    def gradients(inputs, y_grad):
        leaves = [t.clone().requires_grad_() for t in inputs]
        y = pool(*leaves)
        y_grad = y_grad.to(y.dtype).requires_grad_()
        first = torch.autograd.grad(y, leaves, y_grad, create_graph=True)
        (alone,) = torch.autograd.grad(y, leaves[2], y_grad, retain_graph=True)
        assert torch.equal(alone, first[2])
        _, moved = torch.func.jvp(pool, inputs, tuple(torch.ones_like(t) for t in inputs))
        second = torch.autograd.grad(first[2].sum(), [*leaves, y_grad])
        return y, *first, moved, *second

    inputs, wide = weighted(half, shape, sizes, device)
    y_grad = torch.randn(pool(*wide).shape, device=device).to(half)
    found, expected = gradients(inputs, y_grad), gradients(wide, y_grad)
    for a, b in zip(found, expected, strict=True):
        # What is in 16 bits was rounded to them; a sum's order is another one in float32.
        tolerance = torch.finfo(a.dtype).eps if a.dtype == half else 2e-5
        scale = max(1.0, b.abs().max().item())
        torch.testing.assert_close(a.float(), b, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("shape", sweep(BROADCAST, [(5, 1), (1, 6)]), ids=str)
def test_transforms_and_compilers_of_broadcast_weights(shape, half, device):
    """The bits of a loop, and of eager mode."""
    inputs, _ = weighted(half, shape, (4, 5, 6), device)

    def loss(x, alpha, weight):
        return ddn_cuda.robust_pool(x, "welsch", alpha, weight=weight).float().sin().sum()

    gradient = torch.func.grad(loss, (0, 1, 2))
    batch = [torch.stack([t, 2 * t, 3 * t]) for t in inputs]
    for in_dims in ((0, 0, 0), (0, None, None), (None, None, 0)):
        own = [b if d == 0 else b[0] for b, d in zip(batch, in_dims, strict=True)]
        found = torch.func.vmap(gradient, in_dims)(*own)
        for i in range(3):
            args = [b[i] if d == 0 else b[0] for b, d in zip(batch, in_dims, strict=True)]
            for a, b in zip(found, gradient(*args), strict=True):
                assert torch.equal(a[i], b)
    torch._dynamo.reset()
    leaves = [t.clone().requires_grad_() for t in inputs]
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=True)
    expected = torch.autograd.grad(loss(*leaves), leaves)
    for a, b in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        assert torch.equal(a, b)
    torch.library.opcheck(
        torch.ops.ddn.robust_pool.tensor,
        (leaves[0], "welsch"),
        {"alpha": leaves[1], "weight": leaves[2]},
    )
