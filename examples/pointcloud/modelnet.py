"""Reads ModelNet40: the HDF5 release, or the meshes. Damaged and missing files are named.

Source of ModelNet40: Z. Wu et al., "3D ShapeNets: A Deep Representation for Volumetric Shapes",
2015; of the HDF5 release: C. R. Qi et al., "PointNet: Deep Learning on Point Sets for 3D
Classification and Segmentation", 2017.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from examples.digits_data import normalise
from examples.pointcloud.clouds import Clouds
from examples.pointcloud.off import read_off

HDF5_ARCHIVE = "https://shapenet.cs.stanford.edu/media/modelnet40_ply_hdf5_2048.zip"
MESH_ARCHIVE = "http://modelnet.cs.princeton.edu/ModelNet40.zip"
# Clouds in the complete data sets; smaller sets of other classes are possible.
SIZES = {
    "modelnet40": {"train": 9840, "test": 2468},
    "modelnet40-meshes": {"train": 9843, "test": 2468},
}


def missing(path: Path, root: Path, archive: str, holds: str) -> FileNotFoundError:
    """The error for a missing file."""
    return FileNotFoundError(
        f"{path} is missing. ModelNet40 is not part of this project: unpack {archive} so that "
        f"{root} holds {holds}"
    )


def require_all(source: str, split: str, names: tuple[str, ...], found: int, where: Path) -> None:
    """Raises ValueError if the classes are ModelNet40's and clouds are missing."""
    all_of_them = SIZES[source][split]
    if (len(names), names[0], names[-1]) == (40, "airplane", "xbox") and found < all_of_them:
        raise ValueError(
            f"{where} leads to {found} {split} clouds of ModelNet40; expected {all_of_them}"
        )


def scaled(points: Tensor, where: Path) -> Tensor:
    """Clouds of a file (n, 3, count), normalised; raises ValueError if one has zero extent."""
    reach = points.abs().amax((1, 2))
    extent = (points.amax(2) - points.amin(2)).amax(1)
    # Equal points differ by rounding at most. Below 1e-30 float32 loses digits.
    bad = (~((reach < 1e15) & (reach > 1e-30) & (extent > 1e-6 * reach))).nonzero().flatten()
    if len(bad):
        i = int(bad[0])
        raise ValueError(
            f"{where}: the points of cloud {i} reach {reach[i]:g} and are up to {extent[i]:g} "
            "apart; expected distinct points, and numbers from 1e-30 to 1e15"
        )
    # By powers of two, which round nothing: squares of small numbers would underflow.
    return normalise(torch.ldexp(points, -reach.frexp().exponent[:, None, None]))


def modelnet_hdf5(root: Path, split: str, count: int) -> Clouds:
    """One split of `modelnet40_ply_hdf5_2048`; y is upwards.

    Read are shape_names.txt, {split}_files.txt, and from each HDF5 file listed there "data",
    (n, 2048, 3), and "label", (n, 1). The first `count` points of a cloud are used, which are
    in random order in the release.

    Args:
        root: the folder that holds these files.
        split: "train" or "test".
        count: points per cloud.

    Raises: as :func:`examples.pointcloud.data.load`.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ImportError("ModelNet40's HDF5 files need h5py: pip install h5py") from error

    def lines(name: str) -> list[str]:
        path = present(root / name)
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is damaged; expected lines of text: {error}") from error
        found = [line.strip() for line in text.splitlines() if line.strip()]
        if not found:
            raise ValueError(f"{path} has no lines; expected a name in each")
        return found

    def present(path: Path) -> Path:
        if not path.is_file():
            raise missing(
                path, root, HDF5_ARCHIVE,
                "shape_names.txt, train_files.txt, test_files.txt and the .h5 files they list",
            )  # fmt: skip
        return path

    names = tuple(lines("shape_names.txt"))
    listed = root / f"{split}_files.txt"
    parts: list[Tensor] = []
    labels: list[Tensor] = []
    # Paths in the list are those of the machine that created it: only the names matter.
    for path in [present(root / Path(line).name) for line in lines(listed.name)]:
        try:
            with h5py.File(path, "r") as file:
                data, label = file["data"][:], file["label"][:]
        except (OSError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is damaged or no file of the release: {error}") from error
        if (
            data.ndim != 3
            or not len(data)
            or data.shape[2] != 3
            or label.shape not in ((len(data), 1), (len(data),))
        ):
            raise ValueError(
                f"{path}: data has shape {data.shape} and label {label.shape}; "
                "expected (n, points, 3) and (n, 1), n at least 1"
            )
        if data.dtype.kind != "f" or label.dtype.kind not in "iu":
            raise ValueError(
                f"{path}: data is of type {data.dtype} and label of {label.dtype}; expected "
                "floating point and integers"
            )
        if data.shape[1] < count:
            raise ValueError(f"{path} has {data.shape[1]} points per cloud; {count} are asked for")
        if not np.isfinite(data).all():
            raise ValueError(f"{path}: data holds numbers that are not finite")
        label = label.reshape(-1).astype(np.int64)
        if not 0 <= label.min() <= label.max() < len(names):
            raise ValueError(
                f"{path}: labels are {label.min()} to {label.max()}, but "
                f"{root / 'shape_names.txt'} names {len(names)} classes"
            )
        with np.errstate(over="ignore"):
            points = torch.from_numpy(data[:, :count].astype(np.float32)).transpose(1, 2)
        parts.append(scaled(points, path))
        labels.append(torch.from_numpy(label))
    require_all("modelnet40", split, names, sum(map(len, parts)), listed)
    return Clouds(torch.cat(parts), torch.cat(labels), names, up=1)


def modelnet_meshes(root: Path, split: str, count: int, seed: int) -> Clouds:
    """One split of ModelNet40's meshes, sampled uniformly by area; z is upwards.

    The first call parses all meshes, which takes many minutes, and leaves them parsed in
    ``root/processed``, where torch-geometric's own `ModelNet` finds them too.

    Args:
        root: the folder whose ``raw`` holds the unpacked archive: ``raw/CLASS/SPLIT/*.off``.
        split: "train" or "test".
        count: points per cloud.
        seed: of the points.

    Raises: as :func:`examples.pointcloud.data.load`.
    """
    try:
        from torch_geometric.data import Data
        from torch_geometric.datasets import ModelNet
        from torch_geometric.transforms import SamplePoints
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch_geometric":
            raise
        raise ImportError(
            "ModelNet40's meshes need torch-geometric: pip install torch-geometric"
        ) from error

    class Meshes(ModelNet):
        """ModelNet that downloads nothing and names the file it cannot read."""

        def download(self) -> None:
            raw = Path(self.raw_dir)
            gone = next(p for p in map(Path, self.raw_paths) if not p.exists())
            raise missing(gone, raw, MESH_ARCHIVE, "a folder for each class")

        def process_set(self, dataset: str) -> list[Data]:
            raw, names, meshes = Path(self.raw_dir), class_names(root), []
            paths = [
                (label, path)
                for label, name in enumerate(names)
                for path in sorted((raw / name / dataset).glob("*.off"))
            ]
            require_all("modelnet40-meshes", dataset, names, len(paths), raw)
            for label, path in paths:
                mesh = checked(path)
                mesh.y = torch.tensor([label])
                meshes.append(mesh)
            return meshes

    def checked(path: Path) -> Data:
        """A complete mesh that can be sampled."""
        try:
            vertices, triangles = read_off(path)
            mesh = Data(pos=vertices, face=triangles)
            if not triangles.numel():
                raise ValueError("no faces of three or more vertices")
            if not 0 <= int(triangles.min()) <= int(triangles.max()) < len(vertices):
                raise ValueError("faces of vertices that do not exist")
            if not bool(mesh.pos.isfinite().all()):
                raise ValueError("vertices that are not finite")
            a, b, c = (mesh.pos / mesh.pos.abs().max())[mesh.face]
            if not float((b - a).cross(c - a, dim=1).norm(dim=1).sum()) > 0:
                raise ValueError("faces without area")
        except (ValueError, IndexError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{path} is damaged or no OFF mesh: {error}") from error
        return mesh

    processed = root / "processed" / ("training.pt" if split == "train" else "test.pt")
    sampled = SamplePoints(count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # torch-geometric reports on stderr that it is processing, which takes long: keep that.
        try:
            meshes = Meshes(str(root), "40", train=split == "train")
        except (FileNotFoundError, ValueError):
            raise
        except Exception as error:  # whatever unpickling raises
            raise ValueError(
                f"{processed} is damaged; delete {processed.parent} to begin anew: {error}"
            ) from error
        if not len(meshes):
            raise ValueError(f"{root / 'raw'} holds no {split} meshes")
        names, labels = class_names(root), meshes.y.reshape(-1).clone()
        if int(labels.max()) >= len(names):
            raise ValueError(
                f"{processed} holds labels up to {int(labels.max())}, but {root / 'raw'} "
                f"{len(names)} classes; delete {processed.parent} to begin anew"
            )
        require_all("modelnet40-meshes", split, names, len(labels), processed)
        # One at a time: the meshes are large, their samples small.
        try:
            clouds = torch.stack([sampled(mesh).pos.T for mesh in meshes])
        except RuntimeError as error:  # torch-geometric does not validate them
            raise ValueError(
                f"{processed} holds a mesh that cannot be sampled; delete {processed.parent} to "
                f"begin anew: {error}"
            ) from error
    return Clouds(scaled(clouds, processed), labels, names, up=2)


def class_names(root: Path) -> tuple[str, ...]:
    """The classes of unpacked meshes: the folders of ``root/raw``, in torch-geometric's order.

    Raises:
        ValueError: one of the folders is no class, and would shift the labels of the others.
    """
    folders = [p for p in (root / "raw").iterdir() if p.is_dir() and not p.name.startswith(".")]
    for folder in folders:
        if not (folder / "train").is_dir() and not (folder / "test").is_dir():
            raise ValueError(
                f"{folder} holds neither train nor test; expected folders of classes alone: "
                "delete it, or put it elsewhere"
            )
    return tuple(sorted(folder.name for folder in folders))
