"""The inner operators as `torch.autograd.Function`s, which carry what `torch.library` cannot:
forward mode, and derivatives under `torch.func`. Compilers do not take them; for those, and for
all that lies below autograd, there are the operators themselves (ddn_cuda/_operators.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddn_cuda._batching import batched
from ddn_cuda._derivatives import RULES, Calls
from ddn_cuda._operators import OPERATORS


def _function(name: str) -> type[torch.autograd.Function]:
    rule = RULES[name]

    class InnerOperator(torch.autograd.Function):
        @staticmethod
        def forward(*args: Any) -> Any:
            return OPERATORS[name](*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            rule.setup(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            return rule.backward(CALLS, ctx, *grads)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            return rule.jvp(CALLS, ctx, *tangents)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
            return batched(name, InnerOperator.apply)(info, in_dims, *args)

    InnerOperator.__name__ = InnerOperator.__qualname__ = "".join(
        part.title() for part in name.split("_")
    )
    return InnerOperator


FUNCTIONS = {name: _function(name) for name in RULES}

CALLS = Calls(
    FUNCTIONS["_robust_pool_forward"].apply,
    FUNCTIONS["_robust_pool_backward"].apply,
    FUNCTIONS["_robust_pool_tangent"].apply,
    FUNCTIONS["_robust_pool_double_backward"].apply,
)
FORWARD_INFO = FUNCTIONS["_robust_pool_forward_info"].apply
