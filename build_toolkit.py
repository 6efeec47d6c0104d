"""Finds the CUDA toolkit, without torch and without asking whether a GPU is present."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

USUAL_CUDA_HOMES = ("/usr/local/cuda",)


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit: its folder and its version, such as ``13.0``."""

    home: str
    version: str


def _is_toolkit(home: Path) -> bool:
    headers = ("include", "targets/x86_64-linux/include")
    has_header = any((home / folder / "cuda_runtime.h").is_file() for folder in headers)
    return has_header and (home / "bin" / "nvcc").is_file()


def _capture(command: Sequence[str]) -> str:
    """The output of a command, both streams; empty when it cannot be run."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def nvcc_home(nvcc: str, usual: Iterable[str] = USUAL_CUDA_HOMES) -> str | None:
    """The toolkit folder an nvcc belongs to.

    The nvcc on the PATH may be a wrapper script in a folder that has no headers: then nvcc itself
    is asked (a dry run prints ``TOP=``), and last the usual places are tried.
    """
    candidates = [Path(nvcc).parent.parent, Path(nvcc).resolve().parent.parent]
    top = re.search(
        r"^#\$ TOP=(.+)$", _capture([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull]), re.M
    )
    if top:
        candidates.append(Path(top.group(1).strip()).resolve())
    candidates += [Path(home) for home in usual]
    return next((str(home) for home in candidates if _is_toolkit(home)), None)


def find_toolkit(
    env: Mapping[str, str], usual: Iterable[str] = USUAL_CUDA_HOMES
) -> tuple[Toolkit | None, str]:
    """The toolkit named by CUDA_HOME, else that of the nvcc on the PATH, else in a usual place.

    Returns:
        The toolkit or None, and where it was found or why it was not.
    """
    named = env.get("CUDA_HOME")
    nvcc = shutil.which("nvcc", path=env.get("PATH", ""))
    home: str | None
    if named:
        home, where = named, f"CUDA_HOME={named}"
        if not _is_toolkit(Path(named)):
            return None, f"{where} holds no bin/nvcc with include/cuda_runtime.h"
    elif nvcc:
        home, where = nvcc_home(nvcc, usual), f"nvcc at {nvcc}"
        if home is None:
            return None, f"{where} belongs to no folder with include/cuda_runtime.h"
    else:
        home = next((place for place in usual if _is_toolkit(Path(place))), None)
        if home is None:
            return None, "no CUDA toolkit found (neither CUDA_HOME nor nvcc on the PATH)"
        where = home
    release = re.search(r"release (\d+\.\d+)", _capture([f"{home}/bin/nvcc", "--version"]))
    if release is None:
        return None, f"{home}/bin/nvcc does not tell its version"
    return Toolkit(home, release.group(1)), where
