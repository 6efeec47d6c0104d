"""The counts of the emulator."""

from __future__ import annotations

from typing import NamedTuple

KINDS = (
    "global_load",
    "global_store",
    "global_atomic",
    "shared_load",
    "shared_store",
    "shared_atomic",
)


class Traffic(NamedTuple):
    """Accesses to memory of one kind."""

    requests: int  # times a warp executed an access
    bytes: int  # requested by its lanes
    transactions: int  # global: sectors of 32 bytes; shared: passes over the 32 banks
    least: int  # shared: passes without a bank conflict; global: 0
    conflicts: int  # atomics: the most lanes at one address, summed over the requests


class KernelCounts(NamedTuple):
    """The counts of all launches of a kernel."""

    launches: int
    blocks: int
    warps: int
    threads: int  # of a block
    shared_bytes: int  # static and dynamic, of the largest launch
    # Times that a warp issued a PTX instruction, by its opcode; " folded" follows where ptxas makes
    # it part of a neighbour (see KernelTranslator.count_instruction). Paths on which the lanes of a
    # warp diverge count once each.
    instructions: dict[str, float]
    lane_instructions: dict[str, float]  # the same, by lane
    lines: dict[str, float]  # by "file:line", the innermost of inlined calls; over all opcodes
    traffic: dict[str, Traffic]  # by KINDS
    load_chain: int  # the longest chain of dependent loads of a warp, summed over warps
    block_load_chain: int  # the longest of a block's warps, summed over blocks
    # Mean over the instructions of a lane: bytes loaded from global memory and not waited for.
    bytes_in_flight: float
    block_sectors: int  # distinct sectors loaded by a block, summed over blocks
    block_stored_sectors: int
    launch_sectors: int  # the same by launch
    launch_stored_sectors: int


class Block(NamedTuple):
    """A basic block of a translated kernel."""

    line: str
    opcodes: dict[str, int]


def kernel_counts(raw: dict, blocks: list[Block]) -> KernelCounts:
    """The counts of a kernel from those of its basic blocks; raw: of runtime/counters.cpp."""
    by_warp: dict[str, float] = {}
    by_lane: dict[str, float] = {}
    lines: dict[str, float] = {}
    passes = zip(raw["warp_passes"], raw["lane_passes"], blocks, strict=True)
    for warp_passes, lane_passes, block in passes:
        if not lane_passes:
            continue
        for opcode, times in block.opcodes.items():
            by_warp[opcode] = by_warp.get(opcode, 0) + times * warp_passes
            by_lane[opcode] = by_lane.get(opcode, 0) + times * lane_passes
        total = sum(block.opcodes.values()) * warp_passes
        lines[block.line] = lines.get(block.line, 0) + total
    traffic = {kind: Traffic(*row) for kind, row in zip(KINDS, raw["traffic"], strict=True)}
    return KernelCounts(
        launches=raw["launches"],
        blocks=raw["blocks"],
        warps=raw["warps"],
        threads=raw["threads"],
        shared_bytes=raw["shared_bytes"],
        instructions=by_warp,
        lane_instructions=by_lane,
        lines=lines,
        traffic=traffic,
        load_chain=raw["load_chain"],
        block_load_chain=raw["block_load_chain"],
        bytes_in_flight=raw["bytes_in_flight"] / max(1, raw["lane_instructions"]),
        block_sectors=raw["block_sectors"],
        block_stored_sectors=raw["block_stored_sectors"],
        launch_sectors=raw["launch_sectors"],
        launch_stored_sectors=raw["launch_stored_sectors"],
    )
