"""Generates sixteen classes of 3-D shapes with random proportions and pose.

A shape is a triangle mesh whose surface is sampled uniformly by area, like the meshes of
ModelNet40. Each shape of a class has random proportions, is stretched slightly along each axis,
tilted from the vertical by up to 15 degrees and rotated about it by any angle. Each cloud is
centred at its mean and scaled to the unit sphere.

    python -m examples.pointcloud.shapes --output demo-output     # a picture of all classes
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from examples import digits
from examples.digits_data import normalise

Array = NDArray[np.float64]

STRETCH = 0.2  # factors along the axes are drawn within 1 +- this
TILT = math.radians(15)
ROUND = 48  # segments of a full circle


class Mesh(NamedTuple):
    """A surface of triangles.

    Attributes:
        vertices: float64 (v, 3).
        faces: int64 (f, 3), indices of vertices.
    """

    vertices: Array
    faces: NDArray[np.int64]


# Surfaces


def join(*meshes: Mesh) -> Mesh:
    """Concatenates surfaces."""
    offsets = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + at for mesh, at in zip(meshes, offsets, strict=False)]),
    )


def grid(points: Array) -> Mesh:
    """The surface through a grid of points (rows, columns, 3), two triangles per cell."""
    rows, columns, _ = points.shape
    corner = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]
    faces = np.concatenate([np.stack(t, axis=-1).reshape(-1, 3) for t in ((a, b, c), (b, d, c))])
    return Mesh(points.reshape(-1, 3), faces)


def revolve(profile: Sequence[tuple[float, float]] | Array, segments: int = ROUND) -> Mesh:
    """A profile of (radius, height) turned about the vertical; few segments give a polyhedron."""
    radius, height = np.asarray(profile, dtype=float).T
    angle = np.linspace(0, 2 * math.pi, segments + 1)
    x, y = radius[:, None] * np.cos(angle), radius[:, None] * np.sin(angle)
    return grid(np.stack((x, y, np.broadcast_to(height[:, None], x.shape)), axis=-1))


def extrude(outline: Sequence[tuple[float, float]], height: float) -> Mesh:
    """A prism over an outline that is star-shaped with respect to the origin."""
    ring = np.asarray([*outline, outline[0]], dtype=float)
    levels = [np.column_stack((ring, np.full(len(ring), z))) for z in (0.0, height)]
    centres = [np.broadcast_to((0.0, 0.0, z), (len(ring), 3)) for z in (0.0, height)]
    caps = (grid(np.stack(pair)) for pair in zip(levels, centres, strict=True))
    return join(grid(np.stack(levels)), *caps)


def tube(curve: Array, radius: float) -> Mesh:
    """A circle swept along a curve (k, 3) that is nowhere vertical."""
    tangent = np.gradient(curve, axis=0)
    side = np.cross(tangent, (0.0, 0.0, 1.0))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(side, tangent)
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    angle = np.linspace(0, 2 * math.pi, ROUND // 2 + 1)[:, None]
    circle = np.cos(angle) * side[:, None] + np.sin(angle) * up[:, None]
    return grid(curve[:, None] + radius * circle)


def arc(start: float, stop: float, radius: float = 1.0, height: float = 0.0) -> Array:
    """A profile along a circle about (0, height), from one latitude in radians to another."""
    latitude = np.linspace(start, stop, ROUND // 2 + 1)
    return np.column_stack((radius * np.cos(latitude), height + radius * np.sin(latitude)))


# Classes: each draws its proportions. Units do not matter.

Random = np.random.Generator
POLE = math.pi / 2


def ellipsoid(random: Random) -> Mesh:
    ball = revolve(arc(-POLE, POLE))
    return Mesh(ball.vertices * random.uniform(0.5, 1.2, 3), ball.faces)


def box(random: Random) -> Mesh:
    x, y, z = random.uniform(0.5, 1.2, 3)
    return extrude([(x, y), (-x, y), (-x, -y), (x, -y)], 2 * z)


def cylinder(random: Random) -> Mesh:
    h = random.uniform(1, 3)
    return revolve([(0, 0), (1, 0), (1, h), (0, h)])


def cone(random: Random) -> Mesh:
    return revolve([(0, 0), (1, 0), (0, random.uniform(1, 2.5))])


def torus(random: Random) -> Mesh:
    angle = np.linspace(0, 2 * math.pi, ROUND // 2 + 1)
    r = random.uniform(0.2, 0.5)
    return revolve(np.column_stack((1 + r * np.cos(angle), r * np.sin(angle))))


def pyramid(random: Random) -> Mesh:
    return revolve([(0, 0), (1, 0), (0, random.uniform(0.8, 2))], segments=4)


def tetrahedron(random: Random) -> Mesh:
    return revolve([(0, 0), (1, 0), (0, random.uniform(1, 2))], segments=3)


def prism(random: Random) -> Mesh:
    h = random.uniform(0.8, 2)
    return revolve([(0, 0), (1, 0), (1, h), (0, h)], segments=3)


def capsule(random: Random) -> Mesh:
    h = random.uniform(1, 3)
    return revolve(np.concatenate([arc(-POLE, 0), arc(0, POLE, height=h)]))


def hemisphere(random: Random) -> Mesh:
    dome = revolve(np.concatenate([[(0.0, 0.0)], arc(0, POLE)]))
    return Mesh(dome.vertices * (1, 1, random.uniform(0.7, 1.3)), dome.faces)


def hourglass(random: Random) -> Mesh:
    h, waist = random.uniform(0.8, 1.6), random.uniform(0.1, 0.4)
    return revolve([(0, -h), (1, -h), (waist, 0), (1, h), (0, h)])


def pipe(random: Random) -> Mesh:
    h, inner = random.uniform(1, 3), random.uniform(0.4, 0.8)
    return revolve([(inner, 0), (1, 0), (1, h), (inner, h), (inner, 0)])


def helix(random: Random) -> Mesh:
    turns, rise = random.uniform(2, 4), random.uniform(0.5, 0.9)
    t = np.linspace(0, 2 * math.pi * turns, round(ROUND * turns))
    return tube(np.column_stack((np.cos(t), np.sin(t), rise * t / (2 * math.pi))), 0.15)


def moebius(random: Random) -> Mesh:
    """A Möbius strip."""
    width = random.uniform(0.25, 0.5)
    u = np.linspace(0, 2 * math.pi, 2 * ROUND + 1)[:, None]
    v = np.linspace(-width, width, 9)
    radius = 1 + v * np.cos(u / 2)
    return grid(np.stack((radius * np.cos(u), radius * np.sin(u), v * np.sin(u / 2)), axis=-1))


def cross(random: Random) -> Mesh:
    w, h = random.uniform(0.2, 0.4), random.uniform(0.4, 0.8)
    outline = [(w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w), (-w, -1), (w, -1),
               (w, -w), (1, -w), (1, w)]  # fmt: skip
    plate = extrude(outline, h)
    return Mesh(plate.vertices[:, [0, 2, 1]], plate.faces)  # standing


def stairs(random: Random) -> Mesh:
    steps, rise = int(random.integers(3, 6)), random.uniform(0.6, 1.2)
    outline = [(0.0, 0.0)]
    for step in range(steps, 0, -1):
        outline += [(step, rise * (steps - step)), (step, rise * (steps - step + 1))]
    outline += [(0.0, rise * steps)]
    flight = extrude(outline, random.uniform(0.4, 0.8) * steps)
    return Mesh(flight.vertices[:, [0, 2, 1]], flight.faces)


CLASSES: dict[str, Callable[[Random], Mesh]] = {
    make.__name__: make
    for make in (ellipsoid, box, cylinder, cone, torus, pyramid, tetrahedron, prism, capsule,
                 hemisphere, hourglass, pipe, helix, moebius, cross, stairs)
}  # fmt: skip


# Clouds


def pose(vertices: Array, random: Random) -> Array:
    """Vertices (v, 3) stretched along the axes, tilted and turned about the vertical."""
    vertices = vertices * random.uniform(1 - STRETCH, 1 + STRETCH, 3)
    tilt, turn = random.uniform(0, TILT), random.uniform(0, 2 * math.pi)
    way = random.uniform(0, 2 * math.pi)  # of the tilt, among the shape's own directions

    def about(axis: int, angle: float) -> Array:
        i, j = (axis + 1) % 3, (axis + 2) % 3
        matrix = np.eye(3)
        matrix[[i, i, j, j], [i, j, i, j]] = (
            math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
        )  # fmt: skip
        return matrix

    posed: Array = vertices @ (about(2, turn) @ about(0, tilt) @ about(2, way)).T
    return posed


def sample(mesh: Mesh, count: int, random: Random) -> Array:
    """Points (count, 3), uniform by area on the surface."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    face = random.choice(len(area), count, p=area / area.sum())
    root, part = np.sqrt(random.random((count, 1))), random.random((count, 1))
    points: Array = (1 - root) * a[face] + root * (1 - part) * b[face] + root * part * c[face]
    return points


def draw(per_class: int, count: int, seed: int, purpose: int) -> tuple[Tensor, Tensor]:
    """Draw clouds of every class.

    A shape depends only on the seed, the purpose, its class and its index, so more shapes per class
    leave the first ones unchanged.

    Args:
        per_class: clouds of each class.
        count: points per cloud.
        seed, purpose: non-negative; different purposes give independent shapes.

    Returns:
        Points, float32 (n, 3, count) with z upwards, in the unit ball; labels, int64 (n,), in the
        order of :data:`CLASSES`.
    """
    clouds, labels = [], []
    for label, make in enumerate(CLASSES.values()):
        for number in range(per_class):
            random = np.random.default_rng((seed, purpose, label, number))
            mesh = make(random)
            clouds.append(sample(Mesh(pose(mesh.vertices, random), mesh.faces), count, random).T)
            labels.append(label)
    return normalise(torch.from_numpy(np.stack(clouds))).float(), torch.tensor(labels)


def picture(path: Path, seed: int) -> None:
    """Write a PNG with one cloud of each class."""
    clouds, _ = draw(1, 1024, seed, purpose=0)
    figure = Figure(figsize=(12, 3.4), dpi=100, layout="constrained")
    for place, (name, cloud) in enumerate(zip(CLASSES, clouds, strict=True)):
        axes = figure.add_subplot(2, 8, place + 1, projection="3d")
        axes.scatter(*cloud, c=cloud[2], s=1.5, cmap="viridis")
        axes.set_title(name, fontsize=10, pad=0)
        axes.set_axis_off()
        axes.set(xlim=(-0.8, 0.8), ylim=(-0.8, 0.8), zlim=(-0.8, 0.8))
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the picture; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.pointcloud.shapes",
        description="Draw one cloud of each of the generated classes to shape_classes.png.",
    )
    add = parser.add_argument
    add("--seed", type=digits.at_least(0), default=0, help="of the shapes (default: %(default)s)")
    add("--output", type=Path, default=Path("demo-output"), metavar="DIR",
        help="folder for the picture (default: ./%(default)s)")  # fmt: skip
    args = parser.parse_args(argv)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        picture(args.output / "shape_classes.png", args.seed)
    except OSError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"wrote shape_classes.png to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
