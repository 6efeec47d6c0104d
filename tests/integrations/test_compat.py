"""`ddn_cuda.compat`: the interface of `ddn.pytorch.robustpool` with the answers of this library."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ddn_cuda
import ddn_cuda.compat as robustpool
from tests.support import reference as ref

METHODS = {method.penalty: method for method in robustpool._METHODS}


@pytest.fixture(params=METHODS)
def penalty(request):
    """Those of the predecessor."""
    return request.param


def test_each_method_is_a_penalty():
    assert METHODS.keys() <= ddn_cuda.PENALTIES.keys()
    for penalty, method in METHODS.items():
        assert getattr(robustpool, method.__name__) is method
        assert method.is_convex == (penalty in ref.CONVEX)


# Answers and gradients


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (4, 5, 6), (5, 6), (2, 3, 2, 5, 1)])
def test_answers_and_gradients_are_those_of_robust_pool(shape, penalty, device, dtype):
    x = (3 * torch.randn(shape, dtype=dtype, device=device)).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    alpha = torch.tensor([0.7], dtype=dtype, device=device)
    y = robustpool.RobustGlobalPool2dFn.apply(x, METHODS[penalty], alpha)
    expected = ddn_cuda.robust_pool(twin, penalty, alpha, dim=(-2, -1))
    assert y.shape == shape[:-2]
    assert torch.equal(y, expected)
    grad = torch.randn_like(y)
    y.backward(grad)
    expected.backward(grad)
    assert torch.equal(x.grad, twin.grad)


def test_module_and_function_agree(penalty, device, dtype):
    x = torch.randn(2, 3, 7, 7, dtype=dtype, device=device)
    pool = robustpool.RobustGlobalPool2d(METHODS[penalty], alpha=0.1).to(device)
    assert torch.equal(pool(x), ddn_cuda.robust_pool(x, penalty, 0.1, dim=(-2, -1)))


@pytest.mark.parametrize(
    "alpha",
    [0.5, torch.tensor(0.5), torch.tensor([0.5]), torch.tensor([0.5], dtype=torch.float64)],
    ids=["float", "0-dim", "1 element", "float64"],
)
def test_alpha_may_be(alpha, device):
    """A tensor on the CPU, as scripts create it, works on any device."""
    x = torch.randn(2, 3, 4, 4, device=device)
    y = robustpool.RobustGlobalPool2dFn.apply(x, robustpool.Welsch, alpha)
    assert torch.equal(y, ddn_cuda.robust_pool(x, "welsch", 0.5, dim=(-2, -1)))


def test_an_int_serves_as_alpha(device):
    x = torch.randn(2, 3, 4, 4, device=device)
    expected = ddn_cuda.robust_pool(x, "huber", 2.0, dim=(-2, -1))
    assert torch.equal(
        robustpool.RobustGlobalPool2dFn.apply(x, robustpool.Huber, torch.tensor([2])), expected
    )
    pool = robustpool.RobustGlobalPool2d(robustpool.Huber, 2).to(device)
    assert torch.equal(pool(x), expected)


@pytest.mark.parametrize("shape", [(1,), (), (3, 1, 1), (2, 1, 1, 1)], ids=str)
def test_alpha_gets_the_gradient_of_robust_pool(shape, device):
    x = 2 * torch.randn(2, 3, 4, 4, dtype=torch.float64, device=device)
    alpha = (0.5 + torch.rand(shape, dtype=torch.float64, device=device)).requires_grad_()
    y = robustpool.RobustGlobalPool2dFn.apply(x, robustpool.PseudoHuber, alpha)
    expected = ddn_cuda.robust_pool(x, "pseudo_huber", alpha, dim=(-2, -1))
    (found,) = torch.autograd.grad(y.square().sum(), alpha)
    (wanted,) = torch.autograd.grad(expected.square().sum(), alpha)
    assert torch.equal(found, wanted)
    assert (found != 0).all()


def test_a_bad_alpha_in_a_tensor_gives_nan(device):
    x = torch.randn(2, 3, 4, 4, device=device)
    for bad in (0.0, -1.0, math.nan):
        y = robustpool.RobustGlobalPool2dFn.apply(x, robustpool.Huber, torch.tensor([bad]))
        assert y.isnan().all()


# The differences that docs/compat.md lists


def test_a_set_does_not_depend_on_its_batch(penalty, device):
    x = 3 * torch.randn(6, 5, 8, 8, device=device)
    x[0, 0, 0, 0] = math.nan
    x[1, :, :4] += 500
    pool = robustpool.RobustGlobalPool2d(METHODS[penalty], 0.3).to(device)
    alone = torch.stack([torch.stack([pool(one) for one in row]) for row in x])
    assert torch.equal(pool(x)[1:], alone[1:])
    assert torch.equal(pool(x)[0, 1:], alone[0, 1:])
    assert pool(x)[0, 0].isnan()


def test_the_minimum_is_global_where_two_descents_end_elsewhere(device):
    """Three clusters. Mean and median lie in the small ones, which are nearer to each other than to
    the large one."""
    clusters = [torch.full((n,), center) for n, center in ((40, -6.0), (30, 1.0), (31, 2.5))]
    x = (torch.cat(clusters) + 0.01 * torch.randn(101)).reshape(1, 1, 101, 1).to(device)
    for penalty in ("welsch", "truncated_quadratic"):
        y = robustpool.RobustGlobalPool2d(METHODS[penalty], 0.5).to(device)(x)
        assert y.item() == pytest.approx(-6.0, abs=0.05)


def test_welsch_gradients_are_not_clipped(device):
    """The curvature of the outer points, where psi' is most negative, nearly cancels that of the
    inner ones."""
    points = [-0.5, 0.5, -math.sqrt(3), math.sqrt(3)]
    x = torch.tensor(points, dtype=torch.float64, device=device).reshape(1, 1, 2, 2)
    x.requires_grad_()
    y = robustpool.RobustGlobalPool2dFn.apply(x, robustpool.Welsch, 1.0)
    (grad,) = torch.autograd.grad(y.sum(), x)
    curvature = [(1 - z * z) * math.exp(-z * z / 2) for z in points]
    expected = torch.tensor(curvature, dtype=torch.float64, device=device) / sum(curvature)
    torch.testing.assert_close(grad.flatten(), expected)
    assert grad.max() > 1.5


# What the methods hold


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_phi_is_the_penalty(alpha, penalty, dtype):
    z = torch.cat([torch.linspace(-8, 8, 801, dtype=dtype), torch.tensor([alpha, -alpha])])
    z = z.to(dtype)
    expected = ref.phi(z.double().numpy(), penalty, alpha)
    for scale in (alpha, torch.tensor([alpha], dtype=dtype)):
        value = METHODS[penalty].phi(z, scale)
        assert value.dtype == dtype
        # A few roundings of a sum of positive terms, and of alpha itself.
        rtol = 16 * torch.finfo(dtype).eps
        torch.testing.assert_close(
            value.double(), torch.from_numpy(expected), rtol=rtol, atol=rtol * 1e-3
        )


def test_phi_does_not_cancel_near_zero():
    z = torch.tensor([1e-6], dtype=torch.float32)
    for method in (robustpool.PseudoHuber, robustpool.Welsch):
        assert method.phi(z, 1.0).item() == pytest.approx(5e-13, rel=1e-5)


def test_dy_is_the_gradient(penalty, dtype, device):
    """For residuals away from breakpoints, since they come from the rounded answer."""
    x = (2 * torch.randn(3, 4, 6, 6, dtype=dtype, device=device)).requires_grad_()
    method = METHODS[penalty]
    y = robustpool.RobustGlobalPool2dFn.apply(x, method, 0.8)
    (grad,) = torch.autograd.grad(y.sum(), x)
    z = (y[..., None, None] - x).detach()
    assert ((z.abs() - 0.8).abs() > 1e-5).all(), "draw other points"
    tol = 1e-4 if dtype == torch.float32 else 1e-8
    torch.testing.assert_close(method.Dy(z, 0.8), grad, rtol=tol, atol=tol)


def test_dy_vanishes_with_the_curvature():
    z = torch.tensor([5.0, -5.0]).reshape(1, 1, 2, 1)
    for method in (robustpool.Huber, robustpool.TruncatedQuadratic, robustpool.Welsch):
        assert torch.equal(method.Dy(z, 1.0), torch.zeros_like(z))


# As a module


def test_state_dict_is_theirs():
    pool = robustpool.RobustGlobalPool2d(robustpool.Huber, alpha=0.25)
    assert list(pool.parameters()) == []
    assert list(pool.state_dict()) == ["alpha"]
    # The content of a checkpoint of ddn.
    pool.load_state_dict({"alpha": torch.tensor([0.5])})
    assert pool.alpha.shape == (1,)
    assert pool.alpha.item() == 0.5
    file = io.BytesIO()
    torch.save(pool.state_dict(), file)
    file.seek(0)
    twin = robustpool.RobustGlobalPool2d(robustpool.Huber)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert twin.alpha.item() == 0.5


def test_alpha_can_be_set():
    pool = robustpool.RobustGlobalPool2d(robustpool.Huber, alpha=0.25)
    pool.alpha *= 2
    assert pool.state_dict()["alpha"].tolist() == [0.5]
    pool.alpha = torch.tensor([3.0])
    assert pool.state_dict()["alpha"].tolist() == [3.0]


def test_casts_leave_alpha_alone(device):
    """In float16 it would be infinite here, or zero."""
    x = torch.randn(2, 3, 4, 4, device=device).half()
    for alpha in (1e5, 1e-9):
        pool = robustpool.RobustGlobalPool2d(robustpool.Welsch, alpha).to(device).half()
        assert pool.alpha.dtype == torch.float64
        assert pool.alpha.tolist() == [alpha]
        assert torch.equal(pool(x), ddn_cuda.robust_pool(x, "welsch", alpha, dim=(-2, -1)))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(copied):
    pool = robustpool.RobustGlobalPool2d(robustpool.Welsch, 0.3)
    twin = copied(pool)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(pool(x), twin(x))
    assert repr(pool) == repr(twin) == "RobustGlobalPool2d(method=Welsch, alpha=0.3)"


# Errors


@pytest.mark.parametrize("method", ["huber", "H", None, robustpool.Huber(), torch.nn.Linear, float])
def test_an_unknown_method_raises(method):
    x = torch.ones(1, 1, 2, 2)
    expected = (
        r"`method` is .*expected one of the classes Quadratic, .*TruncatedQuadratic of ddn_cu"
    )
    with pytest.raises(TypeError, match=expected):
        robustpool.RobustGlobalPool2d(method)
    with pytest.raises(TypeError, match=expected):
        robustpool.RobustGlobalPool2dFn.apply(x, method, torch.tensor([1.0]))


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
def test_a_bad_alpha_raises(alpha):
    with pytest.raises(ValueError, match="`alpha` is"):
        robustpool.RobustGlobalPool2d(robustpool.Huber, alpha)
    with pytest.raises(ValueError, match="`alpha` is"):
        robustpool.RobustGlobalPool2dFn.apply(torch.ones(1, 1, 2, 2), robustpool.Huber, alpha)


def test_other_bad_input_raises():
    with pytest.raises(TypeError, match="`alpha` is '1'"):
        robustpool.RobustGlobalPool2d(robustpool.Huber, "1")
    with pytest.raises(ValueError, match=r"`x` has shape \[5\].*at least the two dims"):
        robustpool.RobustGlobalPool2dFn.apply(torch.ones(5), robustpool.Huber, 1.0)
    with pytest.raises(ValueError, match="at least one"):
        robustpool.RobustGlobalPool2dFn.apply(torch.ones(2, 3, 0, 4), robustpool.Huber, 1.0)


# A network in that style


@pytest.fixture
def one_thread():
    """One thread, since the networks are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class PointNet(nn.Module):
    """Selects its pool by the papers' short names, like networks written for ddn."""

    def __init__(self, classes, robust_type, alpha=1.0):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16)
        self.conv2, self.bn2 = nn.Conv1d(16, 32, 1), nn.BatchNorm1d(32)
        self.fc = nn.Linear(32, classes)
        short = {"Q": "Quadratic", "PH": "PseudoHuber", "H": "Huber"}
        short |= {"W": "Welsch", "TQ": "TruncatedQuadratic"}
        self.method = getattr(robustpool, short[robust_type])
        self.alpha = alpha

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        alpha = torch.tensor([self.alpha], dtype=x.dtype, device=x.device, requires_grad=False)
        x = robustpool.RobustGlobalPool2dFn.apply(x.unsqueeze(-1), self.method, alpha)
        return F.log_softmax(self.fc(x), dim=1)


@pytest.mark.parametrize("robust_type", ["Q", "PH", "H", "W", "TQ"])
def test_a_pointnet_trains(robust_type, device, one_thread):
    """Two classes of clouds, flat and round, with a tenth of the points far away."""
    model = PointNet(2, robust_type).to(device)
    clouds = torch.randn(32, 3, 50)
    clouds[:16, 2] *= 0.1
    clouds[..., :5] = 8 * torch.rand(32, 3, 5) - 4
    clouds, labels = clouds.to(device), (torch.arange(32, device=device) >= 16).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = F.nll_loss(model(clouds), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
