"""The point-cloud example: shapes, files, batches, network, training, several processes, table."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ddn_cuda
from tests.support import ROOT

pytest.importorskip("sklearn", reason="the examples need scikit-learn")
pytest.importorskip("matplotlib", reason="the examples need matplotlib")
pytest.importorskip("tqdm", reason="the examples need tqdm")

from examples.digits import POOLS
from examples.pointcloud import data, evaluate, shapes, table, train
from examples.pointcloud.checkpoint import read_checkpoint, write_checkpoint
from examples.pointcloud.data import Augmentation, Batches, Clouds
from examples.pointcloud.model import InputTransform, PointNet, build
from examples.pointcloud.team import Team
from tests.support import pointcloud_worker as worker

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d",
            "--rdzv-endpoint=localhost:0", "--monitor-interval=0.1"]  # fmt: skip
ALONE_ON_A_CORE = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
ALONE = Team(torch.device("cpu"))
TINY = {"alpha": 1.0, "transform": False, "channels": [8, 16], "head": [8], "seed": 0}
TINY_OPTIONS = ["--points", "16", "--channels", "8", "16", "--head", "8", "--per-class", "3", "2"]


def made(per_class: int = 2, points: int = 32) -> Clouds:
    return Clouds(*shapes.draw(per_class, points, 0, 0), tuple(shapes.CLASSES), up=2)


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

    # 48 segments fall short of a circle by 0.3%.
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


# ModelNet40


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A folder like modelnet40_ply_hdf5_2048, with three classes and two training files."""
    h5py = pytest.importorskip("h5py")
    root = tmp_path / "modelnet40_ply_hdf5_2048"
    root.mkdir()
    (root / "shape_names.txt").write_text("airplane\nbathtub\nbed\n")
    random = np.random.default_rng(0)
    for split, files in (("train", 2), ("test", 1)):
        names = [f"ply_data_{split}{k}.h5" for k in range(files)]
        listed = [f"data/modelnet40_ply_hdf5_2048/{name}\n" for name in names]
        (root / f"{split}_files.txt").write_text("".join(listed))
        for name in names:
            with h5py.File(root / name, "w") as file:
                points = random.normal(size=(4, 2048, 3)).astype(np.float32)
                file.create_dataset("data", data=points, compression="gzip")
                file.create_dataset("label", data=np.array([[0], [1], [2], [1]], np.uint8))
                file.create_dataset("faceId", data=np.zeros((4, 2048), np.int32))
    return root


def release_settings(points: int = 2048) -> dict[str, object]:
    return {"data": "modelnet40", "points": points, "seed": 0}


def test_the_hdf5_release_is_read_file_by_file(release: Path):
    import h5py

    full, test = data.load(release_settings(), release, ALONE)
    assert full.names == test.names == ("airplane", "bathtub", "bed")
    assert full.points.shape == (8, 3, 2048)
    assert test.points.shape == (4, 3, 2048)
    assert full.labels.tolist() == [0, 1, 2, 1] * 2
    assert full.up == 1
    with h5py.File(release / "ply_data_train1.h5") as file:
        raw = torch.from_numpy(file["data"][2]).T
    raw = raw - raw.mean(1, keepdim=True)
    torch.testing.assert_close(full.points[6], raw / raw.norm(dim=0).max())
    fewer, _ = data.load(release_settings(100), release, ALONE)
    assert fewer.points.shape == (8, 3, 100)


def test_what_is_missing_is_named_with_where_it_goes(tmp_path: Path, release: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*unpack https.*so that .*nowhere holds"):
        data.load(release_settings(), tmp_path / "nowhere", ALONE)
    (release / "ply_data_test0.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"ply_data_test0\.h5 is missing"):
        data.load(release_settings(), release, ALONE)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files_are_named(release: Path, share: float):
    path = release / "ply_data_train1.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"ply_data_train1\.h5 is damaged"):
        data.load(release_settings(), release, ALONE)


def test_files_with_other_content_are_named(release: Path):
    import h5py

    path = release / "ply_data_train0.h5"

    def rewrite(**arrays: np.ndarray) -> None:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array)

    good, label = np.ones((2, 8, 3), np.float32), np.zeros((2, 1), np.uint8)
    some = np.random.default_rng(0).normal(size=good.shape)
    for arrays, message in (
        ({"data": good}, "damaged or no file of the release"),
        ({"data": good[0], "label": label}, r"data has shape \(8, 3\)"),
        ({"data": good, "label": label[:1]}, r"label \(1, 1\)"),
        ({"data": good[:0], "label": label[:0]}, r"data has shape \(0, 8, 3\)"),
        ({"data": good, "label": label + 3}, "labels are 3 to 3, but .*names 3 classes"),
        ({"data": good * np.nan, "label": label}, "not finite"),
        ({"data": good, "label": label}, r"cloud 0 reach 1 and are up to 0 apart; expected dist"),
        ({"data": good * some * np.float32(1e37), "label": label}, "numbers below 1e15"),
        ({"data": some * 1e300, "label": label}, "numbers below 1e15"),
        ({"data": good.astype("S1"), "label": label}, "data is of type .S1"),
        ({"data": some, "label": label + 0.5}, "label of float64; expected .*integers"),
        ({"data": some, "label": label * np.nan}, "label of float64; expected .*integers"),
        ({"data": some, "label": label.astype("S1")}, "label of .S1; expected .*integers"),
    ):
        rewrite(**arrays)
        with pytest.raises(ValueError, match=message) as raised:
            data.load(release_settings(8), release, ALONE)
        assert str(path) in str(raised.value)
    rewrite(data=some, label=label)
    with pytest.raises(ValueError, match="8 points per cloud; 9 are asked for"):
        data.load(release_settings(9), release, ALONE)


@pytest.mark.parametrize("name", ["shape_names.txt", "train_files.txt"])
@pytest.mark.parametrize(("content", "message"), [(b"\xff\xfe", "is damaged"), (b"\n", "no lines")])
def test_lists_that_are_none_are_named(release: Path, name: str, content: bytes, message: str):
    (release / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        data.load(release_settings(8), release, ALONE)
    assert str(release / name) in str(raised.value)


def test_a_list_that_was_cut_is_named(release: Path):
    import h5py

    names = ["airplane", *(f"class{k}" for k in range(1, 39)), "xbox"]
    (release / "shape_names.txt").write_text("\n".join(names))
    with pytest.raises(ValueError, match=r"train_files\.txt leads to 8 train .*expected 9840"):
        data.load(release_settings(8), release, ALONE)
    # Of other classes any number will do, if there is one of each, in training and in the test.
    (release / "shape_names.txt").write_text("airplane\nbathtub\nbed\n")
    with h5py.File(release / "ply_data_test0.h5", "a") as file:
        file["label"][:] = 0
    with pytest.raises(ValueError, match="holds no test clouds of bathtub, bed; expected some"):
        data.load(release_settings(8), release, ALONE)


CLASSES = ("bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table",
           "toilet", "xbox")  # fmt: skip


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    """A folder like ModelNet40's archive: a square in the plane z = label for each class."""
    pytest.importorskip("torch_geometric")
    for label, name in enumerate(CLASSES):
        for split in ("train", "test"):
            folder = tmp_path / "raw" / name / split
            folder.mkdir(parents=True)
            corners = [f"{x} {y} {label}" for x, y in ((0, 0), (2, 0), (2, 1), (0, 1))]
            head = "OFF4 2 0" if label % 2 else "OFF\n4 2 0"  # both are found in ModelNet40
            lines = [head, *corners, "3 0 1 2", "3 0 2 3"]
            (folder / f"{name}_0001.off").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_meshes_are_sampled_on_their_surfaces(meshes: Path):
    settings = {"data": "modelnet40-meshes", "points": 64, "seed": 0}
    full, test = data.load(settings, meshes, ALONE)
    assert full.names == CLASSES
    assert full.labels.tolist() == list(range(len(CLASSES)))
    assert full.points.shape == test.points.shape == (len(CLASSES), 3, 64)
    torch.testing.assert_close(full.points[:, 2], torch.zeros(len(CLASSES), 64))
    spread = full.points.var(dim=2).mean(0)
    assert float(spread[0] / spread[1]) == pytest.approx(4, rel=0.3), (
        "2 x 1: variances are as 4 to 1"
    )
    assert (meshes / "processed" / "training.pt").exists()
    again, _ = data.load(settings, meshes, ALONE)
    assert torch.equal(again.points, full.points)
    other, _ = data.load(settings | {"seed": 1}, meshes, ALONE)
    assert not torch.equal(other.points, full.points)


@pytest.mark.parametrize("kept", [0, 1, 3, 6])
def test_truncated_meshes_are_named(meshes: Path, kept: int):
    path = meshes / "raw" / "bed" / "test" / "bed_0001.off"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:kept]))
    with pytest.raises(ValueError, match=r"bed_0001\.off is damaged"):
        data.load({"data": "modelnet40-meshes", "points": 8, "seed": 0}, meshes, ALONE)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0 0 1", "nan 0 1", "vertices that are not finite"),
        ("0 0 1\n", "", "damaged or no OFF mesh"),
        ("3 0 1 2\n3 0 2 3", "3 0 1 1\n3 2 2 2", "faces without area"),
        ("3 0 2 3", "3 0 2 4", "vertices that do not exist"),
    ],
)
def test_damaged_meshes_are_named_and_not_kept(meshes: Path, old: str, new: str, message: str):
    path = meshes / "raw" / "bed" / "train" / "bed_0001.off"
    good = path.read_text()
    assert old in good
    path.write_text(good.replace(old, new, 1))
    settings = {"data": "modelnet40-meshes", "points": 8, "seed": 0}
    with pytest.raises(ValueError, match=message) as raised:
        data.load(settings, meshes, ALONE)
    assert str(path) in str(raised.value)
    path.write_text(good)
    data.load(settings, meshes, ALONE)


def test_a_folder_that_is_no_class_is_named(meshes: Path):
    settings = {"data": "modelnet40-meshes", "points": 8, "seed": 0}
    (meshes / "raw" / ".hidden").mkdir()
    data.load(settings, meshes, ALONE)
    (meshes / "raw" / "__MACOSX").mkdir()
    with pytest.raises(ValueError, match=r"__MACOSX holds neither train nor test; exp"):
        data.load(settings, meshes, ALONE)


def test_missing_and_damaged_mesh_folders(meshes: Path):
    settings = {"data": "modelnet40-meshes", "points": 8, "seed": 0}
    with pytest.raises(FileNotFoundError, match=r"bathtub is missing.*unpack http.*none.raw holds"):
        data.load(settings, meshes / "none", ALONE)
    data.load(settings, meshes, ALONE)
    processed = meshes / "processed" / "training.pt"
    processed.write_bytes(processed.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"training\.pt is damaged; delete"):
        data.load(settings, meshes, ALONE)


# Batches


def test_rotation_is_about_the_up_axis():
    x, y, z = torch.eye(3)
    points = torch.stack((x, y, z), dim=1).expand(3, 3, 3)
    quarter = torch.full((3,), math.pi / 2)
    for up in range(3):
        turned = data.rotate(points, quarter, up)[0]
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
        # A new transform is the identity: its last layer, all zero, stops the gradient there.
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


# Training


def test_the_predecessors_schedule():
    model = nn.Linear(1, 1)
    optimiser, schedule = train.RECIPES["predecessor"].optimise(model)
    assert isinstance(optimiser, torch.optim.SGD)
    assert optimiser.defaults["momentum"] == 0.9
    rates = []
    for _ in range(60):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates == [0.01] * 20 + [0.005] * 20 + [0.0025] * 20
    assert (train.RECIPES["predecessor"].batch, train.RECIPES["predecessor"].epochs) == (24, 60)


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path):
    recipe = train.Recipe("strong", 1e-3, Augmentation(jitter=0.01), epochs=4, batch=16)
    settings = TINY | {"pool": "huber"}
    clouds = made()

    def trained(checkpoint: Path | None, stop: int | None = None) -> PointNet:
        model = build(settings, 16)

        def on_epoch(epoch: int, loss: float, rate: float) -> None:
            if epoch == stop:
                raise KeyboardInterrupt

        train.fit(model, clouds, recipe, ALONE, seed=0, checkpoint=checkpoint, settings=settings,
                  on_epoch=on_epoch)  # fmt: skip
        return model

    whole = trained(None).state_dict()
    path = tmp_path / "new" / "a.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(path, stop=1)
    torch.rand(3)
    state = read_checkpoint(path)
    assert state is not None
    assert len(state["losses"]) == 2
    for name, weight in trained(path).state_dict().items():
        assert torch.equal(weight, whole[name]), name
    with pytest.raises(
        ValueError, match=r"a\.pt was written with other settings: pool 'huber' \(now"
    ):
        read_checkpoint(path, settings | {"pool": "max"})


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.pt"
    assert read_checkpoint(path) is None
    write_checkpoint(path, {"settings": {}, "losses": [1.0]})

    def crash(state: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", crash)
        with pytest.raises(OSError, match="disk full"):
            write_checkpoint(path, {"settings": {}, "losses": [2.0]})
    state = read_checkpoint(path)
    assert state is not None
    assert state["losses"] == [1.0]
    before = path.read_bytes()
    with path.open("rb") as opened:
        write_checkpoint(path, {"settings": {}, "losses": [3.0]})
        assert opened.read() == before, "the old file was not written to, another took its name"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"a\.pt is damaged, or no checkpoint; delete it"):
        read_checkpoint(path)


def test_training_learns_and_a_loss_that_is_not_finite_raises():
    clouds = made(8, 64)
    recipe = train.Recipe("strong", 1e-2, epochs=15, batch=32)
    wider = TINY | {"pool": "huber", "channels": [32, 64], "head": [32]}
    losses = train.fit(build(wider, 16), clouds, recipe, ALONE, seed=0)
    assert losses[-1] < 0.75 * losses[0]
    broken = Clouds(clouds.points * math.nan, clouds.labels, clouds.names, up=2)
    with pytest.raises(FloatingPointError, match="loss of epoch 0 is nan"):
        train.fit(build(TINY | {"pool": "mean"}, 16), broken, recipe, ALONE, seed=0)


def test_mixed_precision_multiplies_in_bfloat16():
    dtypes = []
    model = build(TINY | {"pool": "huber"}, 16)
    model.encoder[0].register_forward_hook(lambda *call: dtypes.append(call[2].dtype))
    recipe = train.Recipe("strong", 1e-3, epochs=1, batch=32)
    for amp in (None, "bfloat16"):
        (loss,) = train.fit(model, made(), recipe, ALONE, seed=0, amp=amp)
        assert 2 < loss < 4
    assert dtypes == [torch.float32, torch.bfloat16]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_two_processes_one_killed_train_as_one(tmp_path: Path):
    """torchrun restarts both from the checkpoint; the weights are those of a single process."""
    done = subprocess.run(
        [*TORCHRUN, "--nproc-per-node=2", "--max-restarts=1",
         "-m", worker.__name__, str(tmp_path)],
        cwd=ROOT, env=ALONE_ON_A_CORE, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        assert (tmp_path / f"lives-{rank}").read_text() == "life\n" * 2
    model = worker.network()
    losses = train.fit(model, worker.clouds(), worker.RECIPE, ALONE, seed=3)
    assert len(losses) == worker.RECIPE.epochs
    assert torch.load(tmp_path / "losses.pt") == pytest.approx(losses, rel=1e-5)
    states = [torch.load(tmp_path / f"weights-{rank}.pt") for rank in range(2)]
    start = worker.network().state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(states[0][name], states[1][name]), name
        # What the sum of a batch's gradients in another order does, to weights that have moved.
        torch.testing.assert_close(states[0][name], weight, rtol=1e-5, atol=1e-6)
        assert (weight - start[name]).abs().max() > 1e-4, name


def test_one_process_under_torchrun_trains_as_without(device: torch.device, tmp_path: Path):
    """With a process group of its own: gloo, or NCCL and the conversion to SyncBatchNorm, which
    synchronises nothing where there is one process."""
    argv = [*TINY_OPTIONS, "--epochs", "1", "--pool", "huber", "--device", device.type]
    done = subprocess.run(
        [*TORCHRUN, "--nproc-per-node=1", "-m", "examples.pointcloud.train", *argv,
         "--checkpoint", str(tmp_path / "under.pt")],
        cwd=ROOT, env=ALONE_ON_A_CORE, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert train.main([*argv, "--checkpoint", str(tmp_path / "without.pt")]) == 0
    under, without = (read_checkpoint(tmp_path / f"{name}.pt") for name in ("under", "without"))
    assert under is not None
    assert without is not None
    # On a GPU the libraries of another process may choose other kernels.
    rtol, atol = (0.0, 0.0) if device.type == "cpu" else (1e-3, 1e-4)
    assert under["losses"] == pytest.approx(without["losses"], rel=rtol, abs=atol)
    for name, weight in without["model"].items():
        torch.testing.assert_close(under["model"][name], weight, rtol=rtol, atol=atol)


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


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch", "17"], "batch is 17; expected a multiple of the number of processes, 2"),
        (["--checkpoint", "README.md"], "checkpoint README.md is damaged, or no checkpoint"),
        (["--data", "modelnet40", "--root", "nowhere"], "nowhere/shape_names.txt is missing."),
    ],
)
def test_an_error_under_torchrun_is_one_line_of_each_process(argv: list[str], message: str):
    """Also where the leader alone reads the file."""
    if "modelnet40" in argv:
        pytest.importorskip("h5py")
    done = subprocess.run(
        [*TORCHRUN, "--nproc-per-node=2", "--max-restarts=0", "-m", "examples.pointcloud.train",
         *TINY_OPTIONS, *argv],
        cwd=ROOT, env=ALONE_ON_A_CORE, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    # Torchrun ends the other process when one has ended, perhaps before it told.
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
    """Each can be typed after the others: none is refused, or written over."""
    pages = [page.read_text() for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))]
    written: dict[Path, set[tuple[str, ...]]] = {}
    for page in (*pages, str(table.__doc__)):
        for typed in re.findall(r"python -m examples\.pointcloud\.table([^`#\n]*)", page):
            words = shlex.split(typed.replace("--device cuda", ""))  # it may not be there
            written.setdefault(table.parse(words).output, set()).add(tuple(sorted(words)))
    assert len(written) >= 5
    assert {folder: runs for folder, runs in written.items() if len(runs) > 1} == {}


@pytest.mark.parametrize("module", [train, table])
def test_torchrun_hands_every_option_on(module, capsys):
    """It takes an option for its own where it could be the beginning of one, such as --log."""
    from torch.distributed.run import get_args_parser

    with pytest.raises(SystemExit):
        module.main(["--help"])
    options = [word.strip("[]") for word in capsys.readouterr().out.split() if "--" in word]
    options = [word for word in options if word.startswith("--")]
    assert {"--tensorboard", "--pool", "--batch"} <= set(options)
    parsed = get_args_parser().parse_args(["-m", module.__name__, *options])
    assert parsed.training_script_args == options
