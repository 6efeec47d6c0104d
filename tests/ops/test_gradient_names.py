"""Profilers, anomaly mode and `grad_fn` name the operator whose derivative runs."""

import pytest
import torch

import ddn_cuda
from ddn_cuda import _operators


def test_a_grad_fn(device):
    x = torch.ones(3, 4, device=device, requires_grad=True)
    y = ddn_cuda.robust_pool(x, keepdim=True)
    assert y.grad_fn.name() == "RobustPoolForwardBackward"
    assert type(y.grad_fn).__name__ == "RobustPoolForwardBackward"
    y, _ = ddn_cuda.robust_pool(x, keepdim=True, return_info=True)
    assert y.grad_fn.name() == "RobustPoolForwardInfoBackward"


def test_a_profile(device):
    x = torch.ones(3, 4, device=device, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        (g,) = torch.autograd.grad(ddn_cuda.robust_pool(x).sum(), x, create_graph=True)
        torch.autograd.grad(g.sum(), x)
    names = {event.key for event in profile.key_averages()}
    for name in ("RobustPoolForward", "RobustPoolBackward"):
        assert {name, f"{name}Backward"} <= names
    assert not any("InnerOperator" in name for name in names)


def test_anomaly_mode(device):
    x = torch.full((3, 4), torch.nan, device=device, requires_grad=True)
    with (
        pytest.warns(UserWarning, match="Error detected in RobustPoolForwardBackward"),
        pytest.raises(RuntimeError, match="'RobustPoolForwardBackward' returned nan values"),
        torch.autograd.detect_anomaly(check_nan=True),
    ):
        ddn_cuda.robust_pool(x).sum().backward()


@pytest.mark.parametrize("name", _operators.BY_NAME)
def test_the_autograd_function_of_each_operator(name):
    function = _operators.function(name)
    assert function.__name__ == function.__qualname__ == name.title().replace("_", "")
    assert function._backward_cls.__name__ == function.__name__ + "Backward"
