"""The compiled module. Its import registers torch.ops.ddn.*"""

from enum import IntEnum
from typing import Any

from torch import Tensor

class Status(IntEnum):
    converged = 0
    stopped_early = 1
    flat = 2
    empty = 3
    not_finite = 4

PENALTIES: dict[str, str]
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
