"""Runs the tests that need CUDA on all cores: `python -m bench.cuda_tests`.

With pytest-xdist, one pytest distributes the tests marked `cuda` over processes. Without it, each
file runs in its own pytest, several at a time. When the time is used up, the remaining tests are
skipped and counted as not run. The exit status is 0 only if every test ran and passed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOT_RUN = "not run: the time is used up"  # as tests/conftest.py says
NO_TESTS = 5  # pytest's exit status
MOST_WORKERS = 14  # each holds a CUDA context and a core
MOST_FAILURES = 50  # kept with their messages
MOST_FILES = 10  # kept with their seconds


def commands(pytest: Sequence[str], workers: int, xdist: bool, folder: Path) -> list[list[str]]:
    """The pytest commands, one for all files or one for each; their reports go to the folder."""

    def command(name: str, *arguments: str) -> list[str]:
        report = f"--junitxml={folder / name}.xml"
        options = ["-q", "-m", "cuda", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
        return [*pytest, *options, report, *arguments]

    if xdist:
        # Each worker begins at a different place of the list: a run that is cut short has seen a
        # bit of everything.
        return [command("all", "-n", str(workers), "--dist", "worksteal")]
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [command(file.stem, str(file)) for file in files]


def run_all(
    commands: Sequence[Sequence[str]], workers: int, env: Mapping[str, str]
) -> list[tuple[int, str]]:
    """Runs the commands, several at a time; returns the exit status and output of each."""

    def run(command: Sequence[str]) -> tuple[int, str]:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        return done.returncode, done.stdout

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, commands))


def summarize(reports: Iterable[Path]) -> dict[str, Any]:
    """Counts, failures and seconds of each file, from pytest's JUnit reports."""
    counts = Counter(passed=0, failed=0, skipped=0, not_run=0)
    failures: list[dict[str, str]] = []
    seconds: dict[str, float] = defaultdict(float)
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            file = case.get("classname", "").split(".")[-1]
            seconds[file] += float(case.get("time", 0))
            kinds = {child.tag: child for child in case}
            wrong = kinds.get("failure", kinds.get("error"))
            skipped = kinds.get("skipped")
            if wrong is not None:
                counts["failed"] += 1
                message = (wrong.get("message") or "").strip().splitlines()
                name = f"{file}::{case.get('name')}"
                failures.append({"test": name, "message": message[0] if message else ""})
            elif skipped is not None:
                late = NOT_RUN in (skipped.get("message") or "")
                counts["not_run" if late else "skipped"] += 1
            else:
                counts["passed"] += 1
    slowest = dict(sorted(seconds.items(), key=lambda pair: -pair[1])[:MOST_FILES])
    slowest = {file: round(total, 1) for file, total in slowest.items()}
    return {**counts, "failures": failures[:MOST_FAILURES], "slowest_files_seconds": slowest}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, help="no test starts after this time")
    parser.add_argument("--json", type=Path, help="for counts, failures and the slowest files")
    cores = os.cpu_count() or 1
    workers = max(1, min(MOST_WORKERS, cores - 2))
    parser.add_argument("--workers", type=int, default=workers, help="(default %(default)s)")
    options = parser.parse_args(arguments)
    env = {
        "DDN_REQUIRE_CUDA": "1",
        "OMP_NUM_THREADS": "1",  # the workers share the cores
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    start = time.time()
    if options.seconds is not None:
        env["DDN_TEST_DEADLINE"] = str(start + options.seconds)
    xdist = importlib.util.find_spec("xdist") is not None
    pytest = [sys.executable, "-m", "pytest"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        everything = commands(pytest, options.workers, xdist, folder)
        done = run_all(everything, options.workers, env)
        summary = summarize(sorted(folder.glob("*.xml")))
        crashed = [
            command[-1] if not xdist else "pytest"
            for command, (status, _) in zip(everything, done, strict=True)
            if status not in (0, 1, NO_TESTS)
        ]
    for status, output in done:
        if status not in (0, NO_TESTS):
            print(output[-6000:])
    seconds = time.time() - start
    summary |= {"crashed": crashed, "seconds": round(seconds, 1), "xdist": xdist}
    if options.json:
        options.json.write_text(json.dumps(summary, indent=1) + "\n")
    for failure in summary["failures"]:
        print(f"FAILED {failure['test']}: {failure['message'][:200]}")
    for file in crashed:
        print(f"CRASHED {file}")
    kinds = ("passed", "failed", "skipped", "not_run")
    numbers = ", ".join(f"{summary[kind]} {kind.replace('_', ' ')}" for kind in kinds)
    print(f"=== {numbers} in {seconds:.0f}s ===")
    good = summary["passed"] > 0 and not (summary["failed"] or summary["not_run"] or crashed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
