"""Labelled point clouds, and the sources of randomness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Purposes of random numbers; each has its own stream.
TRAINING, TEST, ORDER, AUGMENTATION, SUBSET, OUTLIERS, DROPOUT = range(7)


@dataclass(frozen=True)
class Clouds:
    """Labelled point clouds, each centred at its mean and scaled to the unit sphere.

    Attributes:
        points: float32 (n, 3, count).
        labels: int64 (n,), indices of names.
        names: of the classes.
        up: the axis that points upwards, 0 to 2.
    """

    points: Tensor
    labels: Tensor
    names: tuple[str, ...]
    up: int

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, share: float, seed: int) -> Clouds:
        """A random share of each class, at least one cloud; smaller shares are nested in larger.

        Args:
            share: above 0, up to 1; rounded to whole clouds of each class.
            seed: of the choice.

        Raises:
            ValueError: the share is out of range.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share is {share:g}; expected a number above 0, up to 1")
        order = torch.randperm(len(self), generator=generator(seed, SUBSET))
        labels = self.labels[order]
        kept = []
        for label in range(len(self.names)):
            of_class = order[labels == label]
            kept.append(of_class[: max(1, round(share * len(of_class)))])
        chosen = torch.cat(kept).sort().values
        return Clouds(self.points[chosen], self.labels[chosen], self.names, self.up)


def generator(seed: int, *purpose: int) -> torch.Generator:
    """A source of randomness on the CPU, independent for each purpose (non-negative numbers)."""
    state = np.random.SeedSequence((seed, *purpose)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
