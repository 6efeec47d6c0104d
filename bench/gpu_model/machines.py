"""The GPUs for which times are predicted, and the occupancy of a kernel on them.

Sources: multiprocessors, clocks and memory from NVIDIA's architecture white papers and data sheets;
rates of units from the CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions";
limits from its "Technical Specifications per Compute Capability". Clocks are boost clocks, which a
loaded GPU need not hold.
"""

from __future__ import annotations

from typing import NamedTuple

ISSUE = 4  # warp instructions that a multiprocessor issues per clock
LOAD_STORE = 32  # lanes per clock of shared memory, the L1 cache and shuffles
SHARED_RESERVED = 1024  # bytes of shared memory that the driver takes of each block
MOST_REGISTERS = 255
REGISTER_UNIT = 256  # granularity of the registers allocated to a warp


class Machine(NamedTuple):
    name: str
    multiprocessors: int
    clock: float  # Hz
    bandwidth: float  # bandwidth of a copy in bytes per second
    # Results per clock and multiprocessor:
    fp32: int
    fp64: int
    half_rate: int  # comparisons, selections, integers
    special: int
    conversion: int  # from and to 64-bit types, as nearly all in the kernels
    # A multiprocessor holds:
    shared_bytes: int
    threads: int
    blocks: int
    registers: int = 65536

    @property
    def bytes_per_cycle(self) -> float:
        """Bytes per cycle from memory for one multiprocessor."""
        return self.bandwidth / self.clock / self.multiprocessors


MACHINES = {
    m.name: m
    for m in (
        # 4.3 TB/s, nine tenths of the 4.8 in the data sheet, as for the others.
        Machine("H200", 132, 1.98e9, 4.3e12, 128, 64, 64, 16, 16, 228 << 10, 2048, 32),
        # Of the others, nine tenths of the data sheet's 3.35, 2.04 and 1.01 TB/s.
        Machine("H100", 132, 1.98e9, 3.0e12, 128, 64, 64, 16, 16, 228 << 10, 2048, 32),
        Machine("A100", 108, 1.41e9, 1.84e12, 64, 32, 64, 16, 16, 164 << 10, 2048, 32),
        Machine("RTX 4090", 128, 2.52e9, 0.91e12, 128, 2, 64, 16, 2, 100 << 10, 1536, 24),
    )
}


def resident_blocks(machine: Machine, threads: int, shared_bytes: int, registers: int) -> int:
    """The number of resident blocks of a kernel per multiprocessor, at least one."""
    warps = -(-threads // 32)
    per_warp = -(-registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    by_registers = ISSUE * (machine.registers // ISSUE // max(1, per_warp)) // warps
    by_shared = machine.shared_bytes // (shared_bytes + SHARED_RESERVED)
    return max(1, min(by_registers, by_shared, machine.threads // (warps * 32), machine.blocks))


def most_registers(threads: int) -> int:
    """The register limit of a thread, assumed for a kernel whose register count is unknown."""
    return min(MOST_REGISTERS, 65536 // max(32, threads) // 8 * 8)
