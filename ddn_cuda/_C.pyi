"""The compiled module. Its import registers torch.ops.ddn.*"""

from enum import IntEnum
from typing import Any, Literal, TypedDict

from torch import Tensor

class Status(IntEnum):
    converged = 0
    stopped_early = 1
    flat = 2
    empty = 3
    not_finite = 4

class PenaltyTraits(TypedDict):
    """Members of a penalty's struct: csrc/core/penalty.h says what each means."""

    alias: str
    tuning: float
    certificate: Literal["convex", "gaussian", "parabola"]
    is_mean: bool
    is_smooth: bool
    has_breakpoints: bool
    has_flat_minima: bool

PENALTIES: dict[str, str]
PENALTY_TRAITS: dict[str, PenaltyTraits]
VERSION: str
TORCH_VERSION: str
CUDA_VERSION: str | None
CUDA_ARCHS: str | None

def cpu_isa() -> str: ...
def pool(
    x: Any,
    ptr: Any,
    penalty: Any,
    alpha: Any,
    dim: Any,
    keepdim: Any,
    weight: Any,
    solver: Any,
    max_iter: Any,
    tol: Any,
) -> Tensor | list[int] | None: ...
