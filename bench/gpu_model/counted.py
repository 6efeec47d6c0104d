"""The counted workloads: practical shapes with few enough sets for the emulator on a CPU, and the
full size of the same shape for a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

# Whose kernels have been counted. A penalty joins them with the run that counts its own.
PENALTIES = ("quadratic", "huber", "pseudo_huber", "welsch", "truncated_quadratic")
GLOBAL = ("welsch", "truncated_quadratic")
SIZES = (10, 32, 49, 64, 128, 1000, 1023, 1024, 2047, 2048, 5000, 20000)
FULL_POINTS = 1 << 28  # 1 GiB of float32
BACKWARD_POINTS = 1 << 19
MILLION = 1_000_000
LONGEST = 30  # points of a segment; the shortest has one
QUICK = (64, 2048)


class Counted(NamedTuple):
    """A workload. Sets of one size are rows of x [sets, points] or, channels last, columns of its
    batches [batch, points, channels]. Segments are runs of rows of x [rows, channels]."""

    direction: str  # "forward" or "backward"
    penalty: str
    layout: str  # "rows", "channels last" or "segments"
    shape: tuple[int, ...]  # rows, channels last: of x; segments: (segments, channels)
    full: tuple[int, ...]  # the same at full size
    solver: str = "local"
    dtype: str = "float32"
    weighted: bool = False
    rows: int = 0  # segments: of x, if most of them are empty

    @property
    def name(self) -> str:
        words = [self.direction, self.penalty]
        words += ["global"] * (self.solver == "global")
        words += ["bfloat16"] * (self.dtype == "bfloat16") + ["weighted"] * self.weighted
        if self.layout == "segments":
            return " ".join([*words, "segments", f"{self.shape[0]} x {self.shape[1]}"])
        words += ["channels last"] * (self.layout == "channels last")
        return " ".join([*words, str(self.shape[1])])

    @property
    def quick(self) -> bool:
        """One of the few workloads that cover most kernels."""
        few = ("quadratic", "huber", "welsch")
        if self.layout == "rows":
            return self.penalty in few and self.shape[1] in QUICK and not self.weighted
        return self.penalty == "huber" and self.shape[-1] == 64

    @property
    def item_bytes(self) -> int:
        return 2 if self.dtype == "bfloat16" else 4

    def sets(self) -> int:
        if self.layout == "channels last":
            return self.shape[0] * self.shape[2]
        return self.shape[0] * self.shape[1] if self.layout == "segments" else self.shape[0]

    def needed_bytes(self, points: int) -> int:
        """The minimum of bytes moved for this many points: points and weights read, gradients
        written."""
        moved = self.item_bytes * (2 if self.direction == "backward" else 1)
        return points * (moved + 4 * self.weighted)


def _sets(direction: str, points: int, solver: str = "local") -> int:
    """The number of counted rows. Blocks stay for a whole launch, on the one multiprocessor of the
    emulated device: each should take several tiles."""
    if direction == "backward":
        return BACKWARD_POINTS // points
    if points == MILLION:
        return 1
    if solver == "global":  # a block takes a set at a time
        return 64 if points <= 128 else 16 if points <= 2048 else 4
    lanes = next((lanes for lanes in (1, 4, 16, 32) if points <= 64 * lanes), 0)
    if lanes:
        return 1536 // lanes
    return 16 if points == 5000 else 4


def _rows(direction: str, penalty: str, points: int, **options) -> Counted:
    full = 64 if points == MILLION else max(1, FULL_POINTS // points)
    shape = (_sets(direction, points, options.get("solver", "local")), points)
    return Counted(direction, penalty, "rows", shape, (full, points), **options)


def _each_size() -> Iterator[Counted]:
    for points in SIZES:
        for penalty in PENALTIES:
            yield _rows("forward", penalty, points)
        for penalty in GLOBAL:
            yield _rows("forward", penalty, points, solver="global")
        for penalty in PENALTIES:
            yield _rows("backward", penalty, points)
    for points in (49, 1000, 2048, 20000):
        for direction in ("forward", "backward"):
            yield _rows(direction, "huber", points, dtype="bfloat16")
    for penalty in ("huber", "quadratic"):
        yield _rows("forward", penalty, MILLION)


def _weighted() -> Iterator[Counted]:
    for points, penalty in itertools.product((64, 1000, 2048, 20000), ("huber", "welsch")):
        yield _rows("forward", penalty, points, weighted=True)
    for points in (64, 1000):
        yield _rows("forward", "welsch", points, solver="global", weighted=True)


def _channels_last() -> Iterator[Counted]:
    large, images = ((2, 2048, 64), (128, 2048, 1024)), ((8, 49, 192), (2048, 49, 2048))
    for direction, penalty in (
        ("forward", "huber"),
        ("forward", "quadratic"),
        ("backward", "huber"),
    ):
        yield Counted(direction, penalty, "channels last", *large)
    yield Counted("forward", "huber", "channels last", *images)


def _segments() -> Iterator[Counted]:
    ragged = ((300, 64), (1 << 17, 64))
    narrow = {"forward": ((1000, 1), (1 << 20, 1)), "backward": ((30_000, 1), (1 << 23, 1))}
    for direction, penalty in itertools.product(narrow, ("huber", "welsch")):
        for shapes in (ragged, narrow[direction]):
            yield Counted(direction, penalty, "segments", *shapes)
    # Most segments are empty.
    yield Counted("backward", "huber", "segments", (MILLION, 1), (1 << 23, 1), rows=30_000)


def _all() -> Iterator[Counted]:
    yield from _each_size()
    yield from _weighted()
    yield from _channels_last()
    yield from _segments()


WORKLOADS = {w.name: w for w in _all()}
