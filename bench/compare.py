"""Suite `compare`: all methods on each workload."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from bench.methods import Method, baselines, operations, our_methods, reductions
from bench.timing import Operation, Timing, time_interleaved
from bench.workloads import DTYPES, Sets, Workload, make, missing_for

Row = dict[str, Any]

CASE = ("workload", "data", "dtype", "device", "threads")


@dataclass(frozen=True)
class Settings:
    """The settings of all suites.

    Attributes:
        repetitions: rounds of a measurement.
        seconds: no round of a case begins after this time.
        alpha: scale of the penalties.
        penalties: full names.
        compiled: penalties whose PyTorch nodes are also timed compiled.
        backend: of torch.compile.
        most_points: limit of the points of a workload on the CPU.
        quick: a short run to test the benchmark; its figures mean little.
    """

    repetitions: int
    seconds: float
    alpha: float
    penalties: tuple[str, ...]
    compiled: tuple[str, ...] = ()
    backend: str = "inductor"
    most_points: int = 1 << 23
    quick: bool = False


class Case(NamedTuple):
    workload: Workload
    data: str
    dtype: str


def fitted(case: Case, device: torch.device, settings: Settings) -> tuple[Workload, str | None]:
    """The workload scaled to the device, and a description of the scaling."""
    whole = case.workload
    if device.type == "cuda":
        # Points, gradient, copy and a baseline's temporaries must fit half of the free memory.
        free = torch.cuda.mem_get_info(device)[0]
        most, why = free // (2 * 6 * DTYPES[case.dtype].itemsize), "to fit memory"
    else:
        most, why = settings.most_points, "for the CPU"
    if settings.quick:
        most, why = min(most, 1 << 16), "for a quick run"
    workload = whole.scaled(most)
    if workload == whole:
        return workload, None
    return workload, f"{workload.sets} of {whole.sets} sets, {why}"


def run(case: Case, device: torch.device, settings: Settings) -> Iterator[Row]:
    """Checks and times all methods on a case; yields a row for each method and operation."""
    about: Row = {
        "suite": "compare",
        "workload": case.workload.name,
        "data": case.data,
        "dtype": case.dtype,
        "device": device.type,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "alpha": settings.alpha,
    }
    if reason := missing_for(case.data):
        yield about | {"method": "all", "operation": "all", "skipped": reason}
        return
    workload, scaled = fitted(case, device, settings)
    sets = make(workload, case.data, DTYPES[case.dtype], device)
    about |= {"shape": list(sets.x.shape), "scaled": scaled}
    methods = [
        *reductions(sets),
        *our_methods(sets, settings.penalties, settings.alpha),
        *baselines(
            sets,
            settings.penalties,
            settings.alpha,
            compiled=settings.compiled,
            backend=settings.backend,
        ),
    ]
    yield from time_methods(methods, sets, device, settings, about)


def time_methods(
    methods: Sequence[Method],
    sets: Sets,
    device: torch.device,
    settings: Settings,
    about: Row,
) -> Iterator[Row]:
    """The rows of the checked methods, timed interleaved, and of the skipped ones."""
    target = torch.empty_like(sets.x)
    timed: dict[tuple[str, str], Operation] = {("copy", "copy"): partial(target.copy_, sets.x)}
    seldom = set()
    for method in methods:
        if method.pool is None:
            continue
        for operation, call in operations(method).items():
            timed[method.name, operation] = call
            if method.seldom:
                seldom.add((method.name, operation))
    names = {" / ".join(key): key for key in timed}
    timings = time_interleaved(
        {name: timed[key] for name, key in names.items()},
        device,
        rounds=settings.repetitions,
        budget_seconds=settings.seconds,
        seldom=[name for name, key in names.items() if key in seldom],
    )
    found = {key: timings[name] for name, key in names.items()}
    by_name = {method.name: method for method in methods}
    for (name, operation), timing in found.items():
        one = by_name.get(name)
        pooled = sets if one is None else one.sets
        yield (
            about
            | {"method": name, "operation": operation, "sets": pooled.count}
            | figures(name, operation, timing, pooled, sets, found)
            | ({} if one is None else {"right": one.right})
            | ({} if pooled is sets else {"few": f"the first {pooled.count} sets"})
        )
    for method in methods:
        if method.pool is None:
            row = {"method": method.name, "operation": "all", "skipped": method.skipped}
            yield about | row | {"refused": method.refused}


def figures(
    name: str,
    operation: str,
    timing: Timing,
    pooled: Sets,
    sets: Sets,
    found: dict[tuple[str, str], Timing],
) -> Row:
    """Times, times per set, and times per set relative to torch.mean or, for gradients, to
    copy_."""
    baseline = ("copy", "copy") if operation == "backward" else ("torch.mean", "forward")
    per_set = timing.median / pooled.count
    row: Row = {
        "milliseconds": timing.as_dict(),
        "microseconds_per_set": float(f"{1e3 * per_set:.6g}"),
        "gigabytes_per_second": moved_bytes(name, operation, pooled) / timing.median / 1e6,
    }
    if baseline in found:
        times = per_set / (found[baseline].median / sets.count)
        row |= {"baseline": baseline[0], "times_baseline": float(f"{times:.6g}")}
    return row


def moved_bytes(name: str, operation: str, sets: Sets) -> int:
    """The minimum of bytes moved: x is read, outputs of x's size are written."""
    size = sets.x.numel() * sets.x.element_size()
    if operation == "forward":
        return size
    if operation == "forward+backward":
        return 3 * size
    return size if name == "torch.mean" else 2 * size


# Report


def as_text(rows: Sequence[Row]) -> str:
    """A table for each case; methods skipped for the same reason share a line."""
    lines: list[str] = []
    for _, group in itertools.groupby(rows, lambda row: [row[key] for key in CASE]):
        own = list(group)
        lines += ["", *_heading(own[0])]
        lines += [_line(row) for row in own if not row.get("skipped")]
        skipped: dict[str, list[str]] = {}
        for row in own:
            if row.get("skipped"):
                skipped.setdefault(row["skipped"], []).append(row["method"])
        lines += [f"skipped: {', '.join(who)}: {reason}" for reason, who in skipped.items()]
    return "\n".join(lines)


def _heading(row: Row) -> list[str]:
    where = row["device"] + (f", threads: {row['threads']}" if row["threads"] else "")
    shape = "x".join(map(str, row.get("shape", [])))
    title = f"{row['workload']}: {shape} {row['dtype']}, {row['data']}, alpha {row['alpha']:g}"
    lines = [f"{title}, {where}"]
    if row.get("scaled"):
        lines.append(f"scaled: {row['scaled']}")
    columns = f"{'ms':>10}{'10%':>10}{'90%':>10}{'n':>4}{'us/set':>11}{'GB/s':>8}"
    return [*lines, f"{'':47}{columns}  per set, compared"]


def _line(row: Row) -> str:
    name = f"{row['operation']} {row['method']}" if row["operation"] != "copy" else "copy_"
    ms = row["milliseconds"]
    line = f"{name:47}{ms['median']:10.3f}{ms['low']:10.3f}{ms['high']:10.3f}"
    line += f"{ms['repetitions']:4}{row['microseconds_per_set']:11.3f}"
    line += f"{row['gigabytes_per_second']:8.1f}"
    if "times_baseline" in row:
        line += f"  {row['times_baseline']:.4g} x {row['baseline']}"
    notes = [row["few"]] if row.get("few") else []
    if row.get("right") is not None and row["right"] < 1:
        notes.append(f"{row['right']:.0%} of the answers right")
    return line + (f"  ({'; '.join(notes)})" if notes else "")


def refused(rows: Sequence[Row]) -> list[str]:
    """The wrong answers of this library or of PyTorch, which were not timed."""
    return [f"{row['method']}: {row['skipped']}" for row in rows if row.get("refused")]
