"""Translates the kernels of a PTX file to C++ that runs on the fibers of the host shim.

A kernel becomes a function, with its registers as variables and its branches as gotos; it calls
functions of runtime/. One C++ file holds one kernel with the functions that it calls.

`contract`: fuses each product with a sum in the same basic block if PTX permits (no .rn), the most
that ptxas may do. `count`: adds the counters of runtime/counters.h.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.support.ptx_emulator.contraction import Contraction
from tests.support.ptx_emulator.load_chains import LoadChains
from tests.support.ptx_emulator.operands import REGISTER_TYPES, variable
from tests.support.ptx_emulator.operations import Operations
from tests.support.ptx_emulator.parser import (
    Function,
    Instruction,
    Label,
    Module,
    PtxError,
    Source,
    Variable,
)

_ENDS_BLOCK = {"bra", "brx", "ret", "exit", "trap", "call"}


@dataclass
class BasicBlock:
    """The code between two labels or branches: its opcodes, as counts.py names them."""

    source: Source
    opcodes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Translation:
    """The C++ of a kernel and, with counters, its basic blocks."""

    kernel: str  # mangled
    text: str
    blocks: list[BasicBlock]


class _FunctionTranslator:
    """Translates one function; the context of its operations."""

    def __init__(self, kernel: KernelTranslator, function: Function) -> None:
        self.kernel = kernel
        self.own = function
        self.registers = {name: REGISTER_TYPES[t] for name, t in function.registers.items()}
        self.variables = {v.name: v for v in function.parameters + function.results}
        self.locals = {v.name: v for v in function.variables("local")}
        self.labels = self._used_labels()
        self.where = ""
        self.operations = Operations(self)
        self.contraction = Contraction(self.operations) if kernel.contract else None
        self.chains = LoadChains(function) if kernel.count else None
        mentioned = Counter(
            register
            for i in function.instructions()
            for register in re.findall(r"%\w+", " ".join((*i.operands, i.guard)))
        )
        self.read_registers = {register for register, times in mentioned.items() if times > 1}
        self.mentioned = set(mentioned)

    def _used_labels(self) -> set[str]:
        names = {name for table in self.own.jump_tables.values() for name in table}
        return names | {i.operands[0] for i in self.own.instructions() if i.name == "bra"}

    # ---- The context ----

    def symbol(self, name: str) -> str | None:
        if name in self.locals:
            return f"local_{name}.begin"
        if name in self.variables:
            return f"(u64){self._place(name)}"
        return self.kernel.symbols.get(name)

    def _place(self, name: str) -> str:
        if self.own.is_kernel and self.variables[name] in self.own.parameters:
            return f"arguments[{self.own.parameters.index(self.variables[name])}]"
        return f"param_{name}"

    def parameter(self, name: str, offset: int, size: int) -> str:
        if name not in self.variables:
            raise PtxError(f"no parameter {name}")
        found = self.variables[name]
        if offset < 0 or offset + size > found.size:
            raise PtxError(f"{name}+{offset}: {size} bytes of a parameter of {found.size}")
        if size and (offset % size or found.align % size):
            raise PtxError(f"{name}+{offset}: a misaligned access of {size} bytes")
        return f"{self._place(name)} + {offset}"

    def label(self, name: str) -> str:
        return name.replace("$", "_")

    def jump_table(self, name: str) -> list[str]:
        return self.own.jump_tables[name]

    def function(self, name: str) -> str:
        if name not in self.kernel.module.functions:
            raise PtxError(f"a call of {name}, which is not in the file")
        return f"function_{name}"

    def is_read(self, register: str) -> bool:
        return register in self.read_registers

    # ---- The text ----

    def signature(self) -> str:
        if self.own.is_kernel:
            return f"void kernel_{self.own.name}(const unsigned char* const* arguments)"
        places = [f"unsigned char* param_{v.name}" for v in self.own.results + self.own.parameters]
        return f"void function_{self.own.name}({', '.join(places)})"

    def text(self) -> list[str]:
        statements = self._statements()
        head = [f"{self.signature()} {{"]
        if self.own.is_kernel:
            head.append("(void)arguments;")
        if self.chains:
            head.append("u32 passing = 0, entered = 0; (void)passing; (void)entered;")
            head += self.chains.declarations()
        by_type: dict[str, list[str]] = {}
        for register, t in self.registers.items():
            if register in self.mentioned:
                by_type.setdefault(t, []).append(variable(register))
        for t, names in by_type.items():
            head += [f"{t} {', '.join(names[k : k + 20])};" for k in range(0, len(names), 20)]
        for v in self.locals.values():
            head.append(f"ptx::FrameOf<{v.size}, {v.align}> local_{v.name};")
        return [*head, *statements, "}"]

    def _statements(self) -> list[str]:
        out: list[str] = []
        fresh = True  # whether a basic block begins
        for statement in self.own.body:
            if isinstance(statement, Label):
                if statement.name in self.labels:
                    out.append(f"{self.label(statement.name)}:;")
                    fresh = True
            elif isinstance(statement, Instruction):
                if fresh:
                    out += self._begin_block(statement)
                out.append(self._instruction(statement))
                fresh = statement.name in _ENDS_BLOCK
            elif isinstance(statement, Variable):
                if statement.space == "param":
                    self.variables[statement.name] = statement
                    align, size = statement.align, max(statement.size, 1)
                    out.append(f"alignas({align}) unsigned char param_{statement.name}[{size}];")
            else:
                out.append(statement.brace)
        return out

    def _begin_block(self, first: Instruction) -> list[str]:
        if self.contraction:
            self.contraction.clear()
        if not self.chains:
            return []
        self.chains.begin_block()
        self.kernel.begin_block(first.source)
        number = len(self.kernel.blocks) - 1
        # The number of instructions is not known before the end of the block.
        return [
            f"passing = ptx::counters::enter_block({number}, BLOCK_SIZES[{number}]);",
            "entered = ptx::counters::current_time();",
        ]

    def _instruction(self, i: Instruction) -> str:
        self.where = self.kernel.where(i)
        before = after = ""
        if self.chains:
            self.kernel.count_instruction(i)
            before, after = self.chains.instrument(i)
        try:
            statement = (self.contraction and self.contraction.statement(i)) or (
                self.operations.statement(i)
            )
        except (PtxError, KeyError, ValueError) as error:
            raise PtxError(f"line {i.ptx_line}, {i}: {error!r}") from error
        text = f"{before} {statement} {after}".strip()
        if not i.guard:
            return text
        return f"if ({self.operations.predicate(i.guard)}) {{ {text} }}"


def _offsets_of_copies(function: Function) -> set[int]:
    """The ids of the additions of a constant whose result only cp.async reads, as an address. Other
    accesses have the constant in their own text."""
    additions: dict[str, int] = {}  # by the register of the result
    others: set[str] = set()  # registers that something else reads, or writes again
    for i in function.instructions():
        target = i.operands[0] if i.operands else ""
        is_offset = i.name == "add" and len(i.operands) == 3 and i.operands[2].isdecimal()
        if is_offset and target not in additions:
            additions[target] = id(i)
        elif re.fullmatch(r"%\w+", target):
            others.add(target)
        is_result = re.fullmatch(r"%\w+", target)
        # Of cp.async, the first two are addresses.
        reads = i.operands[2:] if i.name == "cp" else i.operands[1 if is_result else 0 :]
        others.update(re.findall(r"%\w+", " ".join([*reads, i.guard or ""])))
    return {number for register, number in additions.items() if register not in others}


class KernelTranslator:
    """Translates one kernel, with the functions and variables that it uses."""

    def __init__(
        self, module: Module, kernel: Function, *, contract: bool = False, count: bool = False
    ) -> None:
        self.module, self.kernel = module, kernel
        self.contract, self.count = contract, count
        self.blocks: list[BasicBlock] = []
        self.symbols: dict[str, str] = {}  # addresses of variables of the module
        self.globals: list[Variable] = []  # those in global or constant memory
        self.fused = 0  # products that `contract` has fused
        self._folded: set[str] = set()  # registers of this block that their reader computes
        self._offsets: set[int] = set()  # ids of additions that are part of an address
        self._places: dict[tuple[Source, int], int] = {}

    def where(self, i: Instruction) -> str:
        number = self._places.setdefault((i.source, i.ptx_line), len(self._places))
        return f"WHERE[{number}]"

    def begin_block(self, source: Source) -> None:
        self.blocks.append(BasicBlock(source))
        self._folded.clear()

    def count_instruction(self, i: Instruction) -> None:
        """Marks instructions that ptxas folds into a neighbour: 64-bit additions to a wide product,
        left shifts before an addition, and constant offsets of the addresses of cp.async."""
        name = i.full_name
        wide = name in ("add.s64", "add.u64") and self._folded & set(i.operands[1:])
        if wide or (i.name == "shl" and name.endswith("64")) or id(i) in self._offsets:
            name += " folded"
        elif i.name == "mul" and "wide" in i.modifiers:
            self._folded.add(i.operands[0])
        self.blocks[-1].opcodes[name] += 1

    def _used(self) -> tuple[list[Function], list[Variable]]:
        """The functions that the kernel reaches and the variables that they use."""
        reached: dict[str, Function] = {}
        names: set[str] = set()
        functions = self.module.functions.keys()
        waiting = [self.kernel]
        while waiting:
            function = waiting.pop()
            if function.name in reached:
                continue
            reached[function.name] = function
            for i in function.instructions():
                names.update(re.findall(r"[A-Za-z_$][\w$]*", " ".join(i.operands)))
            waiting += [self.module.functions[name] for name in sorted(names & functions)]
        own = [v for f in reached.values() for v in f.variables("shared")]
        return list(reached.values()), [
            *(v for name, v in self.module.variables.items() if name in names),
            *own,
        ]

    def translate(self) -> Translation:
        functions, variables = self._used()
        if self.count:
            for function in functions:
                self._offsets |= _offsets_of_copies(function)
        declared, static_shared, dynamic_align = self._lay_out(variables)
        body: list[str] = []
        for function in functions:
            translator = _FunctionTranslator(self, function)
            body += translator.text()
            if translator.contraction:
                self.fused += translator.contraction.fused
        signatures = [
            _FunctionTranslator(self, f).signature() + ";" for f in functions if not f.is_kernel
        ]
        text = [
            '#include "ptx.h"',
            "namespace {",
            "using namespace ptx;",
            *declared,
            *self._tables(),
            *signatures,
            *body,
            *self._registration(static_shared, dynamic_align),
            "}  // namespace",
        ]
        return Translation(self.kernel.name, "\n".join(text) + "\n", self.blocks)

    def _lay_out(self, variables: Iterable[Variable]) -> tuple[list[str], int, int]:
        """Declarations of global variables, the bytes of static shared memory, the alignment of
        the dynamic part."""
        declared: list[str] = []
        end, dynamic_align = 0, 16
        for v in variables:
            if v.space == "shared" and v.external:
                self.symbols[v.name] = "dynamic_begin"
                dynamic_align = v.align
            elif v.space == "shared":
                begin = -(-end // v.align) * v.align
                # The window begins at a multiple of all alignments. As for counts, bank conflicts
                # are those of nvcc's own layout.
                if not self.count and begin // v.align % 2 == 0:
                    begin += v.align
                self.symbols[v.name] = f"(shared_begin + {begin})"
                end = begin + v.size
            else:
                self.globals.append(v)
                numbers = ", ".join(map(str, v.initial)) or "0"
                size = max(v.size, 1)
                declared.append(
                    f"alignas({v.align}) unsigned char global_{v.name}[{size}] = {{{numbers}}};"
                )
                self.symbols[v.name] = f"(u64)global_{v.name}"
        return declared, end, dynamic_align

    def _tables(self) -> list[str]:
        rows = [
            f'{{"{source.file}", {source.line}, {line}, "{source.inlined_at}"}}'
            for source, line in self._places
        ]
        sizes = ", ".join(str(sum(block.opcodes.values())) for block in self.blocks)
        return [
            f"const Where WHERE[] = {{{', '.join(rows) or '{}'}}};",
            f"[[maybe_unused]] const u32 BLOCK_SIZES[] = {{{sizes or 0}}};",
        ]

    def _registration(self, static_shared: int, dynamic_align: int) -> list[str]:
        parameters = ", ".join(f"{{{v.size}, {v.align}}}" for v in self.kernel.parameters)
        name = self.kernel.name
        fields = [
            f'"{name}"', f"kernel_{name}", "PARAMETERS", str(len(self.kernel.parameters)),
            "GLOBALS", str(len(self.globals)), str(static_shared), str(dynamic_align),
            str(self.kernel.max_threads), str(len(self.blocks)),
        ]  # fmt: skip
        variables = ", ".join(
            f"{{global_{v.name}, {v.size}, {str(v.space == 'global').lower()}}}"
            for v in self.globals
        )
        return [
            f"const Global GLOBALS[] = {{{variables or '{nullptr, 0, false}'}}};",
            f"const Parameter PARAMETERS[] = {{{parameters or '{0, 1}'}}};",
            f"const Kernel KERNEL{{{', '.join(fields)}}};",
            "const Registration REGISTRATION(KERNEL);",
        ]
