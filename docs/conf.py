"""Sphinx's settings: pages in Markdown, notebooks executed while they are read, no network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import ddn_cuda

ROOT = Path(__file__).resolve().parent.parent

project = "ddn_cuda"
author = "ddn_cuda contributors"
copyright = author
version = release = ddn_cuda.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",
]
root_doc = "index"
exclude_patterns = ["_build", "tutorial/*.ipynb"]  # these are what the notebooks gave
smartquotes = False
html_theme = "furo"
html_title = f"ddn_cuda {release}"

# Docstrings

default_role = "py:obj"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
# Nothing is fetched, so that what other projects document cannot be linked. A word in backquotes
# is a link where something has that name, else code; what begins with ddn_cuda must exist.
nitpick_ignore_regex = [
    (r"py:obj", r"(?!ddn_cuda\.).*"),
    (r"py:.*", r"(torch|torch_geometric|collections)\..*|Tensor|ddn_cuda\.(\w+\.)?_.*"),
]

# Pages

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4

# Notebooks

nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True


# The files in the repository's root that are pages too.
FROM_ROOT = {
    "README.md": "start.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}


def read_source(app: Sphinx, docname: str, content: list[str]) -> None:
    """Reads the pages of the root from there, and lets links lead to where they are on the site."""
    text = content[0]
    for source, page in FROM_ROOT.items():
        if page == f"{docname}.md":
            app.env.note_dependency(str(ROOT / source))
            text = (ROOT / source).read_text()
            for start in ("bench/", "CITATION.cff"):
                text = text.replace(f"]({start}", f"](../{start}")
            # On the site the tutorial's pages have their outputs themselves.
            text = re.sub(r"\]\(docs/([^)]*)", lambda m: f"]({m[1].replace('.ipynb', '.md')}", text)
            for other, its_page in FROM_ROOT.items():
                text = text.replace(f"]({other}", f"]({its_page}")
    for source, page in FROM_ROOT.items():
        text = text.replace(f"](../{source}", f"]({page}")
    content[0] = text


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", read_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
