"""Loads the compiled module and says what it was built with."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import TypedDict

import torch


class BuildInfo(TypedDict):
    """What `build_info` returns."""

    version: str
    torch: str
    cuda: str | None
    cuda_archs: str | None
    cpu_isa: str


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split("+")[0].split(".")[:2])


def check_torch_version(built: str, running: str) -> None:
    """Raises unless two torch versions agree in their first two numbers.

    torch promises no stable binary interface between minor releases, so a module built with another
    one fails with an undefined symbol, or worse.

    Raises:
        ImportError: naming both versions and the cure, in one line.
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
    """Imports `ddn_cuda._C`, after a look at which torch it belongs to.

    Raises:
        ImportError: when it was not built, or built with another torch.
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
    """What the binary was built with and runs on.

    Returns:
        A dict with `version` (of ddn_cuda), `torch` (the version it was built with), `cuda` (the
        toolkit's version, None for a CPU build), `cuda_archs` (the architectures it holds code for,
        as in TORCH_CUDA_ARCH_LIST, or None) and `cpu_isa` (the instruction set of the CPU kernels
        on this machine: "avx512", "avx2" or "base").
    """
    module = load()
    return BuildInfo(
        version=module.VERSION,
        torch=module.TORCH_VERSION,
        cuda=module.CUDA_VERSION,
        cuda_archs=module.CUDA_ARCHS,
        cpu_isa=module.cpu_isa(),
    )
