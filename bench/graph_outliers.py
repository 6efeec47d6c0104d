"""Measures the effect of outliers on the aggregations of PyTorch Geometric and of this library.

Draws sets of points from a normal distribution of standard deviation 1 and replaces some points by
outliers at a distance from its centre. For each aggregation it reports, in standard deviations:

    clean spread   deviation of the answers over the sets, times sqrt(points): 1 for the mean, the
                   best there is without outliers
    shift          how far the answer moves, on average, when one point or 30% of the points of a
                   set are replaced by outliers, all at the same distance
    gradient       the share of the points that get one, in sets without outliers; and how much of
                   a set's gradient (of the sum of its sizes) goes to one outlier at distance 10

The scales of the penalties give 95% of the mean's efficiency on normal data
(Holland and Welsch, "Robust regression using iteratively reweighted least-squares", 1977: Huber's,
Welsch's and Talwar's functions), and 1 for pseudo_huber, for which they have none. The centre is 5,
because powermean requires positive features; PyG clips them, and the mean of their powers, to 100.
All in float64.

Writes the figures with machine, versions and commit to JSON, and prints the table of
docs/graphs.md.

    python -m bench.graph_outliers
    python -m bench.graph_outliers --show bench/results/graph_outliers.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch_geometric
from torch import Tensor
from torch_geometric.nn import aggr as pyg

import ddn_cuda
from bench import machine
from ddn_cuda.pyg import RobustAggregation

CENTER = 5.0
NEAR = 10.0  # the distance for the gradient of an outlier
DISTANCES = {"one": (NEAR, 1000.0), "share": (3.0, NEAR, 1000.0)}
SHARE = 0.3
RESULT = machine.ROOT / "bench" / "results" / "graph_outliers.json"

# Names in the table.
AGGREGATIONS: dict[str, Callable[[], torch.nn.Module]] = {
    "mean": pyg.MeanAggregation,
    "max": pyg.MaxAggregation,
    "median": pyg.MedianAggregation,
    "softmax, t = 1": lambda: pyg.SoftmaxAggregation(t=1.0),
    "powermean, p = 2": lambda: pyg.PowerMeanAggregation(p=2.0),
    "pseudo_huber, alpha = 1": lambda: RobustAggregation("pseudo_huber", 1.0),
    "huber, alpha = 1.345": lambda: RobustAggregation("huber", 1.345),
    "welsch, alpha = 2.111": lambda: RobustAggregation("welsch", 2.985 / math.sqrt(2)),
    "truncated_quadratic, alpha = 2.795": lambda: RobustAggregation("truncated_quadratic", 2.795),
}

Row = dict[str, Any]


def measure_one(aggregate: torch.nn.Module, clean: Tensor) -> Row:
    """The figures of one aggregation.

    Args:
        aggregate: an aggregation of PyG.
        clean: (S, N) sets without outliers.
    """
    sets, points = clean.shape
    index = torch.arange(sets).repeat_interleave(points)

    def answers(x: Tensor) -> Tensor:
        return aggregate(x.reshape(-1, 1), index, dim_size=sets).squeeze(1)

    def gradient(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(answers(x).sum(), x)
        return grad

    def spoilt(outliers: int, distance: float) -> Tensor:
        x = clean.clone()
        x[:, :outliers] = CENTER + distance
        return x

    y = answers(clean)
    row: Row = {"clean_spread": (y.std() * math.sqrt(points)).item()}
    for name, outliers in (("one", 1), ("share", round(SHARE * points))):
        row[f"shift_{name}"] = [
            (answers(spoilt(outliers, distance)) - y).mean().item() for distance in DISTANCES[name]
        ]
    row["points_with_gradient"] = (gradient(clean) != 0).double().mean().item()
    grad = gradient(spoilt(1, NEAR)).abs()
    row["gradient_of_outlier"] = (grad[:, 0].mean() / grad.sum(1).mean()).item()
    return row


def measure(sets: int, points: int, seed: int) -> Row:
    """All figures, with machine and versions."""
    generator = torch.Generator().manual_seed(seed)
    clean = CENTER + torch.randn(sets, points, generator=generator, dtype=torch.float64)
    return {
        "command": f"python -m bench.graph_outliers --sets {sets} --points {points} --seed {seed}",
        "settings": {
            "sets": sets,
            "points": points,
            "seed": seed,
            "center": CENTER,
            "distances": DISTANCES,
            "share": SHARE,
        },
        "machine": machine.describe(),
        "versions": {
            "torch_geometric": torch_geometric.__version__,
            "ddn_cuda": dict(ddn_cuda.build_info()),
        },
        "commit": machine.commit(),
        "rows": {name: measure_one(make(), clean) for name, make in AGGREGATIONS.items()},
    }


def _number(value: float) -> str:
    """Three digits; numbers below 0.0005 are shown as 0."""
    if abs(value) < 5e-4:
        return "0"
    return f"{value:.0f}" if abs(value) >= 99.5 else f"{value:.3g}"


def as_table(result: Row) -> str:
    """The figures as a table in Markdown."""
    distances = result["settings"]["distances"]
    share = f"{result['settings']['share']:.0%}"
    head = ["aggregation", "clean spread"]
    head += [f"one at {distance:g}" for distance in distances["one"]]
    head += [f"{share} at {distance:g}" for distance in distances["share"]]
    head += ["points with a gradient", f"gradient to one at {NEAR:g}"]
    lines = [head, ["---"] * len(head)]
    for name, row in result["rows"].items():
        shifts = map(_number, (*row["shift_one"], *row["shift_share"]))
        lines.append(
            [
                f"`{name.split(',')[0]}`{name[len(name.split(',')[0]) :]}",
                f"{row['clean_spread']:.2f}",
                *shifts,
                f"{row['points_with_gradient']:.0%}",
                f"{row['gradient_of_outlier']:.1%}",
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--sets", type=int, default=4000, help="default %(default)s")
    add("--points", type=int, default=32, help="in a set (default %(default)s)")
    add("--seed", type=int, default=0, help="of the points (default %(default)s)")
    add("--output", type=Path, default=RESULT, metavar="JSON", help="default %(default)s")
    add("--show", type=Path, metavar="JSON", help="only print the table of an earlier run")
    options = parser.parse_args(arguments)
    if options.show:
        result = json.loads(options.show.read_text())
    else:
        result = measure(options.sets, options.points, options.seed)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(as_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
