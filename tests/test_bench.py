"""The tools of bench/: each must be able to find what it is there to find."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ddn_cuda
from bench import correctness, gpu_check, kernel_resources, quick
from bench.gpu_check import Step, run_steps
from bench.kernel_resources import Kernel, parse_ptxas, short_name, verdict
from bench.timing import summarize, time_interleaved

ROOT = Path(__file__).resolve().parent.parent

# What ptxas of CUDA 13 prints, with spills in one kernel and in a function that is no kernel.
REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z6kernelIdLi64EEvPT_' for 'sm_80'
ptxas info    : Function properties for _Z6kernelIdLi64EEvPT_
    512 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 96 registers, used 1 barriers, 512 bytes cumulative stack size, 512 bytes smem
ptxas info    : Compile time = 66.739 ms
ptxas info    : Compiling entry function '_Z6kernelIfLi8EEvPT_' for 'sm_90'
ptxas info    : Function properties for _Z6kernelIfLi8EEvPT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 29 registers, used 1 barriers
ptxas info    : Function properties for _Z6helperf
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
"""


def test_ptxas_report_is_parsed():
    double, single, helper = parse_ptxas(REPORT)
    assert double == Kernel("_Z6kernelIdLi64EEvPT_", "sm_80", 96, 512, 512, 8, 16)
    assert single == Kernel("_Z6kernelIfLi8EEvPT_", "sm_90", 29)
    assert helper == Kernel("_Z6helperf", "sm_90", 0, 0, 8, 4, 4)
    assert [k.spills for k in (double, single, helper)] == [True, False, True]


SPILLING: dict[str, Any] = {"arch": "sm_90", "spill_stores": 4, "spill_loads": 4}


@pytest.mark.parametrize(
    ("kernel", "accepted", "good"),
    [
        (Kernel("void f<Huber, float>(Args)", "sm_90"), {}, True),
        (Kernel("void f<Huber, float>(Args)", **SPILLING), {}, False),
        (Kernel("void f<Huber, float>(Args)", **SPILLING), {"Huber": "why"}, True),
        (Kernel("void f<Huber, float>(Args)", **SPILLING), {"Welsch": "why"}, False),
        (Kernel("helper(int)", **SPILLING), {}, False),
        (Kernel("void f<Huber, double>(float)", **SPILLING), {}, False),
        (Kernel("void f<Huber, double>(float)", **SPILLING), {"Huber, double": "why"}, True),
        (Kernel("void f<float>(Args)", **{**SPILLING, "arch": "sm_80"}), {"f<float>": "why"}, True),
        (Kernel("void f<float>(Args)", **{**SPILLING, "arch": "sm_80"}), {}, False),
    ],
)
def test_which_spills_are_accepted(kernel, accepted, good):
    assert verdict(kernel, accepted)[0] is good


def test_a_spilling_report_fails(tmp_path, capsys):
    report = tmp_path / "log"
    report.write_text(REPORT)
    assert kernel_resources.main(["--report", str(report)]) == 1
    report.write_text("\n".join(REPORT.splitlines()[6:10]))
    assert kernel_resources.main(["--report", str(report)]) == 0
    assert "kernel<float, 8>" in capsys.readouterr().out
    report.write_text("nothing compiled")
    with pytest.raises(SystemExit, match="no kernel found"):
        kernel_resources.main(["--report", str(report)])


def test_short_names_of_kernels():
    name = "void ddn::cuda::(anonymous namespace)::back<ddn::Huber, float>(ddn::BackwardArgs)"
    assert short_name(name) == "back<Huber, float>"


# Timing


def test_percentiles():
    timing = summarize([float(i) for i in range(11)])
    assert (timing.low, timing.median, timing.high, timing.repetitions) == (1, 5, 9, 11)


def test_operations_are_interleaved_and_the_budget_holds():
    calls = []
    operations = {name: lambda name=name: calls.append(name) for name in "ab"}
    cpu = torch.device("cpu")
    timings = time_interleaved(operations, cpu, rounds=3, budget_seconds=60)
    assert "".join(calls) == "aabb" + "ab" * 3
    assert timings["a"].repetitions == 3
    assert time_interleaved(operations, cpu, rounds=9, budget_seconds=0)["b"].repetitions == 1


@pytest.fixture
def points():
    return quick.make_points((8, 3, 129), torch.float32, torch.device("cpu"))


def test_points_have_the_outliers_they_are_said_to_have():
    x = quick.make_points((100_000,), torch.float64, torch.device("cpu"))
    far = x[x.abs() > 5]
    assert far.abs().max() <= 10
    assert abs(len(far) / len(x) - 0.05) < 0.005
    assert abs((far > 0).double().mean() - 0.5) < 0.05


@pytest.mark.parametrize("penalty", correctness.PENALTIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_check_before_timing_accepts_right_answers(points, penalty, dtype):
    assert correctness.check(penalty, points.to(dtype), 1.0) >= 12


@pytest.mark.parametrize("penalty", correctness.PENALTIES)
def test_the_check_before_timing_refuses_wrong_answers(points, penalty, monkeypatch):
    right = ddn_cuda.robust_pool
    monkeypatch.setattr(ddn_cuda, "robust_pool", lambda x, p, a: right(x, p, a) + 1e-4)
    with pytest.raises(AssertionError, match="an answer is"):
        correctness.check(penalty, points, 1.0)


@pytest.mark.parametrize("penalty", correctness.PENALTIES)
def test_the_check_before_timing_refuses_wrong_gradients(points, penalty, monkeypatch):
    right = ddn_cuda.robust_pool

    def scaled_gradient(x, p, a):
        y = right(x, p, a)
        return y + 0.01 * (y - y.detach())

    monkeypatch.setattr(ddn_cuda, "robust_pool", scaled_gradient)
    with pytest.raises(AssertionError, match="a gradient is off"):
        correctness.check(penalty, points, 1.0)


def test_the_check_before_timing_refuses_answers_that_depend_on_the_batch(points, monkeypatch):
    right = ddn_cuda.robust_pool
    coupled = lambda x, p, a: right(x, p, a) + 1e-7 * len(x)  # noqa: E731
    monkeypatch.setattr(ddn_cuda, "robust_pool", coupled)
    with pytest.raises(AssertionError, match="depends on its batch"):
        correctness.check("huber", points, 1.0, sets=4)


def test_quick_prints_and_writes_its_figures(tmp_path, capsys):
    out = tmp_path / "figures.json"
    assert quick.main(["--shape", "2x2x33", "--rounds", "2", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    names = [row["operation"] for row in report["rows"]]
    pools = ["mean", "amax", *ddn_cuda.PENALTIES]
    expected = {"copy"} | {f"{way}/{pool}" for way in ("forward", "backward") for pool in pools}
    assert set(names) == expected
    assert all(row["milliseconds"]["repetitions"] == 2 for row in report["rows"])
    assert report["build"] == ddn_cuda.build_info()
    assert "backward/welsch" in capsys.readouterr().out


def test_shapes_are_halved_until_they_fit():
    assert quick.shrink_to_fit((128, 10), 4, 10**9) == (128, 10)
    assert quick.shrink_to_fit((128, 10), 4, 8 * 64 * 10 * 4) == (64, 10)
    assert quick.shrink_to_fit((128, 10), 4, 1) == (1, 10)


# gpu-check


def python_step(name, code, limit=30.0, **options):
    return Step(name, [sys.executable, "-c", code], limit, **options)


def test_steps_go_on_after_a_failure_and_are_recorded_each():
    recorded = []
    outcomes = run_steps(
        [
            python_step("good", "print('=== 3 passed in 1s ===')"),
            python_step("bad", "print('why'); raise SystemExit(3)"),
            python_step("needs bad", "", needs="bad"),
            python_step("slow", "import time; time.sleep(60)", limit=0.5),
            Step("missing", ["no-such-command"], 5),
            python_step("needs good", "import os; assert os.environ['A'] == 'b'", needs="good",
                        env={"A": "b"}),
        ],
        60,
        lambda done: recorded.append(len(done)),
    )  # fmt: skip
    status = {outcome.name: outcome.status for outcome in outcomes}
    assert status == {
        "good": "passed",
        "bad": "failed",
        "needs bad": "not run",
        "slow": "timed out after 0 s",
        "missing": "failed",
        "needs good": "passed",
    }
    assert recorded == [1, 2, 3, 4, 5, 6]
    assert outcomes[0].as_dict()["tests"] == "3 passed in 1s"
    assert "why" in outcomes[1].as_dict()["output_tail"]


def test_no_step_starts_when_the_time_is_used_up():
    outcomes = run_steps([python_step("late", "")], 0.5, lambda done: None)
    assert outcomes[0].status == "not run"


def test_the_plan_requires_cuda_and_builds_without_it_apart(tmp_path):
    steps = {s.name: s for s in gpu_check.plan("python3", "9.0", tmp_path / "f", tmp_path / "t")}
    assert steps["tests"].env["DDN_REQUIRE_CUDA"] == "1"
    assert steps["build"].env == {"DDN_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "9.0"}
    assert steps["cpu-only build"].env["DDN_CUDA"] == "0"
    assert steps["cpu-only build"].cwd == steps["cpu-only tests"].cwd == tmp_path / "t"
    assert all(step.needs in {None, *steps} for step in steps.values())


def test_the_copy_for_the_build_without_cuda_holds_no_build(tmp_path):
    tree = gpu_check.copy_sources(tmp_path / "tree")
    assert (tree / "csrc" / "ops" / "module.cpp").is_file()
    assert (tree / "tests" / "conftest.py").is_file()
    assert not list(tree.rglob("*.so"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpu_check_without_a_gpu_is_refused_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match="gpu-check: "):
        gpu_check.main(["--out", str(tmp_path)])
