"""Accuracy and mean average precision of a PointNet, with 0 to 90% of each cloud's points replaced.

    python -m examples.pointcloud.evaluate run/welsch.pt
    python -m examples.pointcloud.evaluate run/huber.pt --root /data/modelnet40_ply_hdf5_2048

The average precision of a class is the mean precision over its clouds, all clouds ordered by the
class's softmax score (one class against the rest, not interpolated); the mean is over all classes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from examples import digits
from examples.digits_data import replace_by_outliers
from examples.pointcloud.checkpoint import read_checkpoint
from examples.pointcloud.clouds import OUTLIERS, Clouds, generator
from examples.pointcloud.data import load
from examples.pointcloud.model import build
from examples.pointcloud.team import Team, device_name, end, join

OUTLIER_PERCENT = (0, 1, 10, 20, 30, 40, 50, 60, 90)
BATCH = 32
# Of a checkpoint and its settings.
NEEDED = ("model", "losses", "epochs", "data", "points", "pool", "alpha", "transform", "channels",
          "head", "seed")  # fmt: skip

Row = dict[str, Any]


def percent(text: str) -> float:
    """The type of an argument in percent, 0 to 100."""
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{value} given; expected 0 to 100")
    return value


@torch.no_grad()
def scores(model: nn.Module, points: Tensor, team: Team) -> Tensor:
    """The softmax scores (n, classes) of clouds (n, 3, count), on the CPU, in all processes."""
    model.eval()
    mine = points[team.rank :: team.world]
    device = team.device
    return team.gather(torch.cat([model(p.to(device)).softmax(1) for p in mine.split(BATCH)]))


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """The percentage of clouds whose label (n,) has the largest score (n, classes)."""
    return 100 * (scores.argmax(1) == labels).double().mean().item()


def mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """The mean over the classes of the average precision, one against the rest, in percent.

    Args:
        scores: (n, classes).
        labels: (n,).

    Raises:
        ValueError: a class has no cloud, so its precision is undefined.
    """
    truth = labels.unsqueeze(1) == torch.arange(scores.size(1))
    absent = (~truth.any(0)).nonzero().flatten().tolist()
    if absent:
        raise ValueError(f"no test cloud belongs to the classes {absent}")
    return 100 * float(average_precision_score(truth.numpy(), scores.numpy(), average="macro"))


def measure(
    model: nn.Module,
    clouds: Clouds,
    seed: int,
    team: Team,
    percents: Sequence[float] = OUTLIER_PERCENT,
) -> Row:
    """Test with outliers.

    The outliers, uniform in the unit ball, depend on the seed alone; those of a smaller share are
    among those of a larger one.

    Returns:
        "outlier_percent", and for each of them under "accuracy" and "map" the figure in percent.
    """
    row: Row = {"outlier_percent": list(percents), "accuracy": [], "map": []}
    for percentage in percents:
        random = generator(seed, OUTLIERS)
        points = replace_by_outliers(clouds.points, percentage / 100, random)
        found = scores(model, points, team)
        row["accuracy"].append(round(accuracy(found, clouds.labels), 2))
        row["map"].append(round(mean_average_precision(found, clouds.labels), 2))
    return row


def as_text(rows: dict[str, Row]) -> str:
    """Accuracy / mean average precision, one pool per line."""
    percents = next(iter(rows.values()))["outlier_percent"]
    lines = [
        "Accuracy / mean average precision on held-out clouds (%), by share of outliers",
        f"{'pooling':24}" + "".join(f"{p:>12g}%" for p in percents),
    ]
    for name, row in rows.items():
        cells = [f"{a:.1f} / {m:.1f}" for a, m in zip(row["accuracy"], row["map"], strict=True)]
        lines.append(f"{digits.label(name):24}" + "".join(f"{cell:>13}" for cell in cells))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Test the network of a checkpoint; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.pointcloud.evaluate",
        description="Test a trained PointNet with 0 to 90% outliers.",
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="as examples.pointcloud.train and .table write them")
    add("--root", type=Path, metavar="DIR", help="folder of ModelNet40's files")
    add("--percent", nargs="+", type=percent, default=list(OUTLIER_PERCENT), metavar="P",
        help="shares of outliers (default: 0 1 10 20 30 40 50 60 90)")  # fmt: skip
    add("--device", type=device_name, default="cpu", help="cpu or cuda (default: %(default)s)")
    add("--threads", type=digits.at_least(1), default=1, help="CPU threads (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        state = read_checkpoint(args.checkpoint)
        if state is None:
            raise FileNotFoundError(f"checkpoint {args.checkpoint} is not there")
        settings = state["settings"]
        lacking = [key for key in NEEDED if key not in settings.keys() | state.keys()]
        if lacking:
            raise ValueError(f"checkpoint {args.checkpoint} lacks {', '.join(lacking)}")
        with join(args.device) as team, digits.repeatable(args.threads, team.device):
            _, test = load(settings, args.root, team)
            model = build(settings, len(test.names))
            try:
                model.load_state_dict(state["model"])
            except RuntimeError as error:
                raise ValueError(
                    f"checkpoint {args.checkpoint} does not hold a network of its settings for "
                    f"{len(test.names)} classes: {error}"
                ) from error
            row = measure(model.to(team.device), test, settings["seed"], team, args.percent)
            if team.leads:
                epochs = f"{len(state['losses'])} of {settings['epochs']} epochs"
                print(f"{args.checkpoint}: {settings['data']}, {epochs}")
                print(as_text({settings["pool"]: row}))
    except (ImportError, OSError, ValueError) as error:
        end(parser, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
