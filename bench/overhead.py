"""Measures the overhead of a call in microseconds, with 16 points, which take about one to pool.

The calls are `ddn_cuda.robust_pool`, `torch.ops.ddn.robust_pool` and the function with its backward
pass; as a reference for the machine, also torch.median without and with its backward pass. A figure
is the median of many repetitions, each the mean of several calls, with one thread and with
PyTorch's default. Each run is a separate process. With `--against`, runs of another tree, with its
extension built, alternate with runs of this one.

    python -m bench.overhead
    python -m bench.overhead --against ../other --json bench/results/overhead-cpu.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

POINTS = 16
CALLS = 5  # a repetition: short, so that few are interrupted on a busy machine
CASES = ("function", "operator", "function + backward", "median", "median + backward")


def calls() -> dict[str, Callable[[], Any]]:
    """The measured calls, by `CASES`."""
    import ddn_cuda

    pool, operator = ddn_cuda.robust_pool, torch.ops.ddn.robust_pool
    x = torch.linspace(-1, 2, POINTS)
    leaf = x.clone().requires_grad_()

    def backward(y: torch.Tensor) -> None:
        leaf.grad = None
        y.backward()  # type: ignore[no-untyped-call]

    return dict(
        zip(
            CASES,
            (
                lambda: pool(x),
                lambda: operator(x),
                lambda: backward(pool(leaf)),
                lambda: x.median(),
                lambda: backward(leaf.median()),
            ),
            strict=True,
        )
    )


def measure(repetitions: int) -> dict[str, float]:
    """Microseconds per call, with the threads of this process."""
    seconds: dict[str, list[float]] = {case: [] for case in CASES}
    for case, call in calls().items():
        for repetition in range(-repetitions // 4, repetitions):  # negative ones warm up
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            if repetition >= 0:
                seconds[case].append((time.perf_counter() - start) / CALLS)
    return {case: 1e6 * statistics.median(values) for case, values in seconds.items()}


def in_process(tree: Path, threads: int, repetitions: int) -> dict[str, float]:
    """`measure` in a process that imports the extension of a tree. threads: 0 for the default."""
    command = [sys.executable, __file__, "--worker", str(threads), "--repeat", str(repetitions)]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compare(trees: dict[str, Path], rounds: int, repetitions: int) -> dict[str, Any]:
    """The median over the rounds of each case, by threads and tree."""
    results: dict[str, Any] = {}
    for name, threads in (("1 thread", 1), ("default threads", 0)):
        runs: dict[str, list[dict[str, float]]] = {tree: [] for tree in trees}
        for _ in range(rounds):
            for tree, path in trees.items():
                runs[tree].append(in_process(path, threads, repetitions))
        results[name] = {
            tree: {case: round(statistics.median(r[case] for r in own), 2) for case in CASES}
            for tree, own in runs.items()
        }
    return results


def table(results: dict[str, Any]) -> str:
    lines = [f"microseconds a call, {POINTS} points"]
    for threads, by_tree in results.items():
        lines.append("")
        lines.append(f"{threads:<22}" + "".join(f"{tree:>10}" for tree in by_tree))
        for case in CASES:
            figures = "".join(f"{cases[case]:10.1f}" for cases in by_tree.values())
            lines.append(f"{case:<22}{figures}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="another tree, with a built extension")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--repeat", type=int, default=2000, help="repetitions of a run")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each tree")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        if options.worker:
            torch.set_num_threads(options.worker)
        print(json.dumps(measure(options.repeat)))
        return 0
    from bench import machine

    trees = {"this": machine.ROOT}
    if options.against is not None:
        trees["other"] = options.against.resolve()
    share = machine.free_share(1)
    results = compare(trees, options.rounds, options.repeat)
    print(table(results))
    if options.json is not None:
        facts = {"machine": machine.describe(), "commit": machine.commit(), "free_share": share}
        options.json.write_text(json.dumps({**facts, "microseconds": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
