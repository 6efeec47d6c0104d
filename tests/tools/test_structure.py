"""The structure of the sources: no cyclic imports, no duplicate file names."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGES = ("ddn_cuda", "bench", "examples", "tests")
SOURCES = {".py", ".cpp", ".h", ".cu", ".cuh"}
# Names required by Python, pytest and make.
EVERYWHERE = {"__init__.py", "__main__.py", "conftest.py"}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, modules: Iterable[str]) -> Iterator[str]:
    """The modules that a module imports, at its top or within its functions."""
    known = set(modules)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield node.module


def import_graph() -> dict[str, set[str]]:
    # With the stubs of compiled modules.
    found = [f for p in PACKAGES for kind in ("*.py", "*.pyi") for f in (ROOT / p).rglob(kind)]
    files = {module_name(file): file for file in found}
    return {
        name: set(imports(ast.parse(file.read_text()), files)) - {name}
        for name, file in files.items()
    }


def find_cycle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """A path from a module to itself; empty if there is none."""
    done: set[str] = set()

    def search(way: list[str]) -> list[str]:
        for name in sorted(graph[way[-1]]):
            if name in way:
                return [*way[way.index(name) :], name]
            if name not in done and (found := search([*way, name])):
                return found
        done.add(way[-1])
        return []

    for name in sorted(graph):
        if name not in done and (found := search([name])):
            return found
    return []


def test_no_module_imports_itself_by_way_of_others():
    graph = import_graph()
    assert {"ddn_cuda.functional", "bench.targets", "tests.support.oracle"} <= set(graph)
    cycle = find_cycle(graph)
    assert not cycle, " imports ".join(cycle)


@pytest.mark.parametrize(
    ("graph", "cycle"),
    [
        ({"a": ["b", "c"], "b": ["c"], "c": []}, []),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, ["b", "c", "b"]),
    ],
)
def test_cycles_are_found(graph, cycle):
    assert find_cycle(graph) == cycle


def test_imports_within_functions_count():
    source = "import b\nfrom p import inner, name\ndef f():\n    from c import x\n"
    found = list(imports(ast.parse(source), ["b", "c", "p", "p.inner"]))
    assert found == ["b", "p.inner", "p", "c"]


def test_no_two_files_share_a_name():
    places = defaultdict(list)
    for folder in (*PACKAGES, "csrc", "docs"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in SOURCES and file.name not in EVERYWHERE:
                places[file.name].append(str(file.relative_to(ROOT)))
    assert [paths for paths in places.values() if len(paths) > 1] == []
