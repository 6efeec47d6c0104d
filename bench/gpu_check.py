"""Everything that needs a GPU, in one command: `make gpu-check`, or `python -m bench.gpu_check`.

Builds in place for the GPU present with the torch and nvcc of the machine, runs all tests with
those on CUDA required, lets compute-sanitizer watch a small case, measures the targets of the
benchmark, and tests a build without CUDA on CUDA tensors. Downloads nothing. Writes one JSON
whatever fails; the exit status is 1 unless every step passed. `python -m bench plot` draws it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOTAL_SECONDS = 555.0
TAIL = 4000  # characters of a step's output kept in the JSON


@dataclass(frozen=True)
class Step:
    """One command: passed when it exits 0 within its limit in seconds."""

    name: str
    command: Sequence[str]
    limit: float
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = ROOT
    needs: str | None = None  # a step without which this one cannot run


@dataclass
class Outcome:
    """What became of a step; status is passed, failed, timed out or not run."""

    name: str
    status: str
    seconds: float
    output: str

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    def as_dict(self) -> dict[str, Any]:
        summary = re.findall(r"^=+ (.*(?:passed|failed|error).*) =+$", self.output, re.M)
        return {
            "name": self.name,
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "tests": summary[-1] if summary else None,
            "output_tail": "" if self.passed else self.output[-TAIL:],
        }


def run_step(step: Step, limit: float) -> Outcome:
    """Runs a step and shows the end of its output; at its limit, ends it with all it started."""
    print(f"\n=== {step.name}: {' '.join(step.command)}", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        try:
            process = subprocess.Popen(
                step.command,
                cwd=step.cwd,
                env={**os.environ, **step.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(step.name, "failed", 0.0, str(error))
        try:
            status = "passed" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = f"timed out after {limit:.0f} s"
        log.seek(0)
        output = log.read()
    seconds = time.monotonic() - start
    print(output[-12000:], end="" if output.endswith("\n") else "\n")
    print(f"=== {step.name}: {status}, {seconds:.1f} s", flush=True)
    return Outcome(step.name, status, seconds, output)


def run_steps(
    steps: Sequence[Step], total: float, record: Callable[[Sequence[Outcome]], None]
) -> list[Outcome]:
    """Runs the steps in order; after each, `record` gets what is known so far.

    A step whose requirement failed, or for which no time is left, is not run.
    """
    deadline = time.monotonic() + total
    outcomes: list[Outcome] = []
    for step in steps:
        left = deadline - time.monotonic()
        met = step.needs is None or any(o.passed for o in outcomes if o.name == step.needs)
        if not met:
            outcome = Outcome(step.name, "not run", 0.0, f"step {step.needs} did not pass")
        elif left < 1:
            outcome = Outcome(step.name, "not run", 0.0, f"the {total:.0f} s are used up")
        else:
            outcome = run_step(step, min(step.limit, left))
        outcomes.append(outcome)
        record(outcomes)
    return outcomes


def find_sanitizer() -> str:
    """compute-sanitizer on the PATH or in a toolkit; its bare name where there is none."""
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    places = [f"{home}/{folder}" for home in homes for folder in ("bin", "compute-sanitizer")]
    path = os.pathsep.join([os.environ.get("PATH", ""), *places])
    return shutil.which("compute-sanitizer", path=path) or "compute-sanitizer"


def copy_sources(target: Path) -> Path:
    """A copy of the source tree without builds: nothing in it can reach the build in place."""
    leave = shutil.ignore_patterns(
        ".git", ".venv*", "build", "dist", "*.so", "__pycache__", ".*_cache"
    )
    shutil.copytree(ROOT, target, ignore=leave)
    return target


def plan(python: str, archs: str, figures: Path, cpu_tree: Path) -> list[Step]:
    """The steps, for one interpreter and the architectures of the GPUs present."""
    cuda_build = {"DDN_CUDA": "1", "TORCH_CUDA_ARCH_LIST": archs}
    here = {"PYTHONPATH": _path_with(ROOT), "PYTHONUNBUFFERED": "1"}
    there = {"PYTHONPATH": _path_with(cpu_tree), "PYTHONUNBUFFERED": "1"}
    build = [python, "setup.py", "-q", "build_ext", "--inplace"]
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    tests = [*pytest, *parallel()]
    few_threads = {"OMP_NUM_THREADS": "2"}  # the workers share the cores
    case = [python, "-m", "bench.sanitizer_case"]
    # Without torch's caching allocator every tensor is an allocation of its own, so that memcheck
    # sees a read past its end.
    uncached = {**here, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    sanitizer = [find_sanitizer(), "--error-exitcode", "9", "--tool"]
    timings = [python, "-m", "bench", "--device", "cuda", "--suite", "targets"]
    timings += ["--json", str(figures)]
    hop = [*pytest, "-m", "cpu_only_build"]
    return [
        Step("build", build, 240, cuda_build),
        Step("memcheck", [*sanitizer, "memcheck", *case], 60, uncached, needs="build"),
        Step("racecheck", [*sanitizer, "racecheck", *case], 90, here, needs="build"),
        Step("timings", timings, 150, here, needs="build"),
        Step("cpu-only build", build, 120, {"DDN_CUDA": "0"}, cpu_tree),
        Step("cpu-only tests", hop, 60, there, cpu_tree, needs="cpu-only build"),
        Step("tests", tests, 300, {**here, **few_threads, "DDN_REQUIRE_CUDA": "1"}, needs="build"),
    ]


def parallel() -> list[str]:
    """Options that spread the tests over processes, where pytest-xdist is there to do so."""
    if importlib.util.find_spec("xdist") is None:
        return []
    return ["-n", str(max(1, min(8, (os.cpu_count() or 1) // 2)))]


def _path_with(folder: Path) -> str:
    return os.pathsep.join(p for p in (str(folder), os.environ.get("PYTHONPATH")) if p)


def gpu_archs() -> str:
    """The architectures of the GPUs present, as TORCH_CUDA_ARCH_LIST wants them.

    Raises:
        SystemExit: no torch, a torch without CUDA, or no GPU, in one line.
    """
    try:
        import torch
    except ImportError:
        raise SystemExit(
            "gpu-check: this python has no torch; install a CUDA build of it"
        ) from None
    if torch.version.cuda is None:
        raise SystemExit("gpu-check: this torch is a build without CUDA; install one with CUDA")
    if not torch.cuda.is_available():
        raise SystemExit("gpu-check: torch sees no GPU; run it on a machine with one")
    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    return ";".join(f"{major}.{minor}" for major, minor in sorted(found))


def versions() -> dict[str, str | None]:
    """Versions of the tools that torch does not tell."""
    from bench.machine import run_output

    nvcc = re.search(r"release (\S+),", run_output("nvcc", "--version") or "")
    return {
        "nvcc": nvcc.group(1) if nvcc else None,
        "compiler": run_output("c++", "-dumpfullversion"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--commit", help="the commit, where the sources are no clone")
    options = parser.parse_args(arguments)
    archs = gpu_archs()
    from bench import machine

    options.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": options.commit or machine.commit(),
        "machine": machine.describe(),
        "versions": versions(),
        "archs": archs,
    }
    gpu = re.sub(r"\W+", "-", report["machine"]["gpu"]["name"]).strip("-").lower()
    target = options.out / f"gpu-check-{gpu}.json"
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        cpu_tree = copy_sources(Path(folder) / "cpu-only")

        def record(outcomes: Sequence[Outcome]) -> None:
            report["steps"] = [outcome.as_dict() for outcome in outcomes]
            if figures.exists():
                report["benchmark"] = json.loads(figures.read_text())
            target.write_text(json.dumps(report, indent=1) + "\n")

        start = time.monotonic()
        outcomes = run_steps(plan(sys.executable, archs, figures, cpu_tree), TOTAL_SECONDS, record)
    print(f"\n{target}, after {time.monotonic() - start:.0f} s")
    for outcome in outcomes:
        print(f"{outcome.seconds:7.1f} s  {outcome.name}: {outcome.status}")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
