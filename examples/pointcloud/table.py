"""Trains one PointNet per pooling on clean clouds and tests it with 0 to 90% outliers.

    python -m examples.pointcloud.table --quick
    python -m examples.pointcloud.table --data modelnet40 --device cuda --workers 2 --output run
    python -m examples.pointcloud.table --share 5 25 --pool max huber --output few    # few clouds

The second command is the protocol of Gould, Hartley and Campbell, "Deep Declarative Networks"
(2022), as in their program: all 2,048 points, batches of 24, 60 epochs of SGD at 0.01 with
momentum 0.9, halved every 20 epochs, rotations about the up axis. Unlike theirs, training sees no
outliers unless --train-outliers is given, test clouds are not rotated, and the mean average
precision is over all classes. With a --share below 100, networks are trained for the same number
of steps.

Each network has a checkpoint, and a JSON once it is tested. Started again with the same options,
the command resumes; other options require another --output. It runs under torchrun like
`examples.pointcloud.train`. Prints the table, and writes it with machine, versions and commit to
NAME.json and its plot to NAME.png.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench import machine
from examples import digits
from examples.pointcloud.checkpoint import require_same
from examples.pointcloud.clouds import Clouds
from examples.pointcloud.data import load
from examples.pointcloud.evaluate import OUTLIER_PERCENT, Row, as_text, measure, percent
from examples.pointcloud.team import Team, end, join
from examples.pointcloud.train import Log, add_options, run, settings_of

# About eleven minutes of one busy CPU core for all seven poolings.
QUICK = {"points": 256, "channels": [64, 64, 256], "head": [128], "epochs": 12}
FIGURES = ("outlier_percent", "accuracy", "map")  # of a row
PLOTTED = ("rows", "shares", "classes", "data", "train_outliers")
NAMES = {"shapes": "shapes", "modelnet40": "modelnet40", "modelnet40-meshes": "modelnet40_meshes"}


def train_and_test(
    args: argparse.Namespace, pool: str, share: float, data: tuple[Clouds, Clouds], team: Team
) -> Row:
    """The figures of one network, from its file if it has been tested already."""
    settings = settings_of(args, pool, share, args.seed)
    name = f"{pool}-{share:g}-{args.seed}"
    done = args.output / f"{name}.json"

    def tested() -> Row | None:
        if not done.exists():
            return None
        found = digits.read_json(done, "settings", *FIGURES)
        require_same(settings, found["settings"], str(done))
        return found

    row = team.agree(tested)
    if row is not None:
        return row
    log = Log(args.tensorboard / name if args.tensorboard else None, team.leads)
    start = time.perf_counter()
    model = run(args, settings, data[0], team, args.output / f"{name}.pt", log)
    row = measure(model, data[1], args.seed, team)
    row |= {"settings": settings, "seconds": round(time.perf_counter() - start, 1)}
    if team.leads:
        draft = done.with_suffix(".draft")
        draft.write_text(json.dumps(row, indent=1) + "\n")
        draft.replace(done)
    log.add_test(row)
    log.close()
    return row


def plot(result: dict[str, Any], path: Path) -> None:
    """Writes a PNG from the JSON: accuracy over outliers, and over shares if there are several."""
    shares = result["shares"]
    rows = {(row["settings"]["pool"], row["settings"]["share"]): row for row in result["rows"]}
    pools = list(dict.fromkeys(pool for pool, _ in rows))
    whole = max(shares)
    figure = Figure(figsize=(8 + 5 * (len(shares) > 1), 4.5), dpi=150, layout="constrained")
    panels = figure.subplots(1, 1 + (len(shares) > 1), squeeze=False)[0]
    trained = f"with {share:g}% outliers" if (share := result["train_outliers"]) else "clean"
    titles = [f"Trained {trained}, tested with outliers"]
    labels = ["points replaced by outliers (%)", "training clouds (%)"]
    digits.draw_lines(
        panels[0], OUTLIER_PERCENT, {pool: rows[pool, whole]["accuracy"] for pool in pools}
    )
    if len(shares) > 1:
        titles.append("Few training clouds, tested clean")
        clean = {pool: [rows[pool, share]["accuracy"][0] for share in shares] for pool in pools}
        digits.draw_lines(panels[1], shares, clean)
        panels[1].set_xscale("log")
        panels[1].set_xticks(shares, [f"{share:g}" for share in shares], minor=False)
        panels[1].minorticks_off()
    digits.draw_chance(panels[0], 100 / len(result["classes"]))
    for axes, title, name in zip(panels, titles, labels, strict=False):
        axes.set_title(title, loc="left")
        axes.set_xlabel(name, fontsize=12)
    panels[0].set_xticks([place for place in OUTLIER_PERCENT if place != 1])  # no room beside 0
    panels[0].set_ylabel(f"accuracy on held-out {result['data']} (%)", fontsize=12)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", frameon=False, fontsize=11)
    figure.savefig(path)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.pointcloud.table",
        description="Train one PointNet per pooling and test each with 0 to 90% outliers.",
    )
    add_options(parser)
    add = parser.add_argument
    add("--pool", nargs="+", type=digits.pool_name, default=list(digits.POOLS), metavar="NAME",
        help=f"the poolings: {', '.join(digits.POOLS)}, or aliases (default: all)")  # fmt: skip
    add("--share", nargs="+", type=percent, default=[100.0], metavar="PERCENT",
        help="of each class's training clouds, such as 5 10 25 100 (default: 100)")  # fmt: skip
    add("--seed", type=digits.at_least(0), default=0,
        help="of shapes, weights, order, augmentation and outliers (default: %(default)s)"
        )  # fmt: skip
    add("--quick", action="store_true",
        help="eleven minutes of one busy CPU core: "
        + ", ".join(f"{k} {v}" for k, v in QUICK.items())
        + ", where not given otherwise")  # fmt: skip
    add("--output", type=Path, default=Path("demo-output/pointcloud"), metavar="DIR",
        help="folder for checkpoints, table and plot, one for each set of options "
        "(default: ./%(default)s)")  # fmt: skip
    add("--plot-only", type=Path, metavar="JSON", help="only draw the plot of an earlier run")
    if argv is None:
        argv = sys.argv[1:]
    if "--quick" in argv:
        parser.set_defaults(**QUICK)
    args = parser.parse_args(argv)
    args.pool = list(dict.fromkeys(args.pool))
    args.share = sorted(set(args.share))
    args.command = f"{parser.prog} {shlex.join(argv)}"
    args.parser = parser
    return args


def compare(args: argparse.Namespace, team: Team) -> dict[str, Any]:
    """Train and test all networks."""
    data = load(settings_of(args, "max", 100.0, args.seed), args.root, team)
    rows = [
        train_and_test(args, pool, share, data, team) for share in args.share for pool in args.pool
    ]
    return {
        "command": args.command,
        "data": args.data,
        "clouds": {"train": len(data[0]), "test": len(data[1])},
        "classes": list(data[1].names),
        "shares": args.share,
        "train_outliers": args.train_outliers,
        "processes": team.world,
        "machine": machine.describe(),
        "versions": digits.settings(argparse.Namespace())["versions"],
        "commit": machine.commit(),
        "rows": rows,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Make the table; returns the exit status."""
    args = parse(argv)
    try:
        if args.plot_only:
            plot(digits.read_json(args.plot_only, *PLOTTED), args.plot_only.with_suffix(".png"))
            print(f"wrote {args.plot_only.with_suffix('.png')}")
            return 0
        args.output.mkdir(parents=True, exist_ok=True)
        with join(args.device) as team, digits.repeatable(args.threads, team.device):
            result = compare(args, team)
            if team.leads:
                for share in args.share:
                    rows = [row for row in result["rows"] if row["settings"]["share"] == share]
                    print(f"\n{share:g}% of the training clouds")
                    print(as_text({row["settings"]["pool"]: row for row in rows}))
                file = args.output / f"{NAMES[args.data]}.json"
                file.write_text(json.dumps(result, indent=1) + "\n")
                plot(result, file.with_suffix(".png"))
                print(f"wrote {file} and {file.with_suffix('.png').name}")
    except (ImportError, OSError, ValueError, FloatingPointError) as error:
        end(args.parser, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
