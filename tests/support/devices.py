"""What tests can run on here."""

import os

import torch

REQUIRE_CUDA = os.environ.get("DDN_REQUIRE_CUDA") == "1"


def cuda_missing() -> str | None:
    """Why tests cannot run on CUDA, or None where they can."""
    if not torch.cuda.is_available():
        return "needs a CUDA device: torch.cuda.is_available() is False"
    import ddn_cuda

    if ddn_cuda.build_info()["cuda"] is None:
        return "needs a CUDA build: build_info()['cuda'] is None"
    return None
