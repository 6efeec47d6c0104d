"""Compiles the kernels for the host. Requires a C++ compiler only.

With `-fsanitize=address` among the flags, and libasan preloaded into Python, AddressSanitizer
follows the fibers.
"""

import os
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import ROOT, kept
from tests.support.cuda_shim.shim import Shim

HERE = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
# A fortified longjmp does not permit switching stacks. Identical functions must not be merged,
# since kernels are identified by their addresses.
FLAGS = ("-std=c++17", "-fPIC", "-U_FORTIFY_SOURCE", "-fno-ipa-icf", "-DDDN_CUDA_SHIM")
# The compiler takes longer than the kernels.
OPTIMIZE = ("-O0",)


def compiler() -> str:
    return os.environ.get("CXX", "g++")


def compile_unit(
    source: Path,
    into: Path,
    csrc: Path = CSRC,
    flags: Sequence[str] = (),
    target: str | None = None,
    language: str = "c++",
) -> Path:
    """The object file of one source, in the folder `into`."""
    compiled = into / (target or f"{source.name}.o")
    includes = [f"-I{HERE}", f"-I{csrc}"]
    files = ["-x", language, "-c", str(source), "-o", str(compiled)]
    subprocess.run([compiler(), *FLAGS, *flags, *includes, *files], check=True)
    return compiled


def compile_units(jobs: Iterable[tuple[Any, ...]]) -> list[Path]:
    """compile_unit() for each tuple of its arguments, on all cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda job: compile_unit(*job), jobs))


def link(objects: Iterable[Path], library: Path) -> Path:
    """If two objects have the same template instance, the first one is used."""
    subprocess.run([compiler(), "-shared", *objects, "-o", library], check=True)
    return library


def kernel_units(csrc: Path = CSRC) -> list[Path]:
    return sorted((csrc / "cuda").glob("*.cu"))


def shim_units() -> list[Path]:
    return sorted([*HERE.glob("*.cpp"), *HERE.glob("*.cu")])


class Library(NamedTuple):
    shim: Shim
    objects: dict[str, Path]  # by the name of the source file


def compile_all(folder: Path) -> None:
    """Compiles all kernels and the shim from the source tree."""
    jobs = [(unit, folder, CSRC, OPTIMIZE) for unit in kernel_units()]
    jobs += [(unit, folder, CSRC, ("-O2",)) for unit in shim_units()]
    link(compile_units(jobs), folder / "libkernels.so")


def build() -> Library:
    """The result of compile_all(), cached in build/cuda_shim."""
    version = subprocess.run([compiler(), "--version"], check=True, capture_output=True, text=True)
    sources = sorted(f for folder in (CSRC, HERE) for f in folder.rglob("*.*") if f.is_file())
    key = kept.digest(sources, version.stdout, *FLAGS, *OPTIMIZE)
    folder = kept.keep(ROOT / "build" / "cuda_shim", key, compile_all)
    names = [unit.name for unit in (*kernel_units(), *shim_units())]
    return Library(Shim(folder / "libkernels.so"), {name: folder / f"{name}.o" for name in names})
