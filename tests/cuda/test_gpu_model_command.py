"""The command of the model of GPU time, and the committed counts."""

import json
import re
from dataclasses import dataclass

import pytest
import torch

from bench import machine
from bench.gpu_model import __main__ as command
from bench.gpu_model import counts_table, figures
from bench.gpu_model.counted import WORKLOADS
from bench.gpu_model.counts_table import Table
from bench.gpu_model.measure import measure
from tests.support.invented_counts import KERNEL, SETS, invented
from tests.support.ptx_emulator import build
from tests.support.ptx_emulator.counts import KernelCounts


@dataclass
class Emulated:
    """Stands for the emulator: counts that are known."""

    counts: KernelCounts

    def build(self):
        return self

    def count(self, emulator, workload):
        assert emulator is self
        return {KERNEL: self.counts}


@pytest.fixture
def table_file(monkeypatch, tmp_path):
    path = tmp_path / "counts.json"
    monkeypatch.setattr(counts_table.read, "__defaults__", (path,))
    monkeypatch.setattr(counts_table.write, "__defaults__", (path,))
    return path


def test_a_table_is_written_and_read(table_file):
    kernel = figures.of_counts(invented())
    counts_table.write(Table("13.0", "abc", {"forward huber 64": {KERNEL: kernel}}))
    found = counts_table.read()
    assert found.nvcc == "13.0"
    assert found.workloads == {"forward huber 64": {KERNEL: kernel}}
    assert counts_table.differences(found.workloads["forward huber 64"], {KERNEL: kernel}, 0) == []


def test_differences_of_counts():
    one = {KERNEL: figures.of_counts(invented())}
    other = {KERNEL: figures.of_counts(invented(load_chain=17))}
    assert counts_table.differences(one, other, 0.1) == []
    assert counts_table.differences(one, other, 0.01) == [f"{KERNEL}: load_chain 16 and 17"]
    assert counts_table.differences(one, {}, 1) == [f"kernels: {[KERNEL]} and []"]


def test_the_command_writes_and_prints(monkeypatch, table_file, tmp_path, capsys):
    emulated = Emulated(invented())
    monkeypatch.setattr(command.emulate, "build", emulated.build)
    monkeypatch.setattr(command.emulate, "count", emulated.count)
    only = ["--only", "^forward (huber|quadratic) (64|2047|2048)$"]
    assert command.main([*only, "--write-table"]) == 0
    first = capsys.readouterr().out
    assert "0 workloads within 1% of before" in first
    assert "What these predictions do not see" in first
    emulated.counts = invented(block_load_chain=8)
    assert command.main(["--only", "^forward huber 64$", "--write-table"]) == 0
    changed = re.search(r"forward huber 64 +(\S+) +(\S+) +(\S+) +(\S+)\n", capsys.readouterr().out)
    assert changed
    before, after, *predicted = changed.groups()
    assert before == after
    assert float(predicted[0]) < float(predicted[1])  # a chain twice as long
    out = tmp_path / "out.json"
    assert command.main([*only, "--machine", "A100", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "1.00 / 1.1 x forward huber 2048 ✓" in printed
    assert "goals met (✓): " in printed
    found = json.loads(out.read_text())
    assert found["predicted_for"] == "A100"
    assert len(found["rows"]) == 6
    assert command.main(["--lines", "forward huber 64"]) == 0
    assert "local.h:10" in capsys.readouterr().out


def test_without_an_emulator_the_committed_counts_serve(monkeypatch, table_file, capsys):
    counts_table.write(
        Table("13.0", None, {"forward huber 64": {KERNEL: figures.of_counts(invented())}})
    )

    def fail():
        raise OSError("no nvcc")

    monkeypatch.setattr(command.emulate, "build", fail)
    assert command.main(["--only", "forward huber 64", "--counts", "emulator"]) == 0
    assert "not counted, no nvcc; the committed counts are used" in capsys.readouterr().out


@pytest.mark.parametrize(
    "small",
    [
        SETS._replace(full=(6, 50)),
        SETS._replace(full=(6, 50), direction="backward", dtype="bfloat16"),
        SETS._replace(full=(6, 50), weighted=True, penalty="welsch", solver="global"),
        SETS._replace(full=(2, 50, 3), layout="channels last", direction="backward"),
        SETS._replace(full=(20, 3), layout="segments", direction="backward"),
        SETS._replace(full=(20, 1), layout="segments", shape=(40, 1), rows=30),
    ],
)
def test_workloads_can_be_timed(small):
    found = measure(small, torch.device("cpu"))
    assert found.low <= found.median <= found.high
    assert found.repetitions >= 1


def test_no_measurement_begins_after_its_seconds():
    few = command.chosen("huber (64|2048)$", quick=False)
    assert set(command.measure_all(few, seconds=-1).values()) == {"not timed"}


def test_nothing_chosen_is_an_error():
    with pytest.raises(SystemExit, match="names no workload"):
        command.main(["--only", "nothing of the kind"])
    with pytest.raises(SystemExit, match="no workload 'nothing'"):
        command.main(["--lines", "nothing"])


# The committed counts


@pytest.fixture(scope="module")
def committed():
    found = counts_table.read()
    if not found.workloads:
        pytest.skip("there is no table of counts yet: python -m bench.gpu_model --write-table")
    return found


def test_all_workloads_are_counted(committed):
    assert list(committed.workloads) == list(WORKLOADS)


@pytest.fixture(scope="module")
def counting(request, committed):
    """The emulator, where its counts have to be those of the table."""
    if request.config.getoption("--kernels") != "ptx":
        pytest.skip("takes minutes to build: needs --kernels=ptx, as in make test-ptx")
    if reason := build.missing():
        pytest.skip(reason)
    if (version := counts_table.nvcc_version()) != committed.nvcc:
        pytest.skip(f"counted with nvcc {committed.nvcc}, not {version}")
    return command.emulate.build()


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
def test_counts_are_those_of_the_table(counting, committed, name):
    counts = command.emulate.count(counting, WORKLOADS[name])
    found = {kernel: figures.of_counts(one) for kernel, one in counts.items()}
    assert counts_table.differences(committed.workloads[name], found, 0.01) == [], (
        "the kernels execute other instructions: if that is intended, "
        "python -m bench.gpu_model --write-table renews the counts"
    )


def test_the_docs_show_what_the_command_prints(capsys):
    page = (machine.ROOT / "docs" / "gpu_model.md").read_text()
    only = re.search(r"--only '([^']*)'\n\n<!-- gpu model", page).group(1)
    command.main(["--only", only])
    block = re.search(r"<!-- gpu model.*?-->\s+```text\n(.*?)```\s+<!-- end", page, re.S).group(1)
    assert block.rstrip() == capsys.readouterr().out.rstrip()
