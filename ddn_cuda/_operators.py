"""The registry: one entry for each inner operator. docs/adding_an_operator.md says how to add one.

An entry has the roles of the operator's arguments and outputs, and its derivatives. The fake
kernel, the vmap and DTensor rules, the registration with autograd and the CPU fallback for CUDA
tensors follow from the entry. Autocast needs no rule, because it does not change the arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ddn_cuda import _autograd, _derivatives
from ddn_cuda._batching import batched
from ddn_cuda._fakes import fake_of
from ddn_cuda._roles import REAL, Operator, Output, Role

# ---- Arguments and outputs common to several operators -------------------------------------------

_POOL = {
    "penalty": Role.CONSTANT,
    "alpha_value": Role.CONSTANT,
    "alpha": Role.TO_ANSWERS,
    "weight": Role.TO_POINTS,
    "ptr": Role.OFFSETS,
    "dim": Role.DIMS,
}
_SOLVER = {"solver": Role.CONSTANT, "max_iter": Role.CONSTANT, "tol": Role.CONSTANT}
_ANSWERED = {
    "x": Role.POINTS,
    "y": Role.ANSWERS,
    "remainder": Role.ANSWERS,
    "curvature": Role.ANSWERS,
    **_POOL,
}
_DIRECTION = {
    "x_tangent": Role.POINTS,
    "weight_tangent": Role.TO_POINTS,
    "alpha_tangent": Role.TO_ANSWERS,
}

_ANSWER = [
    Output("y", Role.ANSWERS),
    Output("remainder", Role.ANSWERS, REAL, is_differentiable=False),
    Output("curvature", Role.ANSWERS, REAL, is_differentiable=False),
]
_INFO = [
    Output("iterations", Role.ANSWERS, torch.int64, is_differentiable=False),
    Output("residual", Role.ANSWERS, torch.float64, is_differentiable=False),
    Output("second_derivative", Role.ANSWERS, torch.float64, is_differentiable=False),
    Output("objective", Role.ANSWERS, torch.float64, is_differentiable=False),
    Output("gap", Role.ANSWERS, torch.float64, is_differentiable=False),
    Output("status", Role.ANSWERS, torch.int64, is_differentiable=False),
]
_GRADIENTS = [
    Output("grad_x", Role.POINTS),
    Output("grad_weight", Role.POINTS, REAL),
    Output("grad_alpha", Role.ANSWERS, REAL),
]

# ---- The operators -------------------------------------------------------------------------------

OPERATORS = (
    Operator(
        "_robust_pool_forward",
        {"x": Role.POINTS, **_POOL, **_SOLVER},
        _ANSWER,
        _derivatives.Forward,
    ),
    Operator(
        "_robust_pool_forward_info",
        {"x": Role.POINTS, **_POOL, **_SOLVER},
        _ANSWER + _INFO,
        _derivatives.Forward,
    ),
    Operator(
        "_robust_pool_backward",
        {"grad": Role.ANSWERS, **_ANSWERED, "wanted": Role.WANTED},
        _GRADIENTS,
        _derivatives.Backward,
    ),
    Operator(
        "_robust_pool_jvp",
        {**_DIRECTION, **_ANSWERED},
        [Output("tangent", Role.ANSWERS)],
        _derivatives.Jvp,
    ),
    Operator(
        "_robust_pool_double_backward",
        {"grad": Role.ANSWERS, **_DIRECTION, **_ANSWERED, "wanted": Role.WANTED},
        _GRADIENTS,
        _derivatives.DoubleBackward,
    ),
)

BY_NAME = {operator.name: operator for operator in OPERATORS}
_CALLS, _FUNCTIONS = _autograd.as_functions(OPERATORS)


def op(name: str) -> Any:
    """The operator in `torch.ops.ddn`."""
    return BY_NAME[name].op


def function(name: str) -> type[torch.autograd.Function]:
    """The autograd function of an operator, for eager mode."""
    return _FUNCTIONS[name]  # type: ignore[no-any-return]


def register(operators: Sequence[Operator] = OPERATORS) -> None:
    """Registers operators with `torch.library`. The import registers those of the package."""
    calls = _autograd.as_operators(operators)
    for operator in operators:
        schema = [argument.name for argument in operator.op._schema.arguments]
        if schema != [*operator.arguments]:
            raise TypeError(
                f"ddn::{operator.name}: the entry has the arguments {[*operator.arguments]}, the "
                f"schema {schema}; expected the same"
            )
        name, rule = f"ddn::{operator.name}", _autograd.Rule(operator, calls, calls)
        torch.library.register_fake(name, fake_of(operator))
        torch.library.register_autograd(name, rule.backward, setup_context=rule.setup)
        torch.library.register_vmap(name, batched(operator, operator.op))
