"""Every code block of the pages runs, and the commands on the pages exist.

The Python blocks of a page run in order in one namespace. A `text` block after one is its output.
The cells of the tutorial run here too, not only when the site is built, so they are tested with
every PyTorch version of the tests.
"""

import contextlib
import doctest
import importlib
import io
import json
import re

import pytest
import torch

import ddn_cuda
from tests.support import ROOT

PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if "build" not in path.parts
)
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```[ ]*$", re.M | re.S)

# What no program reads: directives of the site, and what blocks print.
NOT_CODE = {"{toctree}", "{include}", "{literalinclude}", "diff", "text"}

# The code column of the site.
COLUMNS = 84
# Unmodified output of a command, wider than the column, by page and first line;
# tests/cuda/test_gpu_model_command.py compares it.
WIDE = {("docs/gpu_model.md", "counted at commit")}

# Names that a page assumes to be defined.
PYG = """
import torch
from torch_geometric.data import Batch, Data
graphs = [Data(x=torch.randn(n, 16), edge_index=torch.zeros(2, 0).long()) for n in (4, 6)]
batch = Batch.from_data_list(graphs)
h, ptr, confidence = batch.x, batch.ptr, torch.rand(10)
"""
GIVEN = {
    "docs/graphs.md": PYG,
    "docs/compat.md": "import torch\nx, alpha_tensor = torch.randn(2, 3, 50), torch.ones(1)\n",
}
# The realistic size takes seconds and half a gigabyte.
SMALLER = {
    "README.md": [("torch.randn(32, 1024, 2048)", "torch.randn(3, 4, 2048)")],
    "docs/index.md": [("torch.randn(32, 128, 2048)", "torch.randn(3, 4, 2048)")],
}


def blocks(page):
    """The language, the source and the first line of each fenced block."""
    text = (ROOT / page).read_text()
    for match in FENCE.finditer(text):
        yield match[1], match[2], text.count("\n", 0, match.start()) + 2


def indented(page):
    """The number and the text of each line of the blocks that are indented by four spaces."""
    text = FENCE.sub(lambda match: "\n" * match[0].count("\n"), (ROOT / page).read_text())
    inside, before = False, ""
    for number, line in enumerate(text.splitlines(), 1):
        # Such a block follows an empty line. An indented line after others continues a list.
        inside = line.startswith("    ") and (inside or not before.strip())
        if inside:
            yield number, line
        before = line


def pages_with(kind):
    return [page for page in PAGES if any(language == kind for language, *_ in blocks(page))]


def run(source, line, page, namespace):
    """Runs a block and returns its output; tracebacks refer to the line of the page."""
    printed = io.StringIO()
    code = compile("\n" * (line - 1) + source, str(ROOT / page), "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def test_the_pages_are_found():
    assert {"README.md", "docs/graphs.md", "docs/tutorial/nodes.md"} <= set(PAGES)
    assert {"README.md", "docs/compat.md", "docs/theory.md"} <= set(pages_with("python"))
    assert len(pages_with("{code-cell}")) >= 7


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    for language, _, line in blocks(page):
        known = {"python", "{code-cell}"} | NOT_CODE
        assert language in known, f"{page}:{line}: a block of `{language}`; expected one of {known}"


@pytest.mark.parametrize("page", PAGES)
def test_code_fits_its_column(page):
    code = [
        (line + i, text)
        for _, source, line in blocks(page)
        if not any(page == wide and source.startswith(first) for wide, first in WIDE)
        for i, text in enumerate(source.splitlines())
    ]
    assert not [
        f"{page}:{i}: {len(text)} columns"
        for i, text in [*code, *indented(page)]
        if len(text) > COLUMNS
    ]


def test_the_wide_blocks_are_there():
    for page, first in WIDE:
        (block,) = (source for _, source, _ in blocks(page) if source.startswith(first))
        assert max(map(len, block.splitlines())) > COLUMNS


def test_indented_blocks_are_found():
    found = [text.strip() for _, text in indented("docs/gpu_model.md")]
    assert "python -m bench.gpu_model \\" in found
    assert any(text.startswith("--only ' (49|") for text in found)
    assert not any("counted at commit" in text for text in found)


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_blocks_run(page, monkeypatch):
    if "torch_geometric" in GIVEN.get(page, ""):
        pytest.importorskip("torch_geometric", reason="the page is about torch-geometric")
    monkeypatch.chdir(ROOT)
    dtype, namespace = torch.get_default_dtype(), {"__name__": "__main__"}
    exec(GIVEN.get(page, ""), namespace)
    printed = ""
    try:
        for language, source, line in blocks(page):
            if language == "text":
                assert source == printed, f"{page}:{line}"
            if language != "python":
                continue
            for whole, part in SMALLER.get(page, []):
                source = source.replace(whole, part)
            printed = run(source, line, page, namespace)
    finally:
        torch.set_default_dtype(dtype)


def test_references_are_among_the_sources_to_cite():
    cited = " ".join((ROOT / "CITATION.cff").read_text().lower().split())
    page = (ROOT / "docs" / "global.md").read_text().split("## References\n", 1)[1]
    entries = [" ".join(entry.split()) for entry in page.split("\n- ")]
    titles = [t for entry in entries for t in re.findall(r'^[^"*]*["*]([^"*]+?),?["*]', entry)]
    assert len(titles) >= 10
    assert [title for title in titles if title.lower() not in cited] == []


def test_smaller_sizes_replace_something():
    for page, pairs in SMALLER.items():
        assert all(whole in (ROOT / page).read_text() for whole, _ in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("{code-cell}"))
def test_notebooks_run(page, monkeypatch):
    pytest.importorskip("sklearn", reason="the tutorial needs scikit-learn")
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="the tutorial needs matplotlib")
    monkeypatch.chdir((ROOT / page).parent)
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    backend, namespace = pyplot.get_backend(), {"__name__": "__main__"}
    pyplot.switch_backend("agg")
    try:
        with pyplot.rc_context():
            for language, source, line in blocks(page):
                if language == "{code-cell}":
                    options = re.match(r"(:[^\n]*\n)*", source)[0]
                    run(source[len(options) :], line + options.count("\n"), page, namespace)
    finally:
        pyplot.close("all")
        pyplot.switch_backend(backend)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


@pytest.mark.parametrize("page", pages_with("{code-cell}"))
def test_the_kept_outputs_are_those_of_the_page(page):
    """Compares the cells; `make docs` compares the outputs."""
    kept = json.loads((ROOT / page).with_suffix(".ipynb").read_text())
    cells = [cell for cell in kept["cells"] if cell["cell_type"] == "code"]
    sources = [source for language, source, _ in blocks(page) if language == "{code-cell}"]
    for cell, source in zip(cells, sources, strict=True):
        assert "".join(cell["source"]) == re.sub(r"^(:[^\n]*\n)*\n*", "", source).rstrip("\n")
    prose = FENCE.sub("", (ROOT / page).read_text().split("---\n", 2)[2])
    kept_prose = [cell["source"] for cell in kept["cells"] if cell["cell_type"] == "markdown"]
    assert "\n".join(map("".join, kept_prose)).split() == prose.split()


def typed(page):
    """Commands on a page: in single backquotes, and in indented lines."""
    text = FENCE.sub("", (ROOT / page).read_text())
    return re.findall(r"`([^`\n]+)`", text) + re.findall(r"^    (\S.*)$", text, re.M)


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_what_is_there(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    variables = set(re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(), re.M))
    for command in typed(page):
        words = command.split("#")[0].split()
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # of the environment
            words.pop(0)
        if words[:1] == ["make"]:
            for word in words[1:]:
                name, given, _ = word.partition("=")
                if not given and not re.fullmatch(r"[\w-]+", word):
                    break  # the rest of a quoted value
                assert name in (variables if given else targets), f"{page}: {command}"
                if given and word.count('"') == 1:
                    break
        for module in re.findall(r"\bpython3? -m ([\w.]+)", command):
            if module.split(".")[0] in ("examples", "bench", "tests"):
                assert importlib.util.find_spec(module), f"{page}: {command}"
        for script in re.findall(r"\bpython3? ([\w/]+\.py)", command):
            assert (ROOT / script).is_file(), f"{page}: {command}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", (ROOT / page).read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?:|#", target):
            assert ((ROOT / page).parent / target.split("#")[0]).exists(), f"{page}: {target}"


MODULES = ("ddn_cuda", "ddn_cuda.distributed", "ddn_cuda.pyg", "ddn_cuda.compat")


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_in_the_api(name):
    if name == "ddn_cuda.pyg":
        pytest.importorskip("torch_geometric", reason="ddn_cuda.pyg needs torch-geometric")
    page = (ROOT / "docs" / "api.rst").read_text()
    listed = set(re.findall(r"^\.\. auto\w+:: (\S+)$", page, re.M))
    for public in importlib.import_module(name).__all__:
        assert f"{name}.{public}" in listed


@pytest.mark.parametrize("name", ["functional", "modules", "_scale", "pyg", "compat"])
def test_examples_in_docstrings(name):
    names = {"torch": torch, "ddn_cuda": ddn_cuda, **vars(ddn_cuda)}
    if name == "pyg":
        names["torch_geometric"] = pytest.importorskip("torch_geometric")
        importlib.import_module("torch_geometric.nn")
    module = importlib.import_module(f"ddn_cuda.{name}")
    for test in doctest.DocTestFinder().find(module, extraglobs=names):
        result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
        assert result.failed == 0, test.name
