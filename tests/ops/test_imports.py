"""Modules of the package import each other in one direction, also inside functions."""

import ast
import subprocess
import sys
from pathlib import Path

import ddn_cuda

PACKAGE = Path(ddn_cuda.__file__).parent


def imported_by(path):
    """The modules of the package that a file imports anywhere, but for the package itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ddn_cuda":
            parts = (node.module or "").split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {parts[1] for parts in names if parts[0] == "ddn_cuda" and len(parts) > 1}
    return found


def cycle(graph):
    """The nodes of a cycle, in its order; None where there is none."""
    done, path = set(), []

    def visit(node):
        if node in path:
            return path[path.index(node) :]
        if node in done or node not in graph:
            return None
        path.append(node)
        found = next((c for c in map(visit, sorted(graph[node])) if c), None)
        path.pop()
        done.add(node)
        return found

    return next((c for c in map(visit, sorted(graph)) if c), None)


def test_a_cycle_is_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_the_package_has_no_import_cycle():
    paths = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    graph = {path.stem: imported_by(path) for path in paths}
    assert graph["functional"] >= {"_operators", "_arguments"}
    assert cycle(graph) is None


def test_the_package_does_not_import_dynamo():
    """Which takes longer than the package."""
    script = "import sys, ddn_cuda; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=PACKAGE.parent)
