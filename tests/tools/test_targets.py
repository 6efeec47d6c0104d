"""The speed targets: all are measured and compared with their goals."""

import functools
import json

import pytest
import torch

import ddn_cuda
from bench import compare, methods, targets, targets_gpu
from bench.timing import summarize

# Targets


def test_every_target_of_the_table_is_there():
    goals = {points: targets.cpu_goals(points) for points in targets.CPU_SHAPES}
    pools = len(targets.CPU_FORWARD)
    assert all(len(column) == pools * 3 for column in goals.values())
    forward = {
        points: {g.method: g.goal for g in column if g.baseline == "torch.mean"}
        for points, column in goals.items()
    }
    assert forward[128]["truncated_quadratic (global)"] == 30
    assert forward[1024]["huber"] == forward[4096]["huber"] == 1.5
    assert [targets.cpu_goals(n)[pools].goal for n in (1024, 128, 4096)] == [0.75, 0.85, 0.75]
    assert all(sets * points == 1 << 23 for points, sets in targets.CPU_SHAPES.items())
    names = {methods.label(*pair) for pair in methods.ours(ddn_cuda.PENALTIES)}
    # A penalty has goals once somebody has set them.
    assert targets.CPU_FORWARD.keys() == targets.GPU_FORWARD.keys() <= names
    rows = list(targets_gpu.skipped("why"))
    half = len(targets.GPU_FORWARD_BFLOAT16)
    assert len(rows) == (pools + pools) + (half + pools) + 1 + len(names) + 2 + 4 * 4
    assert all(row["skipped"] == "why" for row in rows)


def test_figures_are_held_against_goals_from_the_right_side():
    timing = summarize([1.0, 2.0, 3.0])
    assert targets.measured(timing, 2.0)["met"]
    assert not targets.measured(timing, 1.9)["met"]
    assert targets.measured(timing, 1.9, at_least=True)["met"]
    assert not targets.measured(timing, 2.1, at_least=True)["met"]


def test_launches_are_counted_above_the_baseline():
    above = targets_gpu.launches_above(summarize([7.0, 9.0]), summarize([5.0, 5.0]), 1.5)
    assert above.median == pytest.approx(2)


def test_the_training_step_trains():
    step = targets_gpu.make_step(
        ddn_cuda.RobustPool("huber", 1.0), torch.device("cpu"), batch=4, cloud=16
    )
    losses = [step().item() for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]
    other = targets_gpu.make_step(
        lambda x: torch.amax(x, -1), torch.device("cpu"), batch=4, cloud=16
    )
    assert other().item() != losses[0]


@pytest.fixture
def stand_in(monkeypatch, predecessor):
    """The CPU in place of a GPU, with small shapes, without graphs and memory counts."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(targets_gpu, "CUDA", cpu)
    monkeypatch.setattr(targets_gpu, "capture", lambda operation: operation)
    monkeypatch.setattr(targets_gpu, "SMALL", (4, 64))
    monkeypatch.setattr(targets_gpu, "PREDECESSOR_SETS", 16)
    monkeypatch.setattr(targets_gpu, "PREDECESSOR_POINTS", 64)
    step = functools.partial(targets_gpu.make_step, batch=4, cloud=16)
    monkeypatch.setattr(targets_gpu, "make_step", step)
    monkeypatch.setattr(targets, "GPU_SHAPE", (16, 64))

    def held(operation, wanted=0):
        operation()
        return 4096.0 + wanted

    monkeypatch.setattr(targets_gpu, "extra_memory", held)


@pytest.mark.usefixtures("stand_in")
def test_all_that_is_promised_of_a_gpu_is_measured():
    settings = compare.Settings(3, 5.0, 1.0, tuple(ddn_cuda.PENALTIES), backend="aot_eager")
    found = [row for part in targets_gpu.parts(settings) for row in part]
    assert not [row["skipped"] for row in found if row.get("skipped")]
    keys = ("what", "unit", "goal", "place")
    expected = [[row[key] for key in keys] for row in targets_gpu.skipped("")]
    measured = [[row[key] for key in keys] for row in found]
    assert sorted(measured) == sorted(expected)
    assert all(isinstance(row["met"], bool) and row["measured"] > 0 for row in found
               if row["unit"] != "launches above torch.amax")  # fmt: skip
    json.dumps(found)
    memory = [row for row in found if row["what"].startswith("memory of")]
    assert all(row["measured"] == 1 and not row["met"] for row in memory)
    assert "note" in memory[0]


@pytest.mark.usefixtures("cuda")
def test_small_batches_are_replayed_from_graphs():
    settings = compare.Settings(3, 5.0, 1.0, ("huber",))
    rows = list(targets_gpu.replayed(settings))
    assert [row["what"] for row in rows] == ["forward huber"]
    assert rows[0]["repetitions"] >= targets.LEAST_REPETITIONS


@pytest.mark.usefixtures("cuda")
def test_memory_is_counted_beyond_what_is_wanted():
    size = 8 << 20
    held = targets_gpu.extra_memory(lambda: torch.empty(size, dtype=torch.uint8, device="cuda"))
    assert held == size
    rest = targets_gpu.extra_memory(lambda: torch.empty(size, device="cuda"), wanted=size)
    assert rest == 3 * size


@pytest.mark.usefixtures("cuda")
def test_training_steps_are_timed():
    settings = compare.Settings(3, 5.0, 1.0, ("huber",))
    row = targets_gpu.training_step(False, settings)
    assert 0.1 < row["measured"] < 10
