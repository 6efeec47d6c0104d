"""Benchmarks robust pooling and its baselines.

    python -m bench                       everything, on each device present
    python -m bench --suite targets       the targets alone
    python -m bench --workload image --data all --dtype float32 bfloat16
    python -m bench plot [JSON ...]       the figures of docs/benchmarks.md, from JSON alone

Suites:

    targets   the speed targets and the measured figures: met or not met
    compare   forward, backward and both of every penalty and solver; torch.mean, amax and median;
              copy_; nodes over SciPy, torch.optim.LBFGS and unrolled Newton steps; anucvml/ddn
              where it is importable
    growth    time against the points in a set and against the number of sets

All answers are checked before they are timed, and a method with wrong answers is rejected. The
predecessor, anucvml/ddn, is timed in any case, and the share of its correct answers is reported.
The methods alternate in one process. Figures are medians with the 10th and 90th percentile; the
JSON has all samples. On a CPU, workloads are scaled to --points by taking fewer sets; slow
methods get even fewer and are compared per set. The report states both. The exit status is 1 if
an answer of this library was rejected, whether or not targets are met.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import ddn_cuda
from bench import compare, growth, machine, targets, targets_gpu
from bench.arguments import positive
from bench.compare import Case, Settings
from bench.workloads import DATA, DTYPES, WORKLOADS

SUITES = ("targets", "compare", "growth")
RESULTS = machine.ROOT / "bench" / "results"
Row = dict[str, Any]


def default_cases() -> list[Case]:
    """Each workload with ordinary points, and one of them with each kind and dtype."""
    cases = [Case(w, "outliers", "float32") for w in WORKLOADS.values()]
    main = WORKLOADS["modelnet"]
    cases += [Case(main, data, "float32") for data in DATA if data != "outliers"]
    return cases + [Case(main, "outliers", dtype) for dtype in DTYPES if dtype != "float32"]


def cuda_missing() -> str | None:
    """The reason why no GPU is timed."""
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    if ddn_cuda.build_info()["cuda"] is None:
        return "this build of ddn_cuda has no CUDA"
    return None


# Command line


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def choice(flag: str, names: Sequence[str], text: str, **options: Any) -> None:
        parser.add_argument(
            flag, nargs="+", choices=[*names, "all"], metavar="NAME",
            help=f"{text}: {', '.join(names)}, all", **options,
        )  # fmt: skip

    choice("--suite", SUITES, "what to run", default=["all"])
    choice("--device", ("cpu", "cuda"), "where (default: each that is present)")
    text = "of `compare` (default: each once, and modelnet with all data and dtypes)"
    choice("--workload", list(WORKLOADS), text)
    choice("--data", list(DATA), "points of `compare` and `growth` (default: as above)")
    choice("--dtype", list(DTYPES), "of `compare` and `growth` (default: as above)")
    choice("--penalty", list(ddn_cuda.PENALTIES), "which penalties", default=["all"])
    text = "penalties whose PyTorch nodes are also compiled, ten seconds each (default: huber)"
    choice("--compiled", [*ddn_cuda.PENALTIES, "none"], text, default=["huber"])
    add = parser.add_argument
    add(
        "--threads",
        type=positive,
        nargs="+",
        help="threads on the CPU: the targets with each of them, the other suites with the first "
        "(default: 1, and 2 where there are two cores)",
    )
    add("--repetitions", type=positive, default=15, help="rounds (default %(default)s)")
    add("--seconds", type=float, default=60, help="for a case at most (default %(default)s)")
    add("--alpha", type=float, default=1.0, help="scale of the penalties (default %(default)s)")
    add("--backend", default="inductor", help="of torch.compile (default %(default)s)")
    add(
        "--points",
        type=positive,
        default=1 << 23,
        help="of a workload on the CPU at most (default %(default)s)",
    )
    add(
        "--allocator",
        choices=["keep", "default"],
        default="keep",
        help="keep: glibc's malloc keeps freed memory, else each large gradient waits for pages "
        "from the system, whoever computes it (default %(default)s)",
    )
    add("--quick", action="store_true", help="tiny sizes and few rounds, to see that all works")
    add("--json", type=Path, help="result (default bench/results/benchmark-cpu.json or -gpu.json)")
    options = parser.parse_args(arguments)
    if options.alpha <= 0 or options.seconds <= 0:
        parser.error("--alpha and --seconds have to be positive")
    return options


def chosen(given: list[str] | None, names: Sequence[str]) -> list[str] | None:
    return list(names) if given and "all" in given else given


def cases(options: argparse.Namespace) -> list[Case]:
    """The product of the options given, or the default."""
    workloads = chosen(options.workload, list(WORKLOADS))
    data, dtypes = chosen(options.data, list(DATA)), chosen(options.dtype, list(DTYPES))
    if not (workloads or data or dtypes):
        return default_cases()
    return [
        Case(WORKLOADS[workload], points, dtype)
        for workload in workloads or ["modelnet"]
        for points in data or ["outliers"]
        for dtype in dtypes or ["float32"]
    ]


def make_settings(options: argparse.Namespace) -> Settings:
    compiled = chosen(options.compiled, list(ddn_cuda.PENALTIES)) or []
    return Settings(
        repetitions=min(3, options.repetitions) if options.quick else options.repetitions,
        seconds=options.seconds,
        alpha=options.alpha,
        penalties=tuple(chosen(options.penalty, list(ddn_cuda.PENALTIES)) or ()),
        compiled=tuple(name for name in compiled if name != "none"),
        backend=options.backend,
        most_points=options.points,
        quick=options.quick,
    )


# Running


def to_json(result: Row) -> str:
    """Indented, with each list of numbers on one line."""
    text = json.dumps(result, indent=1)
    numbers = re.compile(r"\[\s+((?:-?[\d.e+-]+,\s+)*-?[\d.e+-]+)\s+\]")
    return numbers.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


class Report:
    """Writes the JSON anew after each part, and prints each table as it becomes available."""

    def __init__(self, path: Path, facts: Row) -> None:
        self.path, self.result = path, facts | {"rows": []}
        self.start = time.monotonic()

    def add(self, rows: Sequence[Row], text: str) -> None:
        print(text, flush=True)
        self.keep(rows)

    def keep(self, rows: Sequence[Row]) -> None:
        self.result["rows"] += rows
        self.write()

    def write(self) -> None:
        self.result["seconds"] = round(time.monotonic() - self.start, 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(to_json(self.result) + "\n")
        unfinished.replace(self.path)  # the file is complete at any time


def run_targets(device: str, threads: Sequence[int], settings: Settings, report: Report) -> None:
    for count in threads if device == "cpu" else threads[:1]:
        torch.set_num_threads(count)
        parts = targets.cpu_parts if device == "cpu" else targets_gpu.parts
        for part in parts(settings):
            rows = list(part)
            report.add(rows, targets.as_text(rows))


def run_compare(
    device: str, options: argparse.Namespace, settings: Settings, report: Report
) -> None:
    for case in cases(options):
        rows = list(compare.run(case, torch.device(device), settings))
        report.add(rows, compare.as_text(rows))


def run_growth(
    device: str, options: argparse.Namespace, settings: Settings, report: Report
) -> None:
    for data in chosen(options.data, list(DATA)) or ["outliers"]:
        for dtype in chosen(options.dtype, list(DTYPES)) or ["float32"]:
            rows = []
            for row in growth.run(data, dtype, torch.device(device), settings):
                rows.append(row)
                report.keep([row])
            print("\n" + growth.as_text(rows), flush=True)


def measure(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    missing = cuda_missing()
    devices = chosen(options.device, ("cpu", "cuda")) or ["cpu"] + ["cuda"] * (missing is None)
    if "cuda" in devices and missing:
        raise SystemExit(f"python -m bench: --device cuda: {missing}")
    facts = machine.describe()
    cores = facts["cores"]
    threads = options.threads or [count for count in (1, 2) if count <= cores]
    path = options.json or RESULTS / f"benchmark-{'gpu' if 'cuda' in devices else 'cpu'}.json"
    before = torch.get_num_threads()
    with machine.kept_memory(options.allocator == "keep") as kept:
        report = Report(
            path,
            {
                "command": " ".join(["python -m bench", *arguments]),
                "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "commit": machine.commit(),
                "quick": options.quick,
                "settings": dataclasses.asdict(make_settings(options)),
                "machine": facts,
                "versions": machine.versions("torch", "numpy", "scipy"),
                "build": dict(ddn_cuda.build_info()),
                "clocks": {"before": machine.clocks()},
                "free_share_of_cores": {"before": machine.free_share(cores)},
                "threads": threads,
                "malloc_keeps_freed_memory": kept,
                "cuda_skipped": missing,
            },
        )
        print(heading(report.result))
        run(devices, threads, missing, options, report)
    torch.set_num_threads(before)
    report.result["clocks"]["after"] = machine.clocks()
    report.result["free_share_of_cores"]["after"] = machine.free_share(cores)
    report.write()
    print(f"\n{path}, after {report.result['seconds']:.0f} s")
    share = report.result["free_share_of_cores"]
    print(f"share of each core that was free: {share['before']} before, {share['after']} after")
    if busy := machine.busy(share):
        print(f"{busy}: to be repeated on a quiet one")
    wrong = compare.refused(report.result["rows"])
    for line in wrong:
        print(f"WRONG: {line}")
    return 1 if wrong else 0


def heading(result: Row) -> str:
    """The machine and versions, in a few lines."""
    facts = result["machine"]
    gpu = facts["gpu"]["name"] if facts["gpu"] else result["cuda_skipped"]
    lines = [
        f"{facts['cpu']}, {facts['cores']} cores; GPU: {gpu}",
        f"torch {facts['torch']}, ddn_cuda {result['build']}, commit {result['commit']}",
        f"free share of cores {result['free_share_of_cores']['before']}, clocks "
        f"{result['clocks']['before']}",
    ]
    if not result["malloc_keeps_freed_memory"]:
        lines.append("malloc returns freed memory: large gradients include zeroing their pages")
    if result["quick"]:
        lines.append("quick run: the figures mean nothing")
    return "\n".join(lines)


def run(
    devices: Sequence[str],
    threads: Sequence[int],
    missing: str | None,
    options: argparse.Namespace,
    report: Report,
) -> None:
    settings = make_settings(options)
    suites = chosen(options.suite, SUITES) or []
    for device in devices:
        torch.set_num_threads(threads[0])
        if "compare" in suites:
            run_compare(device, options, settings, report)
        if "growth" in suites:
            run_growth(device, options, settings, report)
        if "targets" in suites:
            run_targets(device, threads, settings, report)
    if missing and "targets" in suites:
        rows = list(targets_gpu.skipped(missing))
        report.add(rows, targets.as_text(rows))


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["plot"]:
        from bench import plot

        return plot.main(given[1:])
    return measure(given)


if __name__ == "__main__":
    sys.exit(main())
