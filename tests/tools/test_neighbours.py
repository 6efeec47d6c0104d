"""The example of a graph with corrupted nodes: its graphs, and a small run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", reason="the examples need scikit-learn")
pytest.importorskip("matplotlib", reason="the examples need matplotlib")
pytest.importorskip("tqdm", reason="the examples need tqdm")
pytest.importorskip("torch_geometric", reason="the example needs torch-geometric")

from examples import neighbours


def test_each_node_hears_its_ten_nearest():
    graph = neighbours.load("breast cancer")
    n = len(graph.y)
    assert graph.x.shape == (n, 30) == (569, 30)
    torch.testing.assert_close(graph.x.mean(0), torch.zeros(30), rtol=0, atol=1e-5)
    torch.testing.assert_close(graph.x.std(0), torch.ones(30))
    source, target = graph.edges
    assert torch.equal(target, torch.arange(n).repeat_interleave(10)), (
        "sorted: nothing is regrouped"
    )
    distance = torch.cdist(graph.x.double(), graph.x.double()).fill_diagonal_(torch.inf)
    nearest = distance.topk(10, largest=False).values
    heard = distance[target, source].reshape(n, 10).sort().values
    torch.testing.assert_close(heard, nearest)


@pytest.mark.parametrize("kind", ["noise", "swapped"])
def test_corruption_is_nested_and_of_the_kind_asked_for(kind: str):
    x = torch.randn(200, 5)
    (some, kept), (most, fewer) = (
        neighbours.corrupt(x, kind, share, torch.Generator().manual_seed(1)) for share in (0.1, 0.6)
    )
    assert (int((~kept).sum()), int((~fewer).sum())) == (20, 120)
    assert torch.equal(some[kept], x[kept])
    assert not (fewer & ~kept).any()
    assert torch.equal(most[~kept], some[~kept])
    if kind == "noise":
        assert float(most[~fewer].std()) == pytest.approx(neighbours.NOISE, rel=0.1)
    else:
        own = (most[:, None] == x).all(2).int().argmax(1)
        assert torch.equal(x[own], most), "all rows are rows of x"
        assert (own[~fewer] != torch.arange(200)[~fewer]).all(), "of other nodes"


@pytest.mark.slow
def test_a_whole_run(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(neighbours, "DATA_SETS", {"breast cancer": neighbours.load_breast_cancer})
    chosen = {name: neighbours.AGGREGATIONS[name] for name in ("max", "huber")}
    monkeypatch.setattr(neighbours, "AGGREGATIONS", chosen)
    path = tmp_path / "new" / "run.json"
    argv = ["--epochs", "15", "--seeds", "2", "--output", str(path)]
    assert neighbours.main(argv) == 0
    printed = capsys.readouterr().out
    result = json.loads(path.read_text())
    rows = {(row["corruption"], row["aggregation"]): row for row in result["rows"]}
    assert list(rows) == [(k, a) for k in ("noise", "swapped") for a in ("max", "huber")]
    for row in rows.values():
        assert row["accuracy"][0] > 90
    # Noise of ten standard deviations determines the maximum, and hardly changes Huber's pool.
    assert rows["noise", "max"]["accuracy"][2] < 70
    assert rows["noise", "huber"]["accuracy"][2] > 85
    assert len(printed.splitlines()) == 2 + len(rows)
    assert neighbours.main(["--show", str(path)]) == 0
    assert capsys.readouterr().out == printed
    neighbours.main(argv)
    assert json.loads(path.read_text())["rows"] == result["rows"], "seeded"


def test_bad_files_end_with_one_line(tmp_path: Path, capsys):
    file = tmp_path / "file"
    file.write_text("{")
    for argv, message in (
        (["--output", str(file / "a.json")], "exists"),
        (["--show", str(tmp_path / "none.json")], "none.json"),
        (["--show", str(file)], "file is damaged; delete it to begin anew"),
    ):
        with pytest.raises(SystemExit):
            neighbours.main(argv)
        assert message in capsys.readouterr().err
