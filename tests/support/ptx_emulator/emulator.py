"""Runs the kernels of the shim as nvcc's PTX."""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.support.cuda_shim.shim import Shim, ShimError
from tests.support.ptx_emulator.counts import Block, KernelCounts, kernel_counts

STATIC_LIMIT = 48 << 10  # bytes of static shared memory
TENSOR_ALIGNMENT = 256  # of tensors on a GPU
REGISTERS = 64 << 10  # of a multiprocessor
MOST_REGISTERS = 255  # of a thread


class Use(NamedTuple):
    """Peak resources over all launches of a kernel."""

    max_threads: int  # its launch bound, or 0
    threads: int
    static_shared: int

    def excesses(self) -> list[str]:
        """The resources that exceed the limits of every architecture; a launch with more shared
        memory than the device has fails."""
        found = []
        # A launch bound limits the registers; without one a kernel may use the maximum per thread.
        if self.max_threads == 0 and self.threads * MOST_REGISTERS > REGISTERS:
            found.append(f"{self.threads} threads, of a kernel without __launch_bounds__")
        if self.static_shared > STATIC_LIMIT:
            found.append(f"{self.static_shared} bytes of static shared memory")
        return found


def demangled(names: Sequence[str]) -> list[str]:
    done = subprocess.run(
        ["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


class _Copy:
    """The memory of an array, copied to an address aligned to `alignment` and, unless that is the
    alignment of tensors, to no larger power of two."""

    def __init__(self, array: np.ndarray, writable: bool, alignment: int) -> None:
        self._array = array
        self._writable = writable
        self.of, end = np.lib.array_utils.byte_bounds(array)
        self.size = end - self.of
        self._room = np.empty(self.size + 2 * alignment, np.uint8)
        start = self._room.ctypes.data
        self.begin = -(-start // alignment) * alignment
        if alignment != TENSOR_ALIGNMENT and self.begin // alignment % 2 == 0:
            self.begin += alignment
        ctypes.memmove(self.begin, self.of, self.size)

    def write_back(self) -> None:
        if self._writable:
            ctypes.memmove(self.of, self.begin, self.size)


class Emulator(Shim):
    """A library of compiled kernels with the PTX of some of them; others cannot be launched.

    A defect that a GPU might hide, such as a read of uninitialised shared memory, raises ShimError
    at the end of the call.
    """

    def __init__(self, library: Path, blocks: Mapping[str, list[Block]] | None = None) -> None:
        """blocks: the basic blocks by mangled kernel names, for a library with counters."""
        super().__init__(library)
        # Those with counters.
        self.blocks = dict(blocks or {})
        self._copies: list[_Copy] = []  # of the next call's arrays
        for name in ("ptx_kernel", "ptx_reports", "ptx_uses", "ptx_counts"):
            getattr(self._c, name).restype = ctypes.c_char_p
        self._bind()
        self._c.ptx_use(1)

    def _bind(self) -> None:
        mangled: list[str] = []
        while name := self._c.ptx_kernel(len(mangled)):
            mangled.append(name.decode())
        self._names = dict(zip(mangled, demangled(mangled), strict=True))
        addresses = self.addresses()
        for i, name in enumerate(self._names.values()):
            if name not in addresses:
                raise ShimError(f"the host has compiled no kernel {name}")
            self._c.ptx_bind(i, ctypes.c_void_p(addresses[name]))

    def set_noise(self, units: int) -> None:
        """Sets the largest error of approximate instructions in units in the last place."""
        self._c.ptx_set_noise(units)

    def _pointer(self, array: np.ndarray | None, writable: bool = True) -> ctypes.c_void_p:
        """The pointer to a copy for the kernels of the next call, which is written back after the
        call.

        It is aligned to the size of its elements only or, while counting or if `aligned`, like
        tensors on a GPU."""
        if array is None or array.size == 0:
            return super()._pointer(array)
        as_on_gpu = self.aligned or bool(self.blocks)
        alignment = TENSOR_ALIGNMENT if as_on_gpu else array.itemsize
        copy = _Copy(array, writable, alignment)
        self._copies.append(copy)
        self._c.ptx_allow(ctypes.c_void_p(copy.begin), ctypes.c_size_t(copy.size), int(writable))
        return ctypes.c_void_p(copy.begin + array.ctypes.data - copy.of)

    def _call(self, function: Any, *arguments: Any) -> int:
        try:
            code = super()._call(function, *arguments)
        finally:
            for copy in self._copies:
                copy.write_back()
            self._copies.clear()
            self._c.ptx_forbid_all()
            reports = self._c.ptx_reports().decode()
        if reports:
            raise ShimError(reports.rstrip())
        return code

    def uses(self) -> dict[str, Use]:
        """The resources used by the launches of each kernel, by demangled name."""
        found = json.loads(self._c.ptx_uses())
        return {self._names[name]: Use(*use) for name, use in found.items()}

    def counts(self) -> dict[str, KernelCounts]:
        """The counts of the kernels launched since clear_counts(), by demangled names."""
        found = json.loads(self._c.ptx_counts())
        return {
            self._names[name]: kernel_counts(raw, self.blocks[name]) for name, raw in found.items()
        }

    def clear_counts(self) -> None:
        self._c.ptx_clear_counts()
