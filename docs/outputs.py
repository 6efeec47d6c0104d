"""Compares the tutorial's committed outputs (tutorial/*.ipynb) with those of the last build.

Sources and printed outputs have to be equal, except that numbers may differ by a relative 1e-3; of
figures only their presence is compared. Cells tagged "varies" (times, trained networks) are not
compared.

    python docs/outputs.py            # compare; the exit status says whether all agree
    python docs/outputs.py --write    # replace the committed ones
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path
from typing import Any

import nbformat

TUTORIAL = Path(__file__).resolve().parent / "tutorial"
EXECUTED = TUTORIAL.parent.parent / "build" / "docs" / "jupyter_execute" / "tutorial"
NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?")


def clean(notebook: Any) -> Any:
    """Removes metadata that changes from run to run: times, counts and identifiers."""
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.execution_count = None
            # nb_merge_streams gathers the pieces of a stream in the first one and leaves the others
            # in place.
            pieces = [output for output in cell.outputs if output.get("name") == "stdout"]
            cell.outputs = [
                output
                for output in cell.outputs
                if output.output_type != "stream" or any(output is piece for piece in pieces[:1])
            ]
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    return notebook


def printed(cell: Any) -> str:
    """The text of a cell's outputs, with a placeholder for each figure."""
    parts = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        parts.append("[picture]" if "image/png" in data else output.get("text") or str(data))
    return "\n".join(parts)


def agree(one: str, other: str) -> bool:
    """Whether texts are equal up to the last digits of their numbers."""
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (one, other)]
    words = [re.sub(r"\s+", " ", NUMBER.sub("#", text)) for text in (one, other)]
    return words[0] == words[1] and all(
        math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-12) for a, b in zip(*numbers, strict=True)
    )


def differences(kept: Any, executed: Any) -> list[str]:
    """The differences of an executed notebook from the committed one."""
    if [cell.source for cell in kept.cells] != [cell.source for cell in executed.cells]:
        return ["the cells differ"]
    return [
        f"cell {i} printed\n{printed(new)}\ninstead of\n{printed(old)}"
        for i, (old, new) in enumerate(zip(kept.cells, executed.cells, strict=True))
        if "varies" not in new.metadata.get("tags", []) and not agree(printed(old), printed(new))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the tutorial's committed outputs.")
    parser.add_argument("--write", action="store_true", help="replace them by those of this build")
    write = parser.parse_args().write
    wrong = 0
    paths = sorted(EXECUTED.glob("*.ipynb"))
    if not paths:
        print(f"{EXECUTED} holds no notebooks; run make docs", file=sys.stderr)
        return 1
    for path in paths:
        executed, committed = clean(nbformat.read(path, 4)), TUTORIAL / path.name
        if write:
            nbformat.write(executed, committed)
        elif not committed.exists():
            wrong += 1
            print(f"{committed}: missing", file=sys.stderr)
        else:
            for difference in differences(nbformat.read(committed, 4), executed):
                wrong += 1
                print(f"{committed}: {difference}", file=sys.stderr)
    for committed in sorted(TUTORIAL.glob("*.ipynb")):
        if not committed.with_suffix(".md").exists():
            wrong += 1
            print(f"{committed}: has no page", file=sys.stderr)
    if wrong:
        print("make docs DOCS_ARGS=--write replaces the committed outputs", file=sys.stderr)
    else:
        print(f"{len(paths)} notebooks {'written' if write else 'as committed'}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
