"""Measures how often a local solve finds the global minimum.

Draws sets with several clusters, pools them with the non-convex penalties, and counts for each
method the sets whose answer is a global minimum. The methods:

    global   ddn_cuda.robust_pool with solver="global"
    local    the same with solver="local": one descent from the Huber answer
    starts   the better of two descents, from the mean and from the median, written here in NumPy
             and independent of the extension

All computations are in float64. An answer y counts as global if f(y) <= (1 + r) min f + W phi''(0)
d^2 / 2 with r = 1e-12, d = 1e-10 (alpha + |y|) and W points, the guarantee of the library. min f is
the certified lower bound of tests/support/oracle.py, which shares no code with the extension. Many
misses are small, so answers with f(y) <= 1.01 min f are also counted.

A set has the given number of clusters of unit spread, centred uniformly in [-10, 10]. Their shares
of the points are proportional to uniform draws from [0.5, 1.5]. A random tenth of the points is
then replaced by outliers, uniform in [-20, 20].

Writes all figures with machine, versions and commit to JSON, and draws the PNG from that file.

    python -m bench.global_minima
    python -m bench.global_minima --plot-only bench/results/global_minima.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

import ddn_cuda
from bench import machine
from bench.arguments import positive
from bench.methods import NONCONVEX as PENALTIES
from tests.support import contract, oracle
from tests.support import reference as ref

ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
MODES = (1, 2, 3, 4, 5, 6, 7, 8)
ALPHA = 1.0  # of the sweep over modes
CLUSTERS = 4  # of the sweep over alpha
REACH = 10.0
OUTLIERS = 0.1
NEAR = 1.01  # times the minimum: nearly as good
RESULT = machine.ROOT / "bench" / "results" / "global_minima.json"
IMAGE = machine.ROOT / "docs" / "images" / "global_minima.png"

Row = dict[str, Any]


# Sets


def draw_sets(sets: int, points: int, modes: int, seed: int) -> np.ndarray:
    """Points [sets, points], see the top of this file; deterministic."""
    rng = np.random.default_rng((seed, modes))
    centers = rng.uniform(-REACH, REACH, (sets, modes))
    shares = rng.uniform(0.5, 1.5, (sets, modes))
    ends = np.cumsum(shares / shares.sum(1, keepdims=True), axis=1)
    chance = rng.random((sets, points))
    which = np.minimum((chance[:, :, None] > ends[:, None, :]).sum(2), modes - 1)
    x = np.take_along_axis(centers, which, 1) + rng.standard_normal((sets, points))
    outliers = rng.uniform(-2 * REACH, 2 * REACH, (sets, points))
    return np.where(rng.random((sets, points)) < OUTLIERS, outliers, x)


# Descents, in units of alpha


class Objective(NamedTuple):
    """f / phi''(0) and its derivatives at one place per set, [sets] each."""

    value: np.ndarray
    derivative: np.ndarray
    curvature: np.ndarray
    majorant: np.ndarray  # curvature of the parabola that majorises f and touches it here


def evaluate(u: np.ndarray, x: np.ndarray, penalty: str) -> Objective:
    """At alpha = 1. The weights psi(z) / z are the curvatures of parabolas above phi."""
    z = u[:, None] - x
    phi, psi, dpsi = (f(z, penalty, 1.0) for f in (ref.phi, ref.psi, ref.dpsi))
    terms = (phi, psi, dpsi, np.where(z == 0, 1.0, psi / np.where(z == 0, 1.0, z)))
    return Objective(*(term.sum(1) for term in terms))


def descend(x: np.ndarray, start: np.ndarray, penalty: str, steps: int = 10_000) -> np.ndarray:
    """The minimum of each set [sets, points] that a descent from `start` [sets] reaches, alpha = 1.

    Takes Newton's step, of at most one alpha, if the objective is convex and the step lowers it.
    Otherwise takes the step to the minimum of the majorising parabola (mean shift), which always
    lowers it. A start where the objective is flat, without points nearby, stays.
    """
    y = start.copy()
    active = np.arange(len(x))
    for _ in range(steps):
        points, u = x[active], y[active]
        here = evaluate(u, points, penalty)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = -here.derivative / here.curvature
            shift = np.where(here.majorant > 0, -here.derivative / here.majorant, 0.0)
        usable = (here.curvature > 0) & (np.abs(newton) <= 1)
        step = np.where(usable, newton, shift)
        there = evaluate(u + step, points, penalty)
        # Close to the minimum, rounding decides the comparison, and Newton's step is right.
        tiny = np.abs(step) < 1e-6
        step = np.where(usable & ~tiny & ~(there.value < here.value), shift, step)
        y[active] = u + step
        active = active[np.abs(step) > 1e-13 * (1 + np.abs(u))]
        if not len(active):
            return y
    raise RuntimeError(f"{len(active)} descents did not end in {steps} steps")


# Methods


def is_global(y, value, x, alpha: float, lower: np.ndarray) -> np.ndarray:
    """Whether y [sets] with these objectives is a global minimum of each set x [sets, points].
    lower: lower bounds of the minima. alpha = 1."""
    d = oracle.accuracy(y, np.full(len(y), alpha), torch.float64) / alpha
    allowed = contract.EXCESS[torch.float64] * np.maximum(lower, 0) + x.shape[1] * d * d / 2
    return value - lower <= allowed


def percent(good: np.ndarray) -> float:
    return round(100 * float(good.mean()), 4)


def compare(x: np.ndarray, penalty: str, alpha: float) -> Row:
    """The percentages of sets that each method solves to the global minimum, and to at most NEAR
    times the minimum."""
    found = oracle.minimum(x, penalty, alpha)
    from_mean = alpha * descend(x / alpha, x.mean(1) / alpha, penalty)
    from_median = alpha * descend(x / alpha, np.median(x, axis=1) / alpha, penalty)

    def pooled(solver: str) -> np.ndarray:
        return ddn_cuda.robust_pool(torch.from_numpy(x), penalty, alpha, solver=solver).numpy()

    answers = {"global": pooled("global"), "local": pooled("local")}
    answers |= {"mean": from_mean, "median": from_median}
    values = {name: evaluate(y / alpha, x / alpha, penalty).value for name, y in answers.items()}
    nearer = values["mean"] <= values["median"]
    answers["starts"] = np.where(nearer, from_mean, from_median)
    values["starts"] = np.minimum(values["mean"], values["median"])
    solved = {
        name: is_global(y, values[name], x, alpha, found.lower) for name, y in answers.items()
    }
    near = {name: value <= NEAR * found.value for name, value in values.items()}
    return {
        "percent": {name: percent(good) for name, good in solved.items()},
        "percent_near": {name: percent(good) for name, good in near.items()},
    }


def sweep(sets: int, points: int, seed: int) -> list[Row]:
    """All comparisons: a row for each penalty and each value of either sweep."""
    rows: list[Row] = []
    places = [("alpha", alpha, CLUSTERS) for alpha in ALPHAS]
    places += [("modes", ALPHA, modes) for modes in MODES]
    for penalty in PENALTIES:
        for swept, alpha, modes in places:
            x = draw_sets(sets, points, modes, seed)
            row = {"penalty": penalty, "sweep": swept, "alpha": alpha, "modes": modes}
            rows.append(row | compare(x, penalty, alpha))
    return rows


# Table and plot

NAMES = {
    "global": 'ddn_cuda, solver="global"',
    "starts": "better of two descents, from mean and median",
    "local": 'ddn_cuda, solver="local"',
}
STYLES: dict[str, dict[str, Any]] = {
    "global": {"color": "#0072b2", "marker": "o", "ms": 6, "lw": 2.2},
    "starts": {"color": "#d55e00", "marker": "s", "mfc": "white", "ms": 8, "lw": 1.6},
    "local": {"color": "#009e73", "marker": "^", "ms": 5, "lw": 1.6, "ls": "--"},
}


def as_text(result: Row) -> str:
    names = ("global", "local", "starts", "mean", "median")
    near = f"of at most {result['settings']['near']:g} min f"
    lines: list[str] = []
    for which, title in (("percent", "solved to the global minimum"), ("percent_near", near)):
        lines.append(f"sets {title} (%)")
        lines.append(f"{'':21}{'alpha':>6}{'modes':>6}" + "".join(f"{name:>8}" for name in names))
        for row in result["rows"]:
            figures = "".join(f"{row[which][name]:8.1f}" for name in names)
            lines.append(f"{row['penalty']:21}{row['alpha']:6g}{row['modes']:6d}{figures}")
    return "\n".join(lines)


def plot_sweep(axes: Axes, rows: Sequence[Row], swept: str) -> None:
    places = [row[swept] for row in rows]
    for name, style in STYLES.items():
        values = [row["percent"][name] for row in rows]
        # The global solver's line lies on the upper edge.
        axes.plot(places, values, clip_on=False, zorder=3, **style)
    if swept == "alpha":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.set_ylim(0, 100)
    axes.grid(color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)


def plot(result: Row, path: Path) -> None:
    """Draws the figure from the JSON."""
    figure = Figure(figsize=(9, 6.4), dpi=130, layout="constrained")
    panels = figure.subplots(len(PENALTIES), 2, sharey=True)
    settings = result["settings"]
    for line, penalty in zip(panels, PENALTIES, strict=True):
        for axes, swept in zip(line, ("alpha", "modes"), strict=True):
            rows = [r for r in result["rows"] if (r["penalty"], r["sweep"]) == (penalty, swept)]
            plot_sweep(axes, rows, swept)
            fixed = (
                f"{settings['clusters']} clusters"
                if swept == "alpha"
                else f"alpha = {settings['alpha']:g}"
            )
            title = penalty.replace("_", " ").capitalize()
            axes.set_title(f"{title}, {fixed}", loc="left", fontsize=11, pad=9)
        line[0].set_ylabel("sets solved globally (%)")
    panels[-1][0].set_xlabel("alpha (clusters have unit spread)")
    panels[-1][1].set_xlabel("number of clusters")
    handles = [Line2D([], [], label=NAMES[name], **style) for name, style in STYLES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


# Command line


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.global_minima",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    add = parser.add_argument
    add("--sets", type=positive, default=1000, help="per place (default %(default)s)")
    add("--points", type=positive, default=256, help="in a set (default %(default)s)")
    add("--seed", type=int, default=0, help="of the sets (default %(default)s)")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for global_minima.json and global_minima.png "
        "(default bench/results and docs/images; with --plot-only, the folder of that file)",
    )
    add("--plot-only", type=Path, metavar="JSON", help="only draw the figure of an earlier run")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> Row:
    """All figures, with machine and versions."""
    start = time.perf_counter()
    settings = {"sets": options.sets, "points": options.points, "seed": options.seed}
    settings |= {
        "alpha": ALPHA,
        "clusters": CLUSTERS,
        "reach": REACH,
        "outliers": OUTLIERS,
        "near": NEAR,
    }
    command = f"python -m bench.global_minima --sets {options.sets} --points {options.points}"
    result: Row = {
        "command": f"{command} --seed {options.seed}",
        "settings": settings,
        "machine": machine.describe(),
        "versions": {"numpy": np.__version__, "ddn_cuda": dict(ddn_cuda.build_info())},
        "commit": machine.commit(),
        "rows": sweep(options.sets, options.points, options.seed),
    }
    return result | {"seconds": round(time.perf_counter() - start, 1)}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.plot_only:
        result = json.loads(options.plot_only.read_text())
        folder = options.output or options.plot_only.parent
        image = folder / IMAGE.name
        if options.output is None and options.plot_only.resolve() == RESULT:
            image = IMAGE
    else:
        result = measure(options)
        record = options.output / RESULT.name if options.output else RESULT
        image = options.output / IMAGE.name if options.output else IMAGE
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(result, indent=1) + "\n")
    print(as_text(result))
    plot(result, image)
    print(f"drawn: {image}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
