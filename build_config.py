"""Decisions of the build: CUDA or not, for which architectures, from which sources.

Everything here is plain Python over values handed in, so that it can be tested without torch, a
toolkit or a GPU. `setup.py` collects the values and acts on the decisions.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_toolkit import Toolkit

MIN_ARCH = (8, 0)
MIN_TOOLKIT = (12, 1)  # from here on the parameters of a kernel may fill 32 KiB instead of 4
CUDA_ONLY_SOURCE = "csrc/ops/register_cuda.cpp"

Arch = tuple[int, int, str]  # major, minor, suffix ("" or "a" or "f")


class BuildError(Exception):
    """The build cannot go on; the message is one line that says what to do."""


@dataclass(frozen=True)
class CudaPlan:
    """Whether CUDA is built, why, and if so with which toolkit for which architectures."""

    reason: str
    toolkit: Toolkit | None = None
    archs: str | None = None

    @property
    def enabled(self) -> bool:
        return self.toolkit is not None

    def describe(self) -> str:
        return f"building {'with' if self.enabled else 'without'} CUDA: {self.reason}"


def parse_arch(text: str) -> Arch | None:
    """``9.0``, ``9.0a``, ``sm_90`` or ``sm_90a`` as (major, minor, suffix), else None."""
    match = re.fullmatch(r"(\d+)\.(\d)([af]?)", text) or re.fullmatch(r"sm_(\d+)(\d)([af]?)", text)
    return (int(match.group(1)), int(match.group(2)), match.group(3)) if match else None


def format_arch(arch: Arch) -> str:
    return f"{arch[0]}.{arch[1]}{arch[2]}"


def listed_archs(setting: str) -> str:
    """The architectures of a TORCH_CUDA_ARCH_LIST, kept as written but for those before 8.0.

    Names such as ``Hopper`` are left for torch to expand.
    """
    kept = []
    for item in re.split(r"[;, ]+", setting.strip("; ,")):
        arch = parse_arch(item.removesuffix("+PTX"))
        if arch is None or arch[:2] >= MIN_ARCH:
            kept.append(item)
    if not kept:
        raise BuildError(
            f"TORCH_CUDA_ARCH_LIST={setting!r} names no architecture from 8.0 on; try 9.0"
        )
    return ";".join(kept)


def torch_archs(torch: Any) -> list[str]:
    """The architectures that torch was built for, such as ``sm_90``, whether or not a GPU is there.

    Without a GPU `torch.cuda.get_arch_list()` is empty up to torch 2.11; the build flags behind it
    are not.
    """
    listed = list(torch.cuda.get_arch_list())
    if listed or torch.version.cuda is None:
        return listed
    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: None)()
    return (flags or "").split()


def default_archs(torch_archs: Iterable[str]) -> str:
    """torch's own architectures from 8.0 on, plus PTX of the newest for GPUs yet to come."""
    archs = sorted({a for a in map(parse_arch, torch_archs) if a and a[:2] >= MIN_ARCH})
    if not archs:
        raise BuildError(
            "torch names no architecture from 8.0 on; set TORCH_CUDA_ARCH_LIST, such as 9.0"
        )
    return ";".join(format_arch(a) for a in archs) + "+PTX"


def native_archs(capabilities: Iterable[tuple[int, int]], torch_archs: Iterable[str]) -> str | None:
    """The architectures of the GPUs present, or None without one from 8.0 on.

    A GPU newer than every architecture torch knows gets PTX of the newest one.
    """
    present = sorted({c for c in capabilities if c >= MIN_ARCH})
    known = [a for a in map(parse_arch, torch_archs) if a]
    newest = max(known) if known else None
    if not present:
        return None
    if newest and present[-1] > newest[:2]:
        present = [c for c in present if c <= newest[:2]]
        return ";".join([f"{a}.{b}" for a, b in present] + [format_arch(newest) + "+PTX"])
    return ";".join(f"{a}.{b}" for a, b in present)


def choose_archs(
    setting: str | None,
    torch_archs: Sequence[str],
    capabilities: Callable[[], Iterable[tuple[int, int]]],
) -> str:
    """The architectures to build for; ``native``: the GPUs present, or the default without one."""
    if setting and setting.strip() == "native":
        return native_archs(capabilities(), torch_archs) or default_archs(torch_archs)
    if setting and setting.strip("; ,"):
        return listed_archs(setting)
    return default_archs(torch_archs)


def decide_cuda(
    setting: str,
    *,
    system: str,
    machine: str,
    torch_cuda: str | None,
    toolkit: Callable[[], tuple[Toolkit | None, str]],
    archs: Callable[[], str],
) -> CudaPlan:
    """Whether to build the CUDA kernels.

    Args:
        setting: DDN_CUDA, one of ``auto``, ``0``, ``1``.
        system, machine: as `platform.system()` and `platform.machine()` give them.
        torch_cuda: `torch.version.cuda`.
        toolkit: finds the toolkit, asked only when it matters.
        archs: chooses the architectures, asked only when CUDA is built.

    Raises:
        BuildError: another setting, or ``1`` where CUDA cannot be built.
    """
    if setting not in ("auto", "0", "1"):
        raise BuildError(f"DDN_CUDA={setting!r} is none of auto, 0, 1")
    if setting == "0":
        return CudaPlan("DDN_CUDA=0")
    found: Toolkit | None = None
    if (system, machine) not in (("Linux", "x86_64"), ("Linux", "AMD64")):
        why, cure = (
            f"CUDA is built on Linux x86-64 only, this is {system} {machine}",
            "use DDN_CUDA=0",
        )
    elif torch_cuda is None:
        why, cure = "the installed torch is a build without CUDA", "install a CUDA build of torch"
    else:
        major = torch_cuda.split(".")[0]
        cure = f"install a CUDA {major} toolkit or point CUDA_HOME at one"
        found, why = toolkit()
        if found and found.version.split(".")[0] != major:
            why = f"toolkit {found.version} ({why}) does not match torch's CUDA {torch_cuda}"
            found = None
        elif found and tuple(map(int, found.version.split(".")[:2])) < MIN_TOOLKIT:
            why = f"toolkit {found.version} ({why}) is older than 12.1"
            cure = "install a newer CUDA toolkit or point CUDA_HOME at one"
            found = None
    if found:
        chosen = archs()
        reason = f"torch has CUDA {torch_cuda}, toolkit {found.version} ({why}), for {chosen}"
        return CudaPlan(reason, found, chosen)
    if setting == "1":
        raise BuildError(f"DDN_CUDA=1 but {why}; {cure}")
    return CudaPlan(why)


def check_compiler(env: Mapping[str, str], python_include: str) -> None:
    """Raises BuildError when no C++ compiler or no Python headers are there."""
    compiler = shlex.split(env.get("CXX") or "c++")[0]
    if shutil.which(compiler, path=env.get("PATH", "")) is None:
        raise BuildError(
            f"no C++ compiler ({compiler}) found; install one (on Debian: apt-get install g++) "
            "or set CXX"
        )
    if not (Path(python_include) / "Python.h").is_file():
        raise BuildError(
            f"no Python.h in {python_include}; install Python's headers (on Debian: "
            "apt-get install python3-dev)"
        )


def find_sources(root: Path, cuda: bool) -> list[str]:
    """The sources of the extension, relative to the root, in a fixed order."""
    patterns = ["csrc/cpu/*.cpp", "csrc/ops/*.cpp"] + (["csrc/cuda/*.cu"] if cuda else [])
    found = sorted(
        p.relative_to(root).as_posix() for pattern in patterns for p in root.glob(pattern)
    )
    return [source for source in found if cuda or source != CUDA_ONLY_SOURCE]


def macros(version: str, torch_version: str, plan: CudaPlan) -> list[tuple[str, str | None]]:
    """The macros that tell the sources what they are built with; strings come with their quotes."""
    defined: list[tuple[str, str | None]] = [
        ("DDN_VERSION", f'"{version}"'),
        ("DDN_TORCH_VERSION", f'"{torch_version.split("+")[0]}"'),
    ]
    if plan.toolkit is not None:
        defined += [
            ("DDN_WITH_CUDA", None),
            ("DDN_CUDA_VERSION", f'"{plan.toolkit.version}"'),
            ("DDN_CUDA_ARCHS", f'"{plan.archs}"'),
        ]
    return defined


def uses_gcc(env: Mapping[str, str]) -> bool:
    """Whether the C++ compiler is GCC or speaks of itself as such, and is not clang."""
    compiler = shlex.split(env.get("CXX") or "c++")
    asked = [*compiler, "-dM", "-E", "-x", "c++", os.devnull]
    macros = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return "__GNUC__" in macros and "__clang__" not in macros


def thread_flags(parallel_info: str, gcc: bool) -> list[str]:
    """Flags with which `at::parallel_for`, which its header compiles here, has torch's threads.

    Nothing is linked: the calls find the OpenMP runtime that torch has loaded. A second one beside
    it would not know of `torch.set_num_threads`. clang's calls are those of another runtime.
    parallel_info: of torch.__config__.
    """
    return ["-fopenmp"] if gcc and "OpenMP" in parallel_info else []


def compile_flags(env: Mapping[str, str], threads: Sequence[str] = ()) -> dict[str, list[str]]:
    """Flags per compiler. The language standard is left to torch, whose headers decide it."""
    # No contraction: fused multiply-adds are written where they are wanted. The compiler would
    # contract each copy of an inlined function in its own way, so that results depended on the
    # kernel; and compensated sums need each product rounded before it is added.
    nvcc = ["-O3", "-lineinfo", "-fmad=false"]
    if env.get("DDN_PTXAS_VERBOSE") == "1":
        nvcc += ["-Xptxas", "-v"]
    cxx = ["-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off", *threads]
    return {"cxx": cxx, "nvcc": nvcc}
