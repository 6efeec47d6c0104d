"""Builds a library that runs the PTX of CUDA sources: nvcc, translation, a C++ compiler."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from build_config import compile_flags
from build_toolkit import find_toolkit
from tests.support import ROOT, kept
from tests.support.cuda_shim import host_build
from tests.support.ptx_emulator.counts import Block
from tests.support.ptx_emulator.emulator import Emulator, demangled
from tests.support.ptx_emulator.parser import parse_file
from tests.support.ptx_emulator.translator import KernelTranslator

HERE = Path(__file__).resolve().parent
RUNTIME = HERE / "runtime"
KEPT = ROOT / "build" / "ptx"
ARCH = "sm_90"
# The C++ compiler must not contract products and sums that PTX separates.
CXX_FLAGS = (
    "-O0",
    "-mfma",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    f"-I{RUNTIME}",
)

Result = TypeVar("Result")


def missing() -> str | None:
    """The missing requirement, or None."""
    toolkit, reason = find_toolkit(os.environ)
    if toolkit is None:
        return f"needs nvcc: {reason}"
    return next((f"needs {tool}" for tool in ("c++filt", "nm") if not shutil.which(tool)), None)


def nvcc() -> str:
    toolkit, reason = find_toolkit(os.environ)
    assert toolkit is not None, reason
    return f"{toolkit.home}/bin/nvcc"


def _ptx_arguments(flags: Sequence[str] = (), arch: str = ARCH) -> list[str]:
    return ["-ptx", *compile_flags({})["nvcc"], "-std=c++17", f"-arch={arch}", *flags]


def _key(source: Path, csrc: Path, command: Sequence[str]) -> str:
    """A digest of all dependencies of the PTX of a source."""
    version = subprocess.run([nvcc(), "--version"], check=True, capture_output=True, text=True)
    headers = sorted(h for folder in ("core", "cuda") for h in (csrc / folder).rglob("*.*h"))
    return kept.digest([source, *headers], version.stdout, *command)[:16]


def compile_ptx(
    source: Path,
    into: Path,
    csrc: Path = host_build.CSRC,
    flags: Sequence[str] = (),
    arch: str = ARCH,
) -> Path:
    """The PTX of one source, with the flags of the build. The PTX of the project's kernels takes
    minutes and is cached in build/ptx."""
    target = into / f"{source.stem}.ptx"
    command = _ptx_arguments(flags, arch)
    known = KEPT / f"{source.stem}-{_key(source, csrc, command)}.ptx"
    if not known.exists():
        subprocess.run([nvcc(), *command, f"-I{csrc}", str(source), "-o", str(target)], check=True)
        if csrc != host_build.CSRC:
            return target
        KEPT.mkdir(parents=True, exist_ok=True)
        for stale in KEPT.glob(f"{source.stem}-*.ptx"):
            stale.unlink()
        # Renamed atomically, because another process may look for it.
        shutil.copy(target, known.with_suffix(f".{os.getpid()}"))
        known.with_suffix(f".{os.getpid()}").rename(known)
    else:
        shutil.copy(known, target)
    return target


def translate(
    ptx: Path, into: Path, match: str = "", contract: bool = False, count: bool = False
) -> dict[str, list[Block]]:
    """Writes a C++ file for each kernel whose demangled name matches; returns the basic blocks of
    each."""
    module = parse_file(ptx)
    kernels = module.kernels()
    found = {}
    names = demangled([kernel.name for kernel in kernels])
    for i, (kernel, name) in enumerate(zip(kernels, names, strict=True)):
        if not re.search(match, name):
            continue
        translation = KernelTranslator(module, kernel, contract=contract, count=count).translate()
        (into / f"{ptx.stem}_{i:03}.cpp").write_text(translation.text)
        found[kernel.name] = [
            Block(f"{block.source.file}:{block.source.line}", dict(block.opcodes))
            for block in translation.blocks
        ]
    return found


def _in_parallel(
    pool: Callable[[int], ThreadPoolExecutor | ProcessPoolExecutor],
    function: Callable[..., Result],
    jobs: Iterable[tuple],
) -> list[Result]:
    with pool(len(os.sched_getaffinity(0))) as executor:
        return [future.result() for future in [executor.submit(function, *job) for job in jobs]]


def build(
    folder: Path,
    host_objects: Mapping[str, Path],
    sources: Sequence[Path],
    *,
    csrc: Path = host_build.CSRC,
    match: str = "",
    flags: Sequence[str] = (),
    contract: bool = False,
    count: bool = False,
) -> Emulator:
    """A library that runs the PTX of the sources' kernels whose demangled names match.

    Args:
        host_objects: the objects of the host shim, by the names of the sources; the launchers of
            other sources are compiled here.
        flags: additional flags of nvcc.
        contract, count: see translator.py.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(source, folder, csrc, flags) for source in sources]
    ptx_files = _in_parallel(ThreadPoolExecutor, compile_ptx, jobs)
    translations = [(ptx, folder, match, contract, count) for ptx in ptx_files]
    blocks: dict[str, list[Block]] = {}
    for found in _in_parallel(ProcessPoolExecutor, translate, translations):
        blocks |= found
    # What all translations include is compiled once: g++ looks for it in their folder.
    header = RUNTIME / "ptx.h"
    header_flags = (*CXX_FLAGS, "-w")  # a header as the main file
    host_build.compile_unit(
        header, folder, csrc, header_flags, target="ptx.h.gch", language="c++-header"
    )
    units: list[tuple[Path, Path, Path, tuple[str, ...]]] = []
    units += [(unit, folder, csrc, CXX_FLAGS) for unit in sorted(folder.glob("*.cpp"))]
    units += [
        (unit, folder, csrc, ("-O2", *CXX_FLAGS[1:])) for unit in sorted(RUNTIME.glob("*.cpp"))
    ]
    units += [(s, folder, csrc, host_build.OPTIMIZE) for s in sources if s.name not in host_objects]
    objects = host_build.compile_units(units)
    library = host_build.link([*host_objects.values(), *objects], folder / "libptx.so")
    return Emulator(library, blocks if count else None)


def _key_of_build(sources: Sequence[Path], match: str, count: bool) -> str:
    keys = [_key(source, host_build.CSRC, _ptx_arguments()) for source in sources]
    folders = (HERE, RUNTIME, host_build.HERE)
    files = sorted(f for folder in folders for f in folder.iterdir() if f.is_file())
    return kept.digest(files, match, str(count), *keys)


def build_kept(
    name: str, sources: Sequence[Path], *, match: str = "", count: bool = False
) -> Emulator:
    """Builds the project's sources with the host part. Takes minutes, and is cached in build/ptx
    until a dependency changes. If several processes ask, one builds."""

    def make(into: Path) -> None:
        objects = host_build.build().objects
        emulator = build(into / "kernels", objects, sources, match=match, count=count)
        (into / "blocks.json").write_text(json.dumps(emulator.blocks))

    made = kept.keep(KEPT / name, _key_of_build(sources, match, count), make)
    blocks = {
        kernel: [Block(*block) for block in of_kernel]
        for kernel, of_kernel in json.loads((made / "blocks.json").read_text()).items()
    }
    return Emulator(made / "kernels" / "libptx.so", blocks)
