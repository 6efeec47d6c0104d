"""PointNet with a configurable pooling.

Source: C. R. Qi, H. Su, K. Mo, L. J. Guibas, "PointNet: Deep Learning on Point Sets for 3D
Classification and Segmentation", 2017.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

from examples.digits_model import make_pool, pointwise
from examples.pointcloud.checkpoint import Settings

CHANNELS = (64, 128, 1024)
HEAD = (512, 256)


def perceptron(widths: tuple[int, ...], dropout: float = 0.0) -> nn.Sequential:
    """Fully connected layers (B, widths[0]) to (B, widths[-1]), the last of them linear.

    Args:
        widths: of input, hidden layers and output.
        dropout: share of the last hidden layer's activations dropped in training.
    """
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths[:-1]):
        layers += [nn.Linear(width_in, width_out), nn.BatchNorm1d(width_out), nn.ReLU()]
    if dropout:
        layers.insert(len(layers) - 2, nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class InputTransform(nn.Module):
    """Multiplies each cloud by a 3 x 3 matrix predicted by a small PointNet.

    The matrix is initially the identity.

    Args:
        pool: maps features (B, C, N) to (B, C).
        channels, head: widths of the layers before and after the pool.
    """

    def __init__(self, pool: nn.Module, channels: tuple[int, ...], head: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = pointwise((3, *channels))
        self.pool = pool
        self.head = perceptron((channels[-1], *head, 9))
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, points: Tensor) -> Tensor:
        """Clouds (B, 3, N) to clouds (B, 3, N)."""
        change = self.head(self.pool(self.encoder(points))).reshape(-1, 3, 3)
        return points + change.to(points.dtype) @ points


class PointNet(nn.Module):
    """A classifier of point clouds: one encoder for all points, a pool over them, and a head.

    Args:
        pool: maps features (B, C, N) to (B, C). With a transform, a copy of it pools there too,
            so that no max pooling remains.
        classes: number of classes.
        transform: whether clouds pass through an :class:`InputTransform` first.
        channels: widths of the encoder's layers; the last is the C of the pool.
        head: widths of the hidden layers after the pool.
        dropout: in training, the share of the last hidden layer that is dropped.
    """

    def __init__(
        self,
        pool: nn.Module,
        classes: int,
        *,
        transform: bool = False,
        channels: tuple[int, ...] = CHANNELS,
        head: tuple[int, ...] = HEAD,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        # Created first, so its weights do not depend on whether there is a transform.
        self.encoder = pointwise((3, *channels))
        self.head = perceptron((channels[-1], *head, classes), dropout)
        self.pool = pool
        self.transform = (
            InputTransform(copy.deepcopy(pool), channels, head) if transform else nn.Identity()
        )

    def forward(self, points: Tensor) -> Tensor:
        """Clouds (B, 3, N) to the logits (B, classes)."""
        logits: Tensor = self.head(self.pool(self.encoder(self.transform(points))))
        return logits


def build(settings: Settings, classes: int) -> PointNet:
    """The untrained network of these settings; its weights depend on the seed, not on the pool.

    Args:
        settings: "pool" and "alpha" as in :func:`examples.digits_model.make_pool`; "transform",
            "channels" and "head" as in :class:`PointNet`; "seed".
        classes: number of classes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        return PointNet(
            make_pool(settings["pool"], settings["alpha"]),
            classes,
            transform=settings["transform"],
            channels=tuple(settings["channels"]),
            head=tuple(settings["head"]),
        )
