"""Registers the derivatives of the inner operators with autograd.

The formulas of ddn_cuda/_derivatives.py serve both forms of an operator:

- the operator itself, registered with `torch.library`, for compilers and `torch.ops`;
- a `torch.autograd.Function`, which supports forward mode and derivatives under `torch.func`.
  `torch.library` does not support these, and compilers do not support the function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import FunctionMeta

from ddn_cuda._batching import batched
from ddn_cuda._roles import Operator


class Rule:
    """Adapts a `Derivative`, which uses names, to autograd, which uses positions."""

    def __init__(self, operator: Operator, calls: Any, compiled_calls: Any) -> None:
        names, saves = [*operator.arguments], operator.derivative.saves
        outputs = [output.name for output in operator.outputs]
        self.operator, self.names = operator, names
        self.calls, self.compiled_calls = calls, compiled_calls
        self.saves = [name for name in saves if name in names]
        self.saved_inputs = [names.index(name) for name in self.saves]
        results = [name for name in saves if name in outputs]
        self.saved_outputs = [outputs.index(name) for name in results]
        self.saves += results
        roles = operator.arguments.items()
        self.constants = [name for name, role in roles if not role.is_tensor]
        self.constant_places = [names.index(name) for name in self.constants]
        self.opaque = [i for i, out in enumerate(operator.outputs) if not out.is_differentiable]
        self.single = len(outputs) == 1

    def setup(self, ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        outputs = (output,) if self.single else output
        if self.opaque:
            ctx.mark_non_differentiable(*[outputs[i] for i in self.opaque])
        tensors = [inputs[i] for i in self.saved_inputs]
        tensors += [outputs[i] for i in self.saved_outputs]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.constants = [inputs[i] for i in self.constant_places]
        ctx.set_materialize_grads(False)  # no zeros for unused outputs

    def given(self, ctx: Any) -> dict[str, Any]:
        given = dict(zip(self.saves, ctx.saved_tensors, strict=True))
        given.update(zip(self.constants, ctx.constants, strict=True))
        return given

    def backward(self, ctx: Any, *grads: Tensor | None) -> Any:
        if all(grad is None for grad in grads):
            return (None,) * len(self.names)
        needs = {n for n, need in zip(self.names, ctx.needs_input_grad, strict=True) if need}
        # Compiled autograd traces the backward pass of an eager call.
        calls = self.compiled_calls if torch.compiler.is_compiling() else self.calls
        found = self.operator.derivative.backward(calls, self.given(ctx), grads, needs)
        return tuple(map(found.get, self.names))

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Any:
        moved = {n: t for n, t in zip(self.names, tangents, strict=True) if t is not None}
        found = [*self.operator.derivative.jvp(self.calls, self.given(ctx), moved)]
        return self.operator.returned(found + [None] * len(self.opaque))


def _below_autograd(op: Any, args: Sequence[Any]) -> Any:
    """Calls op without autograd's kernels, which `torch.library` implements in Python."""
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def function_of(operator: Operator, calls: Any, compiled_calls: Any) -> Any:
    """The autograd function of an operator, a subclass of `torch.autograd.Function`."""
    rule, op = Rule(operator, calls, compiled_calls), operator.op

    class InnerOperator(torch.autograd.Function):
        @staticmethod
        def forward(*args: Any) -> Any:
            return _below_autograd(op, args)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            rule.setup(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            return rule.backward(ctx, *grads)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            return rule.jvp(ctx, *tangents)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
            return batched(operator, named.apply)(info, in_dims, *args)

    # The metaclass names the class of the backward node, which profilers and anomaly mode show,
    # when it creates a class: a later change of the name has no effect there.
    name = "".join(part.title() for part in operator.name.split("_"))
    named: Any = FunctionMeta(name, (InnerOperator,), {})  # type: ignore[no-untyped-call]
    return named


def recorder(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`function.apply` for calls on which no `torch.func` transform acts. Skips the signature
    inspection of `apply`, which takes longer than pooling a small tensor."""
    return super(torch.autograd.Function, function).apply  # type: ignore[no-any-return, misc]


def _is_recording() -> bool:
    return (
        torch.is_grad_enabled()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def as_operators(operators: Sequence[Operator]) -> SimpleNamespace:
    """The callables that the formulas use under compilers and `torch.ops`: the operators."""

    def by_name(operator: Operator) -> Callable[[Mapping[str, Any]], Any]:
        op, names = operator.op, [*operator.arguments]
        return lambda values: op(*[values[name] for name in names])

    return SimpleNamespace(**{o.name.lstrip("_"): by_name(o) for o in operators})


def as_functions(operators: Sequence[Operator]) -> tuple[SimpleNamespace, dict[str, Any]]:
    """The callables that the formulas use in eager mode, and the autograd functions they call."""
    calls, compiled_calls, functions = SimpleNamespace(), as_operators(operators), {}

    def by_name(operator: Operator, function: Any) -> Callable[[Mapping[str, Any]], Any]:
        op = operator.op
        pick = itemgetter(*operator.arguments)  # faster than a list, but Dynamo cannot trace it

        def call(values: Mapping[str, Any]) -> Any:
            args = pick(values)
            return function.apply(*args) if _is_recording() else _below_autograd(op, args)

        return call

    for operator in operators:
        function = functions[operator.name] = function_of(operator, calls, compiled_calls)
        setattr(calls, operator.name.lstrip("_"), by_name(operator, function))
    return calls, functions
