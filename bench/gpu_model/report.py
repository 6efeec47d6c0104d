"""Prints the figures of workloads as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.gpu_model.costs import UNITS
from bench.gpu_model.summary import Summary, Verdict
from bench.timing import Timing

WIDTH = 40
SHORT = {"compare": "comp", "integer": "int", "multiply": "imad", "conversion": "conv"} | {
    "special": "spec",
    "shuffle": "shfl",
    "control": "ctrl",
    "barrier": "bar",
}
TIMES = {
    "issue": "issue",
    "fp64": "fp64",
    "special": "spec",
    "shared": "shared",
    "loads": "loads",
    "memory": "mem",
    "half_rate": "(half)",
}

BLIND = """\
What these predictions do not see:
- scheduling: stalls on dependent instructions, on barriers and between warps; too few warps to hide
  them; a block that waits for its slowest warp, beyond its loads; launches, which take microseconds
- SASS: instructions are estimated from PTX; ptxas's moves, spills, predication and fusion differ
- half-rate units: reported, but PTX overstates them up to 1.8 times, so they predict nothing
- the true latency of instructions; every global load is taken to wait 500 cycles
- caches: distinct sectors of a launch move once, others cost what the L1 cache takes to serve them;
  no misses, no L2 bandwidth
- memory beyond bytes: DRAM pages, reads mixed with writes, TLB misses
- atomics on global memory; of those on shared memory only lanes at one address
- a machine that is not filled: see `filled`, the share of its places for blocks that has one
"""


def number(value: float, width: int) -> str:
    """Two or three significant digits."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:{width}.{digits}f}"


def print_points(summaries: Mapping[str, Summary]) -> None:
    """Prints instructions per point by unit, and per set."""
    head = "".join(f"{SHORT.get(unit, unit):>7}" for unit in UNITS)
    print(f"{'issue slots a point':{WIDTH}}{'all':>7}{head}{'a set':>8}{'lanes':>7}")
    for name, s in summaries.items():
        cells = "".join(number(s.units[unit], 7) for unit in UNITS)
        end = f"{s.slots_per_set:8.0f}{s.lanes:7.2f}"
        print(f"{name:{WIDTH}}{number(s.slots, 7)}{cells}{end}")


def print_times(
    summaries: Mapping[str, Summary],
    verdicts: Mapping[str, Sequence[Verdict]],
    measured: Mapping[str, Timing | str],
) -> None:
    """Prints memory traffic, times relative to the bandwidth bound, and goals. measured: a reason
    if there is no time."""
    columns = ("sectors", "in blk", "banks", "collide", "barrier", "chain", "KiB", "filled")
    head = "".join(f"{column:>8}" for column in columns)
    head += " |" + "".join(f"{short:>7}" for short in TIMES.values())
    tail = f"{'measured':>10}" if measured else ""
    print(f"{'':{WIDTH}}{head} |{'predicted':>10}{tail}  value / goal")
    for name, s in summaries.items():
        figures = (s.sectors, s.block_sectors, s.banks, s.collisions, s.barriers, s.chain)
        cells = "".join(number(value, 8) for value in (*figures, s.in_flight / 1024, s.filled))
        cells += " |" + "".join(number(getattr(s.times, time), 7) for time in TIMES)
        found = measured.get(name, "not timed")
        taken = found if isinstance(found, str) else number(found.median, 10)
        tail = f"{taken:>10}" if measured else ""
        goals = "; ".join(map(goal_text, verdicts.get(name, ())))
        print(f"{name:{WIDTH}}{cells} |{number(s.times.predicted, 10)}{tail}  {goals}".rstrip())


def count_met(verdicts: Mapping[str, Sequence[Verdict]]) -> str:
    every = [verdict.met for own in verdicts.values() for verdict in own]
    judged = [met for met in every if met is not None]
    text = f"goals met (✓): {sum(judged)} of {len(judged)}"
    if others := len(every) - len(judged):
        text += f"; {others} not judged, relative to a workload that is not printed"
    return text


def goal_text(verdict: Verdict) -> str:
    goal = verdict.goal
    value = f"{'?':>5}" if verdict.value is None else number(verdict.value, 5)
    text = f"{value} / {goal.most:g}"
    if goal.figure != "predicted":
        text += f" {goal.figure}"
    if goal.over is not None:
        text += f" x {goal.over}"
    return text + " ✓" * bool(verdict.met)


def print_changes(before: Mapping[str, Summary], after: Mapping[str, Summary]) -> None:
    """Prints the changes of a new table: issue slots per point and predicted times that differ by
    1%."""
    print(f"{'before and after':{WIDTH}}{'slots':>8}{'':>8}{'predicted':>11}{'':>8}")
    same = 0
    for name, new in after.items():
        old = before.get(name)
        if old is None:
            cells = f"{'-':>8}{number(new.slots, 8)}{'-':>11}{number(new.times.predicted, 8)}"
        else:
            pairs = (old.slots, new.slots), (old.times.predicted, new.times.predicted)
            if all(abs(a - b) <= 0.01 * max(a, b) for a, b in pairs):
                same += 1
                continue
            cells = "".join(
                number(a, width) + number(b, 8)
                for (a, b), width in zip(pairs, (8, 11), strict=True)
            )
        print(f"{name:{WIDTH}}{cells}")
    print(f"{same} workloads within 1% of before")


def print_lines(name: str, lines: Mapping[str, float], points: int, most: int = 40) -> None:
    """Prints the source lines whose PTX takes most of a workload."""
    total = sum(lines.values()) or 1.0
    print(f"{name}: PTX instructions a point, by source line")
    for where, times in sorted(lines.items(), key=lambda line: -line[1])[:most]:
        print(f"{number(times * 32 / points, 9)}{times / total:7.1%}  {where}")
