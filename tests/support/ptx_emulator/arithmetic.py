"""C++ for PTX instructions that compute a register from registers."""

from __future__ import annotations

from tests.support.ptx_emulator.operands import CPP_TYPES, FLOATS, HALVES, Operands, unsigned
from tests.support.ptx_emulator.parser import Instruction, PtxError, split_operands

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


class Arithmetic(Operands):
    """One method for each opcode."""

    def float_operand(self, i: Instruction, text: str) -> str:
        """A source operand; with .ftz, subnormal numbers become zeros."""
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
        # The third operand may be the same register as the first result.
        third = f" const bool third = {self.predicate(i.operands[3])};" if sign else ""
        other = f" {sign} third" if sign else ""
        stores = [self.assign(first, "pred", f"test{other}")]
        if second:
            stores.append(self.assign(second, "pred", f"!test{other}"))
        return f"{{ const bool test = {test};{third} {' '.join(stores)} }}"

    def op_cvt(self, i: Instruction) -> str:
        to, of = i.modifiers[-2:]
        if to in HALVES or of in HALVES:
            return self.half_conversion(i)
        d, a = i.operands
        if "sat" in i.modifiers and (to, of) != ("f32", "f32"):
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

    def half_conversion(self, i: Instruction) -> str:
        """From f32 to one or two 16-bit floats, or from one to f32."""
        to, of = i.modifiers[-2:]
        others = set(i.modifiers[:-2]) - {"ftz"}
        numbers = 2 if to.endswith("x2") else 1
        if len(i.operands) != 1 + numbers:
            raise PtxError(f"instruction {i}")
        if to == "f32" and of in ("f16", "bf16") and not others:
            expression = f"ptx::f32_from_{of}({self.value(i.operands[1], of)})"
            return self.assign(i.operands[0], to, self.flushed(i, expression))
        if of != "f32" or others != {"rn"}:
            raise PtxError(f"instruction {i}")
        parts = []
        for operand in i.operands[1:]:
            x = self.value(operand, of)
            x = f"ptx::flush({x})" if "ftz" in i.modifiers else x
            parts.append(f"ptx::{to.removesuffix('x2')}_from_f32({x})")
        # The first operand becomes the upper half.
        expression = parts[0] if numbers == 1 else f"(u32){parts[0]} << 16 | {parts[1]}"
        return self.assign(i.operands[0], to, expression)
