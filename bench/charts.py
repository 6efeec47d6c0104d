"""Draws the figures of a benchmark's result."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

import ddn_cuda
from bench import machine
from bench.growth import POINTS_OF_SETS
from bench.methods import label, ours

Row = dict[str, Any]

# Of ours in their order, from the beginning again where there are more of them.
OURS = ("#999999", "#e69f00", "#d55e00", "#56b4e9", "#0072b2", "#66c2a5", "#009e73", "#b07aa1")
COLORS = {
    label(*pool): color
    for pool, color in zip(ours(list(ddn_cuda.PENALTIES)), itertools.cycle(OURS))
} | {"torch.mean": "#000000", "copy": "#666666"}
OTHERS = "#cc79a7"


def rows_of(result: Row, suite: str) -> list[Row]:
    return [row for row in result["rows"] if row["suite"] == suite and not row.get("skipped")]


def caption(result: Row, device: str) -> str:
    facts = result["machine"]
    name = facts["gpu"]["name"] if device == "cuda" and facts["gpu"] else facts["cpu"]
    commit, dirty = str(result["commit"])[:12], str(result["commit"]).endswith("-dirty")
    text = f"{name}, torch {facts['torch']}, commit {commit}{'-dirty' * dirty}"
    busy = machine.busy(result["free_share_of_cores"])
    text += f", {busy}" if busy else ""
    return text + (", QUICK RUN" if result["quick"] else "")


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)


# Targets


What = tuple[str, str]
Place = tuple[str, str, int | None]


class Group(NamedTuple):
    """Cases with the same targets, which share a table or a row of panels.

    Attributes:
        whats: quantities and their units.
        columns: device, place and threads; and the row of each of `whats` there.
    """

    whats: tuple[What, ...]
    columns: dict[Place, dict[What, Row]]

    @staticmethod
    def title(place: Place) -> str:
        return place[1] + (f", threads: {place[2]}" if place[2] else "")


def groups(rows: Sequence[Row]) -> list[Group]:
    by_place: dict[Place, dict[What, Row]] = {}
    for row in rows:
        place = (row["device"], row["place"], row["threads"])
        by_place.setdefault(place, {})[row["what"], row["unit"]] = row
    found: dict[tuple[What, ...], Group] = {}
    for place, own in by_place.items():
        whats = tuple(own)
        found.setdefault(whats, Group(whats, {})).columns[place] = own
    return list(found.values())


MET = {True: ("#009e73", "goal met"), False: ("#d55e00", "missed")}
MARKERS = "osD^vPX<>*"


def plot_targets(result: Row, device: str) -> Figure | None:
    """A mark for each target at the ratio of figure and goal; left of the line, the goal is met.

    The shape stands for the case. It is hollow for fewer threads than the largest number measured.
    """
    lines = groups([row for row in rows_of(result, "targets") if row["device"] == device])
    if not lines:
        return None
    places = list(dict.fromkeys(place[1] for line in lines for place in line.columns))
    threads = sorted({place[2] for line in lines for place in line.columns if place[2]})
    heights = [0.34 * len(line.whats) + 0.15 for line in lines]
    key = 0.25 * (len(places) + len(threads) + 2)
    with rc_context({"font.size": 11}):
        size = (9.5, sum(heights) + key + 1.5)
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        panels = figure.subplots(len(lines), 1, squeeze=False, sharex=True, height_ratios=heights)[
            :, 0
        ]
        for axes, line in zip(panels, lines, strict=True):
            for i, (place, column) in enumerate(line.columns.items()):
                shift = 0.6 * ((i + 0.5) / len(line.columns) - 0.5)
                fill = "full" if place[2] in (None, *threads[-1:]) else "none"
                marker = MARKERS[places.index(place[1]) % len(MARKERS)]
                _plot_column(axes, line.whats, column, shift, marker, fill)
            axes.axvline(1, color="black", lw=1)
            axes.set_yticks(range(len(line.whats)), [", ".join(what) for what in line.whats])
            axes.set_ylim(len(line.whats) - 0.5, -0.5)
            _tidy(axes)
        panels[-1].set_xscale("log")
        panels[-1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[-1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        panels[-1].set_xlabel("measured / goal")
        named = [
            *(_key("#666666", "o", "full", text, color=color) for color, text in MET.values()),
            *(
                _key("#666666", "o", "full" if n == threads[-1] else "none", f"threads: {n}")
                for n in threads
            ),
            *(
                _key("#666666", MARKERS[i % len(MARKERS)], "full", place)
                for i, place in enumerate(places)
            ),
        ]
        figure.legend(handles=named, loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(caption(result, device), fontsize=11)
    return figure


def _key(default: str, marker: str, fill: Any, text: str, color: str | None = None) -> Line2D:
    """A legend entry."""
    return Line2D(
        [], [], color=color or default, marker=marker, fillstyle=fill, ls="", ms=7, label=text
    )


def _plot_column(
    axes: Axes,
    whats: Sequence[What],
    column: dict[What, Row],
    shift: float,
    marker: str,
    fill: Any,
) -> None:
    for i, what in enumerate(whats):
        row = column[what]
        low, value, high = (row[key] / row["goal"] for key in ("low", "measured", "high"))
        if row["at_least"]:
            low, value, high = 1 / high, 1 / value, 1 / low
        color = MET[bool(row["met"])][0]
        axes.plot([low, high], [i + shift] * 2, color=color, lw=1)
        axes.plot([value], [i + shift], marker, color=color, ms=5, fillstyle=fill)


# Growth


def plot_growth(result: Row, device: str) -> Figure | None:
    """Two panels, over the points in a set and over the number of sets, with the bandwidth
    bound."""
    rows = [row for row in rows_of(result, "growth") if row["device"] == device]
    if not rows:
        return None
    figure = Figure(figsize=(11, 4.8), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, sweep in zip(panels, ("points", "sets"), strict=True):
        own = [row for row in rows if row["sweep"] == sweep]
        for name in dict.fromkeys(row["method"] for row in own):
            line = [row for row in own if row["method"] == name]
            x = [row[sweep] for row in line]
            y = [row["milliseconds"]["median"] for row in line]
            style = "--" if name in ("torch.mean", "copy") else "-"
            axes.plot(x, y, style, marker="o", ms=3, label=name, color=COLORS.get(name, OTHERS))
        bytes_of = dict(sorted((row[sweep], row["bytes"]) for row in own))
        speed = rows[0]["copy_gigabytes_per_second"]
        floor = [size / speed / 1e6 for size in bytes_of.values()]
        axes.plot(list(bytes_of), floor, ":", color="black", label=f"x at {speed:.3g} GB/s (copy_)")
        axes.set(xscale="log", yscale="log", ylabel="milliseconds, forward")
        _tidy(axes)
    some = next((row["sets"] for row in rows if row["sweep"] == "points"), 0)
    panels[0].set_xscale("log", base=2)
    panels[0].set_xlabel(f"points in each of {some:,} sets")
    panels[1].set_xlabel(f"number of sets of {POINTS_OF_SETS} points")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    threads = f", threads: {rows[0]['threads']}" if rows[0]["threads"] else ""
    title = f"{rows[0]['dtype']}, {rows[0]['data']}{threads}; {caption(result, device)}"
    figure.suptitle(title, fontsize=9)
    return figure


# Comparison


def plot_compare(result: Row, device: str) -> Figure | None:
    """Forward and backward times per set of all methods on the first workload."""
    rows = [row for row in rows_of(result, "compare") if row["device"] == device]
    if not rows:
        return None
    case = ("workload", "data", "dtype", "threads")
    first = tuple(rows[0][key] for key in case)
    rows = [row for row in rows if tuple(row[key] for key in case) == first]
    names = list(dict.fromkeys(row["method"] for row in rows))
    height = 0.2 * len(names) + 1.4
    figure = Figure(figsize=(11, height), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, operation in zip(panels, ("forward", "backward"), strict=True):
        found = {row["method"]: row for row in rows if row["operation"] in (operation, "copy")}
        for i, name in enumerate(names):
            if name in found:
                value = found[name]["microseconds_per_set"]
                axes.barh(i, value, color=COLORS.get(name, OTHERS), height=0.7)
        axes.set(xscale="log", xlabel=f"microseconds per set, {operation}")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(labelsize=7)
        _tidy(axes)
    panels[0].invert_yaxis()
    threads = f", threads: {first[3]}" if first[3] else ""
    title = f"{first[0]}, {first[1]}, {first[2]}{threads}; {caption(result, device)}"
    figure.suptitle(title, fontsize=9)
    return figure


FIGURES: dict[str, Callable[[Row, str], Figure | None]] = {
    "targets": plot_targets,
    "growth": plot_growth,
    "compare": plot_compare,
}
