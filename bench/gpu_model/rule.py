"""The prediction rule. FROZEN: it was written down before anything was measured on a GPU.

When measurements disagree, docs/gpu_model.md reports by how much; the rule stays, so that its
predictions remain a test of the model and not a fit to the measurements. A better rule would be a
second one, beside this.

For each launch, in cycles of a multiprocessor of a machine that is filled with blocks:

    issue    SASS instructions of warps / 4
    fp32, fp64, special (with conversions): warp instructions x 32 / results per clock
    shared   shuffles, bank passes, requests to the L1 cache (or 128 bytes each, if that is more):
             one a cycle
    loads    dependent global loads of the longest warp of a block, 500 cycles each, over the
             blocks that a multiprocessor holds
    memory   distinct 32-byte sectors / bandwidth

The time is the largest of these where at least 40 KiB stay in flight in a multiprocessor, as a mean
over the instructions of its threads: the next tile's loads then are under way while this tile is
computed, and everything overlaps. Otherwise it is issue plus the larger of loads and memory, and at
least the largest of all. Launches follow each other.

Instructions at half rate (comparisons, integers) are reported and predict nothing: PTX overstates
them up to 1.8 times, since ptxas replaces them by IMAD and predicates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bench.gpu_model.figures import GLOBAL, SHARED, Kernel
from bench.gpu_model.machines import (
    ISSUE,
    LOAD_STORE,
    Machine,
    most_registers,
    resident_blocks,
)

LATENCY = 500  # cycles of a load from global memory
OVERLAP_BYTES = 40 << 10  # in flight in a multiprocessor
SECTOR = 32
L1_BYTES = 128  # that the L1 cache returns per clock


class Times(NamedTuple):
    """Times of one or several launches, in cycles times multiprocessors or relative to the
    bandwidth bound."""

    issue: float = 0
    fp32: float = 0
    fp64: float = 0
    special: float = 0
    shared: float = 0
    loads: float = 0
    memory: float = 0
    half_rate: float = 0  # predicts nothing
    predicted: float = 0

    def over(self, unit: float) -> Times:
        return Times(*(time / unit for time in self))


def residents(kernel: Kernel, registers: int | None, machine: Machine) -> int:
    """Resident blocks of the kernel per multiprocessor."""
    known = registers or most_registers(kernel.threads)
    return resident_blocks(machine, kernel.threads, kernel.shared_bytes, known)


def in_flight(kernel: Kernel, blocks: int) -> float:
    """The mean number of bytes in flight in a multiprocessor with the given blocks."""
    return kernel.bytes_in_flight * kernel.threads * blocks


def shared_passes(kernel: Kernel) -> float:
    """Cycles of the unit that serves shared memory, the L1 cache and shuffles."""
    load, store, atomic = (kernel.access(kind) for kind in SHARED)
    banks = load.transactions + store.transactions + atomic.conflicts
    lines = 0.0
    for kind in GLOBAL:
        access = kernel.access(kind)
        lines += max(access.requests, access.transactions * SECTOR / L1_BYTES)
    return kernel.units["shuffle"] + banks + lines + kernel.units["local"]


def launch_times(kernel: Kernel, registers: int | None, machine: Machine) -> Times:
    units = kernel.units
    blocks = residents(kernel, registers, machine)
    special = 32 * units["special"] / machine.special
    issue = kernel.slots / ISSUE
    loads = kernel.block_load_chain * LATENCY / blocks
    memory = kernel.launch_sectors * SECTOR / machine.bytes_per_cycle
    times = Times(
        issue=issue,
        fp32=32 * units["fp32"] / machine.fp32,
        fp64=32 * units["fp64"] / machine.fp64,
        special=special + 32 * units["conversion"] / machine.conversion,
        shared=shared_passes(kernel) * 32 / LOAD_STORE,
        loads=loads,
        memory=memory,
    )
    predicted = max(times)
    if in_flight(kernel, blocks) < OVERLAP_BYTES:
        predicted = max(predicted, issue + max(loads, memory))
    half_rate = 32 * (units["compare"] + units["integer"]) / machine.half_rate
    return times._replace(half_rate=half_rate, predicted=predicted)


def predict(
    launches: Iterable[tuple[Kernel, int | None]], needed_bytes: float, machine: Machine
) -> Times:
    """The time relative to the bandwidth bound. launches: kernels and their registers."""
    each = [launch_times(kernel, registers, machine) for kernel, registers in launches]
    total = Times(*(sum(column) for column in zip(*each, strict=True))) if each else Times()
    return total.over(needed_bytes / machine.bytes_per_cycle)
