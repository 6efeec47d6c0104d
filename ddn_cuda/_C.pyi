"""The compiled module; importing it registers torch.ops.ddn.*"""

PENALTIES: dict[str, str]
CONVEX_PENALTIES: tuple[str, ...]
ALPHA_LIMIT_FLOAT32: float
ALPHA_LIMIT_FLOAT64: float
VERSION: str
TORCH_VERSION: str
CUDA_VERSION: str | None
CUDA_ARCHS: str | None

def cpu_isa() -> str: ...
