"""Workloads: shapes from networks, and distributions of points."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import ddn_cuda

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
OUTLIERS = 0.1


@dataclass(frozen=True)
class Workload:
    """Sets of points of one size: `dims` of a tensor of this shape are pooled jointly.

    Or `segments` of the rows of x, with sizes from `shortest` to `longest` spread evenly over the
    logarithm, and `shape[-1]` channels.
    """

    name: str
    about: str
    shape: tuple[int, ...]
    dims: tuple[int, ...] = (-1,)
    segments: int = 0
    shortest: int = 0
    longest: int = 0

    @property
    def points(self) -> int:
        """The number of points in all sets."""
        if self.segments:
            return sum(self.lengths()) * self.shape[-1]
        return math.prod(self.shape)

    @property
    def sets(self) -> int:
        if self.segments:
            return self.segments * self.shape[-1]
        return math.prod(self.shape) // self.points_per_set

    @property
    def points_per_set(self) -> int:
        """Points per set; 0 for segments."""
        return 0 if self.segments else math.prod(self.shape[d] for d in self.dims)

    def lengths(self) -> list[int]:
        steps = [(i + 0.5) / self.segments for i in range(self.segments)]
        sizes = [round(self.shortest * (self.longest / self.shortest) ** s) for s in steps]
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(self.segments, generator=generator).tolist()
        return [sizes[i] for i in order]

    def scaled(self, most_points: int) -> Workload:
        """The same with fewer sets, at most `most_points` points in total, but at least one set."""
        fitting = self
        while fitting.points > most_points:
            if fitting.segments > 1:
                fitting = replace(fitting, segments=fitting.segments // 2)
            elif not fitting.segments and fitting.shape[0] > 1 and len(fitting.shape) > 1:
                fitting = replace(fitting, shape=(fitting.shape[0] // 2, *fitting.shape[1:]))
            else:
                break
        return fitting


WORKLOADS = {
    w.name: w
    for w in (
        Workload("pointnet-32", "PointNet, batch of 32 clouds", (32, 1024, 1024)),
        Workload("pointnet-128", "PointNet, batch of 128 clouds", (128, 1024, 2048)),
        Workload("modelnet", "PointNet on ModelNet40, batch of 8", (8, 1024, 1024)),
        Workload("image", "7 x 7 feature maps", (256, 2048, 7, 7), (-2, -1)),
        Workload("ensemble", "the outputs of 10 networks", (100_000, 10)),
        Workload(
            "graphs",
            "read-out of graphs of 10 to 10,000 nodes, 64 channels",
            (0, 64),
            segments=512,
            shortest=10,
            longest=10_000,
        ),
        Workload("huge", "one set of 2^24 points", (1 << 24,)),
    )
}


# Points


def outliers(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal points, a tenth of them outliers, uniform in [-10, 10]."""
    x = torch.randn(shape, generator=generator, device=generator.device)
    chance = torch.rand(shape, generator=generator, device=generator.device)
    # One draw serves twice: below the share it selects the outliers and, rescaled, gives their
    # place.
    return torch.where(chance < OUTLIERS, chance * (20 / OUTLIERS) - 10, x)


def bimodal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Two normal modes six deviations apart, one with 55% of the points."""
    x = torch.randn(shape, generator=generator, device=generator.device)
    chance = torch.rand(shape, generator=generator, device=generator.device)
    return x + torch.where(chance < 0.55, -3.0, 3.0)


def heavy_tailed(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Student's t with two degrees of freedom: no variance."""
    x = torch.randn(shape, generator=generator, device=generator.device)
    return x / torch.empty_like(x).exponential_(generator=generator).sqrt()


CLOUDS = 16
MOST_DISTINCT = 4096  # points per cloud in the network


def activations(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """ReLU activations of a trained network, half of which are exactly 0.

    The network is the classifier of examples/, trained for one epoch on the digits. Its 256
    channels for CLOUDS digits are assigned to the sets cyclically; sets of more than MOST_DISTINCT
    points repeat points.
    """
    *batch, n = shape
    features = _features(min(n, MOST_DISTINCT)).to(generator.device)
    count = math.prod(batch)
    which = torch.arange(count, device=generator.device) % len(features)
    if n <= MOST_DISTINCT:
        return features[which].reshape(shape)
    order = torch.randint(MOST_DISTINCT, (n,), generator=generator, device=generator.device)
    return features[which][:, order].reshape(shape)


@functools.cache
def _features(points: int) -> Tensor:
    """Activations (CLOUDS * 256, points), in an order in which neighbours differ."""
    from examples.digits_data import draw_points, split_digits

    _, test = split_digits()
    model = _trained()
    generator = torch.Generator().manual_seed(1)
    clouds = draw_points(test.ink[:CLOUDS], points, generator)
    with torch.no_grad():
        features = torch.relu(model.encoder(clouds)).transpose(0, 1)
    return features.reshape(-1, points).contiguous()


@functools.cache
def _trained() -> Any:
    from examples.digits_data import split_digits
    from examples.digits_model import build, make_pool, train

    model = build(make_pool("huber"), seed=0)
    train(model, split_digits()[0], epochs=1, points=64, seed=0)
    return model.eval()


DATA: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    "outliers": outliers,
    "bimodal": bimodal,
    "heavy-tailed": heavy_tailed,
    "activations": activations,
}


def missing_for(data: str) -> str | None:
    """The reason why these points are not available, if any."""
    if data == "activations" and importlib.util.find_spec("sklearn") is None:
        return "needs scikit-learn, for the digits of the network"
    return None


# Sets


class Sets:
    """The points of a workload and their pooled dims.

    Attributes:
        x: the points.
        dims: the dims pooled jointly, without `ptr`.
        ptr: offsets of segments of the rows of x, or None.
        count: the number of sets.
    """

    def __init__(self, x: Tensor, dims: tuple[int, ...], ptr: Tensor | None = None) -> None:
        self.x, self.dims, self.ptr = x, dims, ptr
        self.lengths = [] if ptr is None else ptr.diff().tolist()
        if ptr is not None:
            self.count = len(self.lengths) * x.shape[-1]
        else:
            self.count = x.numel() // math.prod(x.shape[d] for d in dims)

    def pool(self, penalty: str, alpha: float, solver: str) -> Callable[[Tensor], Tensor]:
        """Ours."""
        if self.ptr is not None:
            ptr = self.ptr
            return lambda x: ddn_cuda.segment_robust_pool(x, ptr, penalty, alpha, solver=solver)
        return lambda x: ddn_cuda.robust_pool(x, penalty, alpha, dim=self.dims, solver=solver)

    def reduction(self, name: str) -> Callable[[Tensor], Tensor] | None:
        """torch's `mean`, `amax` or `median` of the sets; None if it does not exist for
        segments."""
        if self.ptr is not None:
            if name == "median":
                return None
            ptr, kind = self.ptr, {"mean": "mean", "amax": "max"}[name]
            return lambda x: torch.segment_reduce(x, kind, offsets=ptr, axis=0)
        if name == "median":
            return lambda x: x.flatten(-len(self.dims)).median(-1).values
        return lambda x: getattr(torch, name)(x, self.dims)

    def of(self, tensor: Tensor, index: int) -> Tensor:
        """The points of one set, [n], of a tensor like x; `dims` are the last ones."""
        if self.ptr is not None:
            segment, channel = divmod(index, tensor.shape[-1])
            begin = int(self.ptr[segment])
            return tensor[begin : begin + self.lengths[segment], channel]
        return tensor.reshape(self.count, -1)[index]

    def some(self, number: int) -> list[int]:
        """The indices of up to `number` sets, evenly spaced."""
        if number >= self.count:
            return list(range(self.count))
        return [round(i * (self.count - 1) / max(1, number - 1)) for i in range(number)]

    def first(self, most_points: int) -> Sets | None:
        """The first sets as rows, with at most `most_points` points; None if not even one fits."""
        if self.ptr is not None:
            return None
        rows = self.x.reshape(self.count, -1)
        few = most_points // rows.shape[1]
        return Sets(rows[:few].clone(), (-1,)) if few else None


def make(workload: Workload, data: str, dtype: torch.dtype, device: torch.device) -> Sets:
    """Draws the points of a workload; deterministic for each kind of device."""
    generator = torch.Generator(device).manual_seed(0)
    if not workload.segments:
        n = workload.points_per_set
        x = DATA[data]((workload.sets, n), generator).to(dtype)
        return Sets(x.reshape(workload.shape), workload.dims)
    lengths = torch.tensor([0, *workload.lengths()], device=device)
    ptr = lengths.cumsum(0)
    channels, rows = workload.shape[-1], int(ptr[-1])
    x = DATA[data]((channels, rows), generator).to(dtype)
    return Sets(x.t().contiguous(), (), ptr)
