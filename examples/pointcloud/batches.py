"""Training batches of point clouds, and their augmentation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from examples.digits_data import replace_by_outliers
from examples.pointcloud.clouds import AUGMENTATION, ORDER, Clouds, generator

JITTER_LIMIT = 5  # standard deviations


def rotate(points: Tensor, angle: Tensor, up: int) -> Tensor:
    """Clouds (n, 3, count) turned by angles (n,), in radians, about an axis."""
    i, j = (up + 1) % 3, (up + 2) % 3
    cos, sin = angle.cos().unsqueeze(1), angle.sin().unsqueeze(1)
    turned = points.clone()
    turned[:, i] = cos * points[:, i] - sin * points[:, j]
    turned[:, j] = sin * points[:, i] + cos * points[:, j]
    return turned


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of a training cloud, drawn anew each time it is used.

    Attributes:
        rotate: turned by any angle about the up axis.
        jitter: deviation of a normal shift of each point, cut at 5 deviations.
        outliers: share of the points replaced by uniform points in the unit ball, 0 to 1.
    """

    rotate: bool = True
    jitter: float = 0.0
    outliers: float = 0.0

    def __call__(self, points: Tensor, up: int, random: torch.Generator) -> Tensor:
        """Augments clouds (n, 3, count), with a fixed number of random numbers."""
        if self.rotate:
            points = rotate(points, torch.rand(len(points), generator=random) * 2 * math.pi, up)
        if self.jitter:
            shift = torch.randn(points.shape, generator=random)
            points = points + self.jitter * shift.clamp(-JITTER_LIMIT, JITTER_LIMIT)
        if self.outliers:
            points = replace_by_outliers(points, self.outliers, random)
        return points


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Training batches, indexed by (epoch, step).

    A batch depends on the seed, the epoch and the step alone: not on worker processes, nor on where
    training was interrupted. Of a batch, process `rank` of `world` gets every world-th cloud, so
    several processes together see the batches that one sees.

    Args:
        clouds: the training clouds.
        size: clouds per batch, over all processes.
        augmentation: the augmentation of the clouds.
        seed: of order and augmentation.
        steps: batches per epoch; None: as many as there are whole ones. With more, clouds repeat.
        rank, world: this process and the number of processes.

    Raises:
        ValueError: the batch cannot be shared out evenly, or there is less than one batch.
    """

    def __init__(
        self,
        clouds: Clouds,
        size: int,
        augmentation: Augmentation,
        seed: int,
        steps: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if size % world:
            raise ValueError(
                f"batch is {size}; expected a multiple of the number of processes, {world}"
            )
        self.clouds, self.size, self.augmentation, self.seed = clouds, size, augmentation, seed
        self.steps = len(clouds) // size if steps is None else steps
        if self.steps < 1:
            raise ValueError(f"batch is {size}; expected at most the number of training clouds")
        self.rank, self.world = rank, world
        self.order = lru_cache(maxsize=1)(self._order)

    def _order(self, epoch: int) -> Tensor:
        """The clouds of an epoch: concatenated random permutations of all clouds."""
        random = generator(self.seed, ORDER, epoch)
        rounds = -(-self.steps * self.size // len(self.clouds))
        return torch.cat(
            [torch.randperm(len(self.clouds), generator=random) for _ in range(rounds)]
        )

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """This process's part of a batch: points (size / world, 3, count) and their labels."""
        epoch, step = place
        chosen = self.order(epoch)[step * self.size : (step + 1) * self.size]
        random = generator(self.seed, AUGMENTATION, epoch, step)
        points = self.augmentation(self.clouds.points[chosen], self.clouds.up, random)
        mine = slice(self.rank, None, self.world)
        return points[mine].contiguous(), self.clouds.labels[chosen[mine]]

    def __getstate__(self) -> dict[str, object]:
        """Pickles without the cache, for spawned workers."""
        return {name: value for name, value in vars(self).items() if name != "order"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self.order = lru_cache(maxsize=1)(self._order)

    def stream(
        self, first: int, last: int, workers: int, pin: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All batches of the epochs first to last - 1, in order, without a pause between epochs.

        Args:
            first, last: epochs.
            workers: processes that prepare batches; 0: this one.
            pin: into page-locked memory, from where copies to a GPU need not be waited for.
        """
        places = [(epoch, step) for epoch in range(first, last) for step in range(self.steps)]
        # Whole batches are indexed at once: collating single clouds would cost more than they do.
        return iter(
            DataLoader(self, batch_size=None, sampler=places, num_workers=workers, pin_memory=pin)
        )
