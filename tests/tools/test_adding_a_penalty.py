"""docs/adding_a_penalty.md is complete: with its patch alone a new penalty works and is tested.

The patch is applied to a copy of the tree, the CPU kernels of the new penalty are compiled by the
C++ compiler, without torch, and the reference tests run on it there.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

from ddn_cuda._C import PENALTY_TRAITS
from tests.support import ROOT

PAGE = ROOT / "docs" / "adding_a_penalty.md"
EDITED = ["README.md", "csrc/core/penalties.h", "tests/support/reference.py"]
# The rounding of the extension: no product is contracted with a sum.
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-Wno-psabi", "-Icsrc")


def patch():
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return diff


def run(command, tree, **options):
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def apply_patch(tree):
    alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    run(["git", "apply", "-"], tree, input=patch(), env=alone)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the sources and tests, with the patch of the page."""
    assert "log_cosh" not in PENALTY_TRAITS, "the page needs another example: it is in the list now"
    tree = tmp_path_factory.mktemp("tree")
    for folder in ("csrc", "tests"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", tree)
    apply_patch(tree)
    return tree


def test_the_page_edits_three_files():
    assert re.findall(r"^\+\+\+ b/(.*)$", patch(), re.M) == EDITED


def test_another_penalty_does_not_stand_in_its_way(tmp_path):
    """The page stays as it is when its reader adds a penalty."""
    places = {
        "README.md": "| `truncated_quadratic` |",
        "csrc/core/penalties.h": "template <class... P>\nstruct TypeList",
        "tests/support/reference.py": '    "truncated_quadratic": Penalty(',
    }
    for file, place in places.items():
        text = (
            (ROOT / file)
            .read_text()
            .replace("    TruncatedQuadratic>;", "    A,\n    TruncatedQuadratic>;")
        )
        assert text.count(place) == 1
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text.replace(place, f"another\n\n{place}"))
    apply_patch(tmp_path)


def test_the_new_penalty_passes_the_reference_tests(tree):
    library = tree / "one_penalty.so"
    compiler = os.environ.get("CXX", "c++")
    run(
        [compiler, *FLAGS, "-DDDN_PENALTY=LogCosh", "tests/native/one_penalty.cpp", "-o", library],
        tree,
    )
    pytest_options = ("-q", "--noconftest", "-p", "no:cacheprovider", "-c", os.devnull)
    files = ("native/check_one_penalty.py", "core/test_reference.py", "core/test_psi_bounds.py")
    told = run(
        [sys.executable, "-m", "pytest", *pytest_options, f"--rootdir={tree}"]
        + [f"tests/{file}" for file in files]
        + ["-k", "check_one_penalty or log_cosh and not series"],
        tree,
        env={**os.environ, "DDN_ONE_PENALTY": str(library), "PYTHONPATH": str(tree)},
    )
    assert int(re.search(r"(\d+) passed", told)[1]) > 100


def table(text):
    """The penalties' rows of a README: name, alias, and whether it says convex."""
    rows = text.split("<!-- penalties -->")[1].split("<!-- end of penalties -->")[0]
    cells = [line.strip("|").split("|") for line in rows.strip().splitlines()[2:]]
    return [(row[0].strip(" `"), row[1].strip(" `"), row[-1].strip()) for row in cells]


def test_the_table_has_the_penalties_of_the_registry(tree):
    registry = [
        (name, traits["alias"], "yes" if traits["certificate"] == "convex" else "no")
        for name, traits in PENALTY_TRAITS.items()
    ]
    assert table((ROOT / "README.md").read_text()) == registry
    with_new = [*registry[:-1], ("log_cosh", "LC", "yes"), registry[-1]]
    assert table((tree / "README.md").read_text()) == with_new
