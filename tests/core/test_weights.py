"""Weights and masks; test_global holds drawn sets with weights against the oracle."""

import math

import pytest
import torch

import ddn_cuda
from tests.support import reference as ref

SOLVERS = ("local", "global")


def draw(shape, device, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    w = 0.1 + torch.rand(shape, generator=generator, dtype=torch.float64)
    return x.to(device, dtype), w.to(device, dtype)


def pooled(x, penalty, weight, alpha=1.0, **options):
    """Answer, gradient of x, gradient of weight (None for a mask)."""
    x = x.detach().requires_grad_()
    inputs = [x]
    if weight is not None and weight.is_floating_point():
        weight = weight.detach().requires_grad_()
        inputs.append(weight)
    y = ddn_cuda.robust_pool(x, penalty, alpha, weight=weight, **options)
    grads = torch.autograd.grad(y.sum(), inputs)
    return y.detach(), grads[0], grads[1] if len(grads) > 1 else None


def close(a, b, dtype):
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_mask_gives_what_the_points_left_give(solver, penalty, device, dtype):
    x, _ = draw((40, 70), device, dtype)
    mask = torch.rand(40, 70, generator=torch.Generator().manual_seed(1)).to(device) < 0.6
    y, g, _ = pooled(x, penalty, mask, solver=solver)
    for i in range(40):
        alone, g_alone, _ = pooled(x[i][mask[i]], penalty, None, solver=solver)
        if device == "cpu":  # the very same computation
            assert torch.equal(y[i], alone)
            assert torch.equal(g[i][mask[i]], g_alone)
        else:
            close(y[i], alone, dtype)
            close(g[i][mask[i]], g_alone, dtype)
    assert not g[~mask].any()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_whole_weight_is_so_many_points(solver, penalty, device, dtype):
    x, _ = draw((30, 50), device, dtype)
    count = torch.randint(0, 5, (30, 50), generator=torch.Generator().manual_seed(1)).to(device)
    y, g, _ = pooled(x, penalty, count.to(dtype), solver=solver)
    for i in range(30):
        many = x[i].repeat_interleave(count[i])
        alone, g_many, _ = pooled(many, penalty, None, solver=solver)
        close(y[i], alone, dtype)
        index = torch.arange(50, device=device).repeat_interleave(count[i])
        close(g[i], torch.zeros_like(g[i]).index_add(0, index, g_many), dtype)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_unit_of_the_weights_does_not_matter(solver, penalty, device, dtype):
    """Bitwise for powers of two, up to the largest numbers and down to the smallest."""
    x, w = draw((20, 33), device, dtype)
    y, g, g_w = pooled(x, penalty, w, solver=solver)
    top = 2.0 ** (120 if dtype == torch.float32 else 1015)
    for unit in (2.0, 2.0**-30, 2.0**40, top, 2.0**-90):
        scaled = pooled(x, penalty, w * unit, solver=solver)
        assert torch.equal(scaled[0], y)
        assert torch.equal(scaled[1], g)
        if 2.0**-100 < unit < 2.0**100:
            torch.testing.assert_close(scaled[2] * unit, g_w, rtol=1e-6, atol=0)
    for unit in (3.0, 0.1):
        close(pooled(x, penalty, w * unit, solver=solver)[0], y, dtype)


@pytest.mark.parametrize("shape", [(), (1,), (50,), (4, 1), (1, 50), (3, 1, 1), (3, 1, 50)])
def test_weights_broadcast(shape, penalty, device, dtype):
    x, _ = draw((3, 4, 50), device, dtype)
    _, w = draw(shape, device, dtype, seed=1)
    y, g, g_w = pooled(x, penalty, w)
    full_y, full_g, full_g_w = pooled(x, penalty, w.expand(x.shape).contiguous())
    assert torch.equal(y, full_y)
    assert torch.equal(g, full_g)
    assert g_w.shape == w.shape
    close(g_w, full_g_w.sum_to_size(w.shape), dtype)


def test_any_dim_and_layout(penalty, device, dtype):
    x, w = draw((5, 6, 40), device, dtype)
    expected = pooled(x, penalty, w)
    for order in ((2, 0, 1), (0, 2, 1)):
        back = [order.index(d) for d in range(3)]
        other = [t.permute(order).contiguous().permute(back) for t in (x, w)]
        for a, b in zip(pooled(other[0], penalty, other[1]), expected, strict=True):
            assert torch.equal(a, b)
    several = pooled(x, penalty, w, dim=(0, 2), keepdim=True)
    rows = [t.permute(1, 0, 2).reshape(6, 200) for t in (x, w)]
    for a, b in zip(several, pooled(*rows[:1], penalty, rows[1]), strict=True):
        assert torch.equal(a.permute(1, 0, 2).reshape(b.shape), b)


def test_scattered_dims(device):
    """More dims than a layout can describe: x and weights are copied to rows."""
    x, w = draw((2,) * 11 + (5,), device, torch.float64)
    order = [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    mixed_x, mixed_w = x.permute(order), w.permute(order)
    for a, b in ((mixed_x, mixed_w), (x, mixed_w), (mixed_x, w)):
        plain = pooled(a.contiguous(), "huber", b.contiguous(), dim=(0, 3, 5, 7, 9, 11))
        for one, other in zip(pooled(a, "huber", b, dim=(0, 3, 5, 7, 9, 11)), plain, strict=True):
            close(one, other, torch.float64)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_a_point_of_zero_weight_is_not_there(value, penalty, device, dtype):
    x, w = draw((6, 35), device, dtype)
    w[:, ::3] = 0
    y, g, g_w = pooled(x, penalty, w)
    spoilt = x.clone()
    spoilt[:, ::3] = value
    y_spoilt, g_spoilt, g_w_spoilt = pooled(spoilt, penalty, w)
    assert torch.equal(y_spoilt, y)
    assert torch.equal(g_spoilt, g)
    assert not g[:, ::3].any()
    present = torch.ones(35, dtype=torch.bool, device=device)
    present[::3] = False
    assert torch.equal(g_w_spoilt[:, present], g_w[:, present])
    assert torch.isfinite(g_w_spoilt).all()
    if not math.isfinite(value):
        assert not g_w_spoilt[:, ~present].any()


def test_the_gradient_of_a_zero_weight(penalty, device):
    """-phi'(y - x) / H, the effect of a small weight."""
    x, w = draw((1, 25), device, torch.float64)
    w[0, 3] = 0
    y, _, g_w = pooled(x, penalty, w)
    step = 1e-6
    w[0, 3] = step
    moved, _, _ = pooled(x, penalty, w)
    assert abs(((moved - y) / step - g_w[0, 3]).item()) < 1e-4


def test_no_weight_at_all(penalty, device, dtype):
    x = torch.full((3, 5), math.nan, dtype=dtype, device=device)
    x[1] = 7.0
    for weight in (torch.zeros(5, dtype=dtype, device=device), torch.zeros(5, device=device) > 0):
        y, g, g_w = pooled(x, penalty, weight)
        assert torch.equal(y, torch.zeros_like(y))
        assert not g.any()
        assert g_w is None or not g_w.any()
        _, info = ddn_cuda.robust_pool(x, penalty, weight=weight, return_info=True)
        assert (info.status == ddn_cuda.Status.empty).all()
        for name in ("residual", "curvature", "objective", "gap"):
            assert not getattr(info, name).any()


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, -math.inf, "sum"])
def test_what_is_no_weight_gives_its_set_nan(bad, penalty, device, dtype):
    x, w = draw((3, 40), device, dtype)
    expected = pooled(x, penalty, w)
    if bad == "sum":
        w[1] = torch.finfo(dtype).max
    else:
        w[1, 7] = bad
    y, g, g_w = pooled(x, penalty, w)
    assert y[1].isnan()
    assert g[1].isnan().all()
    assert g_w[1].isnan().all()
    _, info = ddn_cuda.robust_pool(x, penalty, weight=w, return_info=True)
    assert info.status[1] == ddn_cuda.Status.not_finite
    for i in (0, 2):
        for a, b in zip((y, g, g_w), expected, strict=True):
            assert torch.equal(a[i], b[i])


def test_a_nan_point_of_some_weight(penalty, device, dtype):
    x, w = draw((3, 40), device, dtype)
    x[1, 5] = math.nan
    w[1, 5] = 1e-3
    y, _, _ = pooled(x, penalty, w)
    assert y.isnan().tolist() == [False, True, False]


def test_infinite_points_with_weights(device, dtype):
    inf = math.inf
    x = torch.tensor(
        [[0.0, 1.0, inf], [0.0, 1.0, inf], [0.0, 1.0, inf]], dtype=dtype, device=device
    )
    w = torch.tensor(
        [[0.1, 0.2, 0.1], [0.1, 0.2, 0.3], [0.1, 0.2, 0.4]], dtype=dtype, device=device
    )
    y = ddn_cuda.robust_pool(x, "huber", 2.0, weight=w)
    # In balance, up to the rounding of the weights, the minimisers begin alpha beyond the last
    # point.
    assert y[1:].tolist() == [3.0, inf]
    # 0.1 (u - 0) + 0.2 (u - 1) = 0.1 * 2
    assert y[0].item() == pytest.approx(4 / 3, rel=1e-6)
    y = ddn_cuda.robust_pool(x, "pseudo_huber", 2.0, weight=w)
    assert torch.isfinite(y[0])
    for penalty in ref.NONCONVEX:
        expected = ddn_cuda.robust_pool(x[:, :2], penalty, 2.0, weight=w[:, :2])
        close(ddn_cuda.robust_pool(x, penalty, 2.0, weight=w), expected, dtype)


def test_flat_by_weights(device, dtype):
    """Influences that cancel up to the rounding of the weights: the midpoint, and no gradient."""
    x = torch.tensor([0.0, 0.0, 0.0, 10.0], dtype=dtype, device=device)
    w = torch.tensor([0.1, 0.1, 0.1, 0.3], dtype=dtype, device=device)
    y, g, g_w = pooled(x, "huber", w)
    assert y.item() == 5.0
    assert not g.any()
    assert not g_w.any()


@pytest.mark.parametrize("what", ["points", "weights", "both"])
def test_gradcheck(what, penalty, device):
    x, w = draw((4, 30), device, torch.float64, seed=3)
    x.requires_grad_(what != "weights")
    w.requires_grad_(what != "points")
    for alpha in (1.0, 4.0):
        assert torch.autograd.gradcheck(
            lambda a, b, alpha=alpha: ddn_cuda.robust_pool(a, penalty, alpha, weight=b), (x, w)
        )
    row = torch.rand(30, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda b: ddn_cuda.robust_pool(x.detach(), penalty, 1.0, weight=b), (row,)
    )


@pytest.mark.parametrize(
    "weight_dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_weights_of_another_dtype(weight_dtype, penalty, device, dtype):
    x, w = draw((4, 30), device, dtype)
    other = w.to(weight_dtype)
    for x_, other_ in ((x, other), (x.mT.contiguous().mT, other.mT.contiguous().mT)):
        y, g, g_w = pooled(x_, penalty, other_)
        exact = pooled(x, penalty, other.to(dtype))
        assert torch.equal(y, exact[0])
        assert torch.equal(g, exact[1])
        assert g_w.dtype == weight_dtype
        assert torch.equal(g_w, exact[2].to(weight_dtype))


def test_any_nonzero_byte_of_a_mask_is_true(penalty, device):
    x = torch.randn(3, 40, device=device)
    mask = torch.rand(3, 40, device=device) < 0.5
    odd = (mask.byte() * 7).view(torch.bool)
    for a, b in zip(pooled(x, penalty, odd)[:2], pooled(x, penalty, mask)[:2], strict=True):
        assert torch.equal(a, b)


def test_large_sets(penalty, device, dtype):
    """Sizes at which the kernels change; half of the weights are zero."""
    for n in (511, 513, 1025, 4097, 8193, 16385, 40000):
        x, w = draw((2, n), device, dtype, seed=n)
        w[:, ::2] = 0
        y, g, _ = pooled(x, penalty, w)
        half, g_half, _ = pooled(x[:, 1::2].contiguous(), penalty, w[:, 1::2].contiguous())
        close(y, half, dtype)
        close(g[:, 1::2], g_half, dtype)


def test_reproducible(penalty, device, dtype):
    x, w = draw((70, 90), device, dtype)
    expected = pooled(x, penalty, w)
    for a, b in zip(pooled(x.flip(0), penalty, w.flip(0)), expected, strict=True):
        assert torch.equal(a.flip(0), b)
    for i in (0, 1, 69):
        for a, b in zip(pooled(x[i], penalty, w[i]), expected, strict=True):
            assert torch.equal(a, b[i])


def test_under_compile(device, dtype):
    x, w = draw((5, 30), device, dtype)
    w.requires_grad_()

    def loss(x, w):
        return ddn_cuda.robust_pool(x, "huber", 1.0, weight=torch.softmax(w, -1)).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    (expected,) = torch.autograd.grad(loss(x, w), w)
    (got,) = torch.autograd.grad(compiled(x, w), w)
    close(got, expected, dtype)
