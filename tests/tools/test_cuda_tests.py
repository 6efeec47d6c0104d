"""The tests that need CUDA are found, run on all cores, and evaluated."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from bench import cuda_tests
from bench.cuda_tests import NOT_RUN
from tests import conftest
from tests.support import ROOT

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="good[cuda]" time="1.5" />
<testcase classname="tests.test_a" name="bad[cuda]" time="2">
  <failure message="assert 1 == 2&#10;more">text</failure></testcase>
<testcase classname="tests.test_b" name="broken[cuda]" time="1"><error message="why">e</error>
</testcase>
<testcase classname="tests.test_b" name="other" time="0"><skipped message="needs two devices" />
</testcase>
<testcase classname="tests.test_b" name="late[cuda]" time="0">
  <skipped message="not run: the time is used up" /></testcase>
</testsuite></testsuites>"""


def test_reports_of_the_tests_are_summarized(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(JUNIT)
    assert cuda_tests.summarize([report, report]) == {
        "passed": 2,
        "failed": 4,
        "skipped": 2,
        "not_run": 2,
        "failures": [
            {"test": "test_a::bad[cuda]", "message": "assert 1 == 2"},
            {"test": "test_b::broken[cuda]", "message": "why"},
        ]
        * 2,
        "slowest_files_seconds": {"test_a": 7.0, "test_b": 2.0},
    }


def test_without_xdist_each_file_has_a_process(tmp_path):
    (one,) = cuda_tests.commands(["pytest"], 3, True, tmp_path)
    assert "-n 3 --dist worksteal" in " ".join(one)
    each = cuda_tests.commands(["pytest"], 3, False, tmp_path)
    assert [Path(command[-1]) for command in each] == sorted((ROOT / "tests").rglob("test_*.py"))
    for command in [one, *each]:
        assert " ".join(command).startswith("pytest -q -m cuda ")
    reports = {word for command in each for word in command if word.startswith("--junitxml=")}
    assert len(reports) == len(each)


@pytest.mark.parametrize("xdist", [True, False])
def test_the_tests_that_need_cuda_are_run_and_judged(xdist, tmp_path, monkeypatch, capsys):
    """With generated files in place of tests/."""
    if xdist:
        pytest.importorskip("xdist", reason="needs pytest-xdist")
    folder = tmp_path / "tests"
    folder.mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = cuda: x\n")
    (folder / "test_good.py").write_text(
        "import os, pytest\n"
        "@pytest.mark.cuda\ndef test_it(): assert os.environ['DDN_REQUIRE_CUDA'] == '1'\n"
        "def test_other(): assert False\n"
    )
    (folder / "test_none.py").write_text("def test_it(): assert False\n")
    monkeypatch.setattr(cuda_tests, "ROOT", tmp_path)
    monkeypatch.setattr(cuda_tests.importlib.util, "find_spec", lambda name: xdist or None)
    report = tmp_path / "report.json"
    arguments = ["--json", str(report), "--workers", "2"]
    assert cuda_tests.main(arguments) == 0
    assert "=== 1 passed, 0 failed, 0 skipped, 0 not run in " in capsys.readouterr().out
    (folder / "test_late.py").write_text(
        "import os, pytest\n@pytest.mark.cuda\ndef test_it():\n"
        f"    assert float(os.environ['DDN_TEST_DEADLINE']) > 0\n    pytest.skip({NOT_RUN!r})\n"
    )
    (folder / "test_bad.py").write_text("import no_such_module\n")  # stops no other file
    assert cuda_tests.main([*arguments, "--seconds", "9"]) == 1
    found = json.loads(report.read_text())
    assert (found["passed"], found["not_run"]) == (1, 1)
    assert "no_such_module" in capsys.readouterr().out


def test_no_test_starts_after_the_deadline(monkeypatch):
    monkeypatch.setattr(conftest, "DEADLINE", time.time() + 60)
    conftest.pytest_runtest_setup(None)
    monkeypatch.setattr(conftest, "DEADLINE", time.time() - 1)
    with pytest.raises(pytest.skip.Exception, match=NOT_RUN):
        conftest.pytest_runtest_setup(None)


def test_tests_that_need_cuda_are_marked():
    def item(fixtures, **parameters):
        marks: list[Any] = []
        about = types.SimpleNamespace(fixturenames=fixtures, marks=marks, add_marker=marks.append)
        if parameters:
            about.callspec = types.SimpleNamespace(params=parameters)
        return about

    items = [item(["device"], device="cuda"), item(["cuda"]), item(["cuda"], n=1)]
    items += [item(["device"], device="cpu"), item([]), item(["n"], n="cuda")]
    conftest.mark(items)
    assert [len(one.marks) for one in items] == [1, 1, 1, 0, 0, 0]


def pytest_without_gpu(*arguments, **env):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **env}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True).stdout


def test_one_line_tells_how_many_tests_need_a_gpu():
    processes = ["-n", "2"] if importlib.util.find_spec("xdist") else []
    printed = pytest_without_gpu("tests/cuda/test_cpu_hop.py", *processes, DDN_REQUIRE_CUDA="0")
    (line,) = [line for line in printed.splitlines() if "need a GPU" in line]
    assert line == (
        "10 tests need a GPU (needs a CUDA device: torch.cuda.is_available() is False): "
        "`make gpu-check` runs them where there is one"
    )
    assert "SKIPPED" not in printed


def test_without_a_gpu_they_fail_where_it_has_to_be_there():
    printed = pytest_without_gpu("tests/cuda/test_cpu_hop.py", DDN_REQUIRE_CUDA="1")
    assert "10 failed" in printed
    assert "need a GPU" not in printed
