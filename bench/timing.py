"""Times operations side by side, on the CPU or a GPU.

Repetitions are interleaved: each round runs every operation once, so that a change of clock or load
meets all of them. On a GPU the L2 cache is overwritten before each run and CUDA events give the
time; that overwriting also keeps the GPU busy while the CPU launches what is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch

FLUSH_BYTES = 512 << 20  # several times the L2 cache of any GPU


@dataclass(frozen=True)
class Timing:
    """Times in milliseconds: the median and the 10th and 90th percentile of the repetitions."""

    median: float
    low: float
    high: float
    repetitions: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def summarize(samples: list[float]) -> Timing:
    """The percentiles of samples in milliseconds, at least one."""
    low, median, high = torch.tensor(samples, dtype=torch.float64).quantile(
        torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    )
    return Timing(median.item(), low.item(), high.item(), len(samples))


class _CpuClock:
    def time(self, operation: Callable[[], object]) -> Callable[[], float]:
        start = time.perf_counter()
        operation()
        elapsed = (time.perf_counter() - start) * 1e3
        return lambda: elapsed


class _GpuClock:
    def __init__(self) -> None:
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def time(self, operation: Callable[[], object]) -> Callable[[], float]:
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        self.flush.zero_()
        start.record()
        operation()
        end.record()

        def elapsed() -> float:
            end.synchronize()
            return start.elapsed_time(end)

        return elapsed


def time_interleaved(
    operations: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    rounds: int,
    budget_seconds: float,
) -> dict[str, Timing]:
    """Times every operation once per round.

    Args:
        operations: what to time, by name; each is run twice before the first round.
        device: where they run.
        rounds: the number of rounds at most.
        budget_seconds: no round starts after this time, but one always runs.
    """
    clock = _GpuClock() if device.type == "cuda" else _CpuClock()
    for operation in operations.values():
        operation()
        operation()
    samples: dict[str, list[float]] = {name: [] for name in operations}
    deadline = time.monotonic() + budget_seconds
    for index in range(rounds):
        if index > 0 and time.monotonic() > deadline:
            break
        pending = {name: clock.time(operation) for name, operation in operations.items()}
        for name, elapsed in pending.items():
            samples[name].append(elapsed())
    return {name: summarize(times) for name, times in samples.items()}
