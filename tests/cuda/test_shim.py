"""The host shim: its reports, and mutation tests of the kernels."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.support import ROOT
from tests.support.cuda_shim import probe
from tests.support.cuda_shim.cases import assert_global, assert_right, incoming
from tests.support.cuda_shim.host_build import CSRC, HERE, OPTIMIZE, compile_units, link
from tests.support.cuda_shim.mutations import MUTATIONS, mutate
from tests.support.cuda_shim.shim import ORDERS, ShimError

# ---- The shim ------------------------------------------------------------------------------------


@pytest.fixture(params=ORDERS)
def ordered(request, shim):
    shim.configure(request.param, seed=5)
    return shim


def marked_line(name):
    lines = (HERE / "toys.cu").read_text().splitlines()
    (line,) = [i for i, text in enumerate(lines, 1) if text.endswith(f"// at {name}")]
    return f"toys.cu:{line}"


def test_shuffles(ordered):
    lane = np.arange(32)
    expected = [
        np.full(32, 3),
        lane // 8 * 8 + (lane + 3) % 8,
        np.where(lane >= 3, lane - 3, lane),
        np.where(lane % 4 >= 2, lane - 2, lane),
        np.where(lane + 5 < 32, lane + 5, lane),
        np.where(lane % 16 < 15, lane + 1, lane),
        lane ^ 16,
        np.where(lane & 4, lane ^ 4, lane),  # a lower segment may be read, a higher one not
    ]
    np.testing.assert_array_equal(ordered.toy("shuffles")[: 8 * 32], np.concatenate(expected))


def test_votes(ordered):
    thirds = sum(1 << i for i in range(0, 32, 3))
    halves = np.repeat([0xFFFF, 1 << 20], 16)
    expected = np.concatenate([np.repeat([thirds, 1, 10], 32), halves])
    np.testing.assert_array_equal(ordered.toy("votes")[:128], expected)
    expected = np.repeat([40, 85, 69, 120, 376], [32, 16, 16, 16, 16])
    np.testing.assert_array_equal(ordered.toy("reductions")[:96], expected)
    np.testing.assert_array_equal(ordered.toy("early_return")[:21], [(1 << 20) - 1] * 20 + [np.nan])


def test_blocks(ordered):
    np.testing.assert_array_equal(ordered.toy("block_sum")[:3], [70 * 69 / 2] * 3)
    expected = np.add.outer(1000 * np.arange(12), np.arange(60)).ravel()
    np.testing.assert_array_equal(ordered.toy("indices")[:720], expected)
    for name in ("large_shared", "threads_1024", "shared_48k"):
        ordered.toy(name)


def test_orders(shim):
    seen = []
    for order, seed in [("forward", 0), ("reversed", 0), ("random", 0), ("random", 1)]:
        shim.configure(order, seed)
        seen.append(shim.toy("order")[:96])
        np.testing.assert_array_equal(shim.toy("order")[:96], seen[-1])
    np.testing.assert_array_equal(seen[0], np.arange(96))
    np.testing.assert_array_equal(seen[1], np.arange(96)[::-1])
    for found in seen:
        np.testing.assert_array_equal(np.sort(found), seen[0])
    assert len({tuple(found) for found in seen}) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("divergent_barriers", "divergent barriers"),
        ("missed_barrier", r"of 64 threads 40 have returned, 24 wait in (__syncthreads|bar\.sync)"),
        ("mask_without_caller", "lacks its caller, lane 31 of warp 1"),
        ("missing_member", r"deadlock: .*waits in (__shfl_xor_sync|shfl\.sync).* for lane 16"),
        ("different_collectives", "lanes of warp . meet in different collectives"),
        ("different_masks", "mask 0xffffffff|deadlock"),
        ("inactive_lane", "reads from inactive lane 16"),
        ("unfinished_copies", "exits without waiting for its asynchronous copy"),
        ("misaligned_copies", "misaligned "),
    ],
)
def test_misuse_is_reported_with_its_line(name, message, ordered):
    with pytest.raises(ShimError, match=message) as caught:
        ordered.toy(name)
    assert marked_line(name) in str(caught.value)
    ordered.toy("block_sum")  # the next launch is none the worse


def test_groups_within_a_warp(ordered):
    lane = np.arange(64)
    group = lane % 32 // 8
    sums = lane.copy()
    for k in range(4):
        sums = np.where(group >= k, sums + sums[lane ^ (1 << k % 3)], sums)
    below = np.where(lane % 8 < 7, np.roll(sums, -1), sums)
    largest = sums.reshape(-1, 8).max(1)[lane // 8]
    sums += np.where(group % 2 == 0, below, largest + (3 << 8 * np.maximum(0, group - 1)))
    np.testing.assert_array_equal(ordered.toy("groups")[:64], sums[lane ^ 7])


def test_vectors(ordered):
    """Pairs of floats in reverse, and their bytes exchanged."""
    pairs = (np.arange(32)[:, None] + np.arange(4)).astype(np.float32).reshape(-1, 2)[::-1][:32]
    found = ordered.toy("vectors")
    np.testing.assert_array_equal(found[:32].view(np.float32).reshape(-1, 2), pairs)
    first, second = pairs.copy().view(np.uint16).reshape(-1, 4)[:, [0, 3]].T
    mixed = (second.astype(np.uint32) << 16 | first).view(np.float32)
    np.testing.assert_array_equal(found[32:64], mixed)


def test_copies(ordered):
    numbers = 1 + np.arange(64)
    expected = numbers + np.where(numbers <= 50, numbers, 0)[::-1]
    np.testing.assert_array_equal(ordered.toy("copies")[:64], expected)


def test_copies_in_flight_are_nan(ordered, source_only):
    assert np.isnan(ordered.toy("copies_read_too_early")[:64]).all()


def test_widths_are_powers_of_two(ordered, source_only):
    with pytest.raises(ShimError, match="width 24") as caught:
        ordered.toy("odd_width")
    assert marked_line("odd_width") in str(caught.value)


def test_unset_shared_memory_is_nan(ordered, source_only):
    assert np.isnan(ordered.toy("unset_shared")).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shared_overrun", "wrote outside its dynamic shared memory|out of bounds"),
        ("threads_1025", "block of 1025 x 1 x 1"),
        ("threads_0", "block of 0 x 1 x 1"),
        ("blocks_0", "grid of 0 x 1 x 1"),
        ("shared_above_48k", "49153 bytes of dynamic shared memory where 49152 are allowed"),
        ("shared_above_227k", "cannot allow 232449 bytes"),
    ],
)
def test_impossible_launches_are_reported(name, message, ordered):
    with pytest.raises(ShimError, match=message):
        ordered.toy(name)


def test_a_device_limits_shared_memory(ordered):
    ordered.use_device(shared_kib=100)
    with pytest.raises(ShimError, match="cannot allow 232448 bytes"):
        ordered.toy("large_shared")
    ordered.use_device()
    ordered.toy("large_shared")


# ---- Mutated kernels do not pass -----------------------------------------------------------------


def run_probe(path, folder):
    """The errors in the results of each order; {} if the library is correct."""
    out = folder / f"{path.stem}.npz"
    command = [sys.executable, "-m", probe.__name__, path, out]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return {"all": "no end"}
    if done.returncode < 0:
        return {"all": f"signal {-done.returncode}"}
    assert done.returncode == 0, done.stderr
    found = np.load(out)
    wrong = {}
    for order in ORDERS:
        if f"{order}/error" in found:
            wrong[order] = str(found[f"{order}/error"])
            continue
        try:
            for i, x in enumerate(probe.probe_sets()):
                for penalty in probe.PENALTIES:
                    y, g = (found[f"{order}/{penalty}/{i}/{part}"] for part in ("y", "gradient"))
                    g *= incoming(len(x), x.dtype)[:, None]
                    assert_right(x, y, g, penalty, probe.ALPHA, torch.float32)
            for i, x in enumerate(probe.searched_sets()):
                for penalty in probe.SEARCHED:
                    y, *others = (
                        found[f"{o}/global {penalty}/{i}/y"]
                        for o in (order, *ORDERS)
                        if f"{o}/error" not in found
                    )
                    assert all(np.array_equal(y, other) for other in others), "orders differ"
                    for one, points in zip(y, x, strict=True):
                        assert_global(one, points, penalty, probe.ALPHA, torch.float32)
        except AssertionError as error:
            wrong[order] = str(error)
    return wrong


@pytest.fixture(scope="session")
def mutants(source_only, library, tmp_path_factory):
    """The libraries of all mutations, by name."""
    folder = tmp_path_factory.mktemp("mutants")
    jobs = []
    for i, mutation in enumerate(MUTATIONS):
        into = folder / str(i)
        into.mkdir()
        csrc = mutate(into, mutation)
        jobs.append((csrc / "cuda" / mutation.unit, into, csrc, OPTIMIZE))
    libraries = {}
    for mutation, compiled in zip(MUTATIONS, compile_units(jobs), strict=True):
        rest = [o for name, o in library.objects.items() if name != mutation.unit]
        libraries[mutation.name] = link([compiled, *rest], compiled.parent / "libmutant.so")
    return libraries


def test_a_sound_library_passes_the_probe(source_only, library, tmp_path):
    assert run_probe(library.shim.path, tmp_path) == {}


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutation_is_caught(mutation, mutants, tmp_path):
    wrong = run_probe(mutants[mutation.name], tmp_path)
    assert wrong, "no order of threads shows it"
    print("\n".join(f"{order}: {what[:200]}" for order, what in wrong.items()))


def test_a_mutation_that_finds_nothing_fails(tmp_path):
    with pytest.raises(AssertionError, match="0 matches"):
        mutate(tmp_path, MUTATIONS[0]._replace(pattern="no such text"))


def test_the_kernels_need_no_header_of_torch():
    for file in sorted((CSRC / "cuda").iterdir()):
        assert not re.search(r"#include <(torch|ATen|c10)/", file.read_text()), file.name
