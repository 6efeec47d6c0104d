"""Registers of the kernels, from the committed report of ptxas (bench/kernel_resources.py)."""

from __future__ import annotations

import re
from pathlib import Path

from bench.kernel_resources import short_name

REPORT = Path(__file__).resolve().parent.parent / "results" / "kernel_resources_sm_90.txt"
_ROW = re.compile(r"sm_\w+\s+(\d+)\s+\d+\s+\d+\s+\d+\s+\d+\s+\d+\s+(\S.*)")


class Registers:
    """The registers of a thread by the kernel's name, demangled or short."""

    def __init__(self, report: str) -> None:
        rows = (_ROW.match(line) for line in report.splitlines())
        self._known = {row.group(2).strip(): int(row.group(1)) for row in rows if row}

    def of(self, kernel: str) -> int | None:
        return self._known.get(short_name(kernel))


def read(path: Path = REPORT) -> Registers:
    return Registers(path.read_text())
