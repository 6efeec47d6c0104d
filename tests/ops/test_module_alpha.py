"""The alpha of the modules: set, replaced, deferred, converted, and under PyTorch's tools that
replace parameters by computed attributes."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import ddn_cuda
from ddn_cuda import compat

PER_CHANNEL = [[0.25], [0.5], [4.0]]
X = torch.linspace(-3, 9, 30).reshape(2, 3, 5) ** 2


def pooled(alpha):
    return ddn_cuda.robust_pool(X, "welsch", torch.as_tensor(alpha, dtype=torch.float64))


def made(alpha, learn_alpha):
    return ddn_cuda.RobustPool("welsch", alpha, learn_alpha=learn_alpha)


def same(pool, alpha):
    """Whether pool has this alpha and pools with it."""
    alpha = torch.as_tensor(alpha, dtype=torch.float64)
    torch.testing.assert_close(pool.alpha.double(), alpha, rtol=1e-5, atol=0)
    torch.testing.assert_close(pool(X), pooled(alpha), rtol=1e-5, atol=1e-5)
    return True


@pytest.fixture(params=[False, True], ids=["fixed", "learned"])
def learn_alpha(request):
    return request.param


@pytest.fixture(params=[0.3, torch.tensor(PER_CHANNEL)], ids=["scalar", "channels"])
def alpha(request):
    return request.param


# ---- Parameters that are replaced by computed attributes -----------------------------------------


class Doubled(nn.Module):
    def forward(self, t):
        return 2 * t


class Exponential(nn.Module):
    def forward(self, t):
        return t.exp()

    def right_inverse(self, t):
        return t.log()


def test_pruned(alpha):
    pool = made(alpha, True)
    prune.identity(pool.scale, "log_alpha")
    assert same(pool, alpha)
    assert "learn_alpha=True" in repr(pool)
    pool(X).sum().backward()
    assert pool.scale.log_alpha_orig.grad.abs().sum() > 0
    for change in (pool.reset_parameters, lambda: setattr(pool, "alpha", 2.0)):
        with pytest.raises(RuntimeError, match=r"`alpha` cannot be set.*'log_alpha' of the submod"):
            change()


def test_a_parametrised_learned_alpha(alpha):
    pool = made(alpha, True)
    parametrize.register_parametrization(pool.scale, "log_alpha", Doubled())
    assert same(pool.double(), np.square(np.asarray(alpha)))
    pool = made(alpha, True)
    parametrizations.weight_norm(pool.scale, "log_alpha")
    assert same(pool.double(), alpha)
    pool.alpha = 0.7
    assert same(pool, np.full_like(alpha, 0.7))
    pool.reset_parameters()
    assert same(pool, alpha)


def test_a_parametrised_fixed_alpha(alpha):
    """It moves, keeps its dtype, and can be set where the parametrisation has an inverse."""
    pool = made(alpha, False)
    parametrize.register_parametrization(pool.scale, "alpha", Exponential())
    pool = pool.half().to(torch.device("cpu"))
    assert same(pool, alpha)
    assert pool.alpha.dtype == torch.float64
    pool.alpha = 0.7
    assert same(pool, np.full_like(alpha, 0.7))
    parametrize.remove_parametrizations(pool.scale, "alpha")
    assert same(pool.half(), np.full_like(alpha, 0.7))


def test_a_replica_of_data_parallel(alpha, learn_alpha):
    """It has no parameters: its tensors are attributes."""
    pool = made(alpha, learn_alpha)
    replica = pool._replicate_for_data_parallel()
    replica.scale = pool.scale._replicate_for_data_parallel()
    if learn_alpha:
        replica.scale.log_alpha = pool.scale.log_alpha * 1
    assert list(replica.parameters()) == []
    assert same(replica, alpha)
    assert repr(replica) == repr(pool)


# ---- Without values: the meta device, FakeTensorMode ---------------------------------------------


@pytest.mark.parametrize("restore", ["reset", "load"])
def test_a_deferred_tensor_alpha(restore, learn_alpha):
    """Its values are in the state dict; a list has them by itself."""
    source = made(PER_CHANNEL, learn_alpha)
    if restore == "load":
        with torch.device("meta"):
            pool = made(torch.ones(3, 1), learn_alpha)
        assert "alpha=of shape (3, 1)" in repr(pool)
        pool.to_empty(device="cpu").load_state_dict(source.state_dict())
    else:
        with torch.device("meta"):
            pool = made(PER_CHANNEL, learn_alpha)
        assert pool.alpha.is_meta
        pool.to_empty(device="cpu").reset_parameters()
    assert same(pool, PER_CHANNEL)


def test_a_deferred_alpha_is_not_garbage(alpha, learn_alpha):
    """Known values are restored without a reset; unknown values are NaN, and a reset raises."""
    alpha = np.asarray(alpha).tolist()  # a tensor would keep its device
    with torch.device("meta"):
        pool = made(alpha, learn_alpha)
        unknown = made(torch.full((), 0.3), learn_alpha)
    assert same(pool.to_empty(device="cpu"), alpha)
    assert unknown.to_empty(device="cpu").alpha.isnan()
    with pytest.raises(RuntimeError, match="the initial `alpha` was a tensor without values, on"):
        unknown.reset_parameters()
    with pytest.raises(ValueError, match=r"`alpha` is .*; expected a tensor with values"):
        unknown.alpha = torch.empty((), device="meta")
    unknown.alpha = 0.3
    assert same(unknown, 0.3)


def test_loading_by_assignment(learn_alpha):
    with torch.device("meta"):
        pool = made(torch.ones(3, 1), learn_alpha)
    pool.load_state_dict(made(PER_CHANNEL, not learn_alpha).state_dict(), assign=True)
    assert same(pool, PER_CHANNEL)


def test_a_deferred_module_of_compat():
    with torch.device("meta"):
        pool = compat.RobustGlobalPool2d(compat.Huber, 0.3)
    assert repr(pool) == "RobustGlobalPool2d(method=Huber, alpha=0.3)"
    assert pool.to_empty(device="cpu").alpha.tolist() == [0.3]
    pool.alpha.fill_(2)
    pool.reset_parameters()
    assert pool.alpha.tolist() == [0.3]
    assert pool.to_empty(device="cpu").half().alpha.tolist() == [0.3]


@pytest.mark.parametrize("given", [0.3, PER_CHANNEL, "tensor", "outside"])
def test_fake_tensors(given, learn_alpha):
    outside = torch.tensor(PER_CHANNEL)
    with FakeTensorMode():
        tensors = {"tensor": torch.ones(3, 1), "outside": outside}
        pool = made(tensors.get(given, given) if isinstance(given, str) else given, learn_alpha)
        y = pool(torch.empty(2, 3, 5))
        assert (y.shape, type(y).__name__) == ((2, 3), "FakeTensor")
        assert ("alpha=0.3" if given == 0.3 else "alpha=of shape (3, 1)") in repr(pool)
        assert repr(copy.deepcopy(pool)) == repr(pool)
        if given != "tensor":
            pool.reset_parameters()
            pool.alpha = 0.5
        twin = compat.RobustGlobalPool2d(compat.Huber, 0.3)
        assert repr(twin.half()) == "RobustGlobalPool2d(method=Huber, alpha=0.3)"


def test_fake_modules_leave_no_constants(alpha, learn_alpha):
    """With constants in the mode, copy.deepcopy of a module corrupts the heap (PyTorch 2.13)."""
    with FakeTensorMode() as mode:
        pool = made(alpha, learn_alpha)
        pool.reset_parameters()
        pool.alpha = 0.5
    assert not mode.fake_tensor_converter.constant_storage_mapping


def test_a_fake_copy(alpha, learn_alpha):
    pool, fake = made(alpha, learn_alpha), FakeTensorMode()
    with FakeCopyMode(fake):
        twin = copy.deepcopy(pool)
    with fake:
        assert twin(torch.empty(2, 3, 5)).shape == (2, 3)
    assert repr(twin) == repr(pool)


# ---- Set and converted ---------------------------------------------------------------------------


def test_alpha_can_be_set(alpha, learn_alpha):
    pool = made(alpha, learn_alpha)
    held = [*pool.parameters(), *pool.buffers()]
    full = np.full_like(alpha, 0.5)
    for value in (0.5, np.float32(0.5), full.tolist(), torch.tensor(full)):
        pool.alpha = 3.0
        assert same(pool, 6 * full)
        pool.alpha = value
        assert same(pool, full)
    assert all(a is b for a, b in zip(held, [*pool.parameters(), *pool.buffers()], strict=True))
    assert pool.alpha.requires_grad == learn_alpha
    pool.reset_parameters()
    assert same(pool, alpha)


BAD = [
    (-1.0, ValueError, r"RobustPool: `alpha` is -1.0; expected a float in 1e-30 to 1e30"),
    ([1.0, 2.0], ValueError, r"`alpha` has shape \[2\]; expected one that broadcasts to \[3, 1\]"),
    ([[1.0], [0.0], [1.0]], ValueError, r"`alpha` holds 0.0; expected a float"),
    ([[1.0], [2.0, 3.0]], TypeError, r"`alpha` is \[\[1.0\], \[2.0, 3.0\]\]; expected a float, a"),
    (["1"], TypeError, r"`alpha` is \['1'\]; expected a float, a list"),
    (True, TypeError, r"`alpha` is True; expected a float, a list of floats or a floating-point"),
    (None, TypeError, r"`alpha` is None; expected a float"),
    (nn.Parameter(torch.ones(())), TypeError, r"`alpha` is an nn\.Parameter.*; expected its valu"),
    (torch.tensor(1), TypeError, r"`alpha` is tensor\(1\); expected a float"),
    (torch.ones(3, 1, dtype=torch.int64, device="meta"), TypeError, "`alpha` is .*; expected a fl"),
]


@pytest.mark.parametrize(("value", "error", "message"), BAD)
def test_a_bad_alpha_cannot_be_set(value, error, message):
    pool = made(PER_CHANNEL, False)
    with pytest.raises(error, match=message):
        pool.alpha = value
    assert same(pool, PER_CHANNEL)


def test_the_alpha_of_compat_can_be_set():
    pool = compat.RobustGlobalPool2d(compat.Huber, 0.3)
    pool.alpha = 0.5
    assert pool.state_dict()["alpha"].tolist() == [0.5]
    with pytest.raises(ValueError, match=r"RobustGlobalPool2d: `alpha` is 0\.0; expected a"):
        pool.alpha = 0
    assert pool.alpha.tolist() == [0.5]


def test_a_state_dict_passes_between_fixed_and_learned(alpha, learn_alpha):
    source = made(alpha, learn_alpha)
    target = nn.Sequential(made(3.0 + torch.as_tensor(alpha), not learn_alpha))
    state = nn.Sequential(source).state_dict()
    names = list(state)
    target.load_state_dict(state)
    assert list(state) == names
    assert same(target[0], alpha)
    assert target[0].alpha.requires_grad != learn_alpha
    with pytest.raises(RuntimeError, match="size mismatch"):
        target.load_state_dict(nn.Sequential(made(torch.ones(2), learn_alpha)).state_dict())


def test_a_state_dict_with_a_parameter_without_dims():
    """As modules wrote it when `log_alpha` of a scalar had shape ()."""
    pool = made(3.0, True)
    assert pool.scale.log_alpha.shape == (1,)
    pool.load_state_dict({"scale.log_alpha": torch.tensor(0.3).log()})
    assert same(pool, 0.3)
    old = {"scale.log_alpha": torch.tensor(0.4).log()}
    assert torch.func.functional_call(pool, old, X) == pytest.approx(pooled(0.4))


def test_a_state_dict_in_16_bits(alpha, learn_alpha):
    source, target = made(alpha, learn_alpha).half(), made(0.1 + alpha, learn_alpha)
    target.load_state_dict(source.state_dict())
    assert target.alpha.dtype == (torch.float32 if learn_alpha else torch.float64)
    assert torch.equal(target.alpha, source.alpha)


# ---- PyTorch's tools -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"multi_avg_fn": get_ema_multi_avg_fn(0.5)}])
def test_averaged_models(options, alpha, learn_alpha):
    """Of log alpha where it is learned."""
    pool = made(alpha, learn_alpha)
    averaged = AveragedModel(pool, use_buffers=True, **options)
    averaged.update_parameters(pool)
    pool.alpha = 0.5
    averaged.update_parameters(pool)
    mean = np.sqrt(0.5 * np.asarray(alpha)) if learn_alpha else (0.5 + np.asarray(alpha)) / 2
    assert same(averaged.module, mean)
    assert torch.equal(averaged(X), averaged.module(X))


def test_ensembles(alpha):
    """`stack_module_state`, `functional_call` and `vmap`."""
    pools = [made(alpha, True), made(2 * alpha, True)]
    state = torch.func.stack_module_state(pools)

    def call(parameters, buffers):
        return torch.func.functional_call(pools[0], (parameters, buffers), X)

    y = torch.func.vmap(call)(*state)
    torch.testing.assert_close(y, torch.stack([pool(X) for pool in pools]))


def test_a_whole_module_in_a_file(alpha, learn_alpha):
    pool, file = made(alpha, learn_alpha), io.BytesIO()
    torch.save(pool, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    assert repr(twin) == repr(pool)
    twin.alpha = 3.0
    twin.reset_parameters()
    assert same(twin, alpha)


def test_quantisation_leaves_it_alone(alpha, learn_alpha):
    from torch.ao import quantization

    model = nn.Sequential(nn.Linear(5, 5), made(alpha, learn_alpha)).eval()
    model.qconfig = quantization.default_qconfig
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = quantization.prepare(model)
    prepared(X)
    assert same(prepared[1], alpha)
