"""Operands of PTX instructions as C++ expressions, and assignments to registers."""

from __future__ import annotations

import re
import struct
from typing import Protocol

from tests.support.ptx_emulator.parser import PtxError, bytes_of

# C++ types of PTX types, and of registers by the type they are declared with.
CPP_TYPES = {
    **{f"{kind}{width}": f"{'s' if kind == 's' else 'u'}{width}"
       for kind in "usb" for width in (8, 16, 32, 64)},
    "f32": "f32", "f64": "f64", "pred": "bool",
    "f16": "u16", "bf16": "u16", "f16x2": "u32", "bf16x2": "u32",
}  # fmt: skip
REGISTER_TYPES = {
    **{f"{kind}{width}": f"u{width}" for kind in "usb" for width in (8, 16, 32, 64)},
    "f32": "f32", "f64": "f64", "pred": "bool",
}  # fmt: skip
FLOATS = ("f32", "f64")
HALVES = ("f16", "bf16", "f16x2", "bf16x2")  # converted only
SPECIAL_REGISTERS = {
    f"%{name}.{dim}": f"(u32)::{variable}.{dim}"
    for name, variable in (
        ("tid", "threadIdx"), ("ntid", "blockDim"), ("ctaid", "blockIdx"), ("nctaid", "gridDim")
    )
    for dim in "xyz"
} | {"%laneid": "cuda_shim::lane()", "%warpid": "ptx::thread() / 32", "WARP_SZ": "32u"}  # fmt: skip
SPACES = ("global", "shared", "local", "const", "param")


class Context(Protocol):
    """The context of an instruction: registers, symbols and labels of its function."""

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


class Operands:
    """Operands of the instructions of a function."""

    def __init__(self, context: Context) -> None:
        self.context = context

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
        """The bits of a register are truncated or extended, never rounded."""
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
        """Assigns an expression of the C++ type of `ptx_type` to a register, whose type may
        differ."""
        if register == "_":
            return f"(void)({expression});"
        to, of = self.context.registers[register], CPP_TYPES[ptx_type]
        if to != of and (to in FLOATS or of in FLOATS):
            expression = self.converted(f"({expression})", of, to)
        elif to != of:
            expression = f"({to})({expression})"
        return f"{variable(register)} = {expression};"

    def address(self, text: str) -> tuple[str, str, int]:
        """The parts of `[base+offset]`: the base as an expression, its name if it is a symbol, and
        the offset."""
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
