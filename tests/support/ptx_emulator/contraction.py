"""Fuses products with sums in which they are used, as far as PTX permits, within a basic block."""

from __future__ import annotations

import re

from tests.support.ptx_emulator.operands import variable
from tests.support.ptx_emulator.operations import Operations
from tests.support.ptx_emulator.parser import Instruction


class Contraction:
    """Products of a basic block that a sum may still take."""

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self.products: dict[str, tuple[str, str, str]] = {}  # register: factors, type
        self.fused = 0

    def clear(self) -> None:
        self.products.clear()

    def statement(self, i: Instruction) -> str | None:
        """The fused instruction in place of a sum, or None."""
        found = self._fuse(i)
        target = i.operands[0] if i.operands else ""
        for register in re.findall(r"%\w+", target):
            name = variable(register)
            self.products = {
                product: (x, y, t)
                for product, (x, y, t) in self.products.items()
                if product != register and name not in (x, y)
            }
        t = i.modifiers[-1] if i.modifiers else ""
        if i.name == "mul" and t in ("f32", "f64") and "rn" not in i.modifiers and not i.guard:
            x, y = (self.operations.value(operand, t) for operand in i.operands[1:])
            if variable(target) not in (x, y):
                self.products[target] = x, y, t
        return found

    def _fuse(self, i: Instruction) -> str | None:
        t = i.modifiers[-1] if i.modifiers else ""
        if i.name not in ("add", "sub") or t not in ("f32", "f64"):
            return None
        if "rn" in i.modifiers or i.guard:
            return None
        target, a, b = i.operands
        if a in self.products:
            x, y, _ = self.products[a]
            sign = "-" if i.name == "sub" else ""
            expression = f"ptx::fma({x}, {y}, {sign}{self.operations.value(b, t)})"
        elif b in self.products:
            x, y, _ = self.products[b]
            sign = "-" if i.name == "sub" else ""
            expression = f"ptx::fma({sign}{x}, {y}, {self.operations.value(a, t)})"
        else:
            return None
        self.fused += 1
        return self.operations.assign(target, t, expression)
