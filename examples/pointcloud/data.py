"""The sources of labelled point clouds.

There are three, each a pair of (training, test) :class:`Clouds`:

- "modelnet40": the HDF5 release of ModelNet40, `modelnet40_ply_hdf5_2048`, 2,048 points per cloud.
- "modelnet40-meshes": the meshes of ModelNet40, kept parsed by torch-geometric's `ModelNet` and
  sampled by its `SamplePoints`.
- "shapes": generated, see `examples.pointcloud.shapes`; needs no files.

Nothing is downloaded. An error names the missing files and where they belong.
"""

from __future__ import annotations

from pathlib import Path

from examples.pointcloud import shapes
from examples.pointcloud.checkpoint import Settings
from examples.pointcloud.clouds import TEST, TRAINING, Clouds
from examples.pointcloud.modelnet import modelnet_hdf5, modelnet_meshes
from examples.pointcloud.team import Team

SOURCES = ("shapes", "modelnet40", "modelnet40-meshes")
ROOTS = {
    "modelnet40": Path("data/modelnet40_ply_hdf5_2048"),
    "modelnet40-meshes": Path("data/ModelNet40"),
}


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
