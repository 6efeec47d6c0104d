"""The compiled module; importing it registers torch.ops.ddn.*"""

PENALTIES: dict[str, str]
VERSION: str
TORCH_VERSION: str
CUDA_VERSION: str | None
CUDA_ARCHS: str | None

def cpu_isa() -> str: ...
