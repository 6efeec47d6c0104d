"""Everything that needs a GPU, in one command: `make gpu-check`, or `python -m bench.gpu_check`.

Nothing is downloaded. The JSON is written after each step, even if a step fails. The exit status is
1 unless every step passed. `python -m bench plot` draws the figures of the JSON.

    seconds  step
        170  build           in place, for the GPU present, with the torch and nvcc of the machine
         90  tests           those that need CUDA, on all cores
         28  memcheck        every kernel under compute-sanitizer, as in the three steps below
         50  timings         the targets of speed
         28  racecheck
         20  model           workloads beside what counting predicts for them
         15  ncu             hardware counters of three kernels
         28  initcheck
         28  synccheck
          8  cpu-only build  on another tree; compiled beside the build above
         15  cpu-only tests  what a build without CUDA does with CUDA tensors

The total is limited to 480 seconds. Time that a step does not use goes to later steps, and no step
can use the time of a later one. The exception is the build, which most steps need: it may take up
to 300 seconds, and the other steps then shrink in proportion. Steps that can stop early do so after
4/5 of their time; they report the remaining work, and fail.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.steps import ROOT, Artifact, Outcome, Step, run_steps
from build_toolkit import find_toolkit

TOTAL_SECONDS = 480.0


def find_sanitizer() -> str:
    """The path of compute-sanitizer, from PATH or a toolkit; the bare name if there is none."""
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    places = [f"{home}/{folder}" for home in homes for folder in ("bin", "compute-sanitizer")]
    path = os.pathsep.join([os.environ.get("PATH", ""), *places])
    return shutil.which("compute-sanitizer", path=path) or "compute-sanitizer"


def copy_sources(target: Path) -> Path:
    """Copies the files that a build and its tests need, without the build in place."""
    target.mkdir()
    leave = shutil.ignore_patterns("*.so", "__pycache__")
    for folder in ("csrc", "ddn_cuda", "tests"):
        shutil.copytree(ROOT / folder, target / folder, ignore=leave)
    for pattern in ("*.py", "pyproject.toml", "README.md", "LICENSE"):
        for file in ROOT.glob(pattern):
            shutil.copy2(file, target)
    return target


def plan(python: str, archs: str, folder: Path) -> list[Step]:
    """The steps, for one interpreter and the architectures of the GPUs present.

    folder: an empty folder for results and for a second source tree.
    """
    cpu_tree = folder / "cpu-only"
    here = {"PYTHONPATH": _path_with(ROOT), "PYTHONUNBUFFERED": "1"}
    there = {"PYTHONPATH": _path_with(cpu_tree), "PYTHONUNBUFFERED": "1"}
    build = [python, "setup.py", "-q", "build_ext", "--inplace"]
    cuda_build = {"DDN_CUDA": "1", "TORCH_CUDA_ARCH_LIST": archs}
    # Most cores are reserved for the build in place.
    cpu_build = {"DDN_CUDA": "0", "MAX_JOBS": "4"}
    hop = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "cpu_only_build"]
    hop.append("tests/cuda/test_cpu_hop.py")

    def module(name: str, *arguments: str) -> list[str]:
        return [python, "-m", f"bench.{name}", *arguments]

    def measurement(
        name: str, command: list[str], planned: float, key: str, **options: Any
    ) -> Step:
        """A step that runs a module which writes JSON."""
        file = folder / f"{key}.json"
        step = Step(name, [*command, "--json", str(file)], planned, needs="build", **options)
        return replace(step, env={**here, **step.env}, artifact=Artifact(key, file))

    def watched(tool: str, **env: str) -> Step:
        """A step that runs all kernels under a tool of compute-sanitizer."""
        sanitizer = [find_sanitizer(), "--error-exitcode", "9", "--tool", tool]
        command = [*sanitizer, *module("sanitizer_case", "--seconds", "{seconds}")]
        says = r"SUMMARY: 0 (errors|hazards)"
        return Step(tool, command, 28, env={**here, **env}, needs="build", says=says)

    # Without PyTorch's caching allocator each tensor is a separate allocation, so reads past its
    # end and reads of freed memory are detected.
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    targets = [python, "-m", "bench", "--device", "cuda", "--suite", "targets"]
    return [
        Step("build", build, 170, most=300, env=cuda_build),
        measurement("tests", module("cuda_tests", "--seconds", "{seconds}"), 90, "tests"),
        watched("memcheck", **uncached),
        measurement("timings", targets, 50, "benchmark"),
        watched("racecheck"),
        measurement(
            "model", module("gpu_model", "--device", "cuda", "--seconds", "{seconds}"), 20, "model"
        ),
        measurement("ncu", module("profile_kernels"), 15, "ncu"),
        watched("initcheck", **uncached),
        watched("synccheck"),
        Step("cpu-only build", build, 8, env=cpu_build, cwd=cpu_tree, beside="build"),
        Step("cpu-only tests", hop, 15, env=there, cwd=cpu_tree, needs="cpu-only build"),
    ]


def _path_with(folder: Path) -> str:
    return os.pathsep.join(p for p in (str(folder), os.environ.get("PYTHONPATH")) if p)


def gpu_archs() -> str:
    """The architectures of the GPUs present, in the form of TORCH_CUDA_ARCH_LIST.

    Raises:
        SystemExit: PyTorch is missing or has no CUDA, or there is no GPU.
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
    """Versions of tools that PyTorch does not report."""
    from bench.machine import run_output

    toolkit, _ = find_toolkit(os.environ)
    return {
        "nvcc": toolkit.version if toolkit else None,
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = plan(sys.executable, archs, folder)
        report["planned_seconds"] = {step.name: step.planned for step in steps}
        try:
            copy_sources(folder / "cpu-only")
        except OSError as error:  # the step that builds there fails
            print(f"gpu-check: no second source tree: {error}")

        def record(outcomes: Sequence[Outcome]) -> None:
            report["steps"] = [outcome.as_dict() for outcome in outcomes]
            for step in steps:
                if step.artifact is not None:
                    report[step.artifact.key] = step.artifact.read()
            unfinished = target.with_suffix(".part")
            unfinished.write_text(json.dumps(report, indent=1) + "\n")
            unfinished.replace(target)  # the file is complete at any time

        start = time.monotonic()
        outcomes = run_steps(steps, TOTAL_SECONDS, record)
    print(f"\n{target}, after {time.monotonic() - start:.0f} s")
    for outcome in outcomes:
        print(f"{outcome.seconds:7.1f} s  {outcome.name}: {outcome.status}")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
