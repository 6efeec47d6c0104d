"""The reader of OFF meshes takes all of a file, or raises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", reason="the examples need scikit-learn")
pytest.importorskip("matplotlib", reason="the examples need matplotlib")
pytest.importorskip("tqdm", reason="the examples need tqdm")

from examples.digits_data import normalise
from examples.pointcloud.modelnet import scaled
from examples.pointcloud.off import read_off

SQUARE = ("0 0 1", "2 0 1", "2 1 1", "0 1 1")
TRIANGLES = ("3 0 1 2", "3 0 2 3")


def mesh(head: str = "OFF\n4 2 0", points=SQUARE, faces=TRIANGLES, end: str = "\n") -> str:
    return "\n".join([head, *points, *faces]) + end


@pytest.mark.parametrize(
    "text",
    [
        mesh(),
        mesh(end=""),
        mesh(end="\n\n \n"),
        mesh("OFF4 2 0"),
        mesh("OFF 4 2 0"),
        mesh("OFF4 2"),
        mesh("\n# a cube\nOFF # one side\n\n  4\t2   5 # counts"),
        mesh().replace("\n", "\n\n# between\n"),
        mesh().replace("\n", "\r\n"),
        mesh().replace("\n", "\r"),
        mesh().replace(" ", "  \t ").replace("\n", "  \n\t"),
        mesh("\ufeffOFF\n4 2 0"),
        mesh(faces=[f"{face} 255 0 0" for face in TRIANGLES]),
        mesh(faces=[f"{face} 0.5 0.5 0.5 1.0 # grey" for face in TRIANGLES]),
        mesh(points=[f"{point} 255 0 0" for point in SQUARE]),
        mesh("COFF\n4 2 0", [f"{point} 255 0 0 255" for point in SQUARE]),
        mesh("NOFF\n4 2 0", [f"{point} 0 0 1" for point in SQUARE]),
        mesh("STCNOFF4 2 0", [f"{point} 0 0 1 255 0 0 255 0.5 0.5" for point in SQUARE]),
        mesh("OFF\n4 1 0", faces=["4 0 1 2 3"]),
        mesh("OFF\n4 4 0", faces=["2 0 1", "1 3", "0", "4 0 1 2 3"]),
    ],
)
def test_complete_files(tmp_path: Path, text: str):
    path = tmp_path / "mesh.off"
    path.write_text(text, encoding="utf-8", newline="")
    vertices, triangles = read_off(path)
    assert vertices.tolist() == [[0, 0, 1], [2, 0, 1], [2, 1, 1], [0, 1, 1]]
    assert triangles.T.tolist() == [[0, 1, 2], [0, 2, 3]]


def test_comments_in_another_encoding(tmp_path: Path):
    path = tmp_path / "mesh.off"
    path.write_bytes(mesh("OFF # Möbel\n4 2 0").encode("latin-1"))
    assert len(read_off(path)[0]) == 4


def test_no_polygon_vanishes(tmp_path: Path):
    """Among quads, which make two triangles each, a missing pentagon does not change the count."""
    path = tmp_path / "mesh.off"
    points = ["0 0 0", "2 0 0", "3 1 0", "1 3 0", "-1 1 0"]
    path.write_text(mesh("OFF\n5 3 0", points, ["4 0 1 2 3", "5 0 1 2 3 4", "3 0 1 2"]))
    vertices, triangles = read_off(path)
    assert triangles.shape == (3, 6)
    a, b, c = vertices[triangles]
    areas = (b - a).cross(c - a, dim=1).norm(dim=1) / 2
    assert areas.tolist() == pytest.approx([1, 4, 1, 4, 2, 1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# OFF\n",
        "OFF",
        "OFF\n4",
        "OFF\n4 x 0",
        "OFF BINARY\n4 2 0",
        mesh("PLY\n4 2 0"),
        mesh("4OFF\n4 2 0"),
        mesh("nOFF\n3\n4 2 0"),
        mesh(points=SQUARE[:3]),
        mesh(points=["0 0", *SQUARE[1:]]),
        mesh(points=["0 0"] * 4),
        mesh(points=["0 zero 1", *SQUARE[1:]]),
        mesh(faces=TRIANGLES[:1]),
        mesh(faces=["3 0 1", "3 0 2 3"]),
        mesh(faces=["5 0 1 2 3", "3 0 2 3"]),
        mesh(faces=["-1 0 1 2", "3 0 2 3"]),
        mesh(faces=["3 0 1 2.5", "3 0 2 3"]),
    ],
)
def test_other_files_raise(tmp_path: Path, text: str):
    path = tmp_path / "mesh.off"
    path.write_text(text)
    with pytest.raises((ValueError, IndexError)):
        read_off(path)


def test_sizes_of_clouds():
    """The scale of a cloud changes no bit, as it is a power of two, and none becomes NaN."""
    points = torch.randn(3, 3, 50)
    expected = normalise(points)
    for exponent in (-95, -83, -30, 0, 20, 45):
        assert torch.equal(scaled(points * 2.0**exponent, Path()), expected)
    small = scaled(points * 1e-25, Path())
    torch.testing.assert_close(small, expected)
    for bad in (1e-32, 1e-44, 0.0, 1e17, torch.inf):
        with pytest.raises(ValueError, match="expected distinct points, and numbers from 1e-30"):
            scaled(points * bad, Path())
