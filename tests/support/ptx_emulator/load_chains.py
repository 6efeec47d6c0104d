"""Dependencies between loads: calls of the counters around instructions, for load chains.

A register with a value loaded from global memory has a time at which it is ready. A load is issued
when its address is ready, which depends on the loads that the address computation in the basic
block uses. Any other instruction that reads such a register waits. Asynchronous copies have no
register; runtime/copies_in_flight.cpp keeps their times.
"""

from __future__ import annotations

import re

from tests.support.ptx_emulator.operands import variable
from tests.support.ptx_emulator.parser import Function, Instruction

_REGISTER = re.compile(r"%[a-z]+\d+")
_OTHER_SPACES = {"param", "shared", "local", "const"}
_CONTROL = {"bra", "brx", "call", "ret", "exit", "trap"}
_NO_RESULT = {"st", "red", "bar", "barrier", "cp"}
_MEMORY = {"ld", "ldu", "st", "atom", "red", "cp"}


def _registers(text: str) -> list[str]:
    return _REGISTER.findall(text)


def _loads_global(i: Instruction) -> bool:
    return i.name in ("ld", "ldu") and not _OTHER_SPACES & set(i.modifiers)


def _copies(i: Instruction) -> bool:
    return i.name == "mov" and len(i.operands) == 2 and not any("{" in x for x in i.operands)


def _ready(register: str) -> str:
    return f"ready_{variable(register)}"


class LoadChains:
    """The load chains of a function; `instrument` is called for each instruction in order."""

    def __init__(self, function: Function) -> None:
        self.loaded = self._find_loaded(function)
        self.sources: dict[str, set[str]] = {}  # loaded registers that a register depends on
        self.accesses = 0
        self.position = 0  # instructions of the basic block before the next one

    def _find_loaded(self, function: Function) -> set[str]:
        """Registers with values loaded from global memory, including copies."""
        loaded: set[str] = set()
        copies = []
        for i in function.instructions():
            if _loads_global(i):
                loaded.update(_registers(i.operands[0]))
            elif _copies(i) and i.operands[1].startswith("%"):
                copies.append(i.operands)
        grown = True
        while grown:
            found = {to for to, of in copies if of in loaded} - loaded
            loaded |= found
            grown = bool(found)
        return loaded

    def declarations(self) -> list[str]:
        return [f"u32 {_ready(register)} = 0;" for register in sorted(self.loaded)]

    def begin_block(self) -> None:
        self.sources = {}
        self.position = 0

    def instrument(self, i: Instruction) -> tuple[str, str]:
        """Statements to insert before and after the instruction."""
        position, self.position = self.position, self.position + 1
        if i.name in _CONTROL:
            return "", ""
        writes = i.name not in _NO_RESULT
        results = _registers(i.operands[0]) if writes and i.operands else []
        read = _registers(" ".join(i.operands[1:] if writes else i.operands))
        depends: set[str] = set()
        for register in read:
            own = {register} if register in self.loaded else set()
            depends |= self.sources.get(register, own)
        before = ""
        if i.name in _MEMORY and "param" not in i.modifiers:
            before = f"ptx::counters::next_access({self.accesses}, passing);"
            self.accesses += 1
        if i.name == "cp":
            before += f" ptx::counters::copy_position = {position};"
        if _loads_global(i):
            issued = "entered"
            for register in sorted(depends):
                issued = f"ptx::counters::later({issued}, {_ready(register)})"
            self.sources.update({register: {register} for register in results})
            stores = [f"{_ready(register)} = ready;" for register in results]
            ready = f"ptx::counters::ready_time({issued}, {position})"
            return before, f"{{ const u32 ready = {ready}; {' '.join(stores)} }}"
        if _copies(i) and i.operands[0] in self.loaded:
            to, of = i.operands
            self.sources[to] = self.sources.get(of, {of} if of in self.loaded else set())
            return before, f"{_ready(to)} = {_ready(of) if of in self.loaded else 0};"
        waits = [
            f"ptx::counters::wait_for({_ready(r)}, {position});" for r in read if r in self.loaded
        ]
        after = [f"{_ready(r)} = 0;" for r in results if r in self.loaded]
        for register in results:
            self.sources[register] = depends
        return " ".join([before, *waits]).strip(), " ".join(after)
