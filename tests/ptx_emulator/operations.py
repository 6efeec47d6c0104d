"""C++ for single PTX instructions; those that are not here raise PtxError."""

from __future__ import annotations

import re
import struct
from typing import Protocol

from ptx_emulator.parser import Instruction, PtxError, bytes_of, split_operands

# C++ types of PTX types, and of registers by the type they are declared with.
CPP_TYPES = {
    **{f"{kind}{width}": f"{'s' if kind == 's' else 'u'}{width}"
       for kind in "usb" for width in (8, 16, 32, 64)},
    "f32": "f32", "f64": "f64", "pred": "bool", "f16": "u16", "bf16": "u16",
}  # fmt: skip
REGISTER_TYPES = {
    **{f"{kind}{width}": f"u{width}" for kind in "usb" for width in (8, 16, 32, 64)},
    "f32": "f32", "f64": "f64", "pred": "bool",
}  # fmt: skip
FLOATS = ("f32", "f64")
SPECIAL_REGISTERS = {
    f"%{name}.{dim}": f"(u32)::{variable}.{dim}"
    for name, variable in (
        ("tid", "threadIdx"), ("ntid", "blockDim"), ("ctaid", "blockIdx"), ("nctaid", "gridDim")
    )
    for dim in "xyz"
} | {"%laneid": "cuda_shim::lane()", "%warpid": "ptx::thread() / 32", "WARP_SZ": "32u"}  # fmt: skip
SPACES = ("global", "shared", "local", "const", "param")

# Comparisons; "u": true where an operand is NaN.
COMPARISONS = {
    "eq": "{0} == {1}", "ne": "({0} < {1} || {0} > {1})", "lt": "{0} < {1}", "le": "{0} <= {1}",
    "gt": "{0} > {1}", "ge": "{0} >= {1}", "equ": "!({0} < {1} || {0} > {1})",
    "neu": "{0} != {1}", "ltu": "!({0} >= {1})", "leu": "!({0} > {1})",
    "gtu": "!({0} <= {1})", "geu": "!({0} < {1})",
    "nan": "({0} != {0} || {1} != {1})", "num": "({0} == {0} && {1} == {1})",
}  # fmt: skip
INTEGER_COMPARISONS = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "lo": "<", "ls": "<=", "hi": ">", "hs": ">=",
}  # fmt: skip
ROUNDINGS = ("rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi")
ATOMICS = ("add", "min", "max", "and", "or", "xor", "exch", "cas")

_MEMORY = {*SPACES, "shared::cta", "v2", "v4", "volatile"}
_ORDER = {"relaxed", "acquire", "release", "acq_rel", "sc", "cta", "gpu", "gl", "sys"}
# The modifiers of each opcode that are supported, besides types. All others are errors.
MODIFIERS: dict[str, set[str]] = {
    name: modifiers
    for names, modifiers in (
        ("add sub div fma", {"rn", "ftz"}),
        ("mul mad", {"rn", "ftz", "lo", "hi", "wide"}),
        ("min max abs neg", {"ftz"}),
        ("rem and or xor not shl shr popc clz brev", set()),
        ("bfi bfe prmt lop3 copysign selp mov exit trap", set()),
        ("rcp sqrt", {"rn", "approx", "ftz"}),
        ("rsqrt ex2 lg2", {"approx", "ftz"}),
        ("bra ret call", {"uni"}),
        ("atom red", {*SPACES, "shared::cta", *ATOMICS, *_ORDER}),
        ("membar fence", _ORDER),
        ("bar barrier", {"sync", "warp"}),
        ("ld ldu", {*_MEMORY, "nc"}),
        ("st", _MEMORY),
        ("bfind", {"shiftamt"}),
        ("shf", {"l", "r", "wrap"}),
        ("cvta", {"to", *SPACES}),
        ("setp", {*COMPARISONS, *INTEGER_COMPARISONS, "and", "or", "xor", "ftz"}),
        ("cvt", {*ROUNDINGS, "ftz", "sat"}),
        ("shfl", {"sync", "up", "down", "bfly", "idx"}),
        ("vote", {"sync", "any", "all", "ballot"}),
        ("redux", {"sync", "add", "min", "max", "and", "or", "xor"}),
        ("brx", {"idx", "uni"}),
    )
    for name in names.split()
}


class Context(Protocol):
    """What surrounds an instruction: registers, symbols and labels of its function."""

    registers: dict[str, str]  # C++ types by name
    where: str  # a C++ expression of type ptx::Where

    def symbol(self, name: str) -> str | None:
        """The address of a variable as a C++ expression of type u64."""

    def parameter(self, name: str, offset: int, size: int) -> str:
        """The host's address of a parameter's bytes, checked against its size."""

    def label(self, name: str) -> str: ...
    def jump_table(self, name: str) -> list[str]: ...
    def function(self, name: str) -> str: ...
    def is_read(self, register: str) -> bool: ...


def variable(register: str) -> str:
    """The C++ name of a register."""
    return register[1:].replace("$", "_") + "_"


def unsigned(ptx_type: str) -> str:
    return "u" + ptx_type[1:]


def literal(text: str) -> tuple[int, str] | None:
    """The bits of a floating-point literal and its type."""
    if found := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", text):
        return int(found[1], 16), "f32"
    if found := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", text):
        return int(found[1], 16), "f64"
    return None


class Operations:
    """Turns instructions into C++ statements."""

    def __init__(self, context: Context) -> None:
        self.context = context

    # ---- Operands ----

    def value(self, text: str, ptx_type: str) -> str:
        """An operand as an expression of the C++ type of `ptx_type`."""
        wanted = CPP_TYPES[ptx_type]
        if text in self.context.registers:
            return self.converted(variable(text), self.context.registers[text], wanted)
        if text in SPECIAL_REGISTERS:
            return f"({wanted})({SPECIAL_REGISTERS[text]})"
        if bits := literal(text):
            return self.float_value(*bits, wanted)
        if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", text):
            number = int(text.rstrip("U"), 0)
            if wanted == "bool":
                return "true" if number else "false"
            masked = number & ((1 << int(wanted[1:])) - 1)
            if wanted in FLOATS:
                return f"bits_as<{wanted}>((u{wanted[1:]}){masked}ull)"
            return f"({wanted}){masked}ull"
        if found := re.fullmatch(r"([\w$]+)(?:\+(\d+))?", text):
            address = self.context.symbol(found[1])
            if address is not None:
                return f"({wanted})({address} + {found[2] or 0})"
        raise PtxError(f"operand {text} as {ptx_type}")

    @staticmethod
    def converted(name: str, of: str, to: str) -> str:
        """Of registers the bits count: they are cut or extended, never rounded."""
        if of == to:
            return name
        if to in FLOATS:
            return f"bits_as<{to}>((u{to[1:]}){name})"
        if of in FLOATS:
            return f"({to})bits_as<u{of[1:]}>({name})"
        return f"({to}){name}"

    @staticmethod
    def float_value(bits: int, ptx_type: str, wanted: str) -> str:
        if wanted != ptx_type:
            return f"({wanted}){bits:#x}ull"
        size = bytes_of(ptx_type)
        code = "<f" if size == 4 else "<d"
        number = struct.unpack(code, bits.to_bytes(size, "little"))[0]
        if number != number or number in (float("inf"), float("-inf")):
            return f"bits_as<{ptx_type}>((u{ptx_type[1:]}){bits:#x}ull)"
        return number.hex() + ("f" if size == 4 else "")

    def predicate(self, text: str) -> str:
        negated = "!" if text.startswith("!") else ""
        return negated + self.value(text.removeprefix("!"), "pred")

    def assign(self, register: str, ptx_type: str, expression: str) -> str:
        """An expression of the C++ type of `ptx_type` goes to a register, whose type may differ."""
        if register == "_":
            return f"(void)({expression});"
        to, of = self.context.registers[register], CPP_TYPES[ptx_type]
        if to != of and (to in FLOATS or of in FLOATS):
            expression = self.converted(f"({expression})", of, to)
        elif to != of:
            expression = f"({to})({expression})"
        return f"{variable(register)} = {expression};"

    def address(self, text: str) -> tuple[str, str, int]:
        """Of `[base+offset]` the base as an expression, its name if it is a symbol, the offset."""
        found = re.fullmatch(r"\[\s*([%\w$.]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
        if found is None:
            raise PtxError(f"address {text}")
        base, offset = found[1], int(found[2] or 0)
        if base in self.context.registers:
            return self.value(base, "u64"), "", offset
        if base.isdigit():
            return f"{base}ull", "", offset
        symbol = self.context.symbol(base)
        if symbol is None:
            raise PtxError(f"address {text}")
        return symbol, base, offset

    # ---- Statements ----

    def statement(self, instruction: Instruction) -> str:
        name = instruction.name
        method = getattr(self, f"op_{name}", None)
        if method is None:
            raise PtxError(f"instruction {instruction}")
        types = instruction.modifiers[-2 if name == "cvt" else -1 :]
        others = [m for m in instruction.modifiers if not (m in CPP_TYPES and m in types)]
        if unknown := set(others) - MODIFIERS[name]:
            raise PtxError(f"modifiers {sorted(unknown)} of {instruction}")
        found: str = method(instruction)
        return found

    def float_operand(self, i: Instruction, text: str) -> str:
        """A source operand; with .ftz subnormal ones are zeros."""
        return self.flushed(i, self.value(text, i.modifiers[-1]))

    @staticmethod
    def flushed(i: Instruction, expression: str) -> str:
        if "ftz" not in i.modifiers:
            return expression
        if i.modifiers[-1] != "f32":
            raise PtxError(f"instruction {i}")
        return f"ptx::flush({expression})"

    def binary(self, i: Instruction, sign: str) -> str:
        """a sign b; floats rounded to nearest, integers wrapped around."""
        t, (d, a, b) = i.modifiers[-1], i.operands
        if t in FLOATS:
            expression = f"{self.float_operand(i, a)} {sign} {self.float_operand(i, b)}"
            return self.assign(d, t, self.flushed(i, expression))
        u = unsigned(t)
        return self.assign(d, u, f"({CPP_TYPES[u]})({self.value(a, u)} {sign} {self.value(b, u)})")

    def op_add(self, i: Instruction) -> str:
        return self.binary(i, "+")

    def op_sub(self, i: Instruction) -> str:
        return self.binary(i, "-")

    def op_mul(self, i: Instruction) -> str:
        if i.modifiers[-1] in FLOATS:
            return self.binary(i, "*")
        return self.integer_product(i, None)

    def op_fma(self, i: Instruction) -> str:
        t = i.modifiers[-1]
        arguments = ", ".join(self.float_operand(i, x) for x in i.operands[1:])
        return self.assign(i.operands[0], t, self.flushed(i, f"ptx::fma({arguments})"))

    def op_mad(self, i: Instruction) -> str:
        if i.modifiers[-1] in FLOATS:
            return self.op_fma(i)
        return self.integer_product(i, i.operands[3])

    def integer_product(self, i: Instruction, added: str | None) -> str:
        t, (d, a, b) = i.modifiers[-1], i.operands[:3]
        width = int(t[1:])
        if "wide" in i.modifiers:
            wide, u = f"{t[0]}{2 * width}", f"u{2 * width}"
            factors = [f"({u})({CPP_TYPES[wide]}){self.value(x, t)}" for x in (a, b)]
            result, expression = wide, " * ".join(factors)
        elif "lo" in i.modifiers:
            result = u = unsigned(t)
            factors = [self.value(x, u) for x in (a, b)]
            if width == 16:  # C++ would multiply as int, which may overflow
                factors = [f"(u32){x}" for x in factors]
            expression = " * ".join(factors)
        elif "hi" in i.modifiers and width > 16:
            result, u = t, unsigned(t)
            expression = f"({u})ptx::multiply_high({self.value(a, t)}, {self.value(b, t)})"
        else:
            raise PtxError(f"instruction {i}")
        if added is not None:
            expression += f" + {self.value(added, u)}"
        return self.assign(d, result, f"({CPP_TYPES[result]})({expression})")

    def op_div(self, i: Instruction) -> str:
        t, (d, a, b) = i.modifiers[-1], i.operands
        if t in FLOATS:
            quotient = f"{self.float_operand(i, a)} / {self.float_operand(i, b)}"
            return self.assign(d, t, self.flushed(i, quotient))
        where = self.context.where
        return self.assign(d, t, f"ptx::divide({self.value(a, t)}, {self.value(b, t)}, {where})")

    def op_rem(self, i: Instruction) -> str:
        t, (d, a, b) = i.modifiers[-1], i.operands
        where = self.context.where
        return self.assign(d, t, f"ptx::remainder({self.value(a, t)}, {self.value(b, t)}, {where})")

    def call(self, i: Instruction, function: str, result: str | None = None) -> str:
        """A function of all operands, of the instruction's type."""
        t = i.modifiers[-1]
        arguments = ", ".join(self.float_operand(i, x) for x in i.operands[1:])
        expression = self.flushed(i, f"ptx::{function}({arguments})")
        return self.assign(i.operands[0], result or t, expression)

    def extreme(self, i: Instruction, function: str) -> str:
        if len(i.operands) != 3:
            raise PtxError(f"instruction {i}")
        return self.call(i, function)

    def op_min(self, i: Instruction) -> str:
        return self.extreme(i, "minimum")

    def op_max(self, i: Instruction) -> str:
        return self.extreme(i, "maximum")

    def op_abs(self, i: Instruction) -> str:
        t = i.modifiers[-1]
        if t in FLOATS:
            return self.call(i, "absolute")
        u = unsigned(t)
        x = self.value(i.operands[1], u)
        return self.assign(i.operands[0], u, f"({CPP_TYPES[t]})({x}) < 0 ? ({u})(0 - {x}) : {x}")

    def op_neg(self, i: Instruction) -> str:
        t = i.modifiers[-1]
        if t in FLOATS:
            return self.call(i, "negated")
        u = unsigned(t)
        return self.assign(i.operands[0], u, f"({u})(0 - {self.value(i.operands[1], u)})")

    def logical(self, i: Instruction, sign: str) -> str:
        t, (d, a, b) = i.modifiers[-1], i.operands
        expression = f"({CPP_TYPES[t]})({self.value(a, t)} {sign} {self.value(b, t)})"
        return self.assign(d, t, expression)

    def op_and(self, i: Instruction) -> str:
        return self.logical(i, "&")

    def op_or(self, i: Instruction) -> str:
        return self.logical(i, "|")

    def op_xor(self, i: Instruction) -> str:
        return self.logical(i, "^")

    def op_not(self, i: Instruction) -> str:
        t = i.modifiers[-1]
        x = self.value(i.operands[1], t)
        return self.assign(i.operands[0], t, f"!{x}" if t == "pred" else f"({CPP_TYPES[t]})~{x}")

    def shift(self, i: Instruction, function: str, t: str) -> str:
        d, a, n = i.operands
        return self.assign(d, t, f"ptx::{function}({self.value(a, t)}, {self.value(n, 'u32')})")

    def op_shl(self, i: Instruction) -> str:
        return self.shift(i, "shift_left", unsigned(i.modifiers[-1]))

    def op_shr(self, i: Instruction) -> str:
        return self.shift(i, "shift_right", i.modifiers[-1])

    def special(self, i: Instruction) -> str:
        kind = "approx" if "approx" in i.modifiers else "rn"
        return self.call(i, f"{i.name}_{kind}")

    op_rcp = op_sqrt = op_rsqrt = op_ex2 = op_lg2 = special

    def op_popc(self, i: Instruction) -> str:
        return self.call(i, i.name, "u32")

    op_clz = op_popc

    def op_brev(self, i: Instruction) -> str:
        return self.call(i, "brev")

    def op_bfind(self, i: Instruction) -> str:
        if i.modifiers[-1].startswith("s"):
            raise PtxError(f"instruction {i}")
        return self.call(i, "bfind_shiftamt" if "shiftamt" in i.modifiers else "bfind", "u32")

    def op_bfi(self, i: Instruction) -> str:
        t, (d, a, b, position, length) = i.modifiers[-1], i.operands
        arguments = [self.value(a, t), self.value(b, t)]
        arguments += [self.value(position, "u32"), self.value(length, "u32")]
        return self.assign(d, t, f"ptx::bfi({', '.join(arguments)})")

    def op_bfe(self, i: Instruction) -> str:
        t, (d, a, position, length) = i.modifiers[-1], i.operands
        arguments = [self.value(a, t), self.value(position, "u32"), self.value(length, "u32")]
        return self.assign(d, t, f"ptx::bfe({', '.join(arguments)})")

    def op_prmt(self, i: Instruction) -> str:
        return self.call(i, "prmt")

    def op_lop3(self, i: Instruction) -> str:
        return self.call(i, "lop3")

    def op_shf(self, i: Instruction) -> str:
        direction, mode, _ = i.modifiers
        return self.call(i, f"shf_{direction}_{mode}")

    def op_copysign(self, i: Instruction) -> str:
        t, (d, sign, size) = i.modifiers[-1], i.operands
        function = "__builtin_copysignf" if t == "f32" else "__builtin_copysign"
        return self.assign(d, t, f"{function}({self.value(size, t)}, {self.value(sign, t)})")

    def op_selp(self, i: Instruction) -> str:
        t, (d, a, b, c) = i.modifiers[-1], i.operands
        choice = f"{self.predicate(c)} ? {self.value(a, t)} : {self.value(b, t)}"
        return self.assign(d, t, choice)

    def op_mov(self, i: Instruction) -> str:
        t, (d, a) = i.modifiers[-1], i.operands
        if d.startswith("{"):
            parts = split_operands(d[1:-1])
            width = int(t[1:]) // len(parts)
            stores = [
                self.assign(part, f"b{width}", f"(u{width})(whole >> {width * k})")
                for k, part in enumerate(parts)
                if part != "_"
            ]
            return f"{{ const u{t[1:]} whole = {self.value(a, t)}; {' '.join(stores)} }}"
        if a.startswith("{"):
            parts = split_operands(a[1:-1])
            width = int(t[1:]) // len(parts)
            terms = [
                f"(u{t[1:]}){self.value(part, f'b{width}')} << {width * k}"
                for k, part in enumerate(parts)
            ]
            return self.assign(d, t, f"(u{t[1:]})({' | '.join(terms)})")
        return self.assign(d, t, self.value(a, t))

    def op_cvta(self, i: Instruction) -> str:
        x = self.value(i.operands[1], "u64")
        if "shared" in i.modifiers:
            to = "shared_from_generic" if "to" in i.modifiers else "generic_from_shared"
            x = f"ptx::{to}({x})"
        return self.assign(i.operands[0], "u64", x)

    def op_setp(self, i: Instruction) -> str:
        comparison, t = i.modifiers[0], i.modifiers[-1]
        x, y = (self.value(operand, t) for operand in i.operands[1:3])
        if t in FLOATS:
            if "ftz" in i.modifiers:
                x, y = f"ptx::flush({x})", f"ptx::flush({y})"
            test = COMPARISONS[comparison].format(x, y)
        else:
            test = f"{x} {INTEGER_COMPARISONS[comparison]} {y}"
        first, _, second = i.operands[0].partition("|")
        joined = {"and": "&", "or": "|", "xor": "^"}
        sign = next((joined[m] for m in i.modifiers[1:-1] if m in joined), None)
        # The third operand may be the first result.
        third = f" const bool third = {self.predicate(i.operands[3])};" if sign else ""
        other = f" {sign} third" if sign else ""
        stores = [self.assign(first, "pred", f"test{other}")]
        if second:
            stores.append(self.assign(second, "pred", f"!test{other}"))
        return f"{{ const bool test = {test};{third} {' '.join(stores)} }}"

    def op_cvt(self, i: Instruction) -> str:
        to, of = i.modifiers[-2:]
        d, a = i.operands
        if {"f16", "bf16"} & {to, of} or ("sat" in i.modifiers and (to, of) != ("f32", "f32")):
            raise PtxError(f"instruction {i}")
        rounding = next((m for m in i.modifiers if m in ROUNDINGS), "")
        x = self.value(a, of)
        if "ftz" in i.modifiers and of == "f32":
            x = f"ptx::flush({x})"
        if to in FLOATS and of in FLOATS:
            if rounding in ("", "rn"):
                expression = f"({to}){x}"
            elif rounding.endswith("i"):
                expression = f"ptx::round_{rounding}({x})"
            else:
                raise PtxError(f"instruction {i}")
            if "sat" in i.modifiers:
                expression = f"ptx::saturate({expression})"
            return self.assign(d, to, self.flushed(i, expression) if to == "f32" else expression)
        if of in FLOATS:
            return self.assign(
                d, to, f"ptx::to_integer<{CPP_TYPES[to]}>(ptx::round_{rounding}({x}))"
            )
        if to in FLOATS and rounding != "rn":
            raise PtxError(f"instruction {i}")
        return self.assign(d, to, f"({CPP_TYPES[to]}){x}")

    # ---- Memory ----

    @staticmethod
    def space_of(i: Instruction) -> str:
        spaces = [m.removesuffix("::cta") for m in i.modifiers]
        return next((m for m in spaces if m in SPACES), "generic")

    @staticmethod
    def width_of(i: Instruction) -> int:
        """Of a vector access, else 1."""
        return next((int(m[1:]) for m in i.modifiers if m in ("v2", "v4", "v8")), 1)

    def op_ld(self, i: Instruction) -> str:
        t, space, count = i.modifiers[-1], self.space_of(i), self.width_of(i)
        base, symbol, offset = self.address(i.operands[1])
        size = bytes_of(t)
        targets = split_operands(i.operands[0][1:-1]) if count > 1 else [i.operands[0]]
        loads = " ".join(
            self.assign(r, t, f"*(const {CPP_TYPES[t]}*)(from + {k * size})")
            for k, r in enumerate(targets)
        )
        if space == "param" and symbol:
            place = self.context.parameter(symbol, offset, count * size)
            return f"{{ const unsigned char* const from = {place}; {loads} }}"
        space = {"param": "generic", "const": "global"}.get(space, space)
        used = ""
        if unused := [
            k for k, r in enumerate(targets) if count > 1 and not self.context.is_read(r)
        ]:
            mask = sum(((1 << size) - 1) << k * size for k in range(count) if k not in unused)
            used = f", {mask:#x}u"
        address = f"{base} + {offset}, {count * size}, {self.context.where}{used}"
        return f"{{ const unsigned char* const from = ptx::load_{space}({address}); {loads} }}"

    op_ldu = op_ld

    def op_st(self, i: Instruction) -> str:
        t, space, count = i.modifiers[-1], self.space_of(i), self.width_of(i)
        base, symbol, offset = self.address(i.operands[0])
        size = bytes_of(t)
        sources = split_operands(i.operands[1][1:-1]) if count > 1 else [i.operands[1]]
        if space == "param":
            place = self.context.parameter(symbol, offset, count * size)
        else:
            address = f"{base} + {offset}, {count * size}, {self.context.where}"
            place = f"ptx::store_{space}({address})"
        stores = " ".join(
            f"*({CPP_TYPES[t]}*)(to + {k * size}) = {self.value(s, t)};"
            for k, s in enumerate(sources)
        )
        return f"{{ unsigned char* const to = {place}; {stores} }}"

    def atomic(self, i: Instruction, target: str | None, operands: tuple[str, ...]) -> str:
        t, space = i.modifiers[-1], self.space_of(i)
        kind = next((m for m in i.modifiers if m in ATOMICS), None)
        if kind is None:
            raise PtxError(f"instruction {i}")
        base, _, offset = self.address(operands[0])
        place = f"ptx::atomic_{space}({base} + {offset}, {bytes_of(t)}, {self.context.where})"
        values = ", ".join(self.value(x, t) for x in operands[1:])
        expression = f"ptx::atom_{kind}<{CPP_TYPES[t]}>({place}, {values})"
        return self.assign(target, t, expression) if target else f"{expression};"

    def op_atom(self, i: Instruction) -> str:
        return self.atomic(i, i.operands[0], i.operands[1:])

    def op_red(self, i: Instruction) -> str:
        return self.atomic(i, None, i.operands)

    def op_membar(self, i: Instruction) -> str:
        return ";"  # threads are interrupted at collectives only

    op_fence = op_membar

    # ---- Collectives ----

    def op_bar(self, i: Instruction) -> str:
        if i.modifiers[:2] == ("warp", "sync"):
            mask = self.value(i.operands[0], "u32")
            return f"ptx::bar_warp_sync({mask}, {self.context.where});"
        if i.modifiers[:1] != ("sync",) or i.operands != ("0",):
            raise PtxError(f"instruction {i}")
        return f"ptx::bar_sync({self.context.where});"

    op_barrier = op_bar

    def op_shfl(self, i: Instruction) -> str:
        target, _, in_range = i.operands[0].partition("|")
        kind = i.modifiers[1]
        operands = ", ".join(self.value(x, "b32") for x in i.operands[1:])
        call = f"ptx::shfl_{kind}({operands}, in_range, {self.context.where})"
        stores = self.assign(target, "b32", "found")
        if in_range:
            stores += " " + self.assign(in_range, "pred", "in_range")
        return f"{{ bool in_range; const u32 found = {call}; {stores} }}"

    def op_vote(self, i: Instruction) -> str:
        d, x, mask = i.operands
        arguments = f"{self.predicate(x)}, {self.value(mask, 'b32')}, {self.context.where}"
        return self.assign(d, i.modifiers[-1], f"ptx::vote_{i.modifiers[1]}({arguments})")

    def op_redux(self, i: Instruction) -> str:
        t, (d, x, mask) = i.modifiers[-1], i.operands
        arguments = f"{self.value(x, t)}, {self.value(mask, 'b32')}, {self.context.where}"
        return self.assign(d, t, f"ptx::redux_{i.modifiers[1]}<{CPP_TYPES[t]}>({arguments})")

    # ---- Control ----

    def op_bra(self, i: Instruction) -> str:
        return f"goto {self.context.label(i.operands[0])};"

    def op_brx(self, i: Instruction) -> str:
        targets = self.context.jump_table(i.operands[1])
        cases = " ".join(
            f"case {k}: goto {self.context.label(target)};" for k, target in enumerate(targets)
        )
        index = self.value(i.operands[0], "u32")
        otherwise = f'default: ptx::fail("brx.idx beyond its table", {self.context.where});'
        return f"switch ({index}) {{ {cases} {otherwise} }}"

    def op_ret(self, i: Instruction) -> str:
        return "return;"

    op_exit = op_ret

    def op_trap(self, i: Instruction) -> str:
        return f'ptx::fail("trap", {self.context.where});'

    def op_call(self, i: Instruction) -> str:
        operands = list(i.operands)
        results = split_operands(operands.pop(0)[1:-1]) if operands[0].startswith("(") else []
        arguments = split_operands(operands[1][1:-1]) if len(operands) > 1 else []
        if len(operands) > 2:
            raise PtxError(f"an indirect call: {i}")
        places = [self.context.parameter(name, 0, 0) for name in results + arguments]
        return f"{self.context.function(operands[0])}({', '.join(places)});"
