"""The benchmarks: arguments, the content of results, figures from results."""

import json
import subprocess
import sys

import pytest
import torch

import ddn_cuda
from bench import __main__ as bench
from bench import compare, growth, machine, targets, workloads
from tests.support import ROOT

# The whole


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A quick run of all suites with two penalties: its file and the content."""
    path = tmp_path_factory.mktemp("bench") / "made" / "result.json"
    arguments = ["--quick", "--json", str(path), "--penalty", "huber", "welsch"]
    arguments += ["--workload", "image", "graphs", "--compiled", "none", "--device", "cpu"]
    arguments += ["--threads", "1", "--repetitions", "2", "--seconds", "5"]
    arguments += ["--allocator", "default"]  # malloc is shared with all tests
    before = torch.get_num_threads()
    assert bench.main(arguments) == 0
    assert torch.get_num_threads() == before
    return path, json.loads(path.read_text())


def test_a_result_says_what_it_was_measured_on(run):
    _, result = run
    assert result["build"] == ddn_cuda.build_info()
    assert result["threads"] == [1]
    assert result["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert result["settings"]["penalties"] == ["huber", "welsch"]
    for key in ("commit", "machine", "command", "date", "seconds", "quick"):
        assert key in result
    assert set(result["clocks"]) == set(result["free_share_of_cores"]) == {"before", "after"}


def test_a_result_has_all_suites_methods_and_samples(run):
    _, result = run
    rows = [row for row in result["rows"] if row["suite"] == "compare"]
    for workload, medians in (("image", 1), ("graphs", 0)):
        own = [row for row in rows if row["workload"] == workload and not row.get("skipped")]
        forward = {row["method"] for row in own if row["operation"] == "forward"}
        ours = {"huber", "welsch (local)", "welsch (global)"}
        assert forward >= ours | {"torch.mean", "torch.amax"}
        assert ("torch.median" in forward) == bool(medians)
        both = {row["method"] for row in own if row["operation"] == "forward+backward"}
        backward = {row["method"] for row in own if row["operation"] == "backward"}
        assert forward == backward == both
    timed = [row for row in result["rows"] if "milliseconds" in row]
    for row in timed:
        ms = row["milliseconds"]
        assert len(ms["samples"]) == ms["repetitions"] >= 1
        assert ms["low"] <= ms["median"] <= ms["high"]
    assert {row["suite"] for row in timed} == {"compare", "growth", "targets"}
    assert any(row["scaled"] for row in rows)
    skipped = [row for row in result["rows"] if row.get("skipped")]
    assert not compare.refused(result["rows"])
    if not torch.cuda.is_available():
        assert {"cuda"} <= {row["device"] for row in skipped if row["suite"] == "targets"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_freed_memory_is_kept_where_asked():
    code = """
import resource, torch
from bench import machine

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with machine.kept_memory(False) as kept:
    print(kept, faults())
with machine.kept_memory(True) as kept:
    for _ in range(6):  # until there is a stretch for each
        faults()
    print(kept, faults())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    fresh, kept = (line.split() for line in done.stdout.splitlines())
    assert (fresh[0], kept[0]) == ("False", "True")
    assert int(kept[1]) < 0.1 * int(fresh[1])


def test_methods_skipped_for_one_reason_share_a_line():
    about = {"workload": "w", "data": "d", "dtype": "t", "device": "cpu", "threads": 1, "alpha": 1}
    rows = [about | {"method": name, "skipped": why} for name, why in ("ax", "by", "cx")]
    assert compare.as_text(rows).splitlines()[-2:] == ["skipped: a, c: x", "skipped: b: y"]


def test_a_busy_machine_is_told():
    assert machine.busy({"before": 0.99, "after": 0.98}) == ""
    assert machine.busy({"before": None}) == ""
    assert machine.busy({"before": 0.99, "after": 0.5}).endswith("50% of a core free")
    assert 0 < machine.free_share(1) <= 1.01


def test_lists_of_numbers_take_a_line_and_come_back():
    result = {"samples": [1.5, -2e-05, 3], "rows": [{"a": [1]}, {"b": []}], "text": "[1,\n 2]"}
    text = bench.to_json(result)
    assert json.loads(text) == result
    assert '"samples": [1.5, -2e-05, 3]' in text


def test_figures_are_drawn_and_tables_filled_from_the_file_alone(run, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the figures need matplotlib")
    path, result = run
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- targets cpu -->\nold\n<!-- end -->\nafter\n")
    arguments = ["plot", str(path), "--output", str(tmp_path / "images"), "--page", str(page)]
    assert bench.main(arguments) == 0
    made = {image.name for image in (tmp_path / "images").iterdir()}
    assert made == {"targets-cpu.png", "growth-cpu.png", "compare-cpu.png"}
    text = page.read_text()
    assert text.startswith("before\n<!-- targets cpu -->")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    row = next(r for r in result["rows"] if r["suite"] == "targets" and not r.get("skipped"))
    assert f"| {row['what']}, {row['unit']} | {row['measured']:.3g} / {row['goal']:g}" in text
    assert "(images/growth-cpu.png)" in text
    assert "Passes over a set" in text
    inside_a_check = tmp_path / "gpu-check.json"
    inside_a_check.write_text(json.dumps({"steps": [], "benchmark": result}))
    assert bench.main(["plot", str(inside_a_check), "--output", str(tmp_path / "again")]) == 0
    same = [(tmp_path / folder / "growth-cpu.png").read_bytes() for folder in ("images", "again")]
    assert same[0] == same[1]
    inside_a_check.write_text("{}")
    with pytest.raises(SystemExit, match="is no result"):
        bench.main(["plot", str(inside_a_check)])


def test_a_target_that_is_missed_is_said_to_be(run):
    _, result = run
    row = dict(next(r for r in result["rows"] if r["suite"] == "targets" and "met" in r))
    row |= {"measured": 2.0, "goal": 1.5, "met": False}
    assert targets.as_text([row]).endswith("not met")
    reason = {"skipped": "no GPU"}
    assert "1 targets skipped, cpu: no GPU" in targets.as_text([row | reason])


def test_without_a_name_each_case_is_run_once():
    cases = bench.cases(bench.parse([]))
    assert {case.workload.name for case in cases} == set(workloads.WORKLOADS)
    assert {case.data for case in cases} == set(workloads.DATA)
    assert {case.dtype for case in cases} == set(workloads.DTYPES)
    assert len(cases) == len(set(cases)) == 7 + 3 + 2
    named = bench.cases(bench.parse(["--workload", "image", "huge", "--dtype", "all"]))
    assert len(named) == 6


@pytest.mark.parametrize(
    "arguments",
    [["--workload", "none"], ["--repetitions", "0"], ["--alpha", "-1"], ["--threads", "x"]],
)
def test_bad_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.parse(arguments)
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_growth_covers_what_it_promises():
    places = list(growth.shapes(torch.device("cpu"), torch.float32, quick=False))
    assert {n for sweep, _, n in places if sweep == "points"} >= {16, 1 << 20}
    assert {s for sweep, s, _ in places if sweep == "sets"} >= {1, 10**6}
