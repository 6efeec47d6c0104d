"""The module `RobustPool`, `build_info`, and the check of the PyTorch version on import."""

import copy
import io
import pickle

import pytest
import torch

import ddn_cuda
from ddn_cuda import _build
from tests.support import reference as ref


def test_it_is_the_function(penalty, device, dtype):
    x = torch.randn(4, 6, 20, dtype=dtype, device=device)
    for options in ({}, {"dim": 1}, {"dim": (0, 2), "keepdim": True}, {"dim": ()}):
        pool = ddn_cuda.RobustPool(penalty, 0.5, **options).to(device)
        assert torch.equal(pool(x), ddn_cuda.robust_pool(x, penalty, 0.5, **options))


def test_max_iter_and_tol_are_handed_on(device):
    x = torch.randn(40, 99, dtype=torch.float64, device=device)
    for options in ({"max_iter": 2}, {"tol": 0.5}):
        pool = ddn_cuda.RobustPool("pseudo_huber", 0.25, **options).to(device)
        expected = ddn_cuda.robust_pool(x, "pseudo_huber", 0.25, **options)
        assert torch.equal(pool(x), expected)
        assert not torch.equal(expected, ddn_cuda.robust_pool(x, "pseudo_huber", 0.25))


def test_a_module_and_a_float_agree_on_alpha(penalty, device):
    """A float64 set is solved with the exact alpha, not rounded to float32."""
    x = torch.randn(4, 99, dtype=torch.float64, device=device)
    pool = ddn_cuda.RobustPool(penalty, 0.1).to(device)
    assert torch.equal(pool(x), ddn_cuda.robust_pool(x, penalty, 0.1))


def test_alpha_is_a_buffer():
    pool = ddn_cuda.RobustPool("welsch", 0.5)
    assert list(pool.parameters()) == []
    (name, alpha), *others = pool.named_buffers()
    assert (name, others) == ("scale.alpha", [])
    assert alpha.shape == ()
    assert float(alpha) == float(pool.alpha) == 0.5
    assert not alpha.requires_grad


def test_a_learned_alpha_is_a_parameter_and_stays_positive(device):
    """For any step size; alpha approaches the scale that ignores outliers."""
    pool = ddn_cuda.RobustPool("pseudo_huber", 5.0, learn_alpha=True).to(device)
    ((name, log_alpha),) = pool.named_parameters()
    assert name == "scale.log_alpha"
    assert list(pool.buffers()) == []
    assert float(pool.alpha) == pytest.approx(5.0, rel=1e-6)
    x = torch.randn(40, 99, device=device)
    x[:, :20] += 30
    optimizer = torch.optim.SGD(pool.parameters(), lr=10.0)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = pool(x).square().mean()
        loss.backward()
        optimizer.step()
        assert float(pool.alpha) > 0
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 4
    assert "learn_alpha=True" in repr(pool)
    pool.reset_parameters()
    assert float(pool.alpha) == pytest.approx(5.0, rel=1e-6)
    assert log_alpha is pool.scale.log_alpha


@pytest.mark.parametrize("step", [-1e6, -200.0, 200.0, 1e6])
def test_a_learned_alpha_stays_in_range_and_comes_back(step, device, dtype):
    """After a step for which exp would give 0 or infinity, and NaN afterwards."""
    pool = ddn_cuda.RobustPool("pseudo_huber", 0.7, learn_alpha=True).to(device)
    log_alpha = pool.scale.log_alpha
    with torch.no_grad():
        log_alpha += step
    x = torch.randn(40, 99, dtype=dtype, device=device)
    limit = 1e30 if dtype == torch.float64 else 1e15
    alpha = pool.scale(x)
    assert alpha.item() == pytest.approx(limit if step > 0 else 1 / limit, rel=1e-4)
    ddn_cuda.robust_pool(x, "pseudo_huber", alpha, validate=True)  # raises out of the range
    assert pool(x).isfinite().all()
    (g,) = torch.autograd.grad(alpha, log_alpha)
    assert g.item() == pytest.approx(alpha.item(), rel=1e-6)


def test_the_derivatives_of_a_learned_alpha(device):
    """Equal to the derivatives of exp, of any order, within the range."""
    scale = ddn_cuda.RobustPool("welsch", 0.7, learn_alpha=True).to(device, torch.float64).scale

    def alpha(log_alpha):
        return torch.func.functional_call(scale, {"log_alpha": log_alpha}, ())

    log_alpha = scale.log_alpha.detach().requires_grad_()
    assert torch.autograd.gradcheck(alpha, log_alpha, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(alpha, log_alpha)
    hessian = torch.func.hessian(alpha)(log_alpha.detach())
    assert torch.equal(hessian.flatten(), log_alpha.detach().exp())


def test_a_learned_alpha_in_16_bits(device):
    """exp is taken in float32: 1e5 is beyond float16."""
    pool = ddn_cuda.RobustPool("huber", 1e5, learn_alpha=True).to(device).half()
    assert pool.alpha.dtype == torch.float32
    assert float(pool.alpha) == pytest.approx(1e5, rel=1e-2)


@pytest.mark.parametrize("learn_alpha", [False, True])
def test_a_parameter_for_alpha_raises(learn_alpha):
    """It would be copied and get no gradient."""
    alpha = torch.nn.Parameter(torch.tensor(0.5))
    with pytest.raises(TypeError, match=r"`alpha` is an nn\.Parameter.*learn_alpha=True"):
        ddn_cuda.RobustPool("huber", alpha, learn_alpha=learn_alpha)


@pytest.mark.parametrize("learn_alpha", [False, True])
def test_one_alpha_for_each_channel(learn_alpha, device):
    alpha = torch.tensor([[0.25], [0.5], [4.0]])
    pool = ddn_cuda.RobustPool("huber", alpha, learn_alpha=learn_alpha).to(device)
    x = torch.randn(2, 3, 20, device=device)
    expected = ddn_cuda.robust_pool(x, "huber", alpha.to(device))
    torch.testing.assert_close(pool(x), expected, rtol=1e-5, atol=1e-6)
    assert "alpha=of shape (3, 1)" in repr(pool)
    alpha.fill_(1.0)  # the values were copied
    torch.testing.assert_close(pool(x), expected, rtol=1e-5, atol=1e-6)


def test_casts_leave_alpha_alone(device):
    """alpha is not an activation: in 16 bits it could underflow, overflow or lose digits."""
    x = torch.randn(3, 20, device=device).half()
    for alpha in (1e5, 1e-9, 0.3):
        pool = ddn_cuda.RobustPool("welsch", alpha).to(device).half().float().half()
        assert float(pool.alpha) == alpha
        assert torch.equal(pool(x), ddn_cuda.robust_pool(x, "welsch", alpha))


def test_deferred_initialisation():
    with torch.device("meta"):
        pool = ddn_cuda.RobustPool("welsch", 0.3)
    assert "alpha=0.3" in repr(pool)
    pool = pool.to_empty(device="cpu")
    pool.reset_parameters()
    assert float(pool.alpha) == 0.3


def test_a_module_takes_weights(device):
    x = torch.randn(3, 20, device=device)
    mask = x < 1
    expected = ddn_cuda.robust_pool(x, "welsch", 0.5, weight=mask)
    assert torch.equal(ddn_cuda.RobustPool("welsch", 0.5).to(device)(x, mask), expected)


def test_the_default_is_huber_over_the_last_dim(device):
    x = torch.randn(3, 20, device=device)
    assert torch.equal(ddn_cuda.RobustPool().to(device)(x), ddn_cuda.robust_pool(x, "huber", 1.0))


def test_repr():
    assert repr(ddn_cuda.RobustPool("H", 0.5, dim=1)).startswith("RobustPool('H'")
    shown = repr(
        ddn_cuda.RobustPool("welsch", 0.25, dim=(1, 2), keepdim=True, max_iter=7, tol=0.125)
    )
    for part in ("'welsch'", "0.25", "dim=(1, 2)", "keepdim=True", "max_iter=7", "tol=0.125"):
        assert part in shown
    assert "max_iter" not in repr(ddn_cuda.RobustPool())


def test_state_dict_carries_alpha(device):
    source = ddn_cuda.RobustPool("huber", 0.25).to(device)
    target = ddn_cuda.RobustPool("huber", 3.0).to(device)
    x = torch.randn(3, 20, device=device)
    assert not torch.equal(source(x), target(x))
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(source(x), target(x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(copied, device):
    pool = ddn_cuda.RobustPool("welsch", 0.3, dim=(0, 1), keepdim=True, max_iter=50).to(device)
    twin = copied(pool)
    x = torch.randn(3, 20, 2, device=device)
    assert torch.equal(pool(x), twin(x))
    assert repr(pool) == repr(twin)
    twin.alpha.fill_(2.0)
    assert float(pool.alpha) == pytest.approx(0.3)


@pytest.mark.parametrize("to", [torch.float32, torch.float64])
def test_it_moves_with_its_model(to, device):
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), ddn_cuda.RobustPool("huber", 0.5, dim=1))
    model = model.to(device, to)
    x = torch.randn(3, 20, 6, dtype=to, device=device)
    y = model(x)
    assert y.shape == (3, 4)
    assert y.dtype == to
    y.sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_alpha_raises(alpha):
    with pytest.raises(ValueError, match="`alpha` is"):
        ddn_cuda.RobustPool("huber", alpha)


def test_it_trains(device):
    """A few steps of gradient descent through the pool lower the loss."""
    layer = torch.nn.Linear(2, 8).to(device)
    pool = ddn_cuda.RobustPool("welsch", 1.0, dim=1).to(device)
    x, target = torch.randn(16, 30, 2, device=device), torch.randn(16, 8, device=device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        loss = (pool(layer(x)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


# ---- The build -------------------------------------------------------------------------------


def test_build_info():
    info = ddn_cuda.build_info()
    assert set(info) == {"version", "torch", "cuda", "cuda_archs", "cpu_isa"}
    assert info["version"] == ddn_cuda.__version__
    assert info["version"].count(".") == 2
    assert info["torch"].split(".")[:2] == torch.__version__.split(".")[:2]
    assert info["cpu_isa"] in ("avx512", "avx2", "base")
    assert (info["cuda"] is None) == (info["cuda_archs"] is None)
    if info["cuda"] is not None:
        assert info["cuda"].split(".")[0] == torch.version.cuda.split(".")[0]


@pytest.mark.parametrize(
    ("built", "running"),
    [("2.13.0", "2.13.0"), ("2.13.0", "2.13.1+cpu"), ("2.13.0+cu130", "2.13.0a0+git1")],
)
def test_the_same_minor_version_of_torch_is_accepted(built, running):
    _build.check_torch_version(built, running)


@pytest.mark.parametrize(
    ("built", "running"),
    [("2.13.0", "2.14.1+cu130"), ("2.1.0", "2.13.0"), ("2.13.0", "2.1.30"), ("2.13.0", "3.13.0")],
)
def test_another_minor_version_of_torch_is_refused_in_one_line(built, running):
    with pytest.raises(ImportError) as raised:
        _build.check_torch_version(built, running)
    message = str(raised.value)
    assert built in message
    assert running in message
    assert "\n" not in message


def test_the_check_runs_before_the_binary_is_loaded(monkeypatch):
    """It reads the version from the file, because loading a wrong binary could fail with an
    undefined symbol."""
    monkeypatch.setattr(torch, "__version__", "1.99.0")
    with pytest.raises(ImportError, match=r"1\.99\.0"):
        _build.load()


def test_public_names():
    assert set(ddn_cuda.__all__) >= {"PENALTIES", "RobustPool", "build_info", "robust_pool"}
    for name in ddn_cuda.__all__:
        assert hasattr(ddn_cuda, name)
    assert tuple(ddn_cuda.PENALTIES) == ref.PENALTIES
