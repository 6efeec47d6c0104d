"""Suite `targets`: the speed targets and the measured figures.

The baseline of a forward pass is a torch reduction of the same tensor, that of a gradient is
`copy_`, which has the same memory traffic. The ratio is that of the medians of interleaved
repetitions; its spread is that of the ratios within each round.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ddn_cuda
from bench.compare import Settings
from bench.methods import Method, label, operations, our_methods, ours, reductions
from bench.timing import Operation, Timing, ratio, summarize, time_interleaved
from bench.workloads import DTYPES, Sets, Workload, make

Row = dict[str, Any]

LEAST_REPETITIONS = 15

# Goals of the CPU for sets of 1,024, 128 and 4,096 float32 points.
CPU_SHAPES = {1024: 8192, 128: 65536, 4096: 2048}  # points: sets, for a constant number of bytes
CPU_FORWARD: dict[str, tuple[float, float, float]] = {
    "quadratic": (1.05, 1.5, 1.05),
    "huber": (1.5, 2.5, 1.5),
    "pseudo_huber": (2.2, 3.0, 2.2),
    "welsch (local)": (2.4, 4.0, 2.4),
    "welsch (global)": (6.0, 14.0, 7.0),
    "truncated_quadratic (local)": (2.0, 5.0, 2.0),
    "truncated_quadratic (global)": (10.0, 30.0, 10.0),
}
CPU_BACKWARD = (0.75, 0.85, 0.75)

GPU_SHAPE = (128 * 1024, 2048)
GPU_FORWARD = {
    "quadratic": 1.02,
    "huber": 1.10,
    "pseudo_huber": 1.15,
    "welsch (local)": 1.15,
    "welsch (global)": 1.6,
    "truncated_quadratic (local)": 1.25,
    "truncated_quadratic (global)": 1.8,
}
GPU_FORWARD_BFLOAT16 = {"huber": 1.3}
GPU_BACKWARD = {"float32": 1.03, "bfloat16": 1.05}

PASSES_POINTS = 1 << 20  # for the count of passes

OVERHEAD_GOAL = 60.0  # microseconds
OVERHEAD_CALLS = 500


class Goal(NamedTuple):
    """A line of the table: `operation` of `method` takes at most `goal` times `baseline`."""

    method: str
    operation: str
    baseline: str
    goal: float


def cpu_goals(points: int) -> list[Goal]:
    column = list(CPU_SHAPES).index(points)
    goals = []
    for name, most in CPU_FORWARD.items():
        goals.append(Goal(name, "forward", "torch.mean", most[column]))
    for name in CPU_FORWARD:
        goals.append(Goal(name, "backward", "copy", CPU_BACKWARD[column]))
    for name in CPU_FORWARD:
        goals.append(Goal(name, "forward", "torch.median", 1.0))
    return goals


def gpu_goals(dtype: str) -> list[Goal]:
    forward = GPU_FORWARD if dtype == "float32" else GPU_FORWARD_BFLOAT16
    goals = [Goal(name, "forward", "torch.amax", most) for name, most in forward.items()]
    return goals + [Goal(name, "backward", "copy", GPU_BACKWARD[dtype]) for name in GPU_FORWARD]


def measure(
    goals: Sequence[Goal],
    shape: tuple[int, int],
    dtype: str,
    device: torch.device,
    settings: Settings,
) -> Iterator[Row]:
    """Checks and times all methods of the goals on one tensor; yields a row for each."""
    if settings.quick:
        shape = (max(1, shape[0] >> 7), shape[1])
    sets = make(Workload("targets", "", shape), "outliers", DTYPES[dtype], device)
    target = torch.empty_like(sets.x)
    everyone = {m.name: m for m in reductions(sets)}
    penalties = [name for name in ddn_cuda.PENALTIES if name in settings.penalties]
    everyone |= {m.name: m for m in our_methods(sets, penalties, settings.alpha)}
    goals = [goal for goal in goals if goal.method in everyone]
    timed = {"forward copy": partial(target.copy_, sets.x)} | _operations(everyone, goals)
    rounds = 3 if settings.quick else max(LEAST_REPETITIONS, settings.repetitions)
    timings = time_interleaved(timed, device, rounds=rounds, budget_seconds=float("inf"))
    place = f"{shape[0]:,} sets of {shape[1]:,} points, {dtype}"
    passes = average_passes(sets, penalties, settings.alpha)
    for goal in goals:
        row = _row(goal, everyone[goal.method], timings, device, place)
        yield row | {"passes": passes[goal.method]}


def average_passes(sets: Sets, penalties: Sequence[str], alpha: float) -> dict[str, float]:
    """The average number of passes of each solver over a set, including the first one."""
    some = sets.first(PASSES_POINTS) or sets
    found = {}
    for penalty, solver in ours(penalties):
        _, info = ddn_cuda.robust_pool(some.x, penalty, alpha, solver=solver, return_info=True)
        found[label(penalty, solver)] = round(1 + info.iterations.double().mean().item(), 2)
    return found


def _operations(everyone: Mapping[str, Method], goals: Sequence[Goal]) -> dict[str, Operation]:
    """The operations of the goals, without repeats."""
    wanted: dict[str, None] = {}
    for goal in goals:
        wanted[f"{goal.operation} {goal.method}"] = None
        wanted[f"forward {goal.baseline}"] = None
    timed = {
        f"{operation} {name}": call
        for name, method in everyone.items()
        if method.pool is not None
        for operation, call in operations(method).items()
    }
    return {name: timed[name] for name in wanted if name in timed}


def _row(
    goal: Goal,
    method: Method,
    timings: Mapping[str, Timing],
    device: torch.device,
    place: str,
) -> Row:
    about = target_row(
        f"{goal.operation} {goal.method}", device, place, f"x {goal.baseline}", goal.goal
    )
    if method.pool is None:
        return about | {"skipped": method.skipped, "refused": method.refused}
    if f"forward {goal.baseline}" not in timings:
        return about | {"skipped": f"{goal.baseline} was refused"}
    own = timings[f"{goal.operation} {goal.method}"]
    baseline = timings[f"forward {goal.baseline}"]
    times = ratio(own, baseline)
    samples = {"milliseconds": own.as_dict(), "baseline_milliseconds": baseline.as_dict()}
    return about | measured(times, goal.goal) | samples


def target_row(what: str, device: torch.device, place: str, unit: str, goal: float) -> Row:
    return {
        "suite": "targets",
        "what": what,
        "device": device.type,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "place": place,
        "unit": unit,
        "goal": goal,
    }


def measured(value: Timing, goal: float, *, at_least: bool = False) -> Row:
    """The figure in the unit of its row, its spread, and whether it meets the goal."""
    figures = {"measured": value.median, "low": value.low, "high": value.high}
    rounded: Row = {name: float(f"{figure:.4g}") for name, figure in figures.items()}
    met = value.median >= goal if at_least else value.median <= goal
    return rounded | {"met": met, "at_least": at_least, "repetitions": value.repetitions}


# Overhead of a call


def overhead(device: torch.device, settings: Settings) -> Iterator[Row]:
    """The CPU time of a forward call in microseconds, from calls with 16 points."""
    x = torch.linspace(-1, 1, 16, device=device)
    calls = OVERHEAD_CALLS // 10 if settings.quick else OVERHEAD_CALLS

    def loop(call: partial[Tensor]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls * 1e6

    pools = {"huber": partial(ddn_cuda.robust_pool, x, "huber", 1.0)}
    pools["torch.amax"] = partial(torch.amax, x, -1)
    for call in pools.values():
        loop(call)
    samples: dict[str, list[float]] = {name: [] for name in pools}
    for _ in range(LEAST_REPETITIONS):
        for name, call in pools.items():
            samples[name].append(loop(call))
    value, amax = (summarize(samples[name]) for name in ("huber", "torch.amax"))
    about = target_row("eager call, forward huber", device, "16 points", "us", OVERHEAD_GOAL)
    note = f"torch.amax takes {amax.median:.1f} us"
    yield about | measured(value, OVERHEAD_GOAL) | {"note": note}


# All


def cpu_parts(settings: Settings) -> Iterator[Iterator[Row]]:
    """With the current number of threads."""
    device = torch.device("cpu")
    for points, sets in CPU_SHAPES.items():
        yield measure(cpu_goals(points), (sets, points), "float32", device, settings)
    if torch.get_num_threads() == 1:
        yield overhead(device, settings)


# Report


def verdict(row: Row) -> str:
    """Whether a target is met, in words."""
    if row.get("skipped"):
        return "skipped"
    return "met" if row["met"] else "not met"


def as_text(rows: Sequence[Row]) -> str:
    lines: list[str] = []
    case = None
    reasons: dict[str, int] = {}
    for row in rows:
        if row.get("skipped"):
            key = f"{row['device']}: {row['skipped']}"
            reasons[key] = reasons.get(key, 0) + 1
            continue
        here = _place(row)
        if here != case:
            case = here
            lines += ["", f"targets: {here}"]
            columns = f"{'measured':>9}{'10%':>9}{'90%':>9}{'goal':>8}  unit"
            lines.append(f"{'':40}{columns}")
        sign = ">=" if row.get("at_least") else "<="
        line = f"{row['what']:40}{row['measured']:9.4g}{row['low']:9.4g}{row['high']:9.4g}"
        line += f"{sign:>4}{row['goal']:4g}  {row['unit']:16}{verdict(row)}"
        lines.append(line + (f"  ({row['note']})" if row.get("note") else ""))
    lines += [f"{count} targets skipped, {reason}" for reason, count in reasons.items()]
    return "\n".join(lines)


def _place(row: Row) -> str:
    threads = f", threads: {row['threads']}" if row["threads"] else ""
    return f"{row['place']}, {row['device']}{threads}"
