"""The digits example: its point sets, its network, and a small run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import ddn_cuda

pytest.importorskip("sklearn", reason="the examples need scikit-learn")
pytest.importorskip("matplotlib", reason="the examples need matplotlib")
pytest.importorskip("tqdm", reason="the examples need tqdm")

from examples import digits
from examples.digits_data import SIDE, Digits, draw_points, replace_by_outliers, split_digits
from examples.digits_model import PointClassifier, Reduction, accuracy, build, make_pool, train

POINTS = 40


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def norms(points: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(points, dim=1)


@pytest.fixture(scope="module")
def split() -> tuple[Digits, Digits]:
    return split_digits()


def first(data: Digits, n: int) -> Digits:
    return Digits(data.ink[:n], data.labels[:n])


# Data


def test_split_holds_every_digit_once_in_even_proportions(split):
    train_digits, test_digits = split
    assert (len(train_digits), len(test_digits)) == (1347, 450)
    images = torch.cat((train_digits.ink, test_digits.ink))
    assert images.shape == (1797, SIDE * SIDE)
    share = torch.bincount(test_digits.labels) / torch.bincount(
        torch.cat((train_digits.labels, test_digits.labels))
    )
    # 450 of 1,797 with about 180 of each class: a whole image is 0.6% of its class.
    torch.testing.assert_close(share, torch.full((10,), 450 / 1797), rtol=0, atol=6e-3)


def test_split_is_the_same_each_time(split):
    again = split_digits()
    for one, other in zip(split, again, strict=True):
        assert torch.equal(one.ink, other.ink)
        assert torch.equal(one.labels, other.labels)


def test_points_are_centred_and_reach_the_unit_circle(split):
    points = draw_points(split[1].ink, POINTS, generator())
    assert points.shape == (450, 2, POINTS)
    assert points.dtype == torch.float32
    # Rounding: a mean of POINTS float32 numbers of at most 1, and one division.
    torch.testing.assert_close(points.mean(dim=2), torch.zeros(450, 2), rtol=0, atol=1e-6)
    torch.testing.assert_close(norms(points).amax(dim=1), torch.ones(450), rtol=0, atol=1e-6)


def test_points_follow_the_ink():
    # Two pixels, row 1 column 2 with three times the ink of row 6 column 2: x is equal up to the
    # jitter within a pixel, the darker pixel lies higher and holds three quarters of the points.
    ink = torch.zeros(1, SIDE, SIDE)
    ink[0, 1, 2], ink[0, 6, 2] = 12.0, 4.0
    count = 4000
    (points,) = draw_points(ink.flatten(1), count, generator())
    assert float(points[0].max() - points[0].min()) < float(points[1].max() - points[1].min()) / 4
    gap = float(points[1].max() + points[1].min()) / 2
    upper = int((points[1] > gap).sum())
    # Binomial with standard deviation 27; five of them.
    assert abs(upper - 0.75 * count) < 5 * (count * 0.75 * 0.25) ** 0.5
    # Points spread within a pixel, and do not coincide on a lattice.
    assert points[0].unique().numel() > count / 2


def test_points_depend_on_the_seed_alone(split):
    ink = split[0].ink[:20]
    torch.rand(3)  # independent of the global generator
    one, again = (draw_points(ink, POINTS, generator(3)) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, draw_points(ink, POINTS, generator(4)))


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.2, 0.4, 0.6, 1.0])
def test_exactly_the_fraction_is_replaced(split, fraction):
    points = draw_points(split[1].ink[:50], POINTS, generator())
    before = points.clone()
    noisy = replace_by_outliers(points, fraction, generator(1))
    assert torch.equal(points, before)
    changed = (noisy != points).any(dim=1)
    assert (changed.sum(dim=1) == round(fraction * POINTS)).all()
    assert (norms(noisy) <= 1 + 1e-6).all()


def test_outliers_are_nested_and_repeatable(split):
    points = draw_points(split[1].ink[:50], POINTS, generator())
    few = replace_by_outliers(points, 0.2, generator(1))
    many = replace_by_outliers(points, 0.6, generator(1))
    replaced = (few != points).any(dim=1, keepdim=True).expand_as(points)
    assert torch.equal(few[replaced], many[replaced])
    assert torch.equal(few, replace_by_outliers(points, 0.2, generator(1)))
    assert not torch.equal(few, replace_by_outliers(points, 0.2, generator(2)))


def test_outliers_are_uniform_in_the_disc():
    count = 40_000
    outliers = replace_by_outliers(torch.zeros(1, 2, count), 1.0, generator())
    # Uniform in area: the squared radius is uniform in [0, 1], each quadrant holds a quarter.
    within_half = (norms(outliers) < 0.5**0.5).double().mean()
    quadrant = ((outliers[:, 0] > 0) & (outliers[:, 1] > 0)).double().mean()
    five_deviations = 5 * 0.5 / count**0.5
    assert abs(float(within_half) - 0.5) < five_deviations
    assert abs(float(quadrant) - 0.25) < five_deviations


# Model


@pytest.mark.parametrize("name", digits.POOLS)
def test_network_forward_and_backward(name, split):
    points = draw_points(split[0].ink[:8], POINTS, generator())
    model = build(make_pool(name), seed=0)
    logits = model(points)
    assert logits.shape == (8, 10)
    logits.square().sum().backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None, parameter
        assert torch.isfinite(value.grad).all(), parameter
    assert model.encoder[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", digits.POOLS)
def test_pool_moves_with_its_points(name):
    x = torch.randn(3, 4, 25, generator=generator())
    pool = make_pool(name, alpha=0.5)
    # Float32 answers around 100: 2 ulp of 7.6e-6 each, and the rounding of the shifted input.
    torch.testing.assert_close(pool(x + 100), pool(x) + 100, rtol=0, atol=5e-5)
    assert pool(x).shape == (3, 4)


def test_pools_are_what_their_names_say():
    x = torch.randn(2, 3, 25, generator=generator())
    assert torch.equal(make_pool("max")(x), x.amax(-1))
    assert torch.equal(make_pool("mean")(x), x.mean(-1))
    expected = ddn_cuda.robust_pool(x, "welsch", 0.7)
    assert torch.equal(make_pool("welsch", 0.7)(x), expected)


def test_initial_weights_depend_on_the_seed_alone():
    state = torch.random.get_rng_state()
    one, other = build(make_pool("max"), seed=5), build(make_pool("huber"), seed=5)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.head[0].weight, build(make_pool("max"), seed=6).head[0].weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_training_lowers_the_loss_and_beats_chance(split):
    data = first(split[0], 320)
    model = build(make_pool("huber"), seed=0)
    losses: list[float] = []
    train(model, data, epochs=4, points=POINTS, seed=0, on_epoch=losses.append)
    assert len(losses) == 4
    assert losses[-1] < 0.8 * losses[0]
    clouds = draw_points(data.ink, POINTS, generator(1))
    assert accuracy(model, clouds, data.labels) > 30  # chance: 10


def test_accuracy_counts_hits():
    class Constant(PointClassifier):
        """A classifier that always predicts 3."""

        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return torch.eye(10)[3].expand(len(points), -1)

    labels = torch.tensor([3, 3, 1, 2] * 20)
    clouds = torch.zeros(80, 2, POINTS)
    assert accuracy(Constant(Reduction(torch.amax)), clouds, labels) == 50.0


def test_accuracy_leaves_the_model_as_it_was(split):
    data = first(split[1], 40)
    model = build(make_pool("mean"), seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    accuracy(model, draw_points(data.ink, POINTS, generator()), data.labels)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# Command line


@pytest.fixture
def few_digits(monkeypatch, split):
    """Runs the example on a part of the data, sufficient for training."""
    monkeypatch.setattr(
        digits, "split_digits", lambda: (first(split[0], 320), first(split[1], 200))
    )


@pytest.mark.slow
def test_run_writes_the_table_and_the_plot_and_repeats(few_digits, tmp_path: Path, capsys):
    argv = ["--points", "32", "--epochs", "4", "--penalty", "max", "H", "--output"]
    threads = torch.get_num_threads()
    results = []
    for run in ("one", "two"):
        assert digits.main([*argv, str(tmp_path / run)]) == 0
        results.append(json.loads((tmp_path / run / "digits.json").read_text()))
        image = (tmp_path / run / "digits.png").read_bytes()
        assert image.startswith(b"\x89PNG")
        width, height = (int.from_bytes(image[i : i + 4], "big") for i in (16, 20))
        assert width >= 900
        assert height >= 500
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()

    result = results[0]
    assert result.keys() == {
        "settings", "machine", "versions", "commit", "images", "outlier_percent", "table",
        "seconds", "total_seconds",
    }  # fmt: skip
    assert result["outlier_percent"] == [0, 10, 20, 40, 60]
    assert list(result["table"]) == list(result["seconds"]) == ["max", "huber"]
    for row in result["table"].values():
        assert len(row) == 5
        assert all(0 <= value <= 100 for value in row)
        assert len(set(row)) > 2  # a constant table would be repeatable with any random numbers
    assert result["table"]["huber"][0] > 20  # chance: 10
    assert result["settings"]["epochs"] == 4
    assert result["settings"]["points"] == 32
    assert result["settings"]["seed"] == 0
    assert result["versions"]["torch"] == torch.__version__
    assert result["versions"]["ddn_cuda"] == ddn_cuda.build_info()
    assert result["machine"]["threads"] == result["settings"]["threads"] == 2
    assert result["images"] == {"train": 320, "test": 200}
    assert results[0]["table"] == results[1]["table"]

    printed = capsys.readouterr().out
    for heading in ("max ", "huber (H)", "60%"):
        assert heading in printed


@pytest.mark.slow
def test_another_seed_gives_another_table(few_digits, tmp_path: Path):
    argv = ["--quick", "--penalty", "mean", "--output", str(tmp_path)]
    tables = []
    for seed in ("0", "1"):
        digits.main([*argv, "--seed", seed])
        tables.append(json.loads((tmp_path / "digits.json").read_text())["table"])
    assert tables[0] != tables[1]


def test_an_output_that_is_a_file_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"--output: .*File exists: '.*file'"):
        digits.main(["--output", str(tmp_path / "file")])


def test_names_and_aliases_pick_the_pools():
    args = digits.parse(["--penalty", "H", "huber", "TQ", "mean"])
    assert args.penalty == ["huber", "truncated_quadratic", "mean"]
    assert digits.parse([]).penalty == list(digits.POOLS)
    assert set(digits.LINES) == set(digits.POOLS)


def test_quick_yields_to_what_is_given():
    assert digits.parse(["--quick"]).epochs < digits.parse([]).epochs
    args = digits.parse(["--quick", "--epochs", "7", "--points", "60"])
    assert (args.epochs, args.points) == (7, 60)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--penalty", "cauchy"], "unknown pooling 'cauchy'; expected one of max, mean, quadratic"),
        (["--epochs", "0"], "0 given; expected at least 1"),
        (["--alpha", "-1"], "--alpha: -1.0 given; expected a positive finite number"),
        (["--alpha", "nan"], "--alpha: nan given; expected a positive finite number"),
        (["--points", "1"], "1 given; expected at least 2"),
        (["--device", "nowhere"], "--device nowhere"),
    ],
)
def test_bad_options_end_with_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as ended:
        digits.parse(argv)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
