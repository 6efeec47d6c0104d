"""The points of a workload in NumPy: standard normal, a tenth of them uniform in [-10, 10]."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bench.gpu_model.counted import LONGEST, Counted

ALIGNMENT = 256  # bytes, the alignment of tensors on a GPU


class Points(NamedTuple):
    """x is [sets, points], or [batch, channels, points] whose points lie `channels` apart, or, with
    ptr, [rows, channels]."""

    x: np.ndarray
    weight: np.ndarray | None
    ptr: np.ndarray | None


def aligned(x: np.ndarray) -> np.ndarray:
    """A copy that begins at a multiple of ALIGNMENT, with the strides of x if x is dense."""
    room = np.empty(x.nbytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    order = sorted(range(x.ndim), key=lambda d: -x.strides[d])
    memory = room[start : start + x.nbytes].view(x.dtype)
    y = memory.reshape([x.shape[d] for d in order]).transpose(np.argsort(order))
    y[...] = x
    return y


def outliers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=shape)
    far = generator.random(shape) < 0.1
    x[far] = generator.uniform(-10, 10, size=shape)[far]
    return x.astype(np.float32)


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest bfloat16, as uint16."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def offsets(workload: Counted, seed: int = 5) -> np.ndarray:
    """Offsets of segments of one to LONGEST rows, or of workload.rows in mostly empty segments."""
    generator = np.random.default_rng(seed)
    segments = workload.shape[0]
    if workload.rows:
        inner = generator.integers(0, workload.rows + 1, segments - 1)
        return np.sort(np.concatenate([[0], inner, [workload.rows]])).astype(np.int64)
    sizes = generator.integers(1, LONGEST + 1, segments)
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def draw(workload: Counted) -> Points:
    """Draws the points; deterministic."""
    ptr = None
    if workload.layout == "segments":
        ptr = offsets(workload)
        x = outliers((int(ptr[-1]), workload.shape[1]), seed=6)
    else:
        x = outliers(workload.shape, seed=workload.shape[1])
        if workload.layout == "channels last":
            x = np.moveaxis(x, 1, 2)
    weight = None
    if workload.weighted:
        uniform = np.random.default_rng(7).uniform(0.5, 2, x.shape)
        weight = aligned(uniform.astype(np.float32))
    if workload.dtype == "bfloat16":
        x = bfloat16_bits(x)
    return Points(aligned(x), weight, ptr)


def count_points(workload: Counted) -> int:
    if workload.layout == "segments":
        return int(offsets(workload)[-1]) * workload.shape[1]
    return math.prod(workload.shape)
