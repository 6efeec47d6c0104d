"""The roles of arguments and outputs of the inner operators.

An entry of the registry (ddn_cuda/_operators.py) has a role for each argument and output. The
shapes (_fakes.py), the rules for vmap (_batching.py) and DTensors (_dtensor.py), and the
registration with autograd (_autograd.py) follow from the roles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


class Role(Enum):
    """The role of an argument. Every operator has an argument `x`, the points, and one of role
    DIMS.

    The answers have x's shape with size 1 in the pooled dims or, with offsets, with the number of
    segments as the first size.
    """

    POINTS = auto()  # a tensor of x's shape
    ANSWERS = auto()  # a tensor of the answers' shape
    TO_POINTS = auto()  # a tensor that broadcasts to x's shape
    TO_ANSWERS = auto()  # a tensor that broadcasts to the answers' shape
    OFFSETS = auto()  # a tensor: offsets of segments along the first dim of x
    DIMS = auto()  # the pooled dims, sorted and non-negative
    WANTED = auto()  # a flag for each output
    CONSTANT = auto()  # passed to the kernels unchanged

    @property
    def is_tensor(self) -> bool:
        return self not in (Role.DIMS, Role.WANTED, Role.CONSTANT)


REAL = "real"


@dataclass(frozen=True)
class Output:
    """An output of role POINTS or ANSWERS. It is an empty tensor if its flag in WANTED is False.

    Attributes:
        dtype: None for that of x; REAL for that of the arithmetic, see `opmath`.
        is_differentiable: whether it has derivatives. Outputs without derivatives come last.
    """

    name: str
    role: Role
    dtype: torch.dtype | str | None = None
    is_differentiable: bool = True


class Derivative:
    """The derivatives of an operator. `calls` has the operators by their names without the leading
    underscore; each takes a mapping from names of arguments to values.

    Attributes:
        saves: names of the tensors, arguments and outputs, that are saved for the derivatives.
    """

    saves: tuple[str, ...] = ()

    @staticmethod
    def backward(
        calls: Any, given: dict[str, Any], grads: Sequence[Tensor | None], needs: set[str]
    ) -> Mapping[str, Tensor | None]:
        """The gradients of the arguments in `needs`.

        Args:
            calls: the operators.
            given: the constant arguments and the saved tensors, by name.
            grads: gradients of the outputs; None for zero. At least one is not None.
            needs: names of the arguments that need a gradient.
        """
        raise NotImplementedError

    @staticmethod
    def jvp(
        calls: Any, given: dict[str, Any], tangents: Mapping[str, Tensor]
    ) -> Sequence[Tensor | None]:
        """The tangents of the differentiable outputs, None for zero.

        Args:
            calls, given: as for `backward`.
            tangents: by name, of the arguments that have one.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Operator:
    """An entry of the registry. Arguments and outputs are in the order of the schema."""

    name: str
    arguments: Mapping[str, Role]
    outputs: Sequence[Output]
    derivative: type[Derivative]

    @cached_property
    def op(self) -> Any:
        return getattr(torch.ops.ddn, self.name).default

    @cached_property
    def places(self) -> dict[str, int]:
        """The positions of the arguments."""
        return {name: place for place, name in enumerate(self.arguments)}

    def place(self, role: Role) -> int | None:
        """The position of the argument with a role that at most one argument has."""
        return next((i for i, own in enumerate(self.arguments.values()) if own is role), None)

    def value(self, role: Role, args: Sequence[Any]) -> Any:
        """The value of the argument with this role; None if there is no such argument."""
        place = self.place(role)
        return None if place is None else args[place]

    def by_output(self, args: Sequence[Any], value: Any, empty: Any) -> list[Any]:
        """A list with `value` for each wanted output and `empty` for the others."""
        wanted = self.value(Role.WANTED, args) or [True] * len(self.outputs)
        return [value if want else empty for want in wanted]

    def returned(self, outputs: Sequence[Any]) -> Any:
        """The outputs as the operator returns them; a single output is not in a tuple."""
        return tuple(outputs) if len(self.outputs) > 1 else outputs[0]


def opmath(x: Tensor) -> torch.dtype:
    """The dtype of the arithmetic for points x: float64 for float64, float32 for all others."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
