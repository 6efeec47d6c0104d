"""Loads the compiled module and reports its build configuration."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import TypedDict

import torch


class BuildInfo(TypedDict):
    """The result of `build_info`."""

    version: str
    torch: str
    cuda: str | None
    cuda_archs: str | None
    cpu_isa: str


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split("+")[0].split(".")[:2])


def check_torch_version(built: str, running: str) -> None:
    """Raises unless two PyTorch versions have the same major and minor number.

    The binary is ABI-bound to the minor version of PyTorch it was built against. With another one,
    loading may fail with an undefined symbol.

    Raises:
        ImportError: the versions differ; the message has both and the build command.
    """
    if _minor(built) != _minor(running):
        raise ImportError(
            f"ddn_cuda was built with torch {built} but torch {running} is running; build it again "
            "in this environment: pip install --no-build-isolation --force-reinstall --no-deps ."
        )


def _built_with(path: Path) -> str | None:
    match = re.search(rb"ddn_cuda built with torch ([^;\0]+);", path.read_bytes())
    return match.group(1).decode() if match else None


def load() -> ModuleType:
    """Imports `ddn_cuda._C` after checking the PyTorch version it was built against.

    Raises:
        ImportError: the module is missing or was built against another PyTorch version.
    """
    spec = importlib.util.find_spec("ddn_cuda._C")
    if spec is None or spec.origin is None:
        raise ImportError(
            "ddn_cuda's compiled module is missing; build it in this environment: "
            "pip install --no-build-isolation ."
        )
    built = _built_with(Path(spec.origin))
    if built is not None:
        check_torch_version(built, torch.__version__)
    return importlib.import_module("ddn_cuda._C")


def build_info() -> BuildInfo:
    """The build configuration of the binary.

    Returns:
        A dict with `version` (of ddn_cuda), `torch` (the version built against), `cuda` (the
        version of the toolkit; None for a CPU build), `cuda_archs` (the compiled architectures, in
        the form of TORCH_CUDA_ARCH_LIST, or None) and `cpu_isa` (the instruction set that the CPU
        kernels use on this machine: "avx512", "avx2" or "base").
    """
    module = load()
    return BuildInfo(
        version=module.VERSION,
        torch=module.TORCH_VERSION,
        cuda=module.CUDA_VERSION,
        cuda_archs=module.CUDA_ARCHS,
        cpu_isa=module.cpu_isa(),
    )
