"""Scikit-learn's handwritten digits as point sets in the unit disc, clean or with outliers.

A digit is an image of 8 x 8 pixels. With its ink as a density, any number of points can be drawn
from it, which gives a point set in the shape of the digit. The data comes with scikit-learn, so
nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

SIDE = 8  # pixels along each side of an image
CLASSES = 10
HELD_OUT = 0.25  # share of the images kept for testing
SPLIT_SEED = 0  # one split whatever the seed of a run, so that runs compare on the same digits


@dataclass(frozen=True)
class Digits:
    """Images of digits.

    Attributes:
        ink: float32 (n, 64), the intensity of each pixel in row-major order.
        labels: int64 (n,), the digit shown, 0 to 9.
    """

    ink: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def split_digits() -> tuple[Digits, Digits]:
    """The 1,797 digits as (training, held-out), each class in the same proportion in both."""
    ink, labels = load_digits(return_X_y=True)
    parts = train_test_split(
        ink, labels, test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED
    )
    train_ink, test_ink, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    return (
        Digits(train_ink.float(), train_labels.long()),
        Digits(test_ink.float(), test_labels.long()),
    )


def draw_points(ink: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw a point set from each image.

    A point falls on a pixel with a probability proportional to its ink, uniformly on that pixel.
    Each set is then centred at its mean and scaled so that its farthest point lies on the unit
    circle.

    Args:
        ink: float32 (n, 64), as in :class:`Digits`.
        count: points per set.
        generator: the source of all randomness, on the CPU.

    Returns:
        float32 (n, 2, count): x to the right and y upwards, in the unit disc.
    """
    pixel = torch.multinomial(ink, count, replacement=True, generator=generator)
    corner = torch.stack((pixel % SIDE, -(pixel // SIDE)), dim=1)
    points = corner + torch.rand(corner.shape, generator=generator)
    return normalise(points)


def normalise(points: Tensor) -> Tensor:
    """Point sets (n, d, count), each centred at its mean and scaled to a largest radius of 1."""
    points = points - points.mean(dim=2, keepdim=True)
    radius = torch.linalg.vector_norm(points, dim=1, keepdim=True)
    return points / radius.amax(dim=2, keepdim=True)


def replace_by_outliers(points: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Replace a random subset of each set by outliers, uniform in the unit disc or ball.

    Generators in the same state replace nested subsets: the outliers of a smaller fraction are
    among those of a larger one.

    Args:
        points: float32 (n, d, count), of dimension d = 2 or 3.
        fraction: share of the points to replace, 0 to 1; rounded to a whole number of points.
        generator: the source of all randomness, on the CPU.

    Returns:
        float32 (n, d, count): a new tensor.
    """
    n, dimension, count = points.shape
    rank = torch.rand(n, count, generator=generator).argsort(dim=1).argsort(dim=1)
    # The root makes the density uniform.
    radius = torch.rand(n, count, generator=generator).pow(1 / dimension)
    angle = torch.rand(n, count, generator=generator) * (2 * torch.pi)
    direction = torch.stack((angle.cos(), angle.sin()), dim=1)
    if dimension == 3:
        # The height of a uniform point of the sphere is uniform (Archimedes).
        height = torch.rand(n, 1, count, generator=generator) * 2 - 1
        direction = torch.cat((direction * (1 - height.square()).sqrt(), height), dim=1)
    chosen = rank < round(fraction * count)
    return torch.where(chosen.unsqueeze(1), radius.unsqueeze(1) * direction, points)
