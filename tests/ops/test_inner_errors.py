"""The inner operators check what their kernels rely on: shapes, devices and layouts."""

import math

import pytest
import torch

from ddn_cuda import _operators


@pytest.mark.parametrize(
    "bad",
    [
        {"dim": [1, 0]},
        {"dim": [0, 0]},
        {"dim": [-1]},
        {"dim": [2]},
        {"x": torch.ones(3, 0)},
        {"x": torch.ones(3, 4, dtype=torch.int32)},
        {"x": torch.ones(3, 4).to(torch.float8_e5m2)},
        {"alpha": torch.ones(1).to(torch.float8_e5m2)},
        {"penalty": "l1"},
        {"alpha": torch.ones(4)},
        {"weight": torch.ones(3)},
        {"ptr": torch.tensor([0, 3])},
        {"ptr": torch.tensor([0, 3], dtype=torch.int32), "dim": [0]},
        {"ptr": torch.tensor([[0, 3]]), "dim": [0]},
        {"ptr": torch.tensor([], dtype=torch.int64), "dim": [0]},
    ],
    ids=str,
)
def test_the_inner_operators_check_what_their_kernels_rely_on(bad):
    x = bad.get("x", torch.ones(3, 4))
    problem = (
        bad.get("penalty", "huber"),
        1.0,
        *(bad.get(name) for name in ("alpha", "weight", "ptr")),
        bad.get("dim", [1]),
    )
    y = torch.ones(3, 1)
    sets, every = (x, y, y, y, *problem), [True, True, True]
    ops, errors = torch.ops.ddn, (ValueError, TypeError, IndexError)
    for call in (
        lambda: ops._robust_pool_forward(x, *problem, "local", None, None),
        lambda: ops._robust_pool_forward_info(x, *problem, "local", None, None),
        lambda: ops._robust_pool_backward(y, *sets, every),
        lambda: ops._robust_pool_jvp(torch.ones_like(x), None, None, *sets),
        lambda: ops._robust_pool_double_backward(y, torch.ones_like(x), None, None, *sets, every),
    ):
        with pytest.raises(errors, match="robust_pool"):
            call()


@pytest.mark.parametrize("place", [0, 2, 3, 4])
def test_the_inner_derivatives_check_their_per_set_tensors(place):
    x, y = torch.ones(3, 4), torch.ones(3, 1)
    problem, every, ops = ("huber", 1.0, None, None, None, [1]), [True, True, True], torch.ops.ddn
    for wrong in (torch.ones(4, 1), torch.ones(3, 1, dtype=torch.float64), torch.ones(3)):
        tensors = [y, x, y, y, y]
        tensors[place] = wrong
        grad, *sets = tensors
        with pytest.raises(ValueError, match="robust_pool"):
            ops._robust_pool_backward(grad, *sets, *problem, every)
        with pytest.raises(ValueError, match="robust_pool"):
            ops._robust_pool_double_backward(grad, x, None, None, *sets, *problem, every)
        if place > 0:
            with pytest.raises(ValueError, match="robust_pool"):
                ops._robust_pool_jvp(x, None, None, *sets, *problem)


def test_the_inner_derivatives_check_their_directions():
    x, y = torch.ones(3, 4), torch.ones(3, 1)
    sets, every, ops = (
        (x, y, y, y, "huber", 1.0, None, None, None, [1]),
        [True, True, True],
        torch.ops.ddn,
    )
    for direction in (
        (torch.ones(4), None, None),
        (torch.ones(4, 3), None, None),
        (None, torch.ones(3), None),
        (None, None, torch.ones(4)),
        (None, None, torch.ones(3, 4)),
    ):
        with pytest.raises((ValueError, RuntimeError)):
            ops._robust_pool_jvp(*direction, *sets)
        with pytest.raises((ValueError, RuntimeError)):
            ops._robust_pool_double_backward(y, *direction, *sets, every)


DIRECTION_PARTS = {"x_tangent": (3, 4), "weight_tangent": (3, 4), "alpha_tangent": (3, 1)}


def calls_with_a_direction(name, part, device, call=lambda op, *args: op(*args)):
    """Calls of both inner operators that take a direction, with only the part `name`."""
    x, y = torch.ones(3, 4, device=device), torch.ones(3, 1, device=device)
    direction = [part if name == other else None for other in DIRECTION_PARTS]
    sets = (x, y, y, y, "huber", 1.0, None, None, None, [1])
    ops = torch.ops.ddn
    return (
        lambda: call(ops._robust_pool_jvp.default, *direction, *sets),
        lambda: call(ops._robust_pool_double_backward.default, y, *direction, *sets, [True] * 3),
    )


@pytest.mark.parametrize("name", DIRECTION_PARTS)
def test_the_inner_derivatives_refuse_a_direction_on_another_device(name):
    """Otherwise a kernel would use a pointer of another device.

    The dispatcher would choose the fake kernel for a meta tensor, so the CPU kernel is called
    directly.
    """
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    part = torch.ones(DIRECTION_PARTS[name], device="meta")
    message = f"^robust_pool: `{name}` is on meta but x is on cpu; expected both on the same device"
    for call in calls_with_a_direction(
        name, part, "cpu", lambda op, *args: op.redispatch(keys, *args)
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("x_device", ["cpu", "meta"])
def test_called_by_name_the_inner_operators_refuse_tensors_on_two_devices(x_device):
    """The dispatcher chooses the fake kernel if any tensor is on the meta device. Its outputs would
    be on x's device, with values that nothing has written."""
    other = "meta" if x_device == "cpu" else "cpu"
    here = {"device": x_device}
    tensors = {
        **{name: torch.ones(3, 4, **here) for name in ("x_tangent", "weight_tangent", "weight")},
        **{name: torch.ones(3, 1, **here) for name in ("alpha_tangent", "alpha", "grad")},
        **{name: torch.ones(3, 1, **here) for name in ("y", "remainder", "curvature")},
        "ptr": torch.tensor([0, 3, 3, 3], **here),
    }
    constants = {"x": torch.ones(3, 4, **here), "penalty": "huber", "alpha_value": 1.0}
    constants |= {"dim": [0], "solver": "local", "max_iter": None, "tol": None}
    constants |= {"wanted": [True] * 3}
    for operator in _operators.OPERATORS:
        for name in operator.arguments:
            if name not in tensors:
                continue
            given = constants | tensors
            given[name] = torch.empty_like(tensors[name], device=other)
            message = f"^segment_robust_pool: `{name}` is on {other} but x is on {x_device}; expec"
            with pytest.raises(ValueError, match=message):
                operator.op(*[given[argument] for argument in operator.arguments])


@pytest.mark.parametrize("name", DIRECTION_PARTS)
def test_the_inner_derivatives_refuse_a_direction_on_the_host(name, cuda):
    part = torch.ones(DIRECTION_PARTS[name])
    message = f"^robust_pool: `{name}` is on cpu but x is on cuda:0; expected both on the same"
    for call in calls_with_a_direction(name, part, cuda):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("name", DIRECTION_PARTS)
def test_the_inner_derivatives_refuse_a_sparse_direction(name):
    part = torch.ones(DIRECTION_PARTS[name]).to_sparse()
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    for call in calls_with_a_direction(
        name, part, "cpu", lambda op, *args: op.redispatch(keys, *args)
    ):
        with pytest.raises(TypeError, match=f"`{name}` has layout Sparse; expected a dense"):
            call()


@pytest.mark.parametrize("alpha_value", [0.0, -1.0, math.nan, math.inf])
def test_the_inner_operators_give_nan_for_a_bad_float_alpha(alpha_value, penalty):
    """Kernels do not raise for values."""
    y, _, _ = torch.ops.ddn._robust_pool_forward(
        torch.randn(3, 4), penalty, alpha_value, None, None, None, [1], "local", None, None
    )
    assert y.isnan().all()
