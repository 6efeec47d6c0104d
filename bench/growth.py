"""Suite `growth`: time against the points in a set and against the number of sets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

import ddn_cuda
from bench.compare import Settings
from bench.methods import our_methods, reductions
from bench.timing import Operation, capture, time_interleaved
from bench.workloads import DTYPES, Workload, make

Row = dict[str, Any]

POINTS = [1 << k for k in range(4, 21, 2)]  # in a set
SETS = [10**k for k in range(7)]
SETS_OF_POINTS = {"cpu": 64, "cuda": 1024}  # at each of POINTS
POINTS_OF_SETS = 128  # in each of SETS
COPIED_BYTES = 256 << 20  # beyond every cache
REPLAYED_POINTS = 1 << 20  # up to this size a GPU replays a graph, to exclude launch times
ROUNDS, SECONDS = 15, 8.0


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Gigabytes per second that copy_ reads and writes, for tensors of the given size."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    timing = time_interleaved(
        {"copy": partial(target.copy_, source)}, device, rounds=7, budget_seconds=5
    )
    return 2 * size / timing["copy"].median / 1e6


def shapes(device: torch.device, dtype: torch.dtype, quick: bool) -> Iterator[tuple[str, int, int]]:
    """(sweep, sets, points) of each case that fits a quarter of the memory."""
    if device.type == "cuda":
        most = torch.cuda.mem_get_info(device)[0] // 4 // dtype.itemsize
    else:
        most = 1 << 27
    if quick:
        most = 1 << 14
    for points in POINTS:
        if SETS_OF_POINTS[device.type] * points <= most:
            yield "points", SETS_OF_POINTS[device.type], points
    for sets in SETS:
        if sets * POINTS_OF_SETS <= most:
            yield "sets", sets, POINTS_OF_SETS


def run(data: str, dtype: str, device: torch.device, settings: Settings) -> Iterator[Row]:
    """A row for each method and case: our forward pass, torch.mean and copy_."""
    bandwidth = copy_bandwidth(device, COPIED_BYTES >> 4 if settings.quick else COPIED_BYTES)
    for sweep, count, points in shapes(device, DTYPES[dtype], settings.quick):
        sets = make(Workload("growth", "", (count, points)), data, DTYPES[dtype], device)
        about: Row = {
            "suite": "growth",
            "sweep": sweep,
            "sets": count,
            "points": points,
            "data": data,
            "dtype": dtype,
            "device": device.type,
            "threads": torch.get_num_threads() if device.type == "cpu" else None,
            "alpha": settings.alpha,
            "copy_gigabytes_per_second": float(f"{bandwidth:.6g}"),
            "bytes": sets.x.numel() * sets.x.element_size(),
        }
        replayed = device.type == "cuda" and sets.x.numel() <= REPLAYED_POINTS
        target = torch.empty_like(sets.x)
        timed: dict[str, Operation] = {"copy": partial(target.copy_, sets.x)}
        forward = ("forward",)
        methods = [
            *reductions(sets, ("mean",), forward),
            *our_methods(sets, settings.penalties, settings.alpha, forward),
        ]
        for one in methods:
            if one.pool is None:
                row = {"method": one.name, "skipped": one.skipped, "refused": one.refused}
                yield about | row
                continue
            timed[one.name] = partial(one.pool, sets.x)
        if replayed:
            timed = {name: capture(operation) for name, operation in timed.items()}
        timings = time_interleaved(
            timed,
            device,
            rounds=min(ROUNDS, settings.repetitions),
            budget_seconds=min(SECONDS, settings.seconds),
        )
        for name, timing in timings.items():
            figures: Row = {"milliseconds": timing.as_dict(), "replayed": replayed}
            yield about | {"method": name} | figures


def as_text(rows: list[Row]) -> str:
    """A line for each case, a column for each method."""
    if not rows:
        return ""
    names = list(dict.fromkeys(row["method"] for row in rows if "milliseconds" in row))
    places = list(dict.fromkeys((row["sweep"], row["sets"], row["points"]) for row in rows))
    by_place = {
        (row["sweep"], row["sets"], row["points"], row["method"]): row["milliseconds"]["median"]
        for row in rows
        if "milliseconds" in row
    }
    first = rows[0]
    where = first["device"] + (f", threads: {first['threads']}" if first["threads"] else "")
    lines = [
        f"growth: milliseconds forward, {first['dtype']}, {first['data']}, {where}; bandwidth: "
        f"x at the {first['copy_gigabytes_per_second']:.1f} GB/s of copy_",
        f"{'sets':>8}{'points':>9}{'bandwidth':>11}" + "".join(f"{_short(n):>11}" for n in names),
    ]
    for sweep, sets, points in places:
        size = next(r["bytes"] for r in rows if (r["sets"], r["points"]) == (sets, points))
        line = f"{sets:8}{points:9}{size / first['copy_gigabytes_per_second'] / 1e6:11.4f}"
        for name in names:
            ms = by_place.get((sweep, sets, points, name))
            line += f"{ms:11.4f}" if ms is not None else f"{'-':>11}"
        lines.append(line)
    return "\n".join(lines)


def _short(name: str) -> str:
    """A name of at most ten letters."""
    aliases = {name: alias for name, alias in ddn_cuda.PENALTIES.items() if len(name) > 10}
    words = aliases | {"torch.": "", " (local)": " loc", " (global)": " glob"}
    for long, short in words.items():
        name = name.replace(long, short)
    return name
