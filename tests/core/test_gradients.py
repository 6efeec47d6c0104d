"""Gradients equal those of the implicit function theorem."""

import numpy as np
import pytest
import torch

import ddn_cuda
from tests.support import contract, sets
from tests.support import reference as ref

# Sets for comparison with the reference gradient. For smooth penalties a gradient is only as
# accurate as the answer, so these sets determine the answer well.
CASES = [case for case in sets.cases() if case.points.shape[1] <= 20_000 and case.alpha != 1e15]


def pool_and_gradient(x, *args, upstream=None, **options):
    x = x.detach().clone().requires_grad_()
    y = ddn_cuda.robust_pool(x, *args, **options)
    (g,) = torch.autograd.grad(y, x, torch.ones_like(y) if upstream is None else upstream)
    return y.detach(), g


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_against_the_reference(case, penalty, device, dtype):
    x = torch.tensor(case.points, dtype=dtype, device=device)
    y, g = pool_and_gradient(x, penalty, case.alpha)
    assert g.dtype == dtype
    assert torch.isfinite(g).all()
    points, y, g = (t.double().cpu().numpy() for t in (x, y, g))
    for point, answer, gradient in zip(points, y, g, strict=True):
        d = contract.accuracy(answer, case.alpha, dtype)
        if penalty == "quadratic" or contract.well_conditioned(
            answer, d, point, penalty, case.alpha
        ):
            contract.assert_gradient(gradient, float(answer), point, penalty, case.alpha, dtype)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradients_sum_to_one(case, penalty, device, dtype):
    """A translation of all points moves the answer equally; without curvature all gradients are
    zero."""
    x = torch.tensor(case.points, dtype=dtype, device=device)
    y, g = pool_and_gradient(x, penalty, case.alpha)
    sums = g.double().sum(-1).cpu().numpy()
    sizes = g.double().abs().sum(-1).cpu().numpy()
    for total, size, answer, point in zip(sums, sizes, y, x, strict=True):
        if size == 0:
            # Zero by convention: flat, or no curvature above the rounding of its sum.
            set_ = point.double().cpu().numpy()
            at = ref.solve(set_, penalty, case.alpha)
            scarce = contract.least_curvature(
                float(answer), 0.0, set_, penalty, case.alpha
            ) < 1e-3 * len(set_)
            assert scarce or at.flat
        else:
            # A few roundings, of the terms and of the two chunked sums.
            assert abs(total - 1) <= 16 * contract.EPS[dtype] * size


def regular_points(penalty, sets_, n, alpha, seed):
    """Sets whose answer is well determined and further than 1e-3 alpha from any breakpoint."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < sets_:
        x = sets.contaminated(rng, 1, n)[0]
        y = float(ddn_cuda.robust_pool(torch.tensor(x), penalty, alpha))
        clear = np.abs(np.abs(y - x) - alpha).min() > 1e-3 * alpha
        if clear and contract.least_curvature(y, 0.0, x, penalty, alpha) > 0.2 * n:
            found.append(x)
    return torch.tensor(np.array(found))


@pytest.mark.parametrize("alpha", [0.8, 3.0])
def test_gradcheck(penalty, alpha, device):
    x = regular_points(penalty, 3, 12, alpha, 5).to(device).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ddn_cuda.robust_pool(x, penalty, alpha), x)


@pytest.mark.parametrize(
    ("dim", "keepdim"), [(0, False), (1, True), ((0, 2), False), ((-1, 0), True), ((), False)]
)
def test_gradcheck_over_dims(penalty, dim, keepdim, device):
    base = torch.randn(3, 4, 5, dtype=torch.float64, device=device)
    alpha = 10.0  # every point inside: no breakpoint is near
    x = base.transpose(0, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: ddn_cuda.robust_pool(x, penalty, alpha, dim=dim, keepdim=keepdim), x
    )


@pytest.mark.parametrize("shape", [(), (1,), (3, 1), (4, 1, 1), (4, 3, 1)])
def test_gradcheck_with_an_alpha_tensor(penalty, shape, device):
    x = torch.randn(4, 3, 6, dtype=torch.float64, device=device, requires_grad=True)
    alpha = 8.0 + torch.rand(shape, dtype=torch.float64, device=device)
    assert torch.autograd.gradcheck(lambda x: ddn_cuda.robust_pool(x, penalty, alpha), x)


def test_upstream_gradients_scale_each_set(penalty, device, dtype):
    x = torch.randn(6, 50, dtype=dtype, device=device)
    _, g = pool_and_gradient(x, penalty, 1.0)
    powers = torch.tensor([1.0, -2.0, 0.0, 0.25, -1024.0, 2.0**40], dtype=dtype, device=device)
    _, scaled = pool_and_gradient(x, penalty, 1.0, upstream=powers)
    assert torch.equal(scaled, g * powers[:, None])


def test_upstream_gradients_of_any_layout(penalty, device, dtype):
    x = torch.randn(4, 50, 3, dtype=dtype, device=device)
    dense = torch.randn(4, 3, dtype=dtype, device=device)
    _, expected = pool_and_gradient(x, penalty, 1.0, dim=1, upstream=dense)
    transposed = dense.T.contiguous().T
    _, g = pool_and_gradient(x, penalty, 1.0, dim=1, upstream=transposed)
    assert torch.equal(g, expected)
    one = torch.ones((), dtype=dtype, device=device).expand(4, 3)
    _, g = pool_and_gradient(x, penalty, 1.0, dim=1, upstream=one)
    assert torch.equal(g, pool_and_gradient(x, penalty, 1.0, dim=1)[1])


def test_layouts_of_the_input(penalty, device, dtype):
    """Bitwise equal to the gradient of the contiguous copy, for any strides."""
    x = torch.randn(6, 40, 8, dtype=dtype, device=device)
    views = {
        "transposed": x.transpose(1, 2),
        "sliced": x[::2, 3:, ::3].transpose(1, 2),
        "flipped": x.flip(1).transpose(1, 2),
        "last": x,
    }
    for name, view in views.items():
        _, expected = pool_and_gradient(view.contiguous(), penalty, 0.7)
        leaf = view.detach().requires_grad_()  # keeps the strides
        ddn_cuda.robust_pool(leaf, penalty, 0.7).sum().backward()
        assert torch.equal(leaf.grad, expected), name


def test_an_expanded_input_gathers_its_gradient(penalty, device, dtype):
    """The gradients of points that share an element are summed."""
    base = torch.randn(5, 1, dtype=dtype, device=device, requires_grad=True)
    ddn_cuda.robust_pool(base.expand(5, 64), penalty, 1.0).sum().backward()
    # 64 equal points: the shared element has gradient 1, up to the rounding of the sum.
    assert torch.allclose(base.grad, torch.ones_like(base), rtol=0, atol=64 * contract.EPS[dtype])


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (0, 0, 2)])
def test_no_sets_no_gradient(shape, penalty, device, dtype):
    x = torch.empty(shape, dtype=dtype, device=device, requires_grad=True)
    y = ddn_cuda.robust_pool(x, penalty)
    assert y.shape == shape[:-1]
    y.sum().backward()
    assert x.grad.shape == shape


def test_the_graph_can_be_used_twice(penalty, device, dtype):
    x = torch.randn(4, 33, dtype=dtype, device=device, requires_grad=True)
    y = ddn_cuda.robust_pool(x, penalty, 0.5)
    (first,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    (second,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y.sum(), x)


def test_a_point_changed_in_place_is_noticed(device):
    x = torch.randn(4, 33, device=device, requires_grad=True)
    z = x * 1
    y = ddn_cuda.robust_pool(z, "huber")
    z.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_nothing_is_recorded_without_need(penalty, device, dtype):
    x = torch.randn(4, 33, dtype=dtype, device=device)
    assert not ddn_cuda.robust_pool(x, penalty).requires_grad
    x.requires_grad_()
    with torch.no_grad():
        assert not ddn_cuda.robust_pool(x, penalty).requires_grad
    with torch.inference_mode():
        assert not ddn_cuda.robust_pool(x, penalty).requires_grad
    assert ddn_cuda.robust_pool(x, penalty).requires_grad


def test_the_gradient_of_x_does_not_depend_on_what_else_is_wanted(penalty, device, dtype):
    x = torch.randn(4, 33, dtype=dtype, device=device)
    alpha = torch.full((4, 1), 0.7, dtype=dtype, device=device)
    weight = 0.5 + torch.rand(4, 33, dtype=dtype, device=device)
    _, expected = pool_and_gradient(x, penalty, alpha, weight=weight)
    for moved in ((alpha,), (weight,), (alpha, weight)):
        for t in moved:
            t.requires_grad_()
        _, g = pool_and_gradient(x, penalty, alpha, weight=weight)
        assert torch.equal(g, expected)
        for t in moved:
            t.requires_grad_(False)


def test_an_answer_changed_in_place_raises(device):
    """The backward pass needs the saved answer; torch.amax behaves likewise."""
    x = torch.randn(4, 9, device=device, requires_grad=True)
    for pool in (lambda x: torch.amax(x, -1), lambda x: ddn_cuda.robust_pool(x, "welsch")):
        y = torch.nn.functional.relu(pool(x), inplace=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
