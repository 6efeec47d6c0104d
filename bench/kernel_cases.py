"""Small problems, as plain data, that together launch every CUDA kernel.

bench/sanitizer_case.py runs them on a GPU under compute-sanitizer, tests/cuda/test_cuda_shim.py on
the host, where it checks that no kernel is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

import ddn_cuda
from bench.methods import NONCONVEX, is_mean, ours

ALPHA = 0.5
CHANNELS = 2  # of segments
IMAGE_ROWS = 7
HALVES = ("float16", "bfloat16")
ORDER = (
    "points",
    "weights",
    "alpha",
)  # the gradients in the order in which the operators return them

# The largest sets for each kernel that uses shared memory: points, and bytes with their weights. Of
# descents (csrc/cuda/local.cuh) and of the global search (csrc/cuda/global.cuh).
DESCENT_LIMITS = (
    (64, 512),
    (256, 2 << 10),
    (1024, 8 << 10),
    (2048, 16 << 10),
    (8192, 64 << 10),
    (32_768, 128 << 10),
)
SEARCH_LIMITS = ((2048, 8 << 10), (8192, 32 << 10))
SMALL = 33  # points: more than the lanes of a warp, for each kind of set
MANY_OFFSETS = 2048  # more than a block scans (csrc/cuda/segment_offsets.cu)
MOST_WARP_SUMS = 1024  # the largest set whose sums one warp computes (csrc/cuda/backward.cu)


# The passes of the distributed solver (csrc/core/sharded_pass.h); the pass of which every penalty
# has its own kernel; and the requests: the numbers of the sets, and for each the unit of weights,
# alpha, the point u and a radius.
SHARED_PASSES, SUMS_PASS = tuple(range(10)), 3
PASS_SETS = np.array([0, 0, 1])
PASS_PARAMETERS = np.array([[1, ALPHA, u, 0.1] for u in (0.0, 1.5, -0.3)])


@dataclass(frozen=True)
class Case:
    """One pool and its derivatives.

    Attributes:
        penalty, solver: as `ddn_cuda.robust_pool` takes them.
        dtype: of the points: float32, float64, float16 or bfloat16.
        points: the number in each set; with segments, in the largest.
        layout: "rows", contiguous sets; "columns", with a stride; "image", two pooled dims that
            are not adjacent in memory; "segments", ragged sets.
        weight: its dtype, which may be "bool"; None without weights.
        alpha_per_set: alpha is a tensor.
        gradients: the first derivatives to compute, of "points", "weights" and "alpha".
        second_order: whether these and the answer are differentiated in a direction.
        info: whether the forward pass also reports its info.
        passes: of the distributed solver, by their numbers, that are run over the points.
        empty: number of empty segments after the others.
    """

    penalty: str
    solver: str
    dtype: str
    points: int
    layout: str = "rows"
    weight: str | None = None
    alpha_per_set: bool = False
    gradients: tuple[str, ...] = ("points",)
    second_order: bool = False
    info: bool = False
    passes: tuple[int, ...] = ()
    empty: int = 0

    @property
    def real(self) -> str:
        """The arithmetic (opmath) dtype."""
        return "float64" if self.dtype == "float64" else "float32"

    @property
    def pooled(self) -> list[int]:
        """The pooled dims."""
        return {"image": [1, 2], "segments": [0]}.get(self.layout, [1])


class Direction(NamedTuple):
    x: np.ndarray
    weight: np.ndarray
    alpha: np.ndarray


class Arrays(NamedTuple):
    """The tensors of a case. bfloat16 numbers are stored as their bits in uint16. Per-answer
    tensors have the shape of the output with keepdim."""

    x: np.ndarray
    weight: np.ndarray | None
    alpha: np.ndarray | None
    ptr: np.ndarray | None
    grad: np.ndarray
    direction: Direction


def size_limits(penalty: str, solver: str, dtype: str, weighted: bool) -> list[int]:
    """The most points of a set for each kernel that uses shared memory, in ascending order."""
    searched = solver == "global" and penalty in NONCONVEX
    number = (8 if dtype == "float64" else 4) * (2 if weighted else 1)
    limits = SEARCH_LIMITS if searched else DESCENT_LIMITS
    return [min(points, most // number) for points, most in limits]


def cases() -> list[Case]:
    """All cases. The first ones reach the most kernels, in case time runs out."""
    return list(dict.fromkeys(_cases()))


def _cases() -> Iterator[Case]:
    pools = ours(list(ddn_cuda.PENALTIES))
    reals = ("float32", "float64")

    # Sets of every size class; sets at capacity reveal accesses past the end.
    for dtype in reals:
        for penalty, solver in pools:
            for weight in (None, dtype):
                limits = size_limits(penalty, solver, dtype, weight is not None)
                for points in (SMALL, *limits, limits[-1] + 1):
                    gradients = ("points",) if weight is None else ("points", "weights")
                    yield Case(penalty, solver, dtype, points, weight=weight, gradients=gradients)
    # Sums over a set.
    for dtype in (*reals, *HALVES):
        for penalty, solver in pools:
            for points, layout in (
                (SMALL, "rows"),
                (MOST_WARP_SUMS + 1, "rows"),
                (SMALL, "segments"),
            ):
                yield Case(
                    penalty, solver, dtype, points, layout=layout, weight="float32",
                    alpha_per_set=True, gradients=ORDER, second_order=True,
                )  # fmt: skip
    # The distributed solver.
    for penalty in ddn_cuda.PENALTIES:
        passes = SHARED_PASSES if penalty in NONCONVEX else (SUMS_PASS,)
        for dtype, weight, layout in (("float32", None, "rows"), ("float16", "bool", "image")):
            if not is_mean(penalty):
                yield Case(penalty, "local", dtype, SMALL, layout, weight, passes=passes)
    # Segments of every size at once.
    for dtype in (*reals, *HALVES):
        for penalty, solver in pools:
            for weight in (None, "bool"):
                most = size_limits(penalty, solver, dtype, weight is not None)[-1]
                yield Case(penalty, solver, dtype, most + 1, layout="segments", weight=weight)
    yield Case("quadratic", "local", "float32", SMALL, layout="segments", empty=MANY_OFFSETS)
    # 16-bit points, info, and sets that are not contiguous.
    for penalty, solver in pools:
        limits = size_limits(penalty, solver, "float32", weighted=False)
        for points in (SMALL, *(most + 1 for most in limits)):
            for dtype in HALVES:
                yield Case(penalty, solver, dtype, points)
            yield Case(penalty, solver, "float32", points, info=True)
            for layout in ("columns", "image"):
                yield Case(penalty, solver, "float32", points, layout=layout)
                yield Case(
                    penalty, solver, "float32", points, layout=layout, weight="float32",
                    gradients=("points", "weights"),
                )  # fmt: skip
        for dtype in ("float64", *HALVES):
            yield Case(penalty, solver, dtype, SMALL, layout="image")
    # Weights of every dtype, staged and read in place.
    for penalty, solver in pools:
        most = size_limits(penalty, solver, "float32", weighted=True)[-1]
        for weight in ("bool", *HALVES, "float64"):
            for points in (SMALL, most + 1):
                yield Case(penalty, solver, "float32", points, weight=weight)


# The arrays


def stored(array: np.ndarray, dtype: str) -> np.ndarray:
    """Real numbers as an array of the dtype; for bfloat16 the truncated bits."""
    if dtype == "bfloat16":
        return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return array > 0.3 if dtype == "bool" else array.astype(dtype)


def _in_memory(array: np.ndarray, layout: str) -> np.ndarray:
    """The same array with the memory order of the layout."""
    if layout == "columns":
        return np.ascontiguousarray(array.T).T
    if layout == "image":
        return np.ascontiguousarray(array.transpose(1, 0, 2)).transpose(1, 0, 2)
    return np.ascontiguousarray(array)


def lengths(case: Case) -> list[int]:
    """Lengths of segments: empty, small, and one for each kernel up to the largest."""
    weighted = case.weight is not None
    limits = size_limits(case.penalty, case.solver, case.dtype, weighted)
    sizes = {most for most in limits if most < case.points} | {case.points}
    return [SMALL, 0, *sorted(sizes), 1, *[0] * case.empty]


def arrays(case: Case) -> Arrays:
    """Normal points with outliers; deterministic."""
    rng = np.random.default_rng(case.points)
    ptr = None
    if case.layout == "segments":
        ptr = np.cumsum([1, *lengths(case)])  # the first row and the last one belong to no segment
        shape: tuple[int, ...] = (int(ptr[-1]) + 1, CHANNELS)
        answers: tuple[int, ...] = (len(ptr) - 1, CHANNELS)
    else:
        count = 40 if case.points == SMALL else 2  # more than a warp has lanes
        columns = math.ceil(case.points / IMAGE_ROWS)
        image = case.layout == "image"
        shape = (count, IMAGE_ROWS, columns) if image else (count, case.points)
        answers = (count, *[1] * (len(shape) - 1))

    def points_like() -> np.ndarray:
        normal = rng.standard_normal(shape)
        return np.where(rng.random(shape) < 0.1, 8 * normal, normal)

    def per_point(numbers: np.ndarray, dtype: str) -> np.ndarray:
        return _in_memory(stored(numbers, dtype), case.layout)

    return Arrays(
        x=per_point(points_like(), case.dtype),
        weight=None if case.weight is None else per_point(rng.random(shape), case.weight),
        alpha=stored(ALPHA + rng.random(answers), case.real) if case.alpha_per_set else None,
        ptr=ptr,
        grad=stored(1 + rng.random(answers), case.dtype),
        direction=Direction(
            per_point(points_like(), case.dtype),
            per_point(points_like(), case.real),
            stored(rng.random(answers), case.real),
        ),
    )
