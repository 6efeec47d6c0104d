"""Predicts the time of the CUDA kernels from counts of what they execute; needs no GPU.

    python -m bench.gpu_model                             # all workloads, from the committed counts
    python -m bench.gpu_model --counts emulator --quick   # count anew; nvcc is needed
    python -m bench.gpu_model --lines 'forward huber 2048'
    python -m bench.gpu_model --write-table               # count anew and keep the counts
    python -m bench.gpu_model --device cuda               # also time the same at full size

Times are relative to the bandwidth bound. docs/gpu_model.md explains counts, rule and limits.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine as this_machine
from bench.gpu_model import counts_table, emulate, figures, points, registers, report, summary
from bench.gpu_model.counted import WORKLOADS, Counted
from bench.gpu_model.counts_table import Kernels, Table
from bench.gpu_model.machines import MACHINES, Machine
from bench.gpu_model.registers import Registers
from bench.gpu_model.summary import Summary
from bench.timing import Timing


def chosen(only: str, quick: bool) -> dict[str, Counted]:
    found = {
        name: workload
        for name, workload in WORKLOADS.items()
        if re.search(only, name) and (workload.quick or not quick)
    }
    if not found:
        raise SystemExit(f"gpu_model: --only {only!r} names no workload")
    return found


def count_all(workloads: Mapping[str, Counted]) -> dict[str, Kernels]:
    """Counts in the emulator, which is built first."""
    emulator = emulate.build()
    found = {}
    for name, workload in workloads.items():
        print(f"counting {name}", file=sys.stderr, flush=True)
        counts = emulate.count(emulator, workload)
        found[name] = {kernel: figures.of_counts(one) for kernel, one in counts.items()}
    return found


def summaries_of(
    counted: Mapping[str, Kernels], names: Iterable[str], known: Registers, machine: Machine
) -> dict[str, Summary]:
    return {
        name: summary.summarize(WORKLOADS[name], counted[name], known, machine)
        for name in names
        if name in counted
    }


def lines_of(name: str) -> None:
    if name not in WORKLOADS:
        raise SystemExit(f"gpu_model: no workload {name!r}")
    workload = WORKLOADS[name]
    lines: Counter[str] = Counter()
    for counts in emulate.count(emulate.build(), workload).values():
        lines.update(counts.lines)  # type: ignore[arg-type]
    report.print_lines(name, lines, points.count_points(workload))


def write_table(
    workloads: Mapping[str, Counted], old: Table, known: Registers, machine: Machine
) -> Table:
    """Replaces the committed counts of these workloads and prints the changes."""
    counted = count_all(workloads)
    after = summaries_of(counted, workloads, known, machine)
    report.print_changes(summaries_of(old.workloads, workloads, known, machine), after)
    kept = {name: counted.get(name, old.workloads.get(name)) for name in WORKLOADS}
    new = Table(
        counts_table.nvcc_version(),
        this_machine.commit(),
        {name: kernels for name, kernels in kept.items() if kernels is not None},
    )
    counts_table.write(new)
    print()
    return new


def measure_all(workloads: Mapping[str, Counted], seconds: float) -> dict[str, Timing | str]:
    """Times on the GPU, or the reason why one is missing. The quick workloads come first, and none
    begins after the time limit."""
    import torch

    from bench.gpu_model.measure import measure
    from bench.methods import failure

    found: dict[str, Timing | str] = {}
    deadline = time.monotonic() + seconds
    for name, workload in sorted(workloads.items(), key=lambda item: not item[1].quick):
        if time.monotonic() > deadline:
            found[name] = "not timed"
            continue
        try:
            found[name] = measure(workload, torch.device("cuda"))
        except Exception as error:  # the other workloads go on
            print(f"{name}: {failure(error)}", file=sys.stderr)
            found[name] = "failed"
        torch.cuda.empty_cache()
    return found


def as_json(
    options: argparse.Namespace,
    source: Table,
    summaries: Mapping[str, Summary],
    verdicts: Mapping[str, Sequence[summary.Verdict]],
    measured: Mapping[str, Timing | str],
) -> dict[str, Any]:
    rows = []
    for name, one in summaries.items():
        row: dict[str, Any] = {"workload": name, **summary.as_dict(one)}
        row["goals"] = [
            {**v.goal._asdict(), "value": v.value, "met": v.met} for v in verdicts[name]
        ]
        if name in measured:
            found = measured[name]
            row["measured"] = found if isinstance(found, str) else found.as_dict()
        rows.append(row)
    counted = {"nvcc": source.nvcc, "commit": source.commit}
    about = {"predicted_for": options.machine, "counted": counted}
    return {**about, "machine": this_machine.describe(), "rows": rows}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.gpu_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--machine", choices=list(MACHINES), default="H200", help="default: H200")
    parser.add_argument("--only", metavar="REGEX", default="", help="workloads by name")
    parser.add_argument("--quick", action="store_true", help="few workloads")
    parser.add_argument(
        "--counts",
        choices=("table", "emulator"),
        default="table",
        help="committed ones (default), or counted now, in minutes",
    )
    parser.add_argument("--registers", type=Path, default=registers.REPORT, help="of ptxas")
    parser.add_argument("--lines", metavar="WORKLOAD", help="count it; print its source lines")
    parser.add_argument("--write-table", action="store_true", help="count; keep the counts")
    parser.add_argument("--device", choices=("none", "cuda"), default="none")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="for the measurements, about"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.lines:
        lines_of(options.lines)
        return 0
    workloads = chosen(options.only, options.quick)
    known, machine = registers.read(options.registers), MACHINES[options.machine]
    source = counts_table.read()
    if options.write_table:
        source = write_table(workloads, source, known, machine)
    elif options.counts == "emulator":
        try:
            counted = count_all(workloads)
            source = Table(counts_table.nvcc_version(), this_machine.commit(), counted)
        except Exception as error:  # no nvcc, no compiler, an opcode without a cost
            print(f"gpu_model: not counted, {error}; the committed counts are used")
    summaries = summaries_of(source.workloads, workloads, known, machine)
    goals = counts_table.read_goals()
    verdicts = {n: summary.judge(n, goals.get(n, []), summaries) for n in summaries}
    measured = measure_all(workloads, options.seconds) if options.device == "cuda" else {}
    print(
        f"counted at commit {source.commit} with nvcc {source.nvcc}; predicted for {machine.name}"
    )
    print(report.count_met(verdicts))
    if missing := [name for name in workloads if name not in summaries]:
        print(f"not counted yet: {', '.join(missing)}")
    print()
    report.print_points(summaries)
    print()
    report.print_times(summaries, verdicts, measured)
    if unknown := sorted({k for s in summaries.values() for k in s.unknown_registers}):
        print(f"\nregisters unknown, the most possible assumed: {', '.join(unknown)}")
    print(f"\n{report.BLIND}", end="")
    if options.json:
        found = as_json(options, source, summaries, verdicts, measured)
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
