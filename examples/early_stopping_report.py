"""The tables and the plot of the early-stopping example, from its result alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from examples import digits

UNTOUCHED = "quadratic"  # the penalty that max_iter does not affect

Case = tuple[str, str]  # penalty, solver
Row = dict[str, Any]


# Tables


def name_of(max_iter: int | None) -> str:
    return "None" if max_iter is None else str(max_iter)


def cases_of(rows: Sequence[Row]) -> list[Case]:
    return list(dict.fromkeys((row["penalty"], row["solver"]) for row in rows))


def name_of_case(case: Case, cases: Sequence[Case]) -> str:
    """The penalty, and its solver where there are two of them."""
    penalty, solver = case
    alone = sum(other == penalty for other, _ in cases) == 1
    return digits.label(penalty) + ("" if alone else f", {solver}")


def select(rows: Sequence[Row], case: Case, **wanted: Any) -> list[Row]:
    wanted |= {"penalty": case[0], "solver": case[1]}
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def error_table(result: Row, family: str, figure: str) -> str:
    """One figure on one family: a line per case with medians, below it the 95th percentiles."""
    rows, cases = result["pooling"], cases_of(result["pooling"])
    title = f"{figure.replace('_', ' ')}, {family} sets: median, below it the 95th percentile"
    lines = [title, f"{'max_iter':32}" + "".join(f"{name_of(k):>8}" for k in result["max_iter"])]
    for case in cases:
        selected = select(rows, case, family=family)
        for which, label in (("median", name_of_case(case, cases)), ("p95", "")):
            cells = "".join(f"{row[figure][which]:8.0e}" for row in selected)
            lines.append(f"{label:32}{cells}")
    return "\n".join(lines)


def seed_values(rows: Sequence[Row], case: Case, max_iter: int | None, which: str) -> list[float]:
    return [row[which] for row in select(rows, case, max_iter=max_iter)]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def digit_table(result: Row) -> str:
    """Accuracies on digits: a line per case and max_iter, means over the seeds with their range."""
    rows, cases = result["digits"], cases_of(result["digits"])
    kinds = ("train", "test", "test_outliers")
    lines = [
        "accuracy on digits (%): mean over the seeds (lowest to highest)",
        f"{'':32}{'max_iter':>8}" + "".join(f"{kind.replace('_', ', '):>22}" for kind in kinds),
    ]
    for case in cases:
        for max_iter in dict.fromkeys(row["max_iter"] for row in select(rows, case)):
            line = f"{name_of_case(case, cases):32}{name_of(max_iter):>8}"
            for kind in kinds:
                values = seed_values(rows, case, max_iter, kind)
                line += f"{mean(values):8.1f} ({min(values):.1f} to {max(values):.1f})".rjust(22)
            lines.append(line)
    return "\n".join(lines)


def as_text(result: Row) -> str:
    """All tables, and a line on the solvers that are not available."""
    blocks = [
        error_table(result, family, figure)
        for family in result["families"]
        for figure in ("forward_error", "gradient_error")
    ]
    blocks.append(digit_table(result))
    if result["left_out"]:
        names = ", ".join(f"{row['penalty']} {row['solver']}" for row in result["left_out"])
        blocks.append(f"left out: {names} (NotImplementedError)")
    return "\n\n".join(blocks)


# Plot


def style_of(case: Case) -> dict[str, Any]:
    """Colour and marker of a penalty; the marker is hollow for the global solver."""
    colour, _, marker = digits.LINES[case[0]]
    face = "white" if case[1] == "global" else colour
    return {"color": colour, "marker": marker, "mfc": face}


def dress(axes: Axes, title: str, ticks: Sequence[int | None]) -> None:
    axes.set_title(title, loc="left")
    axes.set_xticks(range(len(ticks)), [name_of(k) for k in ticks])
    axes.grid(color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)


def plot_errors(axes: Axes, result: Row, family: str, figure: str) -> None:
    """Draws 95th percentiles of the iterative cases, side by side where they are equal."""
    cases = [case for case in cases_of(result["pooling"]) if case[0] != UNTOUCHED]
    for i, case in enumerate(cases):
        high = [row[figure]["p95"] for row in select(result["pooling"], case, family=family)]
        shift = 0.09 * (i - (len(cases) - 1) / 2)
        axes.plot([at + shift for at in range(len(high))], high, ms=6, lw=1.6, **style_of(case))
    axes.set_yscale("symlog", linthresh=1e-6, linscale=0.5)  # shows zero as well
    axes.set_yticks([0, 1e-6, 1e-4, 1e-2, 1])
    axes.set_ylim(-2e-7, 60)


def plot_digits(axes: Axes, result: Row, kind: str) -> None:
    """Mean accuracies over the seeds, with whiskers over their range."""
    rows, ticks = result["digits"], result["digit_max_iter"]
    cases = cases_of(rows)
    for i, case in enumerate(cases):
        known = {row["max_iter"] for row in select(rows, case)}
        places, middle, below, above = [], [], [], []
        for at, max_iter in enumerate(ticks):
            # Where max_iter makes no difference, one unbounded training represents all values.
            values = seed_values(rows, case, max_iter if max_iter in known else None, kind)
            places.append(at + 0.06 * (i - (len(cases) - 1) / 2))
            middle.append(mean(values))
            below.append(middle[-1] - min(values))
            above.append(max(values) - middle[-1])
        axes.errorbar(places, middle, yerr=[below, above], ms=6, lw=1.6, elinewidth=0.8,
                      **style_of(case))  # fmt: skip


def plot(result: Row, path: Path) -> None:
    """Draw from what the JSON holds: errors of both families, and accuracies."""
    with rc_context({"font.size": 12, "axes.titlesize": 12}):
        drawn(result).savefig(path)


def drawn(result: Row) -> Figure:
    figure = Figure(figsize=(9, 11), dpi=120, layout="constrained")
    forward, gradient, accuracies = figure.subplots(3, 2, sharey="row")
    modes = {"benchmark": "one mode, 10% outliers", "bimodal": "two modes"}
    for i, family in enumerate(result["families"]):
        for axes, kind in ((forward[i], "forward_error"), (gradient[i], "gradient_error")):
            name = "answer" if kind == "forward_error" else "gradient"
            dress(axes, f"Error of the {name}, {modes[family]}", result["max_iter"])
            plot_errors(axes, result, family, kind)
    outliers = f"{100 * result['held_fixed']['digit_outliers']:g}% outliers"
    for axes, kind, title in zip(
        accuracies, ("test", "test_outliers"), ("clean", outliers), strict=True
    ):
        dress(axes, f"Held-out digits, {title}", result["digit_max_iter"])
        plot_digits(axes, result, kind)
        axes.set_xlabel("max_iter (None: until done)")
    forward[0].set_ylabel("|y - converged| / alpha,\n95th percentile")
    gradient[0].set_ylabel("|dx - converged| / |converged|,\n95th percentile")
    accuracies[0].set_ylabel("accuracy (%), mean and\nrange over seeds")
    cases = cases_of(result["pooling"])
    figure.legend(
        handles=[Line2D([], [], label=name_of_case(c, cases), **style_of(c)) for c in cases],
        loc="outside lower center", ncols=2, frameon=False,
    )  # fmt: skip
    return figure
