"""Times operations side by side, on the CPU or a GPU.

Repetitions are interleaved: each round runs every operation once, so changes of clock or load
affect all alike. On a GPU the L2 cache is flushed before each run, and CUDA events measure the
time. The flush is repeated until it takes longer than the CPU needs to launch the operation, so the
GPU does not wait for the CPU. The time of an operation that synchronises includes its waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Operation = Callable[[], object]

FLUSH_BYTES = 512 << 20  # several times the L2 cache of any GPU
MOST_FLUSHES = 20
SELDOM = 5  # a slow operation runs in every fifth round


@dataclass(frozen=True)
class Timing:
    """Times in milliseconds: the median and the 10th and 90th percentile of the repetitions, and
    all of them in the order of the rounds."""

    median: float
    low: float
    high: float
    samples: tuple[float, ...]

    @property
    def repetitions(self) -> int:
        return len(self.samples)

    def as_dict(self) -> dict[str, Any]:
        figures = {"median": self.median, "low": self.low, "high": self.high}
        rounded: dict[str, Any] = {name: float(f"{ms:.6g}") for name, ms in figures.items()}
        samples = [float(f"{ms:.6g}") for ms in self.samples]
        return rounded | {"repetitions": self.repetitions, "samples": samples}


def summarize(samples: Collection[float]) -> Timing:
    """The percentiles of one or more samples in milliseconds."""
    low, median, high = torch.tensor(list(samples), dtype=torch.float64).quantile(
        torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    )
    return Timing(median.item(), low.item(), high.item(), tuple(samples))


def ratio(timing: Timing, baseline: Timing) -> Timing:
    """Times relative to a baseline of the same rounds: the ratio of the medians, and the spread of
    the ratios within each round."""
    pairs = zip(timing.samples, baseline.samples, strict=True)
    each = summarize([one / other for one, other in pairs])
    return Timing(timing.median / baseline.median, each.low, each.high, each.samples)


class _CpuClock:
    def prepare(self, operation: Operation) -> int:
        operation()
        operation()
        return 0

    def time(self, operation: Operation, _: int) -> Callable[[], float]:
        start = time.perf_counter()
        operation()
        elapsed = (time.perf_counter() - start) * 1e3
        return lambda: elapsed


class _GpuClock:
    def __init__(self) -> None:
        self.buffer = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
        self.flush(2)
        torch.cuda.synchronize()
        start = time.perf_counter()
        self.flush(8)
        torch.cuda.synchronize()
        self.flush_seconds = (time.perf_counter() - start) / 8

    def flush(self, times: int) -> None:
        for _ in range(times):
            self.buffer.zero_()

    def prepare(self, operation: Operation) -> int:
        """Warms up; returns the number of flushes that outlast the launch of the operation."""
        operation()
        operation()
        torch.cuda.synchronize()
        start = time.perf_counter()
        operation()
        host = time.perf_counter() - start
        torch.cuda.synchronize()
        return min(MOST_FLUSHES, 1 + int(2 * host / self.flush_seconds))

    def time(self, operation: Operation, flushes: int) -> Callable[[], float]:
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        self.flush(flushes)
        start.record()
        operation()
        end.record()

        def elapsed() -> float:
            end.synchronize()
            return start.elapsed_time(end)

        return elapsed


def time_interleaved(
    operations: Mapping[str, Operation],
    device: torch.device,
    *,
    rounds: int,
    budget_seconds: float,
    seldom: Collection[str] = (),
) -> dict[str, Timing]:
    """Times every operation once per round.

    Args:
        operations: the operations by name; each runs twice before the first round.
        device: where they run.
        rounds: the largest number of rounds.
        budget_seconds: no round starts after this time, but one always runs.
        seldom: names of operations that run in the first of each SELDOM rounds only.
    """
    clock = _GpuClock() if device.type == "cuda" else _CpuClock()
    flushes = {name: clock.prepare(operation) for name, operation in operations.items()}
    samples: dict[str, list[float]] = {name: [] for name in operations}
    deadline = time.monotonic() + budget_seconds
    for index in range(rounds):
        if index > 0 and time.monotonic() > deadline:
            break
        pending = {
            name: clock.time(operation, flushes[name])
            for name, operation in operations.items()
            if index % SELDOM == 0 or name not in seldom
        }
        for name, elapsed in pending.items():
            samples[name].append(elapsed())
    return {name: summarize(times) for name, times in samples.items()}


def capture(operation: Operation) -> Operation:
    """Captures the operation in a CUDA graph; calling the result replays the graph.

    A backward pass whose forward pass ran outside the operation cannot be captured, because it runs
    on the stream of the forward pass.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            operation()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        operation()
    return graph.replay
