"""The devices available to the tests."""

import os

import torch

REQUIRE_CUDA = os.environ.get("DDN_REQUIRE_CUDA") == "1"


def gpu_missing() -> str | None:
    available = torch.cuda.is_available()
    return None if available else "needs a CUDA device: torch.cuda.is_available() is False"


def cuda_missing() -> str | None:
    """The reason why tests cannot run on CUDA; None if they can."""
    if missing := gpu_missing():
        return missing
    import ddn_cuda

    if ddn_cuda.build_info()["cuda"] is None:
        return "needs a CUDA build: build_info()['cuda'] is None"
    return None
