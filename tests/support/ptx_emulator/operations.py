"""C++ for single PTX instructions. An unsupported opcode or modifier raises PtxError."""

from __future__ import annotations

from tests.support.ptx_emulator.arithmetic import (
    COMPARISONS,
    INTEGER_COMPARISONS,
    ROUNDINGS,
    Arithmetic,
)
from tests.support.ptx_emulator.operands import CPP_TYPES, HALVES, SPACES
from tests.support.ptx_emulator.parser import Instruction, PtxError, bytes_of, split_operands

ATOMICS = ("add", "min", "max", "and", "or", "xor", "exch", "cas")
_MEMORY = {*SPACES, "shared::cta", "v2", "v4", "volatile"}
_ORDER = {"relaxed", "acquire", "release", "acq_rel", "sc", "cta", "gpu", "gl", "sys"}
_ASYNC_COPY = {"async", "ca", "cg", "shared", "shared::cta", "global"}
_ASYNC_COPY |= {"commit_group", "wait_group", "wait_all", "L2::64B", "L2::128B", "L2::256B"}
# The supported modifiers of each opcode, besides types.
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
        ("cp", _ASYNC_COPY),
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


class Operations(Arithmetic):
    """Turns instructions into C++ statements."""

    def statement(self, instruction: Instruction) -> str:
        name = instruction.name
        method = getattr(self, f"op_{name}", None)
        if method is None:
            raise PtxError(f"instruction {instruction}")
        types = instruction.modifiers[-2 if name == "cvt" else -1 :]
        others = [m for m in instruction.modifiers if not (m in CPP_TYPES and m in types)]
        if name != "cvt" and set(HALVES) & set(types):
            raise PtxError(f"arithmetic on 16-bit floats: {instruction}")
        if unknown := set(others) - MODIFIERS[name]:
            raise PtxError(f"modifiers {sorted(unknown)} of {instruction}")
        found: str = method(instruction)
        return found

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

    def op_cp(self, i: Instruction) -> str:
        kind = i.modifiers[1]
        if kind == "commit_group":
            return "ptx::async_copies::commit();"
        if kind == "wait_group":
            return f"ptx::async_copies::wait({self.value(i.operands[0], 'u32')});"
        if kind == "wait_all":
            return "ptx::async_copies::commit(); ptx::async_copies::wait(0);"
        spaces = tuple(m.removesuffix("::cta") for m in i.modifiers[2:4])
        if kind not in ("ca", "cg") or spaces != ("shared", "global") or len(i.operands) > 4:
            raise PtxError(f"instruction {i}")
        size = int(i.operands[2])
        if size not in ((4, 8, 16) if kind == "ca" else (16,)):
            raise PtxError(f"instruction {i}")
        to, of = (f"{base} + {offset}" for base, _, offset in map(self.address, i.operands[:2]))
        valid = i.operands[-1]  # the size, unless there is a fourth operand
        if self.context.registers.get(valid) == "bool":  # ignore-src
            raise PtxError(f"instruction {i}")
        valid = self.value(valid, "u32")
        return f"ptx::async_copies::issue({to}, {of}, {size}, {valid}, {self.context.where});"

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
