"""The point-cloud example: shapes, batches, network and metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import ddn_cuda

pytest.importorskip("sklearn", reason="the examples need scikit-learn")
pytest.importorskip("matplotlib", reason="the examples need matplotlib")
pytest.importorskip("tqdm", reason="the examples need tqdm")

from examples.digits import POOLS
from examples.pointcloud import evaluate, shapes
from examples.pointcloud.batches import Augmentation, Batches, rotate
from examples.pointcloud.clouds import Clouds
from examples.pointcloud.model import InputTransform, PointNet, build
from tests.support.pointcloud import ALONE, TINY, made

# Shapes


def test_points_are_uniform_on_the_surface():
    # A 4 x 2 x 1 box: 16, 8 and 4 of its 28 units of area face along z, y and x.
    mesh = shapes.extrude([(2, 1), (-2, 1), (-2, -1), (2, -1)], 1)
    points = shapes.sample(mesh, 20_000, np.random.default_rng(0))
    on = np.stack([np.isclose(abs(points[:, 0]), 2), np.isclose(abs(points[:, 1]), 1),
                   np.isclose(abs(points[:, 2] - 0.5), 0.5)])  # fmt: skip
    assert on.any(0).all()
    # Deviations of these shares are below 0.0036.
    np.testing.assert_allclose(on.mean(1), np.array([4, 8, 16]) / 28, atol=0.015)
    top = points[np.isclose(points[:, 2], 1)]
    np.testing.assert_allclose(top.mean(0)[:2], 0, atol=0.06)
    np.testing.assert_allclose(top.var(0)[:2], [16 / 12, 4 / 12], rtol=0.05)


@pytest.mark.parametrize("name", shapes.CLASSES)
def test_every_class_draws_new_shapes_of_finite_area(name: str):
    one, other = (shapes.CLASSES[name](np.random.default_rng(seed)) for seed in (0, 1))
    for mesh in (one, other):
        a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
        assert 0.1 < np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 < 1e3
    same_size = one.vertices.shape == other.vertices.shape
    assert not (same_size and np.allclose(one.vertices, other.vertices))


def test_surfaces_have_the_areas_of_geometry():
    def area(mesh: shapes.Mesh) -> float:
        a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)

    # The area of 48 segments is 0.3% less than that of a circle.
    assert area(shapes.revolve(shapes.arc(-shapes.POLE, shapes.POLE))) == pytest.approx(
        4 * math.pi, rel=6e-3
    )
    assert area(shapes.revolve([(0, 0), (1, 0), (1, 2), (0, 2)])) == pytest.approx(
        6 * math.pi, rel=6e-3
    )
    steps = shapes.extrude([(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)], 1)
    assert area(steps) == pytest.approx(2 * 3 + 8)
    around = np.linspace(0, 2 * math.pi, 97)
    ring = np.column_stack((3 * np.cos(around), 3 * np.sin(around), 0 * around))
    assert area(shapes.tube(ring, 1.0)) == pytest.approx(12 * math.pi**2, rel=1e-2)


def test_clouds_are_normalised_and_depend_on_the_seed_and_purpose_alone():
    points, labels = shapes.draw(2, 40, seed=1, purpose=0)
    assert points.shape == (32, 3, 40)
    assert labels.bincount().tolist() == [2] * 16
    torch.testing.assert_close(points.mean(2), torch.zeros(32, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(points.norm(dim=1).amax(1), torch.ones(32))
    more, _ = shapes.draw(3, 40, seed=1, purpose=0)
    assert torch.equal(more.reshape(16, 3, 3, 40)[:, :2].reshape(points.shape), points)
    for seed, purpose in ((2, 0), (1, 1)):
        assert not torch.equal(shapes.draw(2, 40, seed, purpose)[0], points)


# Batches


def test_rotation_is_about_the_up_axis():
    x, y, z = torch.eye(3)
    points = torch.stack((x, y, z), dim=1).expand(3, 3, 3)
    quarter = torch.full((3,), math.pi / 2)
    for up in range(3):
        turned = rotate(points, quarter, up)[0]
        i, j = (up + 1) % 3, (up + 2) % 3
        torch.testing.assert_close(turned[:, up], torch.eye(3)[up])
        torch.testing.assert_close(turned[:, i], torch.eye(3)[j])
        torch.testing.assert_close(turned[:, j], -torch.eye(3)[i])


def test_subsets_are_nested_and_hold_every_class():
    clouds = made(per_class=10, points=4)
    sizes, before = [], set()
    for share in (0.01, 0.05, 0.25, 1.0):
        part = clouds.subset(share, seed=1)
        held = {tuple(cloud.flatten().tolist()) for cloud in part.points}
        assert before <= held
        before = held
        assert len(set(part.labels.bincount(minlength=16).tolist())) == 1
        sizes.append(len(part))
    assert sizes == [16, 16, 32, 160]
    assert torch.equal(clouds.subset(1.0, 1).points, clouds.points)
    assert not torch.equal(clouds.subset(0.25, 2).points, clouds.subset(0.25, 1).points)


def test_processes_share_out_the_batches_of_one():
    augmentation = Augmentation(jitter=0.1, outliers=0.3)
    clouds = made()
    whole = Batches(clouds, 12, augmentation, seed=5)
    parts = [Batches(clouds, 12, augmentation, 5, rank=rank, world=3) for rank in range(3)]
    for place in ((0, 0), (0, 1), (7, 1)):
        points, labels = whole[place]
        for rank, part in enumerate(parts):
            mine, my_labels = part[place]
            assert torch.equal(mine, points[rank::3])
            assert torch.equal(my_labels, labels[rank::3])
    assert not torch.equal(whole[0, 0][0], whole[1, 0][0])
    with pytest.raises(ValueError, match=r"batch is 12; expected a multiple of .* processes, 5"):
        Batches(clouds, 12, augmentation, 5, world=5)
    with pytest.raises(ValueError, match="batch is 40; expected at most the number"):
        Batches(clouds, 40, augmentation, 5)


def test_an_epoch_shows_each_cloud_once_and_a_longer_one_repeats():
    clouds = made()
    clouds = Clouds(clouds.points, torch.arange(32), tuple(map(str, range(32))), up=2)
    labels = [y for _, y in Batches(clouds, 8, Augmentation(), 0).stream(2, 4, 0, False)]
    one, next_one = torch.cat(labels[:4]).tolist(), torch.cat(labels[4:]).tolist()
    assert sorted(one) == sorted(next_one) == list(range(32))
    assert one != next_one
    longer = Batches(clouds, 8, Augmentation(), 0, steps=8)
    twice = torch.cat([longer[0, step][1] for step in range(8)])
    assert twice.bincount().tolist() == [2] * 32


def test_workers_change_nothing():
    batches = Batches(made(), 16, Augmentation(jitter=0.1), 0)
    here, there = (list(batches.stream(0, 2, workers, False)) for workers in (0, 1))
    assert len(here) == len(there) == 4
    for (points, labels), (points_there, labels_there) in zip(here, there, strict=True):
        assert torch.equal(points, points_there)
        assert torch.equal(labels, labels_there)


# Network


@pytest.mark.parametrize("transform", [False, True])
@pytest.mark.parametrize("pool", POOLS)
def test_any_pool_fits_and_learns(pool: str, transform: bool):
    settings = TINY | {"pool": pool, "transform": transform}
    model = build(settings, 16)
    clouds = made(1, 24)
    logits = model(clouds.points)
    assert logits.shape == (16, 16)
    nn.functional.cross_entropy(logits, clouds.labels).backward()
    for name, parameter in model.named_parameters():
        # A new transform is the identity; its last layer is zero and stops the gradient.
        if not name.startswith("transform.") or name.startswith("transform.head.3."):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    first = model.get_parameter("encoder.0.weight").grad
    assert first is not None
    assert first.abs().sum() > 0
    pools = [m for m in model.modules() if isinstance(m, ddn_cuda.RobustPool)]
    assert len(pools) == (0 if pool in ("max", "mean") else 1 + transform)
    model.eval()
    shuffled = model(clouds.points[:, :, torch.randperm(24)])
    torch.testing.assert_close(shuffled, model(clouds.points), rtol=1e-4, atol=1e-4)


def test_weights_depend_on_the_seed_alone():
    states = [build(TINY | {"pool": pool, "transform": t}, 16).state_dict()
              for pool, t in (("max", False), ("welsch", False), ("welsch", True))]  # fmt: skip
    for state in states[1:]:
        for name, weight in states[0].items():
            assert torch.equal(weight, state[name]), name
    other = build(TINY | {"pool": "max", "seed": 1}, 16).state_dict()
    assert not torch.equal(other["encoder.0.weight"], states[0]["encoder.0.weight"])


def test_the_transform_starts_as_the_identity_and_multiplies_clouds():
    transform = InputTransform(nn.AdaptiveAvgPool1d(1), (4,), (4,))
    transform.pool = nn.Sequential(transform.pool, nn.Flatten())
    points = made(1, 8).points
    assert torch.equal(transform(points), points)
    matrix = torch.randn(3, 3)
    transform.head[-1].bias.data = matrix.flatten()
    torch.testing.assert_close(transform(points), (matrix + torch.eye(3)) @ points)


def test_the_published_network_has_its_widths():
    model = PointNet(nn.Identity(), 40, transform=True)
    widths = [m.weight.shape[:2] for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Linear))]
    trunk = [(64, 3), (128, 64), (1024, 128), (512, 1024), (256, 512)]
    assert [tuple(w) for w in widths] == [*trunk, (40, 256), *trunk, (9, 256)]


# Figures


def test_mean_average_precision_by_hand():
    labels = torch.tensor([0, 1, 1, 0])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    # Class 0 is found 1st and 3rd: (1 + 2/3) / 2; class 1 likewise.
    assert evaluate.mean_average_precision(scores, labels) == pytest.approx(100 * 5 / 6)
    assert evaluate.accuracy(scores, labels) == 50
    # All classes count, also the last of them.
    scores = torch.eye(8)
    scores[[6, 7]] = scores[[7, 6]]
    assert evaluate.mean_average_precision(scores, torch.arange(8)) == pytest.approx(
        100 * (6 + 2 / 8 / 2 + 2 / 8 / 2) / 8, abs=3
    )
    with pytest.raises(ValueError, match=r"classes \[2\]"):
        evaluate.mean_average_precision(torch.rand(4, 3), labels)


def test_outliers_are_nested_and_leave_the_rest_alone():
    seen = []

    class Look(nn.Module):
        def forward(self, points: torch.Tensor) -> torch.Tensor:
            seen.append(points.clone())
            return torch.zeros(len(points), 16)

    clouds = made(2, 50)
    row = evaluate.measure(Look(), clouds, 0, ALONE, (0, 10, 90))
    assert row["accuracy"] == [6.25] * 3
    clean, some, most = seen
    assert torch.equal(clean, clouds.points)
    changed = [(part != clean).any(1) for part in (some, most)]
    assert [c.sum(1).unique().tolist() for c in changed] == [[5], [45]]
    assert torch.equal(some.mT[changed[0]], most.mT[changed[0]])
    assert most.norm(dim=1).max() <= 1 + 1e-6
