"""Trains one PointNet, on one device or under torchrun; resumes from a checkpoint.

    python -m examples.pointcloud.train --pool welsch --checkpoint run/welsch.pt
    torchrun --nproc-per-node 4 --max-restarts 3 -m examples.pointcloud.train --device cuda \
        --data modelnet40 --pool huber --amp bfloat16 --workers 2 --checkpoint run/huber.pt

The checkpoint is written atomically after each epoch. Started again with the same options, by
hand or by torchrun, training resumes after the last complete epoch, with the numbers of an
uninterrupted run (on one kind of machine, with the same number of processes and threads). Results
do not depend on --workers.

--batch is the batch size over all processes. On GPUs batch norms are synchronised. On CPUs with
several processes, each process normalises by its own part of the batch, --batch / processes
clouds, so results differ slightly from those of a single process.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

from examples import digits
from examples.pointcloud.batches import Augmentation, Batches
from examples.pointcloud.checkpoint import Settings, read_checkpoint, write_checkpoint
from examples.pointcloud.clouds import DROPOUT, Clouds, generator
from examples.pointcloud.data import SOURCES, load
from examples.pointcloud.evaluate import Row, as_text, measure, percent
from examples.pointcloud.model import CHANNELS, HEAD, PointNet, build
from examples.pointcloud.team import Team, device_name, end, join

AMP = {"bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: "predecessor": SGD with momentum 0.9, its rate halved after each third of the epochs;
            "strong": AdamW, its rate falling to 0 along a cosine.
        rate: the first learning rate.
        augmentation: of the training clouds.
        epochs: passes over the training clouds, in whole batches.
        batch: clouds per batch, over all processes.
    """

    name: str
    rate: float
    augmentation: Augmentation = field(default_factory=Augmentation)
    epochs: int = 60
    batch: int = 24

    def optimise(self, model: nn.Module) -> tuple[Optimizer, LRScheduler]:
        """The optimiser and its schedule, of which one step is an epoch."""
        if self.name == "predecessor":
            sgd = SGD(model.parameters(), self.rate, momentum=0.9)
            return sgd, StepLR(sgd, max(1, round(self.epochs / 3)), gamma=0.5)
        adam = AdamW(model.parameters(), self.rate, weight_decay=0.01)
        return adam, CosineAnnealingLR(adam, self.epochs)


RECIPES = {
    "predecessor": Recipe("predecessor", rate=0.01),
    "strong": Recipe("strong", rate=1e-3, augmentation=Augmentation(jitter=0.01)),
}


def fit(
    model: nn.Module,
    clouds: Clouds,
    recipe: Recipe,
    team: Team,
    *,
    seed: int,
    steps: int | None = None,
    workers: int = 0,
    amp: str | None = None,
    checkpoint: Path | None = None,
    settings: Settings | None = None,
    on_epoch: Callable[[int, float, float], None] = lambda epoch, loss, rate: None,
) -> list[float]:
    """Trains, resuming from the checkpoint if it exists. Seeds torch's global generators.

    Args:
        model: trained in place, on the team's device; the same in all processes.
        clouds: the training clouds; all of them in all processes.
        recipe: optimiser, schedule and batches.
        team: the processes.
        seed: of order, augmentation and dropout.
        steps: batches per epoch; None: the number of complete batches.
        workers: processes that prepare batches.
        amp: a name in :data:`AMP`: the dtype of matrix products; None: float32 throughout.
        checkpoint: read if it exists, written after each epoch.
        settings: stored in the checkpoint; an existing one must have the same settings.
        on_epoch: called in the leader after each epoch with its number, mean loss and rate.

    Returns:
        The mean loss of each epoch.

    Raises:
        ValueError: the checkpoint is damaged or of other settings, or as :class:`Batches`.
        FloatingPointError: a loss is not finite.
    """
    device = team.device
    augmentation = recipe.augmentation
    batches = Batches(clouds, recipe.batch, augmentation, seed, steps, team.rank, team.world)
    network = team.wrap(model)
    optimiser, schedule = recipe.optimise(model)
    losses: list[float] = []
    state = team.agree(lambda: read_checkpoint(checkpoint, settings))
    if state is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        losses = state["losses"]
    network.train()
    stream = batches.stream(len(losses), recipe.epochs, workers, pin=device.type == "cuda")
    for epoch in range(len(losses), recipe.epochs):
        # Dropout depends on the epoch, not on the numbers drawn before an interruption.
        torch.manual_seed(generator(seed, DROPOUT, epoch, team.rank).initial_seed())
        total = torch.zeros((), device=device)
        rate = float(schedule.get_last_lr()[0])
        for _ in range(batches.steps):
            points, labels = (part.to(device, non_blocking=True) for part in next(stream))
            with autocast(device, amp):
                loss = cross_entropy(network(points), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.detach()
        schedule.step()
        losses.append(team.mean(total) / batches.steps)
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss of epoch {epoch} is {losses[-1]}")
        if team.leads:
            if checkpoint:
                write_checkpoint(checkpoint, {
                    "settings": settings, "model": model.state_dict(), "losses": losses,
                    "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(),
                })  # fmt: skip
            on_epoch(epoch, losses[-1], rate)
    team.align(model)
    return losses


def autocast(device: torch.device, amp: str | None) -> AbstractContextManager[Any]:
    """The context of a forward pass."""
    return torch.autocast(device.type, AMP[amp]) if amp else nullcontext()


# Command line, shared by train and table


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a training."""
    add = parser.add_argument
    at_least, positive = digits.at_least, digits.positive
    add("--data", choices=SOURCES, default="shapes", help="(default: %(default)s)")
    add("--root", type=Path, metavar="DIR",
        help="folder of ModelNet40's files (default: data/modelnet40_ply_hdf5_2048 or "
        "data/ModelNet40)")  # fmt: skip
    add("--per-class", nargs=2, type=at_least(1), default=[100, 40], metavar=("TRAIN", "TEST"),
        help="generated shapes of each class (default: 100 40)")  # fmt: skip
    add("--points", type=at_least(2), default=2048, help="points per cloud (default: %(default)s)")
    add("--alpha", type=positive, default=1.0, help="of the penalties (default: %(default)s)")
    add("--transform", action="store_true", help="with PointNet's input transform")
    add("--channels", nargs="+", type=at_least(1), default=list(CHANNELS), metavar="WIDTH",
        help="widths of the encoder; the last is the pool's (default: 64 128 1024)")  # fmt: skip
    add("--head", nargs="+", type=at_least(1), default=list(HEAD), metavar="WIDTH",
        help="hidden widths after the pool (default: 512 256)")  # fmt: skip
    add("--recipe", choices=RECIPES, default="predecessor",
        help="predecessor: SGD, its rate halved after each third of the epochs; strong: AdamW, a "
        "cosine schedule and jitter (default: %(default)s)")  # fmt: skip
    add("--epochs", type=at_least(1), default=60,
        help="of all training clouds; with a --share, as many steps (default: %(default)s)"
        )  # fmt: skip
    add("--batch", type=at_least(2), default=24, help="over all processes (default: %(default)s)")
    add("--train-outliers", type=percent, default=0.0, metavar="PERCENT",
        help="points replaced by outliers in training, anew each time (default: none)")  # fmt: skip
    add("--amp", choices=AMP, help="dtype of matrix products in training (default: float32)")
    add("--device", type=device_name, default="cpu", help="cpu or cuda (default: %(default)s)")
    add("--threads", type=at_least(1), default=1,
        help="CPU threads of each process (default: %(default)s)")  # fmt: skip
    add("--workers", type=at_least(0), default=0,
        help="processes that prepare batches, for each process that trains (default: none)"
        )  # fmt: skip
    add("--tensorboard", type=Path, metavar="DIR", help="folder for its files (default: none)")


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe of the options."""
    base = RECIPES[args.recipe]
    augmentation = Augmentation(jitter=base.augmentation.jitter, outliers=args.train_outliers / 100)
    return Recipe(base.name, base.rate, augmentation, args.epochs, args.batch)


def settings_of(args: argparse.Namespace, pool: str, share: float, seed: int) -> Settings:
    """Everything a trained network depends on, for the checkpoint."""
    shared = ("data", "points", "alpha", "transform", "channels", "head", "amp")
    recipe = asdict(recipe_of(args))
    chosen = {"pool": pool, "share": share, "seed": seed}
    if args.data == "shapes":
        chosen["per_class"] = args.per_class
    return {name: getattr(args, name) for name in shared} | recipe | chosen


class Log:
    """Scalars for TensorBoard, or none.

    Args:
        folder: for its files; None: nothing is written.
        writes: whether this process is the one that writes them.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: Path | None, writes: bool) -> None:
        self.writer = None
        if folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError as error:
                raise ImportError("--tensorboard needs it: pip install tensorboard") from error
            self.writer = SummaryWriter(str(folder)) if writes else None

    def add(self, name: str, value: float, step: float) -> None:
        if self.writer is not None:
            self.writer.add_scalar(name, value, int(step))

    def add_test(self, row: Row) -> None:
        """Logs accuracy and mean average precision, with the share of outliers as the step."""
        for figure in ("accuracy", "map"):
            for percentage, value in zip(row["outlier_percent"], row[figure], strict=True):
                self.add(f"test/{figure}", value, percentage)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def run(
    args: argparse.Namespace,
    settings: Settings,
    clouds: Clouds,
    team: Team,
    checkpoint: Path | None,
    log: Log,
) -> PointNet:
    """Trains the network of these settings and reports progress; returns the network."""
    model = build(settings, len(clouds.names)).to(team.device)
    start = time.perf_counter()

    def tell(epoch: int, loss: float, rate: float) -> None:
        log.add("train/loss", loss, epoch)
        log.add("train/rate", rate, epoch)
        name = f"{settings['pool']}, {settings['share']:g}%, seed {settings['seed']}"
        seconds = time.perf_counter() - start
        print(f"{name}: epoch {epoch + 1} of {args.epochs}, loss {loss:.4f}, {seconds:.0f} s",
              file=sys.stderr, flush=True)  # fmt: skip

    fit(
        model,
        clouds.subset(settings["share"] / 100, settings["seed"]),
        recipe_of(args),
        team,
        seed=settings["seed"],
        steps=len(clouds) // args.batch,  # as many with a share of the clouds
        workers=args.workers,
        amp=args.amp,
        checkpoint=checkpoint,
        settings=settings,
        on_epoch=tell,
    )
    return model


def main(argv: Sequence[str] | None = None) -> int:
    """Train one network and test it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.pointcloud.train",
        description="Train one PointNet, alone or under torchrun, and test it with outliers.",
    )
    add_options(parser)
    add = parser.add_argument
    add("--pool", type=digits.pool_name, default="max",
        help=f"{', '.join(digits.POOLS)}, or an alias (default: %(default)s)")  # fmt: skip
    add("--share", type=percent, default=100.0, metavar="PERCENT",
        help="of each class's training clouds (default: %(default)s)")  # fmt: skip
    add("--seed", type=digits.at_least(0), default=0,
        help="of shapes, weights, order, augmentation and outliers (default: %(default)s)"
        )  # fmt: skip
    add("--checkpoint", type=Path, metavar="FILE", help="resumed if it exists, and written")
    args = parser.parse_args(argv)
    try:
        with join(args.device) as team, digits.repeatable(args.threads, team.device):
            log = Log(args.tensorboard, team.leads)
            settings = settings_of(args, args.pool, args.share, args.seed)
            train, test = load(settings, args.root, team)
            model = run(args, settings, train, team, args.checkpoint, log)
            row = measure(model, test, args.seed, team)
            if team.leads:
                print(as_text({args.pool: row}))
            log.add_test(row)
            log.close()
    except (ImportError, OSError, ValueError, FloatingPointError) as error:
        end(parser, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
