"""Draws the figures and writes the tables of docs/benchmarks.md from JSON.

    python -m bench plot                          all results in bench/results
    python -m bench plot RESULT.json --output DIR

For each device, cpu or gpu, of which the results have rows: `targets-DEVICE.png`, what is measured
in units of its goal; `growth-DEVICE.png`, time against the points in a set and against the number
of sets; and `compare-DEVICE.png`, the methods of the first workload. The tables of targets are
printed and, with --page, put into the page with the figures, between the lines
`<!-- targets DEVICE -->` and `<!-- end -->`. A result of gpu_check will do, too.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.charts import FIGURES, Group, caption, groups

Row = dict[str, Any]

RESULTS = machine.ROOT / "bench" / "results"
IMAGES = machine.ROOT / "docs" / "images"
PAGE = machine.ROOT / "docs" / "benchmarks.md"

DEVICES = {"cpu": "cpu", "cuda": "gpu"}  # in names of files


def load(path: Path) -> Row:
    """Loads a result; for a result of `gpu_check`, the benchmark in it."""
    result = json.loads(path.read_text())
    return result.get("benchmark") or result


# Tables


def targets_table(result: Row, device: str) -> str:
    """The targets of a device in Markdown. Cases with the same targets share a table, with a column
    each. A cell has the figure and the goal, marked if the goal is met."""
    key = "measured / goal, ✓ where it is met"
    blocks = [f"*{caption(result, device)}, {result['date'][:10]}; {key}*"]
    own = [row for row in result["rows"] if row["suite"] == "targets" and row["device"] == device]
    for group in groups([row for row in own if not row.get("skipped")]):
        heads = [Group.title(place) for place in group.columns]
        lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
        for what in group.whats:
            cells = [_cell(column[what]) for column in group.columns.values()]
            lines.append(f"| {', '.join(what)} | " + " | ".join(cells) + " |")
        blocks.append("\n".join(lines))
    if passes := passes_table(own):
        blocks += ["Passes over a set, on average, including the set statistics:", passes]
    reasons = collections.Counter(row["skipped"] for row in own if row.get("skipped"))
    blocks += [f"{count} targets were skipped: {reason}." for reason, count in reasons.items()]
    return "\n\n".join(blocks)


def passes_table(rows: Sequence[Row]) -> str:
    """The number of passes of our forward pass, a line for each case; "" if it was not counted."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if "passes" in row and row["what"].startswith("forward "):
            found.setdefault(row["place"], {})[row["what"].removeprefix("forward ")] = row["passes"]
    if not found:
        return ""
    names = list(next(iter(found.values())))
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for place, passes in found.items():
        cells = [f"{passes[name]:.3g}" if name in passes else "" for name in names]
        lines.append(f"| {place} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    return f"{row['measured']:.3g} / {row['goal']:g}{' ✓' * bool(row['met'])}"


# Command line


def draw(result: Row, device: str, output: Path) -> list[Path]:
    """Draws all figures of a device; returns the files written."""
    made = []
    output.mkdir(parents=True, exist_ok=True)
    for kind, plot in FIGURES.items():
        figure = plot(result, device)
        if figure is not None:
            made.append(output / f"{kind}-{DEVICES[device]}.png")
            figure.savefig(made[-1])
    return made


TITLES = {
    "targets": "Measured value over goal, for each target",
    "growth": "Time against the points in a set and against the number of sets",
    "compare": "Microseconds per set of every solver and baseline",
}


def fill_page(page: Path, device: str, images: Sequence[Path], table: str) -> bool:
    """Inserts images and table of a device into a page; returns False if the page has no place for
    them."""
    text = page.read_text()
    place = re.compile(rf"(<!-- targets {re.escape(device)} -->\n).*?(<!-- end -->)", re.S)
    if not place.search(text):
        return False
    blocks = [
        f"![{TITLES[image.stem.split('-')[0]]}]({os.path.relpath(image, page.parent)})"
        for image in images
    ]
    content = "\n\n".join([*blocks, table])
    page.write_text(place.sub(lambda found: f"{found[1]}\n{content}\n\n{found[2]}", text))
    return True


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench plot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("results", nargs="*", type=Path, metavar="JSON", help="default: bench/results/benchmark-*")
    add("--output", type=Path, default=IMAGES, metavar="DIR", help="default docs/images")
    add("--page", type=Path, metavar="MD", help=f"also fill its tables, such as docs/{PAGE.name}")
    options = parser.parse_args(arguments)
    results = options.results or sorted(RESULTS.glob("benchmark-*.json"))
    if not results:
        raise SystemExit("python -m bench plot: no result; run python -m bench first")
    drawn: dict[Path, Path] = {}
    for path in results:
        try:
            result = load(path)
            devices = [d for d in DEVICES if any(_is_of(row, d) for row in result["rows"])]
            tables = {device: targets_table(result, device) for device in devices}
            made = {device: draw(result, device, options.output) for device in devices}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"python -m bench plot: {path} is no result: {error!r}") from None
        for image in itertools.chain(*made.values()):
            print(f"drawn: {image}")
            if image in drawn:
                print(f"it replaces that of {drawn[image]}: give one JSON for each device")
            drawn[image] = path
        for device, table in tables.items():
            print(f"\n{table}")
            name = DEVICES[device]
            if options.page and not fill_page(options.page, name, made[device], table):
                print(f"{options.page} has no line <!-- targets {name} -->")
    return 0


def _is_of(row: Row, device: str) -> bool:
    return row["device"] == device and not row.get("skipped")
