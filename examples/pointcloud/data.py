"""Labelled point clouds, and training batches.

Three sources, each a pair of (training, test) :class:`Clouds`:

- "modelnet40": the HDF5 release of ModelNet40, `modelnet40_ply_hdf5_2048`, 2,048 points per cloud.
- "modelnet40-meshes": the meshes of ModelNet40, read by torch-geometric's `ModelNet` and sampled by
  its `SamplePoints`.
- "shapes": generated, see `examples.pointcloud.shapes`; needs no files.

Nothing is downloaded. An error names the missing files and where they belong.

Source of ModelNet40: Z. Wu et al., "3D ShapeNets: A Deep Representation for Volumetric Shapes",
2015; of the HDF5 release: C. R. Qi et al., "PointNet: Deep Learning on Point Sets for 3D
Classification and Segmentation", 2017.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from examples.digits_data import normalise, replace_by_outliers
from examples.pointcloud import shapes
from examples.pointcloud.checkpoint import Settings
from examples.pointcloud.team import Team

SOURCES = ("shapes", "modelnet40", "modelnet40-meshes")
ROOTS = {
    "modelnet40": Path("data/modelnet40_ply_hdf5_2048"),
    "modelnet40-meshes": Path("data/ModelNet40"),
}
HDF5_ARCHIVE = "https://shapenet.cs.stanford.edu/media/modelnet40_ply_hdf5_2048.zip"
MESH_ARCHIVE = "http://modelnet.cs.princeton.edu/ModelNet40.zip"
# Clouds in the complete data sets; smaller sets of other classes are possible.
SIZES = {
    "modelnet40": {"train": 9840, "test": 2468},
    "modelnet40-meshes": {"train": 9843, "test": 2468},
}
JITTER_LIMIT = 5  # standard deviations

# Purposes of random numbers; each has its own stream.
TRAINING, TEST, ORDER, AUGMENTATION, SUBSET, OUTLIERS, DROPOUT = range(7)


@dataclass(frozen=True)
class Clouds:
    """Labelled point clouds, each centred at its mean and scaled to the unit sphere.

    Attributes:
        points: float32 (n, 3, count).
        labels: int64 (n,), indices of names.
        names: of the classes.
        up: the axis that points upwards, 0 to 2.
    """

    points: Tensor
    labels: Tensor
    names: tuple[str, ...]
    up: int

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, share: float, seed: int) -> Clouds:
        """A random share of each class, at least one cloud; smaller shares are nested in larger.

        Args:
            share: above 0, up to 1; rounded to whole clouds of each class.
            seed: of the choice.

        Raises:
            ValueError: the share is out of range.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share is {share:g}; expected a number above 0, up to 1")
        order = torch.randperm(len(self), generator=generator(seed, SUBSET))
        labels = self.labels[order]
        kept = []
        for label in range(len(self.names)):
            of_class = order[labels == label]
            kept.append(of_class[: max(1, round(share * len(of_class)))])
        chosen = torch.cat(kept).sort().values
        return Clouds(self.points[chosen], self.labels[chosen], self.names, self.up)


def generator(seed: int, *purpose: int) -> torch.Generator:
    """A source of randomness on the CPU, independent for each purpose (non-negative numbers)."""
    state = np.random.SeedSequence((seed, *purpose)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


# Sources


def load(settings: Settings, root: Path | None, team: Team) -> tuple[Clouds, Clouds]:
    """The (training, test) clouds of a source.

    Args:
        settings: "data", one of :data:`SOURCES`; "points", per cloud; "seed", of the shapes or of
            the points on meshes (the HDF5 release draws nothing); for shapes "per_class", the
            numbers of training and test clouds of each class.
        root: the folder of the files; None: the one in :data:`ROOTS`. Shapes have none.
        team: its leader loads first, since it may leave parsed meshes for the others.

    Raises:
        FileNotFoundError: files are missing; says which, where to find them and where they go.
        ValueError: a file is damaged, holds something else, or is one of too few; names the file.
        ImportError: h5py or torch-geometric is needed and not installed.
    """
    source, count, seed = settings["data"], settings["points"], settings["seed"]
    if source == "shapes":
        drawn = zip(settings["per_class"], (TRAINING, TEST), strict=True)
        clouds = [shapes.draw(per_class, count, seed, purpose) for per_class, purpose in drawn]
        train, test = (Clouds(*pair, tuple(shapes.CLASSES), up=2) for pair in clouds)
        return train, test
    if source not in ROOTS:
        raise ValueError(f"data is {source!r}; expected one of {', '.join(SOURCES)}")
    root = root or ROOTS[source]

    def of(split: str) -> Clouds:
        if source == "modelnet40":
            return modelnet_hdf5(root, split, count)
        return modelnet_meshes(root, split, count, seed)

    train, test = team.leader_first(lambda: (of("train"), of("test")))
    for split, part in (("train", train), ("test", test)):
        held = part.labels.bincount(minlength=len(part.names))
        absent = ", ".join(part.names[i] for i in (held == 0).nonzero().flatten())
        if absent:
            raise ValueError(f"{root} holds no {split} clouds of {absent}; expected some of each")
    return train, test


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
    # Beyond, squares leave the range of float32; equal points differ by rounding at most.
    bad = (~((reach < 1e15) & (extent > 1e-6 * reach))).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"{where}: the points of cloud {bad[0]} reach {reach[bad[0]]:g} and are up to "
            f"{extent[bad[0]]:g} apart; expected distinct points, and numbers below 1e15"
        )
    return normalise(points)


def modelnet_hdf5(root: Path, split: str, count: int) -> Clouds:
    """One split of `modelnet40_ply_hdf5_2048`; y is upwards.

    Read are shape_names.txt, {split}_files.txt, and from each HDF5 file listed there "data",
    (n, 2048, 3), and "label", (n, 1). The first `count` points of a cloud are used, which are
    in random order in the release.

    Args:
        root: the folder that holds these files.
        split: "train" or "test".
        count: points per cloud.

    Raises: as :func:`load`.
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

    Raises: as :func:`load`.
    """
    try:
        from torch_geometric.data import Data
        from torch_geometric.datasets import ModelNet
        from torch_geometric.io import read_off
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
        """A complete mesh, as announced by its header, that can be sampled."""
        try:
            mesh = read_off(str(path))
            with path.open() as file:
                # In some files of ModelNet40 the numbers follow OFF in the same line.
                head = (file.readline().strip().removeprefix("OFF") or file.readline()).split()
            vertices, faces = int(head[0]), int(head[1])
            if mesh.face.size(1) < faces:  # faces come last, so a truncated file lacks some
                raise ValueError(f"{mesh.face.size(1)} faces of {faces} announced")
            if mesh.pos.shape != (vertices, 3):
                raise ValueError(f"vertices of shape {tuple(mesh.pos.shape)}, {vertices} announced")
            if not 0 <= int(mesh.face.min()) <= int(mesh.face.max()) < vertices:
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


# Batches


def rotate(points: Tensor, angle: Tensor, up: int) -> Tensor:
    """Clouds (n, 3, count) turned by angles (n,), in radians, about an axis."""
    i, j = (up + 1) % 3, (up + 2) % 3
    cos, sin = angle.cos().unsqueeze(1), angle.sin().unsqueeze(1)
    turned = points.clone()
    turned[:, i] = cos * points[:, i] - sin * points[:, j]
    turned[:, j] = sin * points[:, i] + cos * points[:, j]
    return turned


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of a training cloud, drawn anew each time it is used.

    Attributes:
        rotate: turned by any angle about the up axis.
        jitter: deviation of a normal shift of each point, cut at 5 deviations.
        outliers: share of the points replaced by uniform points in the unit ball, 0 to 1.
    """

    rotate: bool = True
    jitter: float = 0.0
    outliers: float = 0.0

    def __call__(self, points: Tensor, up: int, random: torch.Generator) -> Tensor:
        """Augments clouds (n, 3, count), with a fixed number of random numbers."""
        if self.rotate:
            points = rotate(points, torch.rand(len(points), generator=random) * 2 * math.pi, up)
        if self.jitter:
            shift = torch.randn(points.shape, generator=random)
            points = points + self.jitter * shift.clamp(-JITTER_LIMIT, JITTER_LIMIT)
        if self.outliers:
            points = replace_by_outliers(points, self.outliers, random)
        return points


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Training batches, indexed by (epoch, step).

    A batch depends on the seed, the epoch and the step alone: not on worker processes, nor on where
    training was interrupted. Of a batch, process `rank` of `world` gets every world-th cloud, so
    several processes together see the batches that one sees.

    Args:
        clouds: the training clouds.
        size: clouds per batch, over all processes.
        augmentation: the augmentation of the clouds.
        seed: of order and augmentation.
        steps: batches per epoch; None: as many as there are whole ones. With more, clouds repeat.
        rank, world: this process and the number of processes.

    Raises:
        ValueError: the batch cannot be shared out evenly, or there is less than one batch.
    """

    def __init__(
        self,
        clouds: Clouds,
        size: int,
        augmentation: Augmentation,
        seed: int,
        steps: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if size % world:
            raise ValueError(
                f"batch is {size}; expected a multiple of the number of processes, {world}"
            )
        self.clouds, self.size, self.augmentation, self.seed = clouds, size, augmentation, seed
        self.steps = len(clouds) // size if steps is None else steps
        if self.steps < 1:
            raise ValueError(f"batch is {size}; expected at most the number of training clouds")
        self.rank, self.world = rank, world
        self.order = lru_cache(maxsize=1)(self._order)

    def _order(self, epoch: int) -> Tensor:
        """The clouds of an epoch: concatenated random permutations of all clouds."""
        random = generator(self.seed, ORDER, epoch)
        rounds = -(-self.steps * self.size // len(self.clouds))
        return torch.cat(
            [torch.randperm(len(self.clouds), generator=random) for _ in range(rounds)]
        )

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """This process's part of a batch: points (size / world, 3, count) and their labels."""
        epoch, step = place
        chosen = self.order(epoch)[step * self.size : (step + 1) * self.size]
        random = generator(self.seed, AUGMENTATION, epoch, step)
        points = self.augmentation(self.clouds.points[chosen], self.clouds.up, random)
        mine = slice(self.rank, None, self.world)
        return points[mine].contiguous(), self.clouds.labels[chosen[mine]]

    def __getstate__(self) -> dict[str, object]:
        """Pickles without the cache, for spawned workers."""
        return {name: value for name, value in vars(self).items() if name != "order"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self.order = lru_cache(maxsize=1)(self._order)

    def stream(
        self, first: int, last: int, workers: int, pin: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All batches of the epochs first to last - 1, in order, without a pause between epochs.

        Args:
            first, last: epochs.
            workers: processes that prepare batches; 0: this one.
            pin: into page-locked memory, from where copies to a GPU need not be waited for.
        """
        places = [(epoch, step) for epoch in range(first, last) for step in range(self.steps)]
        # Whole batches are indexed at once: collating single clouds would cost more than they do.
        return iter(
            DataLoader(self, batch_size=None, sampler=places, num_workers=workers, pin_memory=pin)
        )
