"""A PointNet-style classifier of point sets with a configurable pooling, its training and test."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ddn_cuda
from examples.digits_data import CLASSES, Digits, draw_points

BATCH = 32
PEAK_LEARNING_RATE = 5e-3


class Reduction(nn.Module):
    """A pool without parameters: ``reduce(x, dim)`` over the last dimension of x."""

    def __init__(self, reduce: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.reduce = reduce

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(x, -1)


def make_pool(name: str, alpha: float = 1.0) -> nn.Module:
    """The pool of that name: (B, C, N) features to (B, C).

    Args:
        name: "max", "mean", or a penalty of :data:`ddn_cuda.PENALTIES`.
        alpha: the scale of a penalty; unused by max and mean.
    """
    if name == "max":
        return Reduction(torch.amax)
    if name == "mean":
        return Reduction(torch.mean)
    return ddn_cuda.RobustPool(name, alpha, dim=-1)


def pointwise(widths: tuple[int, ...]) -> nn.Sequential:
    """A network applied to each point alike, (B, widths[0], N) to (B, widths[-1], N).

    It ends in a batch norm, so each pooled feature has mean 0 and variance 1 over the training
    points: alpha = 1 is one standard deviation.
    """
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [
            nn.Conv1d(width_in, width_out, kernel_size=1, bias=False),
            nn.BatchNorm1d(width_out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers[:-1])


class PointClassifier(nn.Module):
    """One encoder shared by all points, a pool over the points, and a classifier of its output.

    Args:
        pool: maps features (B, C, N) to (B, C).
        channels: widths of the encoder's layers; the last is the C of the pool.
    """

    def __init__(self, pool: nn.Module, channels: tuple[int, ...] = (64, 64, 256)) -> None:
        super().__init__()
        self.encoder = pointwise((2, *channels))
        self.pool = pool
        self.head = nn.Sequential(
            nn.Linear(channels[-1], 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Linear(128, CLASSES),
        )

    def forward(self, points: Tensor) -> Tensor:
        """Points (B, 2, N) to the logits (B, 10) of the classes."""
        return self.head(self.pool(self.encoder(points)))


def build(pool: nn.Module, seed: int) -> PointClassifier:
    """A classifier whose initial weights depend on the seed alone, not on the pool."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PointClassifier(pool)


def train(
    model: PointClassifier,
    digits: Digits,
    *,
    epochs: int,
    points: int,
    seed: int,
    on_epoch: Callable[[float], None] = lambda loss: None,
) -> None:
    """Train on clean point sets, drawn from the images anew in each epoch.

    Point sets and their order depend on the seed alone. They are drawn on the CPU and moved to the
    device of the model.

    Args:
        model: trained in place.
        digits: the training images.
        epochs: passes over the images, in whole batches.
        points: points per set.
        seed: of the point sets and of their order.
        on_epoch: called after each epoch with its mean loss.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    steps = len(digits) // BATCH
    optimiser = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=PEAK_LEARNING_RATE, total_steps=epochs * steps
    )
    model.train()
    for _ in range(epochs):
        clouds = draw_points(digits.ink, points, generator).to(device)
        labels = digits.labels.to(device)
        order = torch.randperm(len(digits), generator=generator).to(device)
        total = torch.zeros((), device=device)
        for batch in order[: steps * BATCH].split(BATCH):
            loss = cross_entropy(model(clouds[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.detach()
        on_epoch(total.item() / steps)


@torch.no_grad()
def accuracy(model: PointClassifier, clouds: Tensor, labels: Tensor) -> float:
    """The percentage of the point sets (n, 2, N) that the model assigns to their labels (n,)."""
    device = next(model.parameters()).device
    model.eval()
    hits = 0
    for points, wanted in zip(clouds.split(BATCH), labels.split(BATCH), strict=True):
        guessed = model(points.to(device)).argmax(dim=1).cpu()
        hits += int((guessed == wanted).sum())
    return 100 * hits / len(labels)
