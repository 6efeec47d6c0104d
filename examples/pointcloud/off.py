"""Reads meshes in the Object File Format (OFF) as Geomview defines it, in text.

Source: http://www.geomview.org/docs/html/OFF.html
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

# Texture coordinates (ST), colours (C) and normals (N) of a vertex follow its position.
_HEADER = re.compile(r"(ST)?C?N?OFF")


def read_off(path: Path) -> tuple[Tensor, Tensor]:
    """The vertices (V, 3) of a mesh, float32, and its triangles (3, T), int64.

    Comments, blank lines and all numbers after a position or a face are ignored. A polygon becomes
    a fan of triangles from its first vertex, which covers it exactly if it is convex. Faces of one
    or two vertices have no area and are left out. In some files of ModelNet40 the numbers of
    vertices and faces follow OFF without a space.

    Raises:
        ValueError, IndexError: the file is incomplete or no such mesh.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace")  # also comments in Latin-1
    lines = [kept for line in text.split("\n") if (kept := line.partition("#")[0].split())]
    start = _HEADER.match(lines[0][0]) if lines else None
    if start is None:
        raise ValueError("expected OFF at the beginning, or OFF with prefixes of ST, C and N")
    head, body = [lines[0][0][start.end() :], *lines[0][1:]], lines[1:]
    if head == [""]:
        head, body = body[0], body[1:]
    count, faces = [int(part) for part in head if part][:2]
    points, polygons = body[:count], body[count : count + faces]
    if (len(points), len(polygons)) != (count, faces):
        raise ValueError(
            f"{len(points)} vertices of {count} and {len(polygons)} faces of {faces} announced"
        )
    vertices = torch.tensor([[float(part) for part in line[:3]] for line in points])
    if vertices.shape != (count, 3):
        raise ValueError(f"vertices of shape {tuple(vertices.shape)}; expected 3 numbers for each")
    triangles = []
    for line in polygons:
        corners = [int(part) for part in line[1 : int(line[0]) + 1]]
        if len(corners) != int(line[0]):
            raise ValueError(f"a face {' '.join(line)!r}; expected {line[0]} vertices")
        triangles += [(corners[0], *edge) for edge in pairwise(corners[1:])]
    return vertices, torch.tensor(triangles, dtype=torch.int64).reshape(-1, 3).T.contiguous()
