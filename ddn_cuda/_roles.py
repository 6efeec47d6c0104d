"""What the arguments and outputs of an inner operator are.

An entry of the registry (ddn_cuda/_operators.py) gives each of them a role. From the roles follow
the shapes (_fakes.py), the rules for vmap (_batching.py) and for DTensors (_dtensor.py), and the
bookkeeping of autograd (_autograd.py).
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
    """Of an argument. Every operator has one named `x`, the points, and one with the role DIMS.

    The answers have x's shape with size 1 in the pooled dims or, with offsets, the number of
    segments in the first.
    """

    POINTS = auto()  # a tensor of x's shape
    ANSWERS = auto()  # a tensor of the answers' shape
    TO_POINTS = auto()  # a tensor that broadcasts to x's shape
    TO_ANSWERS = auto()  # a tensor that broadcasts to the answers' shape
    OFFSETS = auto()  # a tensor: of segments along the first dim of x
    DIMS = auto()  # the pooled dims, sorted and not negative
    WANTED = auto()  # a flag for each output
    CONSTANT = auto()  # whatever is handed to the kernels as it is

    @property
    def is_tensor(self) -> bool:
        return self not in (Role.DIMS, Role.WANTED, Role.CONSTANT)


REAL = "real"


@dataclass(frozen=True)
class Output:
    """Of role POINTS or ANSWERS; an empty tensor where there are flags and its own is False.

    Attributes:
        dtype: None: that of x; REAL: that of the arithmetic, float64 for float64 and else float32.
        is_differentiable: whether derivatives flow through it. Outputs that are not come last.
    """

    name: str
    role: Role
    dtype: torch.dtype | str | None = None
    is_differentiable: bool = True


class Derivative:
    """The derivatives of an operator. `calls` has the operators by their names without the leading
    underscore, each as a function of a mapping from the names of its arguments to their values.

    Attributes:
        saves: names of the arguments and outputs that are tensors and kept for the derivatives.
    """

    saves: tuple[str, ...] = ()

    @staticmethod
    def backward(
        calls: Any, given: dict[str, Any], grads: Sequence[Tensor | None], needs: set[str]
    ) -> Mapping[str, Tensor | None]:
        """The gradients of the arguments in `needs`.

        Args:
            calls: the operators.
            given: the constants, and the tensors that are saved.
            grads: of the outputs; None for zero, but not all of them.
            needs: the names of the arguments that need one.
        """
        raise NotImplementedError

    @staticmethod
    def jvp(
        calls: Any, given: dict[str, Any], tangents: Mapping[str, Tensor]
    ) -> Sequence[Tensor | None]:
        """The tangents of the differentiable outputs, None for zero.

        Args:
            calls, given: as for `backward`.
            tangents: of the arguments that have one.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Operator:
    """An entry of the registry. arguments: in the order of the schema, as the outputs are."""

    name: str
    arguments: Mapping[str, Role]
    outputs: Sequence[Output]
    derivative: type[Derivative]

    @cached_property
    def op(self) -> Any:
        return getattr(torch.ops.ddn, self.name).default

    @cached_property
    def places(self) -> dict[str, int]:
        """Of the arguments."""
        return {name: place for place, name in enumerate(self.arguments)}

    def place(self, role: Role) -> int | None:
        """Of the argument with a role of which there is one at most."""
        return next((i for i, own in enumerate(self.arguments.values()) if own is role), None)

    def value(self, role: Role, args: Sequence[Any]) -> Any:
        """That argument's value, None where there is no such argument."""
        place = self.place(role)
        return None if place is None else args[place]

    def by_output(self, args: Sequence[Any], value: Any, empty: Any) -> list[Any]:
        """For each output `value`, or `empty` where the flags say that it is not wanted."""
        wanted = self.value(Role.WANTED, args) or [True] * len(self.outputs)
        return [value if want else empty for want in wanted]

    def returned(self, outputs: Sequence[Any]) -> Any:
        """As the operator returns them: one that is alone is not in a tuple."""
        return tuple(outputs) if len(self.outputs) > 1 else outputs[0]


def opmath(x: Tensor) -> torch.dtype:
    """The dtype of weights' gradients and of what belongs to the unrounded answer."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
