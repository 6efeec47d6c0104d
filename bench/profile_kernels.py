"""Profiles three kernels with Nsight Compute: `python -m bench.profile_kernels --json FILE`.

The kernels are the forward pass of huber (one warp per set), the global search of welsch (one block
per set) and the backward pass of huber. ncu replays each launch once for each group of counters,
with cold caches and without locking the clocks. The exit status is 1 unless all three were
profiled.
"""

from __future__ import annotations

import argparse
import csv
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import ddn_cuda

ROOT = Path(__file__).resolve().parent.parent
KERNELS = (
    "local_pipeline",
    "global_shared_memory",
    "backward_contiguous",
)  # in the order of their launches
SECTIONS = (
    "SpeedOfLight",
    "Occupancy",
    "LaunchStats",
    "MemoryWorkloadAnalysis",
    "SchedulerStats",
    "WarpStateStats",
)
SHAPE = (32 * 1024, 2048)  # 256 MiB of float32: more than any cache
TAIL = 4000


def launch() -> None:
    """Launches the kernels that ncu profiles."""
    x = torch.randn(SHAPE, device="cuda").requires_grad_()
    y = ddn_cuda.robust_pool(x, "huber", 1.0)
    with torch.no_grad():
        ddn_cuda.robust_pool(x, "welsch", 1.0)
    torch.autograd.grad(y, x, torch.ones_like(y))
    torch.cuda.synchronize()


def find_ncu() -> str:
    """The path of ncu, from PATH, in a toolkit or beside it; the bare name if there is none."""
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    places = [f"{home}/bin" for home in homes if home]
    for parent in ("/opt/nvidia/nsight-compute", *(f"{home}/nsight-compute*" for home in homes)):
        places += sorted(glob.glob(f"{parent}/*"), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *places])
    return shutil.which("ncu", path=path) or "ncu"


def command(ncu: str, python: str, log: Path) -> list[str]:
    names = "|".join(KERNELS)
    sections = [argument for section in SECTIONS for argument in ("--section", section)]
    return [
        *(ncu, "--clock-control", "none", "--kernel-name", f"regex:({names})$"),
        *("--launch-count", str(len(KERNELS)), *sections),
        *("--csv", "--page", "raw", "--print-units", "base", "--log-file", str(log)),
        *(python, "-m", "bench.profile_kernels", "--launch"),
    ]


def parse(text: str) -> list[dict[str, Any]]:
    """Parses the launches of a raw page in CSV: its columns, and [value, unit] for each metric.

    Raises:
        ValueError: the text is not such a page.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        raise ValueError("ncu printed no table")
    header, units, *rows = csv.reader(lines[start:])
    found = []
    for row in rows:
        if len(row) != len(header):
            continue
        launch: dict[str, Any] = {"metrics": {}}
        for name, unit, value in zip(header, units, row, strict=True):
            if "__" in name or unit:
                launch["metrics"][name] = [number(value), unit]
            else:
                launch[name] = value
        found.append(launch)
    return found


def number(text: str) -> float | str:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return text


def profile(ncu: str, python: str) -> tuple[dict[str, Any], bool]:
    """The launches, or an error with ncu's output; and whether all kernels were profiled."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "ncu.csv"
        try:
            done = subprocess.run(
                command(ncu, python, log),
                cwd=ROOT,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            return {"error": str(error)}, False
        text = log.read_text(errors="replace") if log.exists() else ""
    output = (text + done.stdout + done.stderr)[-TAIL:]
    try:
        launches = parse(text)
    except ValueError as error:
        return {"error": str(error), "text": output}, False
    missing = [name for name in KERNELS if not any(name in str(one) for one in launches)]
    result: dict[str, Any] = {"shape": SHAPE, "launches": launches}
    if missing or done.returncode != 0:
        result |= {"error": f"exit status {done.returncode}, missing: {missing}", "text": output}
    return result, "error" not in result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="the launches with their metrics")
    parser.add_argument("--launch", action="store_true", help="launch the kernels, unwatched")
    options = parser.parse_args(arguments)
    if options.launch:
        launch()
        return 0
    result, good = profile(find_ncu(), sys.executable)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    for one in result.get("launches", []):
        print(one.get("Kernel Name"))
        for name, (value, unit) in one["metrics"].items():
            if name.endswith("pct_of_peak_sustained_elapsed") or "duration" in name:
                print(f"  {name} {value} {unit}")
    if not good:
        print(f"{result['error']}\n{result.get('text', '')}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
