"""Robust pooling for PyTorch: y = argmin_u sum_i phi(u - x_i; alpha), compiled for CPU and CUDA.

The operators are `torch.ops.ddn.*`; this package is their Python interface:

- `robust_pool`: pools dims of a tensor.
- `segment_robust_pool`: pools segments of the first dim, for ragged sets.
- `RobustPool`: `robust_pool` as an `nn.Module`.
- `RobustPoolInfo`, `Status`: diagnostics of an answer, and how a solve ended.
- `PENALTIES`: full and short names of the penalties.
- `suggest_alpha`: a scale for a penalty from the spread of the points.
- `build_info`: the build configuration.
"""

from ddn_cuda._build import build_info
from ddn_cuda._build import load as _load

_C = _load()

from ddn_cuda import _fallback, _operators  # noqa: E402

_operators.register()
if _C.CUDA_VERSION is None:
    _fallback.register()

from ddn_cuda._C import Status  # noqa: E402
from ddn_cuda._scale import suggest_alpha  # noqa: E402
from ddn_cuda.functional import (  # noqa: E402
    RobustPoolInfo,
    robust_pool,
    segment_robust_pool,
)
from ddn_cuda.modules import RobustPool  # noqa: E402

#: The short name of each penalty, by its full name.
PENALTIES: dict[str, str] = dict(_C.PENALTIES)
#: The version of the binary.
__version__: str = _C.VERSION

__all__ = [
    "PENALTIES",
    "RobustPool",
    "RobustPoolInfo",
    "Status",
    "__version__",
    "build_info",
    "robust_pool",
    "segment_robust_pool",
    "suggest_alpha",
]
