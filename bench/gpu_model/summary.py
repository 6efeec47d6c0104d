"""The printed figures of a workload, and the check of its goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bench.gpu_model import points, rule
from bench.gpu_model.costs import UNITS
from bench.gpu_model.counted import Counted
from bench.gpu_model.counts_table import Goal, Kernels
from bench.gpu_model.figures import GLOBAL, Kernel
from bench.gpu_model.machines import Machine
from bench.gpu_model.registers import Registers
from bench.gpu_model.rule import Times


class Summary(NamedTuple):
    """The figures of a workload. Per-point figures count lanes, so 32 points share a warp
    instruction."""

    slots: float  # issue slots a point
    units: dict[str, float]  # instructions per point, by unit
    slots_per_set: float  # of a warp
    lanes: float  # share of the lanes that take part in an instruction
    sectors: float  # requested, relative to those needed
    block_sectors: float  # distinct in a block, relative to those needed
    banks: float  # passes over the banks, relative to the minimum
    collisions: float  # lanes at one address of a shared atomic
    barriers: float  # barriers of a thread per set
    chain: float  # dependent global loads of a warp per set
    in_flight: float  # bytes in flight per multiprocessor in the longest kernel
    filled: float  # share of the machine's block slots in use, at full size
    times: Times  # over moving the bytes
    unknown_registers: tuple[str, ...]  # kernels


def summarize(
    workload: Counted, kernels: Kernels, registers: Registers, machine: Machine
) -> Summary:
    number, sets = points.count_points(workload), workload.sets()
    needed = workload.needed_bytes(number)
    launches = [(kernel, registers.of(name)) for name, kernel in kernels.items()]
    every = list(kernels.values())
    units = {unit: 32 / number * sum(k.units[unit] for k in every) for unit in UNITS}
    slowest, its_registers = max(
        launches, key=lambda launch: rule.launch_times(launch[0], launch[1], machine).predicted
    )
    blocks = rule.residents(slowest, its_registers, machine)
    full_blocks = slowest.blocks * _times_larger(workload)
    return Summary(
        slots=sum(units.values()),
        units=units,
        slots_per_set=sum(k.slots for k in every) / sets,
        lanes=sum(k.lane_ptx for k in every) / max(1, 32 * sum(k.ptx for k in every)),
        sectors=_sectors(every) * rule.SECTOR / needed,
        block_sectors=sum(k.block_sectors for k in every) * rule.SECTOR / needed,
        banks=_banks(every),
        collisions=_collisions(every),
        barriers=sum(k.units["barrier"] / (k.threads / 32) for k in every) / sets,
        chain=sum(k.load_chain / max(sets, k.blocks * k.threads / 32) for k in every),
        in_flight=rule.in_flight(slowest, blocks),
        filled=min(1.0, full_blocks / (blocks * machine.multiprocessors)),
        times=rule.predict(launches, needed, machine),
        unknown_registers=tuple(k for k in kernels if registers.of(k) is None),
    )


def _times_larger(workload: Counted) -> float:
    """The ratio of sets at full size and counted sets."""
    if workload.layout != "channels last":
        return workload.full[0] / workload.shape[0]
    return workload.full[0] * workload.full[2] / workload.sets()


def _sectors(kernels: Sequence[Kernel]) -> float:
    return sum(k.access(kind).transactions for k in kernels for kind in GLOBAL)


def _banks(kernels: Sequence[Kernel]) -> float:
    each = [k.access(kind) for k in kernels for kind in ("shared_load", "shared_store")]
    least = sum(access.least for access in each)
    return sum(access.transactions for access in each) / least if least else 1.0


def _collisions(kernels: Sequence[Kernel]) -> float:
    each = [k.access("shared_atomic") for k in kernels]
    requests = sum(access.requests for access in each)
    return sum(access.conflicts for access in each) / requests if requests else 0.0


class Verdict(NamedTuple):
    goal: Goal
    value: float | None  # None if the other workload is missing
    met: bool | None


def judge(name: str, goals: Sequence[Goal], summaries: Mapping[str, Summary]) -> list[Verdict]:
    """Checks a workload against its goals."""
    verdicts = []
    for goal in goals:
        value = _figure(summaries[name], goal.figure)
        if goal.over is not None:
            other = summaries.get(goal.over)
            if other is None:
                verdicts.append(Verdict(goal, None, None))
                continue
            value /= _figure(other, goal.figure)
        verdicts.append(Verdict(goal, value, value <= goal.most))
    return verdicts


def _figure(summary: Summary, name: str) -> float:
    return summary.times.predicted if name == "predicted" else getattr(summary, name)


def as_dict(summary: Summary) -> dict[str, Any]:
    return summary._asdict() | {"times": summary.times._asdict()}
