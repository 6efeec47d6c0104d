"""Describes the machine, the versions and the commit of a measurement."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent


def run_output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    model = re.search(r"^model name\s*: (.+)$", info, re.M)
    return model.group(1) if model else platform.processor()


def commit() -> str | None:
    """The commit, with ``-dirty`` if files differ from it; None outside a clone."""
    head = run_output("git", "rev-parse", "HEAD")
    if head is None:
        return None
    return head + ("-dirty" if run_output("git", "status", "--porcelain") else "")


def describe() -> dict[str, Any]:
    """Machine and versions as a dict for JSON."""
    facts: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "gpu": None,
    }
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        facts["gpu"] = {
            "name": gpu.name,
            "capability": f"{gpu.major}.{gpu.minor}",
            "memory_bytes": gpu.total_memory,
            "multiprocessors": gpu.multi_processor_count,
            "driver": run_output(
                "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
            ),
        }
    return facts


def versions(*packages: str) -> dict[str, str | None]:
    """Versions of installed packages; None for a missing one."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt, and its defaults:
_DEFAULTS = {M_TRIM_THRESHOLD: 128 << 10, M_MMAP_MAX: 65536}


@contextlib.contextmanager
def kept_memory(keep: bool) -> Iterator[bool]:
    """Makes malloc reuse the memory of freed large tensors, as PyTorch's allocator does on a GPU;
    yields whether that succeeded. Otherwise tensors of more than 32 MiB come from the operating
    system, and zeroing their pages takes about ten times as long as writing a gradient to them."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if not keep or mallopt is None:
        yield False
        return
    kept = mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1) == 1
    try:
        yield kept
    finally:
        for option, value in _DEFAULTS.items():
            mallopt(option, value)


_SPIN = """
import time
start, used = time.perf_counter(), time.process_time()
while time.perf_counter() < start + 0.3: pass
print((time.process_time() - used) / (time.perf_counter() - start))
"""


def free_share(cores: int) -> float | None:
    """The smallest share of a core that one of several busy processes gets; near 1 on an idle
    machine. None if no process could be started."""
    try:
        spinners = [
            subprocess.Popen([sys.executable, "-c", _SPIN], stdout=subprocess.PIPE, text=True)
            for _ in range(cores)
        ]
        shares = [float(spinner.communicate()[0]) for spinner in spinners]
    except (OSError, ValueError):
        return None
    return round(min(shares), 3)


def busy(shares: Mapping[str, float | None]) -> str:
    """A warning if the free shares of the cores before and after a run make its figures doubtful,
    or ""."""
    least = min((share for share in shares.values() if share is not None), default=1.0)
    return f"on a BUSY machine, {least:.0%} of a core free" if least < 0.9 else ""


def _first_number(pattern: str, path: str) -> float | None:
    try:
        found = re.search(pattern, Path(path).read_text(), re.M)
    except OSError:
        return None
    return float(found.group(1)) if found else None


def clocks() -> dict[str, Any]:
    """Current frequencies in MHz, and the reasons that throttle a GPU; None if unknown."""
    facts: dict[str, Any] = {
        "cpu_mhz": _first_number(r"^cpu MHz\s*: ([\d.]+)", "/proc/cpuinfo"),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }
    if torch.cuda.is_available():
        fields = ["clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"]
        fields += ["clocks_throttle_reasons.active", "temperature.gpu", "power.draw"]
        query = f"--query-gpu={','.join(fields)}"
        line = run_output("nvidia-smi", query, "--format=csv,noheader,nounits", "-i", "0")
        values = [value.strip() for value in (line or "").split(",")]
        facts["gpu"] = dict(zip(fields, values, strict=False)) if line else None
    return facts
