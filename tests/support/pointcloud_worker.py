"""The program that torchrun starts in test_pointcloud.py: a training with a process that is killed
once."""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

from examples.pointcloud import shapes
from examples.pointcloud.batches import Augmentation
from examples.pointcloud.clouds import Clouds
from examples.pointcloud.model import PointNet
from examples.pointcloud.team import join
from examples.pointcloud.train import Recipe, fit

RECIPE = Recipe("predecessor", 0.01, Augmentation(jitter=0.02, outliers=0.1), epochs=4, batch=8)


def clouds() -> Clouds:
    points, labels = shapes.draw(2, 32, seed=0, purpose=0)
    return Clouds(points, labels, tuple(shapes.CLASSES), up=2)


def network() -> PointNet:
    """Without batch norms and dropout, which depend on the distribution of a batch."""
    torch.manual_seed(0)
    model = PointNet(nn.AdaptiveMaxPool1d(1), 16, channels=(8, 16), head=(8,), dropout=0)
    model.pool = nn.Sequential(model.pool, nn.Flatten())
    for part in (model.encoder, model.head):
        for name, layer in list(part.named_children()):
            if isinstance(layer, nn.BatchNorm1d):
                part.register_module(name, nn.Identity())
    return model


def main(folder: Path) -> None:
    first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    lives = folder / f"lives-{os.environ['RANK']}"
    with lives.open("a") as file:
        file.write("life\n")
    if not first_life and os.environ["RANK"] == "0":
        time.sleep(2)  # the other process must not find the address of the killed one
    with join("cpu") as team:
        assert team.world == 2
        assert team.agree(lambda: team.rank) == 0
        assert team.mean(torch.tensor(float(team.rank))) == 0.5
        assert team.gather(torch.arange(7)[team.rank :: 2]).tolist() == list(range(7))
        model = network()

        def die(epoch: int, loss: float, rate: float) -> None:
            if first_life and epoch == 1:  # its checkpoint has been written
                os.kill(os.getpid(), signal.SIGKILL)

        losses = fit(model, clouds(), RECIPE, team, seed=3, checkpoint=folder / "a.pt",
                     settings={}, on_epoch=die)  # fmt: skip
        torch.save(model.state_dict(), folder / f"weights-{team.rank}.pt")
        if team.leads:
            torch.save(losses, folder / "losses.pt")
    if sys.platform == "linux":
        # A thread that outlives the team may request the lock of a finalising interpreter and
        # abort.
        names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
        assert not [name for name in names if "gloo" in name]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
