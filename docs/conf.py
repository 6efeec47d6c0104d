"""Configuration of Sphinx: Markdown pages, executed notebooks, no network access."""

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
exclude_patterns = ["_build", "tutorial/*.ipynb"]  # the committed outputs, not sources
smartquotes = False
html_theme = "furo"
html_title = f"ddn_cuda {release}"

# Docstrings

default_role = "py:obj"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
# No inventory of another project is fetched, so its objects cannot be linked. A word in backquotes
# is a link if an object has that name, and code otherwise; names in ddn_cuda must exist.
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


# The files in the repository's root that are also pages of the site.
FROM_ROOT = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def read_source(app: Sphinx, docname: str, content: list[str]) -> None:
    """Replaces the stub of a page by its file in the root, with links relative to docs/."""
    text = content[0]
    for source, page in FROM_ROOT.items():
        if page == f"{docname}.md":
            app.env.note_dependency(str(ROOT / source))
            text = (ROOT / source).read_text().replace("](docs/", "](")
    for source, page in FROM_ROOT.items():
        text = re.sub(rf"\]\((\.\./)?{re.escape(source)}", f"]({page}", text)
    content[0] = text


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", read_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
