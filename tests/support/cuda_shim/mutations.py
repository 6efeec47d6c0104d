"""Mutations of the kernels that the tests have to detect, as replacements in the sources."""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

from tests.support.cuda_shim.host_build import CSRC


class Mutation(NamedTuple):
    """The nth match of the pattern in a file is replaced; `unit` is the source that includes it."""

    name: str
    file: str
    pattern: str
    replacement: str
    nth: int = 0
    unit: str = "local_float32.cu"


BARRIER = r"__syncthreads\(\);"
REDUCTION = r"(reduce_lanes<Op>\(full_mask, values\);\s*)" + BARRIER
PIPELINE_BARRIER = r"    sync\(\);"
MUTATIONS = (
    Mutation("barrier before a reduction writes", "cuda/thread_group.cuh", REDUCTION, r"\1"),
    Mutation("barrier before a reduction reads", "cuda/thread_group.cuh", BARRIER, "", 2),
    Mutation("barrier before numbers of points are read", "cuda/thread_group.cuh", BARRIER, "", 3),
    Mutation(
        "mask of half a warp",
        "cuda/thread_group.cuh",
        r"reduce_lanes<Op>\(full_mask",
        "reduce_lanes<Op>(0xffffu",
    ),
    Mutation("mask of another group", "cuda/thread_group.cuh", r"<< \(lane\(\) - rank\(\)\)", ""),
    Mutation(
        "tail of a sum",
        "cuda/group_points.cuh",
        r"i < n; (i \+= ThreadGroup::threads\) visit\(points\[i\], points)",
        r"i + 1 < n; \1",
    ),
    *(
        Mutation(name, "cuda/sort_list.cuh", BARRIER, "", nth, "global_float32.cu")
        for nth, name in (
            (0, "barrier in a sort, after the steps of warps"),
            (1, "barrier in a sort, after the mirrored step"),
            (2, "barrier in a sort, after the other steps"),
        )
    ),
    Mutation(
        "barrier of the grid's bounds",
        "cuda/group_collectives.cuh",
        BARRIER,
        "",
        0,
        "global_float32.cu",
    ),
    *(
        Mutation(name, "cuda/group_search_points.cuh", BARRIER, "", nth, "global_float32.cu")
        for nth, name in (
            (0, "barrier between clearing the bins and counting"),
            (1, "barrier between counting and the sums"),
            (2, "barrier after the bins"),
            (3, "barrier after a list"),
            (4, "barrier after a list is cleared"),
        )
    ),
    *(
        Mutation(name, "cuda/thread_group.cuh", BARRIER, "", nth, "global_float32.cu")
        for nth, name in (
            (4, "barrier before sums over threads are read"),
            (5, "barrier before the largest of warps is written"),
            (6, "barrier before the largest of warps is read"),
        )
    ),
    *(
        Mutation(
            name, "core/certify/grid_search.h", r"set_\.sync\(\);", "", nth, "global_float32.cu"
        )
        for nth, name in (
            (1, "barrier after cells are resolved"),
            (2, "barrier after the masses of blocks"),
            (3, "barrier after the bounds on blocks"),
        )
    ),
    Mutation(
        "places past the end of a list", "cuda/group_breakpoint_lister.cuh", r" \+ numbers\[3\]", ""
    ),
    *(
        Mutation(name, "cuda/stage_set.cuh", pattern, replacement)
        for name, pattern, replacement in (
            ("tail of a copy in line", r"i \+ k \* step < n", "i + k * step + width < n"),
            ("rows of lanes, beyond a warp", r"left > warp_size", "left > warp_size + 1"),
            ("tail of rows of lanes", r"left > 0", "left > 1"),
            ("rows of lanes that overlap", r"\(capacity\) \| 1", "(capacity) - 1"),
            ("rows of groups that overlap", r"banks \+ Thread", "banks - 4 + Thread"),
        )
    ),
    *(
        Mutation(name, "cuda/local.cuh", pattern, replacement)
        for name, pattern, replacement in (
            ("barrier after copies", PIPELINE_BARRIER, ""),
            ("wait for one stage", r"copies<0>", "copies<1>"),
            ("wait for few stages", r"copies<few_stages - 1>", "copies<few_stages>"),
            ("wait for many stages", r"copies<many_stages - 1>", "copies<many_stages>"),
            ("the next stage", r"stage \+ 1 == stages", "stage + 2 == stages"),
        )
    ),
    Mutation(
        "vectors that are in a part of a tile",
        "cuda/backward_contiguous.cuh",
        r"l \+ vector <= hi",
        "l + vector <= hi + 3",
        0,
        "backward.cu",
    ),
    Mutation(
        "elements next to the vectors",
        "cuda/backward_contiguous.cuh",
        r"rest = before \+ hi - end",
        "rest = before + hi - end - 1",
        0,
        "backward.cu",
    ),
)


def mutate(folder: Path, mutation: Mutation) -> Path:
    """A copy of csrc/ in the folder, with the mutation."""
    csrc = folder / "csrc"
    shutil.copytree(CSRC, csrc)
    file = csrc / mutation.file
    text = file.read_text()
    matches = list(re.finditer(mutation.pattern, text))
    assert len(matches) > mutation.nth, f"{len(matches)} matches of {mutation}"
    match = matches[mutation.nth]
    mutated = text[: match.start()] + match.expand(mutation.replacement) + text[match.end() :]
    assert mutated != text
    file.write_text(mutated)
    return csrc
