"""The cost of a PTX instruction on sm_90: SASS instructions by the unit that executes them.

An estimate. Units and their rates are those of the CUDA C++ Programming Guide ("Throughput of
Native Arithmetic Instructions"). How many instructions an opcode becomes was read from the SASS of
small kernels (nvcc 13.0, sm_90), except where a row says otherwise. Sequences with a rare slow path
(division, square root) count their fast path.

An opcode that no row matches is an error: a new instruction gets a row, not a guess.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

UNITS = {
    "fp32": "FADD, FMUL, FFMA",
    "compare": "FSETP, FSEL, FMNMX: half rate",
    "fp64": "DADD, DMUL, DFMA, DSETP",
    "integer": "IADD3, LOP3, SHF, LEA, ISETP, SEL, PRMT: half rate",
    "multiply": "IMAD",
    "conversion": "F2F, F2I, I2F, FRND",
    "special": "MUFU, POPC, FLO",
    "shuffle": "SHFL, VOTE, MATCH, REDUX, WARPSYNC",
    "shared": "LDS, STS, ATOMS",
    "global": "LDG, STG, ATOMG, RED, LD, ST",
    "local": "LDL, STL, as PTX declares them: spills are not among them",
    "control": "BRA, BRX, CALL, RET, EXIT, fences",
    "barrier": "BAR",
    "move": "MOV, R2UR and others at full rate",
}


class UnknownOpcode(KeyError):  # noqa: N818, a descriptive name
    """A PTX opcode without a row in the table."""


class Row(NamedTuple):
    pattern: str
    cost: Mapping[str, float]
    note: str = ""


FREE: Mapping[str, float] = {}
_M = r"(?:\.\w+)*"  # modifiers: rounding, .ftz, .sat, .approx, ...
_NARROW, _WIDE = r"\.[usb](?:8|16|32)", r"\.[usb]64"
_ANY_SPACE = r"(?:\.(?:volatile|relaxed|acquire|release|acq_rel|weak|cta|gpu|sys|nc))*"
_ACCESS = rf"(?:ld|ldu|st|atom|red){_ANY_SPACE}"

# The first matching row applies.
ROWS = (
    Row(r".* folded", FREE, "part of its neighbour: IMAD.WIDE, LEA, an address"),
    Row(r"mov\..*|cvta\..*", FREE, "registers are renamed; a few MOVs remain"),
    Row(r"(?:ld|st)\.(?:param|const).*", FREE, "operands from the constant bank"),
    # Memory
    Row(rf"{_ACCESS}\.shared(?:::cta)?\..*", {"shared": 1}),
    Row(rf"{_ACCESS}\.local\..*", {"local": 1}),
    Row(rf"{_ACCESS}\..*", {"global": 1}, "generic addresses included"),
    Row(r"cp\.async\.(?:ca|cg)\..*", {"global": 1}, "LDGSTS"),
    Row(r"cp\.async\.bulk\.(?!commit|wait).*", {"global": 1}, "not read from SASS"),
    Row(r"cp\.async\..*", {"control": 1}, "commit, wait: LDGDEPBAR, DEPBAR"),
    Row(r"mbarrier\..*", {"shared": 1}, "SYNCS; not read from SASS"),
    Row(r"(?:membar|fence)\..*", {"control": 1}, "not read from SASS"),
    # Control
    Row(r"bra\.uni", {"control": 0.3}, "most fall through after the blocks are laid out"),
    Row(r"bra|ret(?:\.uni)?|exit|trap", {"control": 1}),
    Row(rf"(?:brx|call){_M}", {"control": 1, "move": 1}),
    Row(r"bar\.warp\.sync", {"shuffle": 1}),
    Row(rf"(?:bar|barrier)(?!\.warp){_M}", {"barrier": 1}),
    # Across the lanes of a warp
    Row(rf"(?:shfl|vote|match){_M}|activemask{_M}", {"shuffle": 1}),
    Row(rf"redux{_M}", {"shuffle": 1, "move": 1}, "and R2UR"),
    # Floating point
    Row(rf"(?:add|sub|mul|fma|mad){_M}\.f32", {"fp32": 1}),
    Row(rf"(?:add|sub|mul|fma|mad){_M}\.f64", {"fp64": 1}),
    Row(rf"(?:neg|abs){_M}\.f(?:32|64)", FREE, "modifiers of an operand"),
    Row(rf"(?:min|max){_M}\.f32", {"compare": 1}),
    Row(rf"(?:min|max){_M}\.f64", {"fp64": 1, "compare": 2, "move": 1}, "DSETP, two FSELs, MOV"),
    Row(rf"setp{_M}\.f32", {"compare": 1}),
    Row(rf"setp{_M}\.f64", {"fp64": 1}),
    Row(r"selp\.f32", {"compare": 1}),
    Row(r"selp\.f64", {"compare": 2}),
    Row(r"copysign\.f32", {"integer": 1}),
    Row(r"copysign\.f64", {"integer": 2}),
    Row(r"testp\.\w+\.f(?:32|64)", {"compare": 1}),
    # Approximations, divisions, roots
    Row(r"(?:rsqrt|ex2|lg2)\.approx\.ftz\.f32", {"special": 1}),
    Row(
        r"(?:rsqrt|ex2|lg2)\.approx\.f32",
        {"special": 1, "fp32": 2, "compare": 1},
        "denormals are scaled in and out",
    ),
    Row(rf"(?:rcp|sqrt|sin|cos|tanh)\.approx{_M}\.f32", {"special": 1}),
    Row(rf"rcp\.r\w{_M}\.f32", {"special": 1, "fp32": 3, "integer": 2, "control": 2}),
    Row(rf"sqrt\.r\w{_M}\.f32", {"special": 1, "fp32": 5, "integer": 2, "control": 2}),
    Row(rf"div\.r\w{_M}\.f32", {"special": 1, "fp32": 6, "compare": 1, "control": 2}),
    Row(rf"div\.(?:approx|full){_M}\.f32", {"special": 1, "fp32": 1}),
    Row(
        rf"div{_M}\.f64",
        {"special": 1, "fp64": 8, "fp32": 1, "compare": 2, "move": 1, "control": 2},
    ),
    Row(
        rf"rcp{_M}\.f64",
        {"special": 1, "fp64": 5, "integer": 1, "compare": 1, "control": 2},
    ),
    Row(rf"sqrt{_M}\.f64", {"special": 1, "fp64": 7, "integer": 2, "control": 2}),
    Row(rf"rsqrt{_M}\.f64", {"special": 1, "fp64": 5, "integer": 2, "control": 1}),
    # Integers
    Row(rf"(?:add|sub|neg|abs|addc|subc){_M}{_NARROW}", {"integer": 1}),
    Row(rf"(?:add|sub|neg|abs|addc|subc){_M}{_WIDE}", {"integer": 2}),
    Row(rf"(?:mul|mad)\.wide{_NARROW}", {"multiply": 1}),
    Row(rf"(?:mul|mad|mul24|mad24){_M}{_NARROW}", {"multiply": 1}),
    Row(rf"(?:mul|mad){_M}{_WIDE}", {"multiply": 4}),
    Row(rf"(?:div|rem){_NARROW}", {"conversion": 2, "special": 1, "multiply": 5, "integer": 7}),
    Row(
        rf"(?:div|rem){_WIDE}",
        {"conversion": 2, "special": 1, "multiply": 45, "integer": 30, "control": 2},
        "a called function",
    ),
    Row(rf"(?:min|max){_M}{_NARROW}", {"integer": 1}),
    Row(rf"(?:min|max){_M}{_WIDE}", {"integer": 4}),
    Row(rf"(?:setp|selp|set|slct){_M}{_NARROW}", {"integer": 1}),
    Row(rf"(?:setp|selp|set|slct){_M}{_WIDE}", {"integer": 2}),
    Row(r"(?:and|or|xor|not)\.pred", {"integer": 0.5}, "half of them join a comparison"),
    Row(rf"(?:and|or|xor|not|shl|shr|shf|lop3|bfi|bfe|prmt){_M}{_NARROW}", {"integer": 1}),
    Row(rf"(?:and|or|xor|not|shl|shr|bfi|bfe){_M}{_WIDE}", {"integer": 2}),
    Row(rf"(?:popc|brev|bfind){_M}{_NARROW}", {"special": 1}),
    Row(rf"(?:popc|brev|bfind){_M}{_WIDE}", {"special": 2, "integer": 1}),
    Row(r"clz\.b(?:32|64)", {"special": 1, "integer": 1}),
    # Conversions
    Row(r"cvt\.s64\.s(?:8|16|32)", {"integer": 1}, "the sign"),
    Row(rf"cvt{_M}\.\w?f(?:16|32|64)\.\w+", {"conversion": 1}, "from or to a float"),
    Row(rf"cvt{_M}\.\w+\.\w?f(?:16|32|64)", {"conversion": 1}),
    Row(r"cvt\.[usb]\d+\.[usb]\d+", FREE, "a register or half of a pair"),
)


@functools.cache
def cost(opcode: str) -> Mapping[str, float]:
    """SASS instructions by unit for one PTX instruction."""
    for row in ROWS:
        if re.fullmatch(row.pattern, opcode):
            return row.cost
    raise UnknownOpcode(f"{opcode}: give it a row in bench/gpu_model/costs.py")


def by_unit(instructions: Mapping[str, float]) -> dict[str, float]:
    """SASS instructions by unit for the given numbers of PTX instructions."""
    totals = dict.fromkeys(UNITS, 0.0)
    for opcode, times in instructions.items():
        for unit, number in cost(opcode).items():
            totals[unit] += number * times
    return totals
