"""The counts of a kernel that the prediction uses, in a form for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.gpu_model.costs import UNITS, by_unit

if TYPE_CHECKING:
    from tests.support.ptx_emulator.counts import KernelCounts

# Kinds of access, in the order of their figures.
GLOBAL = ("global_load", "global_store", "global_atomic")
SHARED = ("shared_load", "shared_store", "shared_atomic")


class Access(NamedTuple):
    """One kind of access; see ptx_emulator.counts.Traffic."""

    requests: float = 0
    bytes: float = 0
    transactions: float = 0
    least: float = 0
    conflicts: float = 0


class Kernel(NamedTuple):
    """One kernel, over all launches; see ptx_emulator.counts.KernelCounts."""

    blocks: float
    threads: int
    shared_bytes: int
    units: dict[str, float]  # SASS instructions of warps, by unit
    ptx: float  # PTX instructions of warps
    lane_ptx: float  # the same, by lane
    traffic: dict[str, Access]
    load_chain: float
    block_load_chain: float
    bytes_in_flight: float
    block_sectors: float  # loaded or stored, distinct within a block
    launch_sectors: float  # distinct within a launch

    @property
    def slots(self) -> float:
        """Issue slots: SASS instructions of warps."""
        return sum(self.units.values())

    def access(self, kind: str) -> Access:
        return self.traffic.get(kind, Access())


def of_counts(counts: KernelCounts) -> Kernel:
    return Kernel(
        blocks=counts.blocks,
        threads=counts.threads,
        shared_bytes=counts.shared_bytes,
        units=by_unit(counts.instructions),
        ptx=sum(counts.instructions.values()),
        lane_ptx=sum(counts.lane_instructions.values()),
        traffic={kind: Access(*traffic) for kind, traffic in counts.traffic.items()},
        load_chain=counts.load_chain,
        block_load_chain=counts.block_load_chain,
        bytes_in_flight=counts.bytes_in_flight,
        block_sectors=counts.block_sectors + counts.block_stored_sectors,
        launch_sectors=counts.launch_sectors + counts.launch_stored_sectors,
    )


def _rounded(number: float) -> float:
    short = float(f"{number:.6g}")
    return int(short) if short == int(short) else short


def as_dict(kernel: Kernel) -> dict[str, Any]:
    """A dict for JSON, with six digits and without zeros."""
    found: dict[str, Any] = {}
    for name, value in kernel._asdict().items():
        if name == "units":
            found[name] = {unit: _rounded(n) for unit, n in value.items() if n}
        elif name == "traffic":
            some = {kind: access for kind, access in value.items() if access.requests}
            found[name] = {kind: [_rounded(n) for n in access] for kind, access in some.items()}
        else:
            found[name] = _rounded(value)
    return found


def from_dict(found: Mapping[str, Any]) -> Kernel:
    units = dict.fromkeys(UNITS, 0.0) | found["units"]
    traffic = {kind: Access(*numbers) for kind, numbers in found["traffic"].items()}
    return Kernel(**{**found, "units": units, "traffic": traffic})
