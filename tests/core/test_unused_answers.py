"""An answer that the loss does not use sends zero back, even if the answer is NaN; see
csrc/core/gradient.h. The mean does the same."""

import pytest
import torch

import ddn_cuda
from ddn_cuda import robust_pool
from ddn_cuda._C import PENALTY_TRAITS
from tests.support import reference as ref

NAN = float("nan")


def drawn(dtype, n, device="cpu"):
    """Four sets: of a NaN point, of a good one, of a negative weight, and of a bad alpha."""
    x = torch.randn(4, n, dtype=dtype, device=device)
    weight = torch.rand(4, n, dtype=dtype, device=device)
    alpha = torch.ones(4, 1, dtype=dtype, device=device)
    x[0, n // 2], weight[2, 0], alpha[3] = NAN, -1, NAN
    return [t.requires_grad_() for t in (x, weight, alpha)]


BAD, GOOD = [0, 2, 3], [1]


def assert_nan_only_in(t, sets):
    assert t[sets].isnan().all()
    assert t[[i for i in range(4) if i not in sets]].isfinite().all()


@pytest.mark.parametrize("n", [1, 5, 64, 3000])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients(n, weighted, penalty, dtype, device):
    x, weight, alpha = drawn(dtype, n, device)
    x_, weight_, alpha_ = (t.detach() for t in (x, weight, alpha))
    inputs = (x, weight, alpha) if weighted else (x, alpha)
    y = robust_pool(x, penalty, alpha, weight=weight if weighted else None)
    sets = BAD if weighted else [0, 3]
    assert_nan_only_in(y.detach(), sets)
    for grad in torch.autograd.grad(y[1], inputs, retain_graph=True):
        assert grad.isfinite().all()
        assert not grad[BAD].any()
    for grad in torch.autograd.grad(y[1:].sum(), inputs, retain_graph=True):
        assert not grad[0].any()
        assert grad[3].isnan().all()
    # The gradient of the good set is that of the set alone.
    alone = [t[1:2].clone().requires_grad_() for t in (x_, alpha_)]
    own = robust_pool(alone[0], penalty, alone[1], weight=weight_[1:2] if weighted else None)
    for found, expected in zip(
        torch.autograd.grad(y[1], (x, alpha)), torch.autograd.grad(own[0], alone), strict=True
    ):
        assert torch.equal(found[1:2], expected)


def test_half_points_strided_points_and_segments(half, device):
    x = torch.randn(6, 3, device=device).to(half)
    x[1, 1] = NAN
    for points, pool in (
        (x.T, lambda x: robust_pool(x, "welsch")),
        (x, lambda x: robust_pool(x, "welsch", dim=0)),
        (
            x,
            lambda x: ddn_cuda.segment_robust_pool(
                x, torch.tensor([0, 4, 6], device=device), "welsch"
            )[0],
        ),
    ):
        points = points.detach().requires_grad_()
        (grad,) = torch.autograd.grad(pool(points)[[0, 2]].sum(), points)
        assert grad.isfinite().all()
        assert grad.any()


def test_shared_weights_and_alpha_learn_from_the_other_sets(penalty, dtype):
    """Otherwise one NaN spoils a parameter although the loss masks its answer."""
    x = torch.randn(4, 9, dtype=dtype)
    clean = x.clone()
    x[2, 3] = NAN
    found = []
    for points, used in ((x, y_is_finite), (clean, lambda y: torch.arange(4) != 2)):
        weight = torch.ones(9, dtype=dtype, requires_grad=True)
        alpha = torch.tensor(0.7, dtype=dtype, requires_grad=True)
        y = robust_pool(points, penalty, alpha, weight=weight)
        loss = torch.where(used(y), y, 0).square().sum()
        found.append(torch.autograd.grad(loss, (weight, alpha)))
    for own, expected in zip(*found, strict=True):
        assert torch.equal(own, expected)


def y_is_finite(y):
    return y.isfinite()


def test_forward_mode(penalty, dtype):
    """A zero direction gives a zero tangent, any other NaN."""
    primals = [t.detach() for t in drawn(dtype, 5)]
    for moved in range(3):
        tangents = [torch.zeros_like(t) for t in primals]
        tangents[moved][1:3, -1] = 1
        y, tangent = torch.func.jvp(
            lambda x, weight, alpha: robust_pool(x, penalty, alpha, weight=weight),
            tuple(primals),
            tuple(tangents),
        )
        assert_nan_only_in(y, BAD)
        assert tangent[[0, 3]].tolist() == [0, 0]
        assert tangent[2].isnan()
        assert tangent[1].isfinite()


@pytest.mark.parametrize("penalty", [p for p in ref.PENALTIES if PENALTY_TRAITS[p]["is_smooth"]])
def test_second_derivatives(penalty):
    """Reverse over reverse, and forward over reverse: only the good set is used, or moves."""
    inputs = drawn(torch.float64, 7)

    def gradients(*inputs):
        x, weight, alpha = inputs
        return torch.autograd.grad(
            robust_pool(x, penalty, alpha, weight=weight).sum(), inputs, create_graph=True
        )

    first = gradients(*inputs)
    for grad in first:
        assert_nan_only_in(grad.detach(), BAD)
    loss = sum(grad[GOOD].square().sum() for grad in first)
    second = torch.autograd.grad(loss, inputs)
    for grad in second:
        assert grad.isfinite().all()
        assert not grad[BAD].any()
    assert second[0].any()

    def gradient(x):
        return torch.func.grad(
            lambda x: robust_pool(x, penalty, inputs[2].detach(), weight=inputs[1].detach()).sum()
        )(x)

    x = inputs[0].detach()
    direction = torch.zeros_like(x)
    direction[1] = 1
    _, tangent = torch.func.jvp(gradient, (x,), (direction,))
    assert not tangent[BAD].any()
    assert tangent.isfinite().all()
    _, tangent = torch.func.jvp(gradient, (x,), (torch.ones_like(x),))
    assert_nan_only_in(tangent, BAD)


@pytest.mark.parametrize("mode", ["vmap", "compiled", "operator"])
def test_under_transforms(mode):
    x, weight, alpha = (t.detach() for t in drawn(torch.float64, 5))

    def loss(x, weight, alpha):
        return robust_pool(x, "welsch", alpha, weight=weight)[..., 1].sum()

    if mode == "vmap":
        stacked = [t.unsqueeze(0) for t in (x, weight, alpha)]
        found = torch.vmap(torch.func.grad(loss, argnums=(0, 1, 2)))(*stacked)
        found = [grad[0] for grad in found]
    else:
        inputs = [t.clone().requires_grad_() for t in (x, weight, alpha)]
        if mode == "compiled":
            call = torch.compile(loss, backend="aot_eager", fullgraph=True)
        else:

            def call(x, weight, alpha):
                return torch.ops.ddn.robust_pool(x, "welsch", alpha=alpha, weight=weight)[1]

        found = torch.autograd.grad(call(*inputs), inputs)
    for grad in found:
        assert grad.isfinite().all()
        assert not grad[BAD].any()
        assert grad[GOOD].any()
