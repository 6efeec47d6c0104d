"""The commands of the point-cloud example."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import ddn_cuda
from tests.support import ROOT

pytest.importorskip("sklearn", reason="the examples need scikit-learn")
pytest.importorskip("matplotlib", reason="the examples need matplotlib")
pytest.importorskip("tqdm", reason="the examples need tqdm")

from examples.pointcloud import evaluate, shapes, table, train
from examples.pointcloud.checkpoint import read_checkpoint, write_checkpoint
from tests.support.pointcloud import ALONE_ON_A_CORE, TINY_OPTIONS, TORCHRUN

# Commands


def test_the_table_is_made_once_and_resumed(tmp_path: Path, monkeypatch, capsys):
    argv = [*TINY_OPTIONS, "--epochs", "1", "--pool", "max", "TQ", "--share", "100", "50",
            "--output", str(tmp_path)]  # fmt: skip
    assert table.main(argv) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "shapes.json").read_text())
    pools = [(row["settings"]["pool"], row["settings"]["share"]) for row in result["rows"]]
    assert pools == [(p, s) for s in (50, 100) for p in ("max", "truncated_quadratic")]
    for row in result["rows"]:
        assert row["outlier_percent"] == [0, 1, 10, 20, 30, 40, 50, 60, 90]
        assert all(0 <= figure <= 100 for figure in row["accuracy"] + row["map"])
    assert result["clouds"] == {"train": 48, "test": 32}
    assert len(result["classes"]) == 16
    assert result["command"].startswith("python -m examples.pointcloud.table --points 16")
    assert result["versions"]["ddn_cuda"] == ddn_cuda.build_info()
    assert printed.count("truncated_quadratic (TQ)") == 2
    drawn = (tmp_path / "shapes.png").read_bytes()
    assert drawn.startswith(b"\x89PNG")

    monkeypatch.setattr(table, "run", lambda *args: pytest.fail("trained again"))
    assert table.main(argv) == 0
    again = json.loads((tmp_path / "shapes.json").read_text())
    assert again["rows"] == result["rows"]
    assert table.main(["--plot-only", str(tmp_path / "shapes.json")]) == 0
    assert (tmp_path / "shapes.png").read_bytes() == drawn
    row = tmp_path / "max-50-0.json"
    whole = row.read_text()
    row.write_text(whole[:-20])
    with pytest.raises(SystemExit):
        table.main(argv)
    assert f"{row} is damaged; delete it to begin anew" in capsys.readouterr().err
    row.write_text(whole)
    with pytest.raises(SystemExit) as ended:
        table.main([*argv, "--alpha", "2"])
    assert ended.value.code == 1
    assert "max-50-0.json was written with other settings: alpha 1.0 (now 2.0)" in (
        capsys.readouterr().err
    )


def test_train_and_evaluate_tell_the_same(tmp_path: Path, capsys):
    path = tmp_path / "a.pt"
    argv = [*TINY_OPTIONS, "--epochs", "1", "--pool", "W", "--transform", "--checkpoint", str(path)]
    logs = []
    if importlib.util.find_spec("tensorboard"):
        logs = ["--tensorboard", str(tmp_path / "log")]
    assert train.main([*argv, *logs, "--train-outliers", "20"]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("welsch (W)")
    assert evaluate.main([str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == row
    state = read_checkpoint(path)
    assert state is not None
    assert state["settings"]["augmentation"]["outliers"] == 0.2
    if logs:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "log")).Reload()
        assert set(events.Tags()["scalars"]) == {"train/loss", "train/rate", "test/accuracy",
                                                 "test/map"}  # fmt: skip
        assert [event.step for event in events.Scalars("test/map")][-1] == 90


@pytest.mark.parametrize(
    ("module", "argv", "message"),
    [
        (train, ["--data", "modelnet40", "--root", "nowhere"], "shape_names.txt is missing"),
        (train, ["--share", "101"], "101.0 given; expected 0 to 100"),
        (train, [*TINY_OPTIONS, "--share", "0"], "share is 0; expected a number above 0"),
        (train, ["--pool", "cauchy"], "unknown pooling 'cauchy'"),
        (train, [*TINY_OPTIONS, "--batch", "50"], "batch is 50; expected at most the number"),
        (train, ["--device", "nowhere"], "--device: Expected one of cpu, cuda"),
        (table, ["--device", "meta"], "meta given; expected cpu, or cuda where torch has it"),
        (table, ["--batch", "1"], "1 given; expected at least 2"),
        (table, ["--plot-only", "nowhere.json"], "nowhere.json"),
        (table, ["--plot-only", "a-file"], "a-file is damaged; delete it to begin anew: Expecting"),
        (table, ["--plot-only", "empty.json"], "empty.json is no file of this command: it lacks r"),
        (table, ["--output", "a-file"], "File exists: 'a-file'"),
        (table, ["--output", "a-file/a"], "Not a directory"),
        (shapes, ["--output", "a-file"], "File exists: 'a-file'"),
        (shapes, ["--seed", "-1"], "-1 given; expected at least 0"),
        (evaluate, ["nowhere.pt"], "checkpoint nowhere.pt is not there"),
        (
            evaluate,
            ["a-file"],
            "checkpoint a-file is damaged, or no checkpoint; delete it to begin anew (",
        ),
        (evaluate, ["other.pt"], "checkpoint other.pt lacks model, losses, epochs, data"),
        (evaluate, ["nowhere.pt", "--percent", "0", "150"], "150.0 given; expected 0 to 100"),
        (evaluate, ["nowhere.pt", "--percent", "-20"], "-20.0 given; expected 0 to 100"),
    ],
)
def test_bad_options_end_with_one_line(module, argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("junk")
    Path("empty.json").write_text("{}")
    write_checkpoint(Path("other.pt"), {"settings": {}})
    if module is train and "modelnet40" in argv:
        pytest.importorskip("h5py")
    with pytest.raises(SystemExit) as ended:
        module.main(argv)
    assert ended.value.code in (1, 2)
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch", "17"], "batch is 17; expected a multiple of the number of processes, 2"),
        (["--checkpoint", "README.md"], "checkpoint README.md is damaged, or no checkpoint"),
        (["--data", "modelnet40", "--root", "nowhere"], "nowhere/shape_names.txt is missing."),
    ],
)
def test_an_error_under_torchrun_is_one_line_of_each_process(argv: list[str], message: str):
    """Even if only the leader reads the file."""
    if "modelnet40" in argv:
        pytest.importorskip("h5py")
    done = subprocess.run(
        [*TORCHRUN, "--nproc-per-node=2", "--max-restarts=0", "-m", "examples.pointcloud.train",
         *TINY_OPTIONS, *argv],
        cwd=ROOT, env=ALONE_ON_A_CORE, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    # torchrun kills the other process after one has exited, perhaps before it reports.
    told = [line for line in done.stderr.splitlines() if message in line]
    assert 1 <= len(told) <= 2
    for line in told:
        assert re.match(rf"python -m examples\.pointcloud\.train: rank [01]: {message}", line)
    assert "examples/pointcloud" not in done.stderr  # as a traceback would have it


@pytest.mark.parametrize("name", ["shapes", "train", "evaluate", "table"])
def test_every_command_explains_itself(name: str, capsys):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"examples.pointcloud.{name}").main(["--help"])
    assert ended.value.code == 0
    assert f"python -m examples.pointcloud.{name}" in capsys.readouterr().out


def test_documented_tables_do_not_meet_in_one_folder():
    """The commands can follow each other: none is rejected or overwrites another's files."""
    pages = [page.read_text() for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))]
    written: dict[Path, set[tuple[str, ...]]] = {}
    for page in (*pages, str(table.__doc__)):
        whole_lines = page.replace("\\\n", " ")
        for typed in re.findall(r"python -m examples\.pointcloud\.table([^`#\n]*)", whole_lines):
            words = shlex.split(typed.replace("--device cuda", ""))  # it may not be there
            written.setdefault(table.parse(words).output, set()).add(tuple(sorted(words)))
    assert len(written) >= 5
    assert {folder: runs for folder, runs in written.items() if len(runs) > 1} == {}


@pytest.mark.parametrize("module", [train, table])
def test_torchrun_hands_every_option_on(module, capsys):
    """torchrun treats an option that abbreviates one of its own, such as --log, as its own."""
    from torch.distributed.run import get_args_parser

    with pytest.raises(SystemExit):
        module.main(["--help"])
    options = [word.strip("[]") for word in capsys.readouterr().out.split() if "--" in word]
    options = [word for word in options if word.startswith("--")]
    assert {"--tensorboard", "--pool", "--batch"} <= set(options)
    parsed = get_args_parser().parse_args(["-m", module.__name__, *options])
    assert parsed.training_script_args == options
