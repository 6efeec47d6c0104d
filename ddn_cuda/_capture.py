"""What captures a call: compilers, tracers and exporters, and what works with each.

The functions of this package call `torch.autograd.Function`s in eager mode. Graphs hold operators
instead, which all who capture graphs support.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch.fx import Proxy
from torch.overrides import handle_torch_function


def is_proxy(*values: Any) -> bool:
    """Whether `torch.fx.symbolic_trace` traces a call with these arguments."""
    return any(isinstance(value, Proxy) for value in values)


def as_node(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The call as a node of the graph that `torch.fx.symbolic_trace` traces."""
    return handle_torch_function(function, (*args, *options.values()), *args, **options)


def needs_operators(function: str) -> bool:
    """Whether a graph is captured, which holds operators.

    Warns:
        UserWarning: `torch.onnx.export` captures the graph. It ignores errors while it captures,
            and fails later without a translation of the operator.
    """
    if not torch.compiler.is_compiling():
        return torch._C._are_functorch_transforms_active() and _is_functionalized(function)
    if torch.onnx.is_in_onnx_export():
        warnings.warn(
            f"{function}: ONNX has no such operator. torch.onnx.export requires a translation of "
            f"torch.ops.ddn.{function} in its custom_translation_table; torch.export and "
            "AOTInductor require none",
            stacklevel=4,
        )
    return True


def _is_functionalized(function: str) -> bool:
    """Whether `torch.func.functionalize` acts on the call."""
    from torch._C._functorch import TransformType
    from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

    acting = {interpreter.key() for interpreter in retrieve_all_functorch_interpreters()}
    if TransformType.Functionalize not in acting:
        return False
    if acting & {TransformType.Grad, TransformType.Jvp}:
        raise NotImplementedError(
            f"{function}: torch.func.functionalize of derivatives is not supported; expected none "
            "inside or around it. torch.compile and torch.export functionalize their graphs"
        )
    return True


def refuse_script(*_: Any) -> NoReturn:
    """The `__prepare_scriptable__` of functions and modules, which `torch.jit.script` calls."""
    raise NotImplementedError(
        "ddn_cuda: torch.jit.script cannot compile the functions and modules of this package; "
        "expected torch.export, torch.compile or torch.jit.trace, or torch.ops.ddn.robust_pool in "
        "the scripted code"
    )
