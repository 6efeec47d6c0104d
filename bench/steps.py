"""Commands that run one after the other within a limit of time; each outcome is recorded."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EARLY = 0.8  # the share of its time after which a step should end by itself
TAIL = 4000  # characters of a step's output kept in the JSON


@dataclass(frozen=True)
class Artifact:
    """A file that a step writes, stored in the report under a key. A failed step may have written
    part of it."""

    key: str
    path: Path

    def read(self) -> Any:
        """Its JSON; a message if it is invalid; None if it is missing."""
        try:
            return json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return {"unreadable": str(error)}


@dataclass(frozen=True)
class Step:
    """A command. It passes if it exits with 0 within its time and its output matches `says`.

    Attributes:
        name: name of the step.
        command: may contain "{seconds}", the time after which it should end by itself.
        planned: seconds reserved for this step.
        most: seconds that it may use at the expense of later steps.
        env: environment variables to set.
        cwd: where it runs.
        needs: a step without which this one cannot run.
        beside: a step together with which this one starts; in its own turn it is waited for.
        says: a pattern that the output of a successful run contains.
        artifact: what it writes.
    """

    name: str
    command: Sequence[str]
    planned: float
    most: float = 0.0
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = ROOT
    needs: str | None = None
    beside: str | None = None
    says: str | None = None
    artifact: Artifact | None = None


@dataclass
class Outcome:
    """The outcome of a step; status is passed, failed, timed out or not run."""

    name: str
    status: str
    seconds: float
    output: str

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    def as_dict(self) -> dict[str, Any]:
        tests = re.findall(r"^=+ (.*(?:passed|failed|error).*) =+$", self.output, re.M)
        sanitizer = re.findall(r"^=+ (\w+ SUMMARY: .*)$", self.output, re.M)
        return {
            "name": self.name,
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "tests": tests[-1] if tests else None,
            "sanitizer": sanitizer[-1] if sanitizer else None,
            "output_tail": "" if self.passed else self.output[-TAIL:],
        }


class Running:
    """A running step; finish() waits for it."""

    def __init__(self, step: Step, seconds: float) -> None:
        """seconds: the time after which the step is killed."""
        self.step = step
        command = [word.replace("{seconds}", f"{EARLY * seconds:.0f}") for word in step.command]
        print(f"\n=== {step.name}, {seconds:.0f} s: {' '.join(command)}", flush=True)
        self.start = time.monotonic()
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115, finish() closes it
        self.process: subprocess.Popen[bytes] | None = None
        self.error = ""
        self.end: float | None = None
        try:
            self.process = subprocess.Popen(
                command,
                cwd=step.cwd,
                env={**os.environ, **step.env},
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self.error = str(error)
            return
        threading.Thread(target=self._note_the_end, args=(self.process,), daemon=True).start()

    def _note_the_end(self, process: subprocess.Popen[bytes]) -> None:
        """Records the end of a step that runs beside another, possibly long before its turn."""
        process.wait()
        self.end = time.monotonic()

    def finish(self, seconds: float) -> Outcome:
        """Waits for the step, kills its processes when the time is over, and shows the end of its
        output."""
        with self.log:
            if self.process is None:
                outcome = Outcome(self.step.name, "failed", 0.0, self.error)
            else:
                outcome = self._finish(self.process, seconds)
        print(outcome.output[-12000:], end="" if outcome.output.endswith("\n") else "\n")
        print(f"=== {self.step.name}: {outcome.status}, {outcome.seconds:.1f} s", flush=True)
        return outcome

    def _finish(self, process: subprocess.Popen[bytes], seconds: float) -> Outcome:
        try:
            status = "passed" if process.wait(seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            self.stop()
            status = f"timed out after {seconds:.0f} s"
        self.log.seek(0)
        output = self.log.read()
        says = self.step.says
        if status == "passed" and says is not None and not re.search(says, output):
            status, output = "failed", f"{output}\nnot in the output: {says}\n"
        end = time.monotonic() if self.end is None else self.end
        return Outcome(self.step.name, status, end - self.start, output)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def allowance(step: Step, later: Sequence[Step], left: float) -> float:
    """The seconds of the remaining time that a step may use."""
    reserved = sum(other.planned for other in later)
    share = left * step.planned / (step.planned + reserved) if step.planned > 0 else 0.0
    return min(left, max(step.most, left - reserved, share))


def run_steps(
    steps: Sequence[Step], total: float, record: Callable[[Sequence[Outcome]], None]
) -> list[Outcome]:
    """Runs the steps in order and passes all outcomes to `record` after each.

    A step is not run if its requirement failed or no time is left.
    """
    deadline = time.monotonic() + total
    outcomes: list[Outcome] = []
    running: dict[str, Running] = {}

    def outcome_of(step: Step, later: Sequence[Step]) -> Outcome:
        left = deadline - time.monotonic()
        seconds = allowance(step, later, left)
        if step.name in running:
            return running.pop(step.name).finish(max(seconds, 1.0))
        if step.needs is not None and not any(o.passed for o in outcomes if o.name == step.needs):
            return Outcome(step.name, "not run", 0.0, f"step {step.needs} did not pass")
        if left < 1:
            return Outcome(step.name, "not run", 0.0, f"the {total:.0f} s are used up")
        for other in later:
            if other.beside == step.name:
                running[other.name] = Running(other, left)
        return Running(step, seconds).finish(seconds)

    try:
        for index, step in enumerate(steps):
            outcomes.append(outcome_of(step, steps[index + 1 :]))
            record(outcomes)
    finally:
        for unfinished in running.values():
            unfinished.stop()
    return outcomes
