"""bench/global_minima.py: its descents are correct, its check can fail, and its figure comes from
its file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.support import oracle

pytest.importorskip("matplotlib", reason="the figure needs matplotlib")

from bench import global_minima as bench


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with few sets: its result and its folder."""
    folder = tmp_path_factory.mktemp("global_minima") / "made"
    assert bench.main(["--sets", "30", "--points", "64", "--output", str(folder)]) == 0
    return json.loads((folder / "global_minima.json").read_text()), folder


@pytest.mark.parametrize("penalty", bench.PENALTIES)
@pytest.mark.parametrize("modes", [1, 4])
@pytest.mark.parametrize("start", ["mean", "median", "far"])
def test_descents_end_at_stationary_points_below_their_start(penalty, modes, start):
    x = bench.draw_sets(200, 100, modes, 1)
    starts = {"mean": x.mean(1), "median": np.median(x, axis=1), "far": x.max(1) + 0.5}
    first = bench.evaluate(starts[start], x, penalty)
    y = bench.descend(x, starts[start], penalty)
    last = bench.evaluate(y, x, penalty)
    assert np.abs(last.derivative).max() <= 1e-11
    assert (last.curvature >= -1e-11).all()
    assert (last.value <= first.value * (1 + 1e-14)).all()
    # The descent lowers the objective unless the start is flat.
    assert (last.value < first.value)[np.abs(first.derivative) > 1e-6].all()


@pytest.mark.parametrize("penalty", bench.PENALTIES)
def test_the_derivatives_are_those_of_the_objective(penalty):
    x = bench.draw_sets(20, 50, 3, 2)
    u, h = np.linspace(-8, 8, 20), 1e-6
    left, here, right = (bench.evaluate(u + k * h, x, penalty) for k in (-1, 0, 1))
    derivative, bend = (
        (right.value - left.value) / (2 * h),
        (right.derivative - left.derivative) / (2 * h),
    )
    np.testing.assert_allclose(here.derivative, derivative, atol=1e-6)
    np.testing.assert_allclose(here.curvature, bend, atol=1e-6)


@pytest.mark.parametrize("penalty", bench.PENALTIES)
def test_only_global_minima_count(penalty):
    x = bench.draw_sets(50, 64, 3, 3)
    found = oracle.minimum(x, penalty, 1.0)
    y = found.anchor + found.v
    for shift, good in ((0.0, True), (1e-4, False)):
        value = bench.evaluate(y + shift, x, penalty).value
        assert (bench.is_global(y + shift, value, x, 1.0, found.lower) == good).all()


def test_the_sets_are_those_that_are_described():
    x = bench.draw_sets(400, 256, 1, 0)
    centre = np.median(x, axis=1, keepdims=True)
    assert np.abs(centre).max() <= bench.REACH + 1
    assert np.std(centre) == pytest.approx(bench.REACH / np.sqrt(3), rel=0.1)
    far = np.abs(x - centre) > 5
    # A quarter of the outliers are this near.
    assert far.mean() == pytest.approx(0.75 * bench.OUTLIERS, rel=0.05)
    assert np.std((x - centre)[np.abs(x - centre) < 3]) == pytest.approx(1, abs=0.05)


def test_every_place_of_both_sweeps_has_its_row(run):
    result, _ = run
    places = [("alpha", a, 4) for a in bench.ALPHAS] + [("modes", 1.0, k) for k in bench.MODES]
    assert [(r["penalty"], r["sweep"], r["alpha"], r["modes"]) for r in result["rows"]] == [
        (penalty, *place) for penalty in bench.PENALTIES for place in places
    ]
    assert result["command"].endswith("--sets 30 --points 64 --seed 0")
    assert result["machine"]
    assert result["versions"]
    for row in result["rows"]:
        percent, near = row["percent"], row["percent_near"]
        assert percent.keys() == near.keys() == {"global", "local", "starts", "mean", "median"}
        assert percent["global"] == near["global"] == 100
        assert percent["starts"] >= max(percent["mean"], percent["median"])
        assert all(percent[name] <= near[name] <= 100 for name in percent)
    # Several clusters have local minima.
    assert min(row["percent"]["starts"] for row in result["rows"]) < 80


def test_the_figures_depend_on_the_seed_alone(run):
    result, _ = run
    assert bench.sweep(30, 64, 0) == result["rows"]
    assert bench.sweep(30, 64, 1) != result["rows"]


def test_the_figure_comes_from_the_file_alone(run, tmp_path, monkeypatch):
    _, folder = run
    copy = tmp_path / "copy.json"
    copy.write_bytes((folder / "global_minima.json").read_bytes())
    monkeypatch.setattr(bench, "measure", lambda options: pytest.fail("measured again"))
    assert bench.main(["--plot-only", str(copy)]) == 0
    image = (tmp_path / "global_minima.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert image == (folder / "global_minima.png").read_bytes()


def test_bad_options_end_with_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        bench.parse(["--sets", "0"])
    assert ended.value.code == 2
    assert "expected at least 1" in capsys.readouterr().err
