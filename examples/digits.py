"""Compares poolings on handwritten digits whose points are partly replaced by outliers.

Trains one point-set classifier per pooling, otherwise identical, on clean handwritten digits, and
tests it on held-out digits with a share of the points replaced by outliers. No network sees
outliers in training. This is a small version of the experiment of Gould, Hartley and Campbell,
"Deep Declarative Networks" (2022). Prints the table, and writes it with machine, versions and
commit to digits.json and its plot to digits.png.

Mean and quadratic are the same function and train alike up to rounding: the difference between
their rows is training noise.

    python -m examples.digits
    python -m examples.digits --penalty mean huber welsch --epochs 10
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import sklearn
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

import ddn_cuda
from bench import machine
from ddn_cuda._C import PENALTY_TRAITS
from examples.digits_data import draw_points, replace_by_outliers, split_digits
from examples.digits_model import accuracy, build, make_pool, train

OUTLIER_PERCENT = (0, 10, 20, 40, 60)
POOLS = ("max", "mean", *ddn_cuda.PENALTIES)
# Added to the seed, so that test points and outliers are independent of training and each other.
TEST_POINTS, TEST_OUTLIERS = 1_000_000, 2_000_000

# Per pool: colour, line style, marker. Where a penalty gives the mean, the two lines overlap: the
# dotted one leaves the other visible.
COLOURS = ("#e69f00", "#56b4e9", "#0072b2", "#009e73", "#d55e00", "#cc79a7")
LINES = {"max": ("#7f7f7f", "--", "s"), "mean": ("#000000", "-", "o")} | {
    penalty: (colour, ":" if PENALTY_TRAITS[penalty]["is_mean"] else "-", marker)
    for penalty, colour, marker in zip(ddn_cuda.PENALTIES, cycle(COLOURS), cycle("Dv^PX*"))
}


def label(pool: str) -> str:
    """The display name of a pool, such as "huber (H)"."""
    alias = ddn_cuda.PENALTIES.get(pool)
    return f"{pool} ({alias})" if alias else pool


def pool_name(text: str) -> str:
    """The full name of a pool, from its name or a penalty's alias."""
    names = {alias: name for name, alias in ddn_cuda.PENALTIES.items()}
    name = names.get(text, text)
    if name not in POOLS:
        known = ", ".join(["max", "mean", *(f"{n} or {a}" for a, n in names.items())])
        raise argparse.ArgumentTypeError(f"unknown pooling {text!r}; expected one of {known}")
    return name


def at_least(least: int) -> Callable[[str], int]:
    """The type of an integer argument with a lower bound."""

    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} given; expected at least {least}")
        return value

    return integer


def positive(text: str) -> float:
    """The type of a positive finite argument."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{value} given; expected a positive finite number")
    return value


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.digits",
        description="Train one point-set classifier per pooling on clean handwritten digits, "
        "test each with 0 to 60% of the points replaced by outliers.",
    )
    add = parser.add_argument
    add("--penalty", nargs="+", type=pool_name, default=list(POOLS), metavar="NAME",
        help="the poolings to compare, by name or alias: max, mean, "
        + ", ".join(f"{name} ({alias})" for name, alias in ddn_cuda.PENALTIES.items())
        + " (default: all)")  # fmt: skip
    add("--alpha", type=positive, default=1.0, help="of the penalties (default: %(default)s)")
    add("--epochs", type=at_least(1), help="passes over the digits (default: 25; quick: 3)")
    add("--points", type=at_least(2), help="points per digit (default: 100; quick: 50)")
    add("--seed", type=int, default=0,
        help="of weights, points and outliers (default: %(default)s)")  # fmt: skip
    add("--device", default="cpu", help="a torch device, such as cuda (default: %(default)s)")
    add("--threads", type=at_least(1), default=2,
        help="CPU threads; the table is repeatable for a given number (default: %(default)s)"
        )  # fmt: skip
    add("--quick", action="store_true", help="a short run, as a smoke test")
    add("--output", type=Path, default=Path("demo-output"), metavar="DIR",
        help="folder for digits.json and digits.png (default: ./%(default)s)")  # fmt: skip
    args = parser.parse_args(argv)
    args.penalty = list(dict.fromkeys(args.penalty))
    args.epochs = args.epochs or (3 if args.quick else 25)
    args.points = args.points or (50 if args.quick else 100)
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {args.device}: {error}")
    return args


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """The result of an earlier run; raises ValueError for a file that is not one."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged; delete it to begin anew: {error}") from error
    lacking = [key for key in keys if not isinstance(found, dict) or key not in found]
    if lacking:
        raise ValueError(f"{path} is no file of this command: it lacks {', '.join(lacking)}")
    return found


@contextmanager
def repeatable(threads: int, device: torch.device) -> Iterator[None]:
    """Makes runs reproducible, and restores torch's settings on exit.

    On the CPU a fixed number of threads suffices; other devices also require torch's deterministic
    algorithms.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by torch on CUDA
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(before[1] or device.type != "cpu")
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Train and test every pooling.

    Returns:
        Per pool, under "table" the accuracies in percent, one for each of "outlier_percent", and
        under "seconds" the time it took.
    """
    train_digits, test_digits = split_digits()

    def generator(purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed(args.seed + purpose)

    clean = draw_points(test_digits.ink, args.points, generator(TEST_POINTS))
    tests = [
        replace_by_outliers(clean, percent / 100, generator(TEST_OUTLIERS))
        for percent in OUTLIER_PERCENT
    ]
    table, seconds = {}, {}
    for pool in args.penalty:
        start = time.perf_counter()
        model = build(make_pool(pool, args.alpha), args.seed).to(args.device)
        with tqdm(total=args.epochs, desc=f"{label(pool):24}", unit="epoch") as bar:

            def advance(loss: float, bar: tqdm = bar) -> None:
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()

            train(
                model,
                train_digits,
                epochs=args.epochs,
                points=args.points,
                seed=args.seed,
                on_epoch=advance,
            )
        table[pool] = [round(accuracy(model, clouds, test_digits.labels), 2) for clouds in tests]
        seconds[pool] = round(time.perf_counter() - start, 1)
    return {
        "images": {"train": len(train_digits), "test": len(test_digits)},
        "outlier_percent": list(OUTLIER_PERCENT),
        "table": table,
        "seconds": seconds,
    }


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Everything a run depends on: options, machine, versions and commit."""
    return {
        "settings": {k: v for k, v in vars(args).items() if k != "output"},
        "machine": machine.describe(),
        "commit": machine.commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
            "matplotlib": matplotlib.__version__,
            "ddn_cuda": ddn_cuda.build_info(),
        },
    }


def as_text(result: dict[str, Any]) -> str:
    """The table, one pool per line."""
    percents = result["outlier_percent"]
    lines = [
        f"Accuracy on {result['images']['test']} held-out digits (%), by share of outliers",
        f"{'pooling':24}" + "".join(f"{percent:7}%" for percent in percents) + f"{'seconds':>10}",
    ]
    for pool, row in result["table"].items():
        cells = "".join(f"{value:8.1f}" for value in row)
        lines.append(f"{label(pool):24}{cells}{result['seconds'][pool]:10.1f}")
    return "\n".join(lines)


def draw_lines(axes: Axes, places: Sequence[float], table: dict[str, list[float]]) -> None:
    """A line per pool: the values of its row over the places."""
    for pool, row in table.items():
        colour, style, marker = LINES[pool]
        axes.plot(places, row, style, color=colour, marker=marker, label=label(pool), lw=2, ms=7)
    axes.set_xticks(places)
    axes.set_ylim(0, 102)
    axes.grid(color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)


def draw_chance(axes: Axes, percent: float) -> None:
    """Draws a line at chance level."""
    axes.axhline(percent, color="#bbbbbb", lw=1)
    axes.annotate("chance", (0, percent), xytext=(0, 3), textcoords="offset points",
                  color="#777777")  # fmt: skip


def plot(result: dict[str, Any], path: Path) -> None:
    """Write the table as a PNG: accuracy over the share of outliers, a line per pool."""
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    draw_lines(axes, result["outlier_percent"], result["table"])
    draw_chance(axes, 10)
    axes.set_title("Digits as point sets: trained clean, tested with outliers", loc="left")
    axes.set_xlabel("points replaced by outliers (%)", fontsize=12)
    axes.set_ylabel("accuracy on held-out digits (%)", fontsize=12)
    figure.legend(loc="outside right center", frameon=False, fontsize=11)
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit status."""
    args = parse(argv)
    start = time.perf_counter()
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"python -m examples.digits: --output: {error}")
    with repeatable(args.threads, torch.device(args.device)):
        result = settings(args) | compare(args)
    print(as_text(result))
    plot(result, args.output / "digits.png")
    result["total_seconds"] = round(time.perf_counter() - start, 1)
    (args.output / "digits.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['total_seconds']} s; wrote digits.json and digits.png to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
