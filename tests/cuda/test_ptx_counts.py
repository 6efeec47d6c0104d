"""The counts of the PTX emulator, on kernels with known counts."""

import numpy as np
import pytest

from bench.gpu_model.costs import by_unit
from tests.support.ptx_emulator import build

SOURCE = build.HERE / "known_counts.cu"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(build.missing() is not None, reason=str(build.missing())),
]


@pytest.fixture(scope="module")
def emulator(source_library, tmp_path_factory):
    folder = tmp_path_factory.mktemp("known_counts")
    return build.build(folder, source_library.objects, [SOURCE], count=True)


X = np.ones(4096, np.float32)
NEXT = ((np.arange(4096) * 37 + 11) % 4096).astype(np.int64)


@pytest.fixture
def counts(emulator):
    """Launches a kernel and returns its counts."""

    def count(name, parameter=1):
        y = np.zeros(256, np.float32)
        emulator.clear_counts()
        arrays = [emulator._pointer(array, writable=array is y) for array in (X, y, NEXT)]
        launch = emulator._c.launch_known_counts
        assert emulator._call(launch, name.encode(), *arrays, parameter) == 0
        (found,) = emulator.counts().values()
        return found

    return count


def opcodes(instructions, beginning):
    """The number of executed opcodes with the prefix."""
    return sum(times for opcode, times in instructions.items() if opcode.startswith(beginning))


@pytest.mark.parametrize(
    ("stride", "sectors"), [(0, 1), (1, 4), (2, 8), (3, 12), (8, 32), (16, 32)]
)
def test_sectors_of_a_stride(counts, stride, sectors):
    found = counts("strided", stride)
    load = found.traffic["global_load"]
    assert (load.requests, load.bytes, load.transactions) == (1, 128, sectors)
    assert found.traffic["global_store"].transactions == 4
    assert (found.block_sectors, found.launch_sectors) == (sectors, sectors)
    assert (found.block_stored_sectors, found.launch_stored_sectors) == (4, 4)


def test_vector_loads_are_one_request(counts):
    load = counts("vectors").traffic["global_load"]
    assert (load.requests, load.bytes, load.transactions) == (1, 512, 16)


def test_distinct_sectors_by_block_and_by_launch(counts):
    found = counts("repeated")
    assert found.traffic["global_load"].requests == 4
    assert found.traffic["global_load"].transactions == 16
    assert (found.block_sectors, found.launch_sectors) == (8, 4)
    assert (found.block_stored_sectors, found.launch_stored_sectors) == (8, 8)


def test_dependent_loads_are_a_chain(counts):
    found = counts("chain")
    assert found.traffic["global_load"].requests == 10
    assert (found.load_chain, found.block_load_chain) == (10, 10)


def test_a_block_waits_for_the_longest_chain(counts):
    found = counts("uneven_chains")
    assert (found.load_chain, found.block_load_chain) == (2 * (1 + 2), 2 * 2)


def test_a_batch_of_loads_is_one_wait(counts):
    found = counts("batch")
    assert found.traffic["global_load"].requests == 8
    assert found.load_chain == 1


def test_more_bytes_are_in_flight_of_a_batch(counts):
    batch, chain = counts("batch").bytes_in_flight, counts("chain").bytes_in_flight
    assert 0 < chain <= 8
    assert chain < batch <= 32


def test_a_guarded_batch(counts):
    found = counts("guarded_batch", 200)
    assert found.traffic["global_load"].requests == 7
    # One wait on a GPU; PTX adds the first values between the guards of the last.
    assert found.load_chain in (1, 2)


def test_an_asynchronous_copy_is_a_load_and_a_store_of_one_instruction(counts):
    found = counts("copied")
    load, store = found.traffic["global_load"], found.traffic["shared_store"]
    assert (load.requests, load.bytes, load.transactions) == (1, 512, 16)
    assert (store.requests, store.bytes, store.transactions, store.least) == (1, 512, 4, 4)
    assert (found.block_sectors, found.launch_sectors) == (16, 16)
    assert found.load_chain == 1
    units = by_unit({name: n for name, n in found.instructions.items() if name.startswith("cp.")})
    assert {unit: n for unit, n in units.items() if n} == {"global": 1, "control": 2}


def test_constant_offsets_of_copies_are_part_of_their_addresses(counts):
    """Of four addresses three; two more sums are part of a wide product."""
    found = counts("copied_at_offsets")
    assert found.traffic["global_load"].requests == 4
    assert opcodes(found.instructions, "mul.wide") == 1
    assert found.instructions["add.s64 folded"] == 3 + 2


@pytest.mark.parametrize(("valid", "sectors"), [(0, 0), (1, 1), (9, 2), (32, 4)])
def test_zeros_are_not_loaded(counts, valid, sectors):
    found = counts("copied_or_zero", valid)
    load, store = found.traffic["global_load"], found.traffic["shared_store"]
    assert (load.requests, load.bytes, load.transactions) == (valid > 0, 4 * valid, sectors)
    assert (store.requests, store.bytes, store.transactions) == (1, 128, 1)
    assert found.load_chain == (valid > 0)


def test_bytes_of_a_copy_are_in_flight_until_the_wait(counts):
    assert counts("copied_chain").load_chain == 2
    for loops in (1, 3000):
        found = counts("copied_early", loops)
        assert found.load_chain == 1
    assert 3.9 < found.bytes_in_flight < 4


@pytest.mark.parametrize(("name", "ahead"), [("one_tile_ahead", 1), ("four_tiles_ahead", 4)])
def test_tiles_in_flight_are_one_wait(counts, name, ahead):
    found = counts(name, 100)
    assert found.traffic["global_load"].requests == 100
    assert found.load_chain == -(-100 // (ahead + 1))
    assert 4 * ahead * 0.8 < found.bytes_in_flight < 4 * (ahead + 1)


@pytest.mark.parametrize(("stride", "passes"), [(0, 1), (1, 1), (2, 2), (3, 1), (16, 16), (31, 1)])
def test_passes_over_the_banks(counts, stride, passes):
    load = counts("banks", stride).traffic["shared_load"]
    assert (load.requests, load.transactions, load.least) == (1, passes, 1)


def test_lanes_at_one_address_of_an_atomic(counts):
    atomic = counts("colliding_atomics").traffic["shared_atomic"]
    assert (atomic.requests, atomic.conflicts) == (1, 8)


def test_a_warp_loops_as_often_as_its_longest_lane(counts):
    found = counts("ragged_loop")
    assert opcodes(found.instructions, "div.rn.f32") == 31
    assert opcodes(found.lane_instructions, "div.rn.f32") == sum(range(32))


def test_groups_of_a_warp_run_together(counts):
    found = counts("groups")
    assert opcodes(found.instructions, "shfl.sync.bfly.b32") == 4
    assert opcodes(found.lane_instructions, "shfl.sync.bfly.b32") == 8 * (1 + 2 + 3 + 4)


def test_a_warp_takes_both_paths(counts):
    found = counts("divergent")
    for opcode in ("div.rn.f32", "sqrt.rn.f32"):
        assert opcodes(found.instructions, opcode) == 1
        assert opcodes(found.lane_instructions, opcode) == 16


def test_barriers(counts):
    found = counts("barriers", 5)
    assert opcodes(found.instructions, ("bar.sync", "barrier.sync")) == 10
    assert (found.launches, found.blocks, found.warps, found.threads) == (1, 1, 2, 64)


def test_counts_are_cleared_and_deterministic(counts):
    """For any addresses of the arrays."""
    first = counts("strided", 8)
    for size in (3, 17, 5001):
        kept = np.empty(size, np.float32)
        assert counts("strided", 8) == first
        del kept


def test_shared_bytes(counts):
    assert counts("banks").shared_bytes == 4 * 32 * 32
    assert counts("chain").shared_bytes == 0


def test_lines_name_the_source(counts):
    lines = counts("ragged_loop").lines
    assert lines
    assert all(where.split(":")[0].endswith((".cu", ".h", ".cuh", ".hpp")) for where in lines)
    assert any(where.startswith("known_counts.cu:") for where in lines)
