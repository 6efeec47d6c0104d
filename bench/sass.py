"""Instructions on a warp's way through a kernel, and how long its units take; needs no GPU.

    cuobjdump -sass -arch sm_90 ddn_cuda/_C*.so > build/kernels.sass
    python -m bench.sass build/kernels.sass --loops 'forward_on_chip.*Huber.*Block'
    python -m bench.sass build/kernels.sass --routes bench/results/sass_routes.ini

A route is a list of parts, `name: addresses * times`, that a warp passes in order; `a-bx8` among
the addresses is a loop from a to b, passed 8 times. From an address to the next counts the way of
the fewest instructions, called functions included: rare branches are left out unless the route
leads there, so counts are lower bounds. Which loop is which has to be read from the code, and a
route belongs to the build that it was read from.
"""

from __future__ import annotations

import argparse
import configparser
import heapq
import itertools
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

# Results per clock and multiprocessor (CUDA C++ Programming Guide, throughput of native arithmetic
# instructions, compute capability 9.0); of what is not listed as many as can be issued.
ISSUED = 128
UNITS: dict[str, tuple[int, str]] = {
    "fp64": (64, r"D(ADD|MUL|FMA|SETP|MNMX)"),
    "special": (16, r"MUFU|F2F|F2I|I2F|FRND|POPC|FLO"),
    "half": (64, r"F(SET|SETP|SEL|MNMX|CHK)|I(ADD3|SETP|MNMX|ABS)|VI\w+|P?LOP3|SHF|SEL|LEA|PRMT"),
    "memory": (32, r"(LD|ST|ATOM)[SGL]?|SHFL|RED"),
}
H200 = {"bandwidth": 4.3e12, "clocks": 132 * 1.98e9}  # bytes a second; of all multiprocessors

_FUNCTION = re.compile(r"\s*Function : (\S+)")
_LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P[T\d]+\s+)?([A-Z][\w.]*)\s*([^;]*);")
_TARGET = re.compile(r"0x([0-9a-f]+)\s*$")
_STEP = re.compile(r"([0-9a-f]+)(?:-([0-9a-f]+)x(\d+))?")


class Instruction(NamedTuple):
    address: int
    opcode: str
    conditional: bool
    target: int | None  # of a branch or call

    def following(self) -> list[int]:
        if self.opcode in ("EXIT", "RET") and not self.conditional:
            return []
        if self.opcode == "BRA" and self.target is not None:
            return [self.target, self.address + 16] if self.conditional else [self.target]
        return [self.address + 16]


@dataclass
class Function:
    name: str
    code: dict[int, Instruction] = field(default_factory=dict)
    callees: dict[int, list[Instruction]] = field(default_factory=dict)

    def step(self, at: Instruction) -> list[Instruction]:
        """An instruction, and what it calls."""
        if at.opcode != "CALL" or at.target is None:
            return [at]
        if at.target not in self.callees:
            self.callees[at.target] = []  # what calls itself counts once
            ends = {i.address for i in self.code.values() if i.opcode == "RET"}
            self.callees[at.target] = self.way(at.target, ends)
        return [at, *self.callees[at.target]]

    def way(self, start: int, ends: set[int]) -> list[Instruction]:
        """The fewest instructions from a start to one of the ends, both included."""
        heap, before = [(0, start, -1)], dict[int, int]()
        while heap:
            cost, address, came = heapq.heappop(heap)
            if address in before or address not in self.code:
                continue
            before[address] = came
            if address in ends:
                path = [address]
                while (address := before[address]) >= 0:
                    path.append(address)
                return [i for a in reversed(path) for i in self.step(self.code[a])]
            at = self.code[address]
            for following in at.following():
                heapq.heappush(heap, (cost + len(self.step(at)), following, address))
        raise SystemExit(f"sass: no way from {start:x} to {min(ends, default=0):x} in {self.name}")

    def through(self, addresses: Sequence[int]) -> list[Instruction]:
        """The way by these addresses, the first and last one included."""
        found = self.step(self.code[addresses[0]])
        for start, end in itertools.pairwise(addresses):
            found = found + self.way(start, {end})[len(self.step(self.code[start])) :]
        return found

    def loops(self) -> list[list[int]]:
        """The first and last address of what a conditional branch at its end repeats."""
        jumps = [i for i in self.code.values() if i.opcode == "BRA" and i.conditional]
        return sorted([i.target, i.address] for i in jumps if i.target and i.target < i.address)


def parse(text: str) -> list[Function]:
    """The functions in the output of `cuobjdump -sass`."""
    functions: list[Function] = []
    for line in text.splitlines():
        if heading := _FUNCTION.match(line):
            functions.append(Function(heading.group(1)))
        elif functions and (found := _LINE.match(line)):
            at, guard, opcode, operands = found.groups()
            name = opcode.split(".")[0]
            to = _TARGET.search(operands) if name in ("BRA", "CALL") else None
            may = bool(guard) or (name == "BRA" and re.search(r"U?[PR]\d", operands) is not None)
            one = Instruction(int(at, 16), name, may, int(to.group(1), 16) if to else None)
            functions[-1].code[one.address] = one
    return functions


def find(functions: Sequence[Function], pattern: str) -> Function:
    found = [f for f in functions if re.search(pattern, f.name)]
    if len(found) != 1:
        raise SystemExit(f"sass: {pattern!r} names {len(found)} of {len(functions)} kernels")
    return found[0]


def busy(way: Sequence[Instruction], times: float = 1) -> dict[str, float]:
    """Cycles that one warp takes of a quarter of a multiprocessor: to issue, and of each unit."""
    count = Counter(i.opcode for i in way)
    cycles = {"issue": len(way) * times}
    for name, (rate, known) in UNITS.items():
        number = sum(n for opcode, n in count.items() if re.fullmatch(known, opcode))
        cycles[name] = number * times * ISSUED / rate
    return cycles


def addresses_of(part: str) -> list[int]:
    """The addresses of a part of a route, those of its loops as often as they are passed."""
    found: list[int] = []
    for word in part.split():
        step = _STEP.fullmatch(word)
        if step is None:
            raise SystemExit(f"sass: {word!r} is no address, nor a loop as in 2c0-4e0x8")
        loop = [int(address, 16) for address in step.group(1, 2) if address]
        found += loop * int(step.group(3) or 1)
    return found


def follow(function: Function, route: str) -> dict[str, dict[str, float]]:
    """What each part of a route takes, and with it, once, the way to it from the part before.

    A function that a part enters at its beginning does not count where it is called, and no way
    leads from its end to the next part.
    """
    found: dict[str, dict[str, float]] = {}
    parts = [re.split(r"[:*]", part) for part in route.split(";")]
    ways = [addresses_of(addresses) for _, addresses, *_ in parts]
    function.callees |= {way[0]: [] for way in ways}
    for (name, _, *times), way, before in zip(parts, ways, [None, *ways], strict=False):
        found[name.strip()] = busy(function.through(way), float(times[0]) if times else 1)
        if before and function.code[before[-1]].opcode != "RET":
            for kind, cycles in busy(function.through([before[-1], way[0]])[1:-1]).items():
                found[name.strip()][kind] += cycles
    return found


def print_row(name: str, cycles: dict[str, float], points: float = 1) -> None:
    print(f"{name:36}" + "".join(f"{number / points:9.1f}" for number in cycles.values()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("listing", type=Path, nargs="+", help="output of cuobjdump -sass")
    parser.add_argument("--loops", metavar="KERNEL", help="pattern of a mangled name")
    parser.add_argument("--routes", type=Path, help="kernel, route, points a lane has, their bytes")
    options = parser.parse_args(arguments)
    functions = [f for path in options.listing for f in parse(path.read_text())]
    print(f"{'cycles of a warp':36}" + "".join(f"{name:>9}" for name in busy([])))
    if options.loops:
        kernel = find(functions, options.loops)
        for loop in kernel.loops():
            print_row(f"{loop[0]:x} {loop[1]:x}", busy(kernel.through(loop)))
    routes = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    routes.read(options.routes or [])
    for title in routes.sections():
        one, points = routes[title], routes[title].getfloat("points", 0.0)
        parts = follow(find(functions, one["kernel"]), one["route"])
        total = {kind: sum(part[kind] for part in parts.values()) for kind in busy([])}
        print(f"\n{title}")
        for name, cycles in parts.items():
            print_row(f"  {name}", cycles)
        print_row("  all", total)
        if points > 0:
            print_row("  all, for a point", total, points)
            memory = float(one["bytes"]) / H200["bandwidth"] * H200["clocks"] * ISSUED
            ratio = max(total.values()) / points / memory
            print(f"  memory takes {memory:.1f} cycles for a point: {ratio:.2f} times that")
    return 0


if __name__ == "__main__":
    sys.exit(main())
