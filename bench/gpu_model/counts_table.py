"""The committed counts of all workloads, and the goals for the predictions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench.gpu_model import figures
from bench.gpu_model.figures import Kernel
from build_toolkit import find_toolkit

RESULTS = Path(__file__).resolve().parent.parent / "results"
COUNTS = RESULTS / "gpu_model_counts.json"
GOALS = RESULTS / "gpu_model_goals.json"

Kernels = dict[str, Kernel]  # by demangled name


class Table(NamedTuple):
    """The counts, with the compiler and a digest of the sources."""

    nvcc: str | None
    commit: str | None
    workloads: dict[str, Kernels]


class Goal(NamedTuple):
    """The upper limit of a figure of a workload, relative to another workload if one is given."""

    figure: str  # "predicted" or "sectors"
    most: float
    over: str | None = None


def nvcc_version() -> str | None:
    """The version of the build's toolkit, such as 13.0; None without one."""
    toolkit, _ = find_toolkit(os.environ)
    return toolkit.version if toolkit else None


def read(path: Path = COUNTS) -> Table:
    """Reads the table; an empty one if the file is missing."""
    if not path.exists():
        return Table(None, None, {})
    found = json.loads(path.read_text())
    workloads = {
        name: {kernel: figures.from_dict(counts) for kernel, counts in kernels.items()}
        for name, kernels in found["workloads"].items()
    }
    return Table(found["nvcc"], found["commit"], workloads)


def write(table: Table, path: Path = COUNTS) -> None:
    """Writes the table with a line for each workload."""
    lines = []
    for name, kernels in table.workloads.items():
        counts = {kernel: figures.as_dict(one) for kernel, one in kernels.items()}
        lines.append(f" {json.dumps(name)}: {json.dumps(counts, separators=(',', ':'))}")
    head = f'{{"nvcc": {json.dumps(table.nvcc)}, "commit": {json.dumps(table.commit)}'
    path.write_text(f'{head}, "workloads": {{\n' + ",\n".join(lines) + "\n}}\n")


def read_goals(path: Path = GOALS) -> dict[str, list[Goal]]:
    """The goals, by the name of the workload."""
    found: Mapping[str, list[dict[str, Any]]] = json.loads(path.read_text())
    return {name: [Goal(**goal) for goal in goals] for name, goals in found.items()}


def differences(one: Kernels, other: Kernels, relative: float) -> list[str]:
    """The figures in which two counts of a workload differ by more than the tolerance."""
    if set(one) != set(other):
        return [f"kernels: {sorted(one)} and {sorted(other)}"]
    found = []
    for name, kernel in one.items():
        left, right = _flat(figures.as_dict(kernel)), _flat(figures.as_dict(other[name]))
        for figure in sorted(left | right):
            a, b = left.get(figure, 0.0), right.get(figure, 0.0)
            if abs(a - b) > relative * max(abs(a), abs(b)):
                found.append(f"{name}: {figure} {a:g} and {b:g}")
    return found


def _flat(counts: Mapping[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in counts.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": number for key, number in _flat(value).items()}
        elif isinstance(value, list):
            flat |= {f"{name}.{index}": number for index, number in enumerate(value)}
        else:
            flat[name] = value
    return flat
