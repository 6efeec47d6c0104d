"""Small clouds and networks, and functions that start the point-cloud example."""

from __future__ import annotations

import os
import sys

import torch

from examples.pointcloud import shapes
from examples.pointcloud.clouds import Clouds
from examples.pointcloud.team import Team
from tests.support import ROOT

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d",
            "--rdzv-endpoint=localhost:0", "--monitor-interval=0.1"]  # fmt: skip
ALONE_ON_A_CORE = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
ALONE = Team(torch.device("cpu"))
TINY = {"alpha": 1.0, "transform": False, "channels": [8, 16], "head": [8], "seed": 0}
TINY_OPTIONS = ["--points", "16", "--channels", "8", "16", "--head", "8", "--per-class", "3", "2"]


def made(per_class: int = 2, points: int = 32) -> Clouds:
    return Clouds(*shapes.draw(per_class, points, 0, 0), tuple(shapes.CLASSES), up=2)
