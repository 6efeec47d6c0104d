"""The files of ModelNet40: errors name what is missing, truncated or damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="the examples need scikit-learn")
pytest.importorskip("matplotlib", reason="the examples need matplotlib")
pytest.importorskip("tqdm", reason="the examples need tqdm")

from examples.pointcloud import data
from tests.support.pointcloud import ALONE

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
        ({"data": good * some * np.float32(1e37), "label": label}, "numbers from 1e-30 to 1e15"),
        ({"data": some * 1e300, "label": label}, "numbers from 1e-30 to 1e15"),
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


def test_a_small_cloud_keeps_its_shape(release: Path):
    import h5py

    full, _ = data.load(release_settings(8), release, ALONE)
    with h5py.File(release / "ply_data_train0.h5", "a") as file:
        file["data"][1] *= 2.0**-83  # 1e-25, whose square is below float32's range
    small, _ = data.load(release_settings(8), release, ALONE)
    assert torch.equal(small.points, full.points)


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
    # For other classes any number is valid, with at least one of each in training and test.
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


MESH_SETTINGS = {"data": "modelnet40-meshes", "points": 64, "seed": 0}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1],
        lambda text: text.replace("\n", "\n# a comment\n\n"),
        lambda text: text.replace("\n", " # a comment\n"),
        lambda text: text.replace("OFF", "COFF").replace(" 1\n", " 1 255 0 0\n"),
    ],
    ids=["no final newline", "lines", "comments", "colours"],
)
def test_complete_meshes_however_they_are_written(meshes: Path, change: Callable[[str], str]):
    import shutil

    expected, _ = data.load(MESH_SETTINGS, meshes, ALONE)
    shutil.rmtree(meshes / "processed")
    for path in (meshes / "raw").rglob("*.off"):
        path.write_text(change(path.read_text()))
    found, _ = data.load(MESH_SETTINGS, meshes, ALONE)
    assert torch.equal(found.points, expected.points)


@pytest.mark.parametrize("end", ["", "\n"])
def test_polygons_and_the_last_face_are_sampled(meshes: Path, end: str):
    """A quad from x = 0 to 1, a pentagon from 1 to 3 and a triangle from 3 to 5."""
    points = ["0 0 0", "0 1 0", "1 1 0", "1 0 0", "3 0 0", "3 1 0", "2 1.5 0", "5 0 0"]
    faces = ["4 0 1 2 3", "5 3 4 5 6 2", "3 4 7 5"]
    path = meshes / "raw" / "bed" / "train" / "bed_0001.off"
    path.write_text("\n".join(["OFF", "8 3 0", *points, *faces]) + end)
    full, _ = data.load(MESH_SETTINGS | {"points": 4096}, meshes, ALONE)
    x = full.points[CLASSES.index("bed"), 0]
    x = (x - x.min()) / (x.max() - x.min()) * 5
    shares = torch.histc(x, bins=5, min=0, max=5) / len(x)
    areas = torch.tensor([1, 1.25, 1.25, 0.75, 0.25])
    torch.testing.assert_close(shares, areas / areas.sum(), rtol=0, atol=0.03)


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
