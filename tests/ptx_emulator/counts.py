"""What the emulator counts of a kernel."""

from __future__ import annotations

from typing import NamedTuple


class Traffic(NamedTuple):
    """One kind of access, over all launches."""

    requests: int  # times a warp executed an access (lanes of one instruction and passing)
    bytes: int  # that its lanes asked for
    transactions: int  # global: 32-byte sectors; shared: passes over the 32 banks
    least: int  # shared: passes that there have to be; global: 0
    conflicts: int  # atomics: the most lanes at one address, summed over requests


class KernelCounts(NamedTuple):
    """One kernel, over all launches.

    An opcode is as PTX writes it ("fma.rn.f32", "ld.global.v2.f32", "setp.lt.f32", "bar.sync"),
    with " folded" appended where it becomes part of a neighbour in SASS: add.s64 of the result of
    mul.wide (IMAD.WIDE), shl.b64 whose result is added (LEA). "bra.uni" is apart from "bra".
    """

    launches: int
    blocks: int
    warps: int
    threads: int  # of a block
    shared_bytes: int  # static and dynamic, the largest launch
    instructions: dict[str, float]  # opcode: times a warp issued it
    lane_instructions: dict[str, float]  # the same, times a lane executed it
    lines: dict[str, float]  # "file:line", innermost, of a basic block: PTX instructions of warps
    traffic: dict[str, Traffic]  # {global,shared}_{load,store,atomic}
    load_chain: int  # longest chain of dependent global loads, summed over warps
    block_load_chain: int  # the same of the longest warp of each block, summed over blocks
    bytes_in_flight: float  # of a lane: mean over its instructions of bytes loaded from global
    # memory and not yet waited for
    block_sectors: int  # distinct 32-byte sectors loaded, by block
    block_stored_sectors: int
    launch_sectors: int  # the same by launch
    launch_stored_sectors: int
