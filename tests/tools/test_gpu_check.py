"""gpu-check: its plan, its steps and their time limits, and its commands."""

import re
import sys
import time

import pytest
import torch

from bench import __main__ as bench
from bench import gpu_check, kernel_cases, sanitizer_case
from bench.steps import Artifact, Step, allowance, run_steps
from tests.support import ROOT

# gpu-check


def python_step(name, code, planned=10.0, **options):
    return Step(name, [sys.executable, "-c", code], planned, **options)


def test_steps_go_on_after_a_failure_and_are_recorded_each():
    recorded = []
    outcomes = run_steps(
        [
            python_step("good", "print('=== 3 passed in 1s ===')"),
            python_step("bad", "print('why'); raise SystemExit(3)"),
            python_step("needs bad", "", needs="bad"),
            Step("missing", ["no-such-command"], 5),
            Step("no folder", [sys.executable, "-c", ""], 5, cwd=ROOT / "no such folder"),
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
        "missing": "failed",
        "no folder": "failed",
        "needs good": "passed",
    }
    assert recorded == [1, 2, 3, 4, 5, 6]
    assert outcomes[0].as_dict()["tests"] == "3 passed in 1s"
    assert "why" in outcomes[1].as_dict()["output_tail"]


def test_a_slow_step_takes_no_time_of_later_ones():
    slow = python_step("slow", "import time; print('so far', flush=True); time.sleep(60)", 1)
    start = time.monotonic()
    outcomes = run_steps([slow, python_step("later", "", 9)], 10, lambda done: None)
    assert [outcome.status for outcome in outcomes] == ["timed out after 1 s", "passed"]
    assert "so far" in outcomes[0].output
    assert time.monotonic() - start < 9


def test_no_step_starts_when_the_time_is_used_up():
    outcomes = run_steps([python_step("late", "")], 0.5, lambda done: None)
    assert outcomes[0].status == "not run"


@pytest.mark.parametrize(
    ("left", "planned", "most", "later", "expected"),
    [
        (100, 40, 0, (30, 30), 40),
        (120, 40, 0, (30, 30), 60),  # earlier steps left something
        (50, 40, 0, (30, 30), 20),  # an earlier one used more: all shrink in proportion
        (100, 40, 70, (30, 30), 70),
        (60, 40, 70, (30, 30), 60),
        (25, 40, 0, (), 25),
    ],
)
def test_the_seconds_of_a_step(left, planned, most, later, expected):
    step = Step("s", [], planned, most=most)
    assert allowance(step, [Step("l", [], p) for p in later], left) == expected


def test_a_step_is_told_when_to_end():
    code = "import sys; print('told', sys.argv[1])"
    step = Step("told", [sys.executable, "-c", code, "{seconds}"], 10)
    (outcome,) = run_steps([step], 20, lambda done: None)
    assert "told 16" in outcome.output


def test_a_step_beside_another_is_waited_for_at_its_own_turn(tmp_path):
    mark = tmp_path / "mark"
    outcomes = run_steps(
        [
            python_step("first", f"import time, os\nwhile not os.path.exists({str(mark)!r}): "
                        "time.sleep(0.01)"),
            python_step("beside", f"open({str(mark)!r}, 'w')", beside="first"),
            python_step("last", "", needs="beside"),
        ],
        60,
        lambda done: None,
    )  # fmt: skip
    assert [(o.name, o.status) for o in outcomes] == [
        ("first", "passed"),
        ("beside", "passed"),
        ("last", "passed"),
    ]


def test_a_step_beside_another_counts_its_own_seconds():
    first, beside = run_steps(
        [
            python_step("first", "import time; time.sleep(3)"),
            Step("beside", ["true"], 1, beside="first"),
        ],
        60,
        lambda done: None,
    )
    assert beside.seconds < 1.5 < first.seconds


def test_silence_is_no_success():
    """For a sanitizer that could not attach and ran the program without checks."""
    says = "SUMMARY: 0 errors"
    outcomes = run_steps(
        [
            python_step("watched", "print('========= ERROR SUMMARY: 0 errors')", says=says),
            python_step("unwatched", "", says=says),
        ],
        30,
        lambda done: None,
    )
    assert [outcome.status for outcome in outcomes] == ["passed", "failed"]
    assert outcomes[0].as_dict()["sanitizer"] == "ERROR SUMMARY: 0 errors"
    assert says in outcomes[1].as_dict()["output_tail"]


def test_what_a_step_writes_is_kept_whatever_it_is(tmp_path):
    artifact = Artifact("key", tmp_path / "file")
    assert artifact.read() is None
    artifact.path.write_text('{"a": [1]}')
    assert artifact.read() == {"a": [1]}
    artifact.path.write_text('{"a":')
    assert "unreadable" in artifact.read()


@pytest.fixture
def steps(tmp_path):
    return {step.name: step for step in gpu_check.plan("python3", "9.0", tmp_path)}


def test_the_plan_builds_for_the_gpu_and_apart_without_cuda(steps, tmp_path):
    assert steps["build"].env == {"DDN_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "9.0"}
    assert steps["cpu-only build"].env["DDN_CUDA"] == "0"
    tree = tmp_path / "cpu-only"
    assert steps["cpu-only build"].cwd == steps["cpu-only tests"].cwd == tree
    names = list(steps)
    for i, step in enumerate(steps.values()):
        assert {step.needs, step.beside} <= {None, *names[:i]}
    assert {step.needs for name, step in steps.items() if "build" not in name} == {
        "build",
        "cpu-only build",
    }


def test_the_seconds_of_the_plan_are_those_of_its_description(steps):
    assert sum(step.planned for step in steps.values()) == gpu_check.TOTAL_SECONDS == 480
    listed = re.findall(r"^ +(\d+)  ([a-z-]+(?: [a-z]+)?)(?:  |$)", gpu_check.__doc__, re.M)
    assert [(name, float(n)) for n, name in listed] == [(s.name, s.planned) for s in steps.values()]


def test_the_plan_measures_what_the_tools_take(steps, tmp_path):
    python, flag, module, *arguments = steps["timings"].command
    assert (python, flag, module) == ("python3", "-m", "bench")
    options = bench.parse(arguments)
    assert (options.suite, options.device) == (["targets"], ["cuda"])
    assert options.json == steps["timings"].artifact.path
    assert steps["timings"].artifact.key == "benchmark"
    python, flag, module, *arguments = steps["model"].command
    assert (python, flag, module) == ("python3", "-m", "bench.gpu_model")
    where = ["--json", str(tmp_path / "model.json")]
    assert arguments == ["--device", "cuda", "--seconds", "{seconds}", *where]


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_the_plan_runs_every_kernel_under_the_sanitizers(tool, steps):
    step = steps[tool]
    assert step.command[1:5] == ["--error-exitcode", "9", "--tool", tool]
    assert step.command[5:] == ["python3", "-m", "bench.sanitizer_case", "--seconds", "{seconds}"]
    assert re.search(step.says, "========= ERROR SUMMARY: 0 errors")
    assert re.search(step.says, "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors,")
    assert not re.search(step.says, "========= ERROR SUMMARY: 10 errors")


def test_the_copy_for_the_build_without_cuda_holds_no_build(tmp_path):
    tree = gpu_check.copy_sources(tmp_path / "tree")
    assert (tree / "csrc" / "ops" / "module.cpp").is_file()
    assert (tree / "tests" / "conftest.py").is_file()
    assert (tree / "build_toolkit.py").is_file()
    assert not list(tree.rglob("*.so"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpu_check_without_a_gpu_is_refused_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match="gpu-check: "):
        gpu_check.main(["--out", str(tmp_path)])


# What gpu-check runs


def test_the_cases_of_the_sanitizers_run():
    """On the CPU; the tests of the kernels check that the cases reach every CUDA kernel."""
    everything = kernel_cases.cases()
    assert len(set(everything)) == len(everything)
    for case in everything:
        for output in sanitizer_case.run(case, torch.device("cpu")):
            assert output.double().isfinite().all(), case


def test_the_cases_of_the_sanitizers_stop_in_time(capsys):
    assert sanitizer_case.main(["--device", "cpu", "--seconds", "0"]) == sanitizer_case.NOT_ALL
    assert re.search(r"ran 0 of \d+ cases", capsys.readouterr().out)
