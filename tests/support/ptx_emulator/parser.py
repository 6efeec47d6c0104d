"""A parser of nvcc's PTX: functions with their instructions, and variables.

Unknown syntax raises `PtxError`, so nothing is skipped silently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


class PtxError(Exception):
    """Invalid or unsupported PTX; the message names the text and the line."""


@dataclass(frozen=True)
class Variable:
    """A variable in the state space `space`: shared, local, global, const or param."""

    space: str
    align: int
    size: int  # in bytes
    name: str
    external: bool = False  # of dynamic size
    initial: bytes = b""


@dataclass(frozen=True)
class Source:
    """The origin of an instruction: the innermost source line, and its call sites if inlined."""

    file: str = "?"
    line: int = 0
    inlined_at: str = ""


@dataclass(frozen=True)
class Instruction:
    """`@guard opcode operands;`, with the opcode split at its dots."""

    ptx_line: int
    source: Source
    guard: str  # a predicate register, "!" before it where it is negated, or ""
    opcode: tuple[str, ...]
    operands: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.opcode[0]

    @property
    def modifiers(self) -> tuple[str, ...]:
        return self.opcode[1:]

    @property
    def full_name(self) -> str:
        return ".".join(self.opcode)

    def __str__(self) -> str:
        return f"{self.full_name} {', '.join(self.operands)}"


@dataclass(frozen=True)
class Label:
    name: str


@dataclass(frozen=True)
class Scope:
    """A brace that opens or closes a scope of .param variables."""

    brace: str


Statement = Instruction | Label | Scope | Variable


@dataclass
class Function:
    """A kernel (.entry) or a function (.func) that kernels call."""

    name: str
    is_kernel: bool
    parameters: list[Variable]
    results: list[Variable]
    max_threads: int  # .maxntid, or 0
    registers: dict[str, str] = field(default_factory=dict)  # name: type, such as "f32"
    jump_tables: dict[str, list[str]] = field(default_factory=dict)
    body: list[Statement] = field(default_factory=list)

    def instructions(self) -> list[Instruction]:
        return [s for s in self.body if isinstance(s, Instruction)]

    def variables(self, space: str) -> list[Variable]:
        return [s for s in self.body if isinstance(s, Variable) and s.space == space]


@dataclass
class Module:
    functions: dict[str, Function] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)

    def kernels(self) -> list[Function]:
        return [f for f in self.functions.values() if f.is_kernel]


def split_operands(text: str) -> list[str]:
    """Splits at commas outside brackets."""
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character in "{[(") - (character in "}])")
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    return [*parts, current.strip()] if current.strip() else parts


def bytes_of(ptx_type: str) -> int:
    """The size of a type such as "f32" or "b8"; a predicate has none."""
    found = re.search(r"\d+", ptx_type)
    if found is None:
        raise PtxError(f"type {ptx_type} has no size")
    return int(found.group()) // 8


_VARIABLE = re.compile(
    r"(?P<extern>\.extern\s+)?(?:\.visible\s+|\.weak\s+)?\.(?P<space>shared|local|global|const|param)\s+"
    r"(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+(?P<name>[\w$]+)\s*(?P<size>\[\d*\])?"
    r"(?:\s*=\s*\{?(?P<initial>[^}]*)\}?)?"
)


def parse_variable(text: str) -> Variable:
    found = _VARIABLE.fullmatch(text.strip())
    if found is None:
        raise PtxError(f"not understood: {text}")
    width = bytes_of(found["type"])
    size = found["size"]
    count = 1 if size is None else int(size[1:-1] or 0)
    initial = b""
    for item in (found["initial"] or "").split(","):
        if item.strip():
            number = int(item.strip(), 0) & ((1 << 8 * width) - 1)
            initial += number.to_bytes(width, "little")
    external = found["extern"] is not None or size == "[]"
    align = int(found["align"] or width)
    return Variable(found["space"], align, count * width, found["name"], external, initial)


_FILE = re.compile(r'\.file\s+(\d+)\s+"([^"]+)"')
_LOCATION = re.compile(
    r"\.loc\s+(\d+)\s+(\d+)\s+\d+(?:,\s*function_name\s+[^,]+,\s*inlined_at\s+(\d+)\s+(\d+))?"
)
_GUARD = re.compile(r"@(!?%\w+)\s+(.*)", re.S)
_REGISTERS = re.compile(r"(%[\w$]+)<(\d+)>")
_LABEL = re.compile(r"([\w$]+):")
_HEADER = re.compile(
    r"\.(entry|func)\s*(?:\(([^)]*)\)\s*)?([\w$]+)\s*(?:\(([^)]*)\))?(?P<rest>.*)", re.S
)
_MAX_THREADS = re.compile(r"\.maxntid\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?")


class _Parser:
    """One pass over the lines; statements may take several, and a line may hold several."""

    def __init__(self, text: str) -> None:
        self.module = Module()
        self.function: Function | None = None
        self.depth = 0  # of braces in the function
        # nvcc lists the files at the end.
        self.files = {number: name.rsplit("/", 1)[-1] for number, name in _FILE.findall(text)}
        self.source = Source()
        self.pending = ""  # of a statement, so far
        self.in_section = False  # .section: of the debugger
        self.ptx_line = 0
        for self.ptx_line, line in enumerate(text.splitlines(), 1):
            self.read_line(line.split("//")[0].strip())
        if self.function is not None or self.pending:
            raise PtxError(f"the text ends within {self.pending or 'a function'}")

    def read_line(self, line: str) -> None:
        if not line:
            return
        if self.in_section:
            self.in_section = line != "}"
        elif line.startswith(".section"):
            self.in_section = True
        elif re.match(r"\.loc\s", line):
            self.read_location(line)
        elif line.startswith((".version", ".target", ".address_size", ".file")):
            pass
        elif self.function and not self.pending and line[-1] == ";" and "{" not in line:
            for statement in line[:-1].split(";"):
                self.read_statement(self.function, statement.strip())
        else:
            for part in re.split(r"(?<=[;{])|(?<=\})(?!;)|(?=[{}])", line):
                self.read_part(part.strip())

    def read_location(self, line: str) -> None:
        found = _LOCATION.match(line)
        if found is None:
            raise PtxError(f"line {self.ptx_line}: {line}")
        file, number, caller_file, caller_line = found.groups()
        if number == "0":
            return  # made by the compiler: what comes belongs to the last line
        inlined_at = f"{self.files.get(caller_file, '?')}:{caller_line}" if caller_file else ""
        self.source = Source(self.files.get(file, "?"), int(number), inlined_at)

    def read_part(self, part: str) -> None:
        """A piece of a line that ends with a semicolon, is or ends with a brace, or is open."""
        if not part:
            return
        self.pending = f"{self.pending} {part}".strip()
        if self.function is None:
            self.read_outside()
        else:
            self.read_inside(self.function)

    def read_outside(self) -> None:
        text = self.pending
        if text.endswith(";"):
            self.pending = ""
            if _HEADER.search(text) is None:  # else a declaration
                variable = parse_variable(text[:-1])
                self.module.variables[variable.name] = variable
        elif text.endswith("{") and "=" not in text:
            self.pending = ""
            self.function = self.open(text[:-1])
            self.depth = 1

    def open(self, header: str) -> Function:
        found = _HEADER.search(header)
        if found is None:
            raise PtxError(f"line {self.ptx_line}: {header}")
        kind, results, name, parameters, rest = found.groups()

        def variables(text: str | None) -> list[Variable]:
            return [parse_variable(part) for part in split_operands(text or "")]

        threads = 0
        if limit := _MAX_THREADS.search(rest):
            threads = int(limit[1]) * int(limit[2] or 1) * int(limit[3] or 1)
        function = Function(
            name, kind == "entry", variables(parameters), variables(results), threads
        )
        self.module.functions[name] = function
        return function

    def read_inside(self, function: Function) -> None:
        text = self.pending
        balanced = text.count("{") == text.count("}")  # of operands such as {%r1, %r2}
        if text == "{":
            self.depth += 1
            function.body.append(Scope("{"))
        elif text == "}":
            self.depth -= 1
            if self.depth > 0:
                function.body.append(Scope("}"))
            else:
                self.function = None
        elif found := _LABEL.fullmatch(text):
            function.body.append(Label(found[1]))
        elif text.endswith(";") and balanced:
            self.read_statement(function, text[:-1].strip())
        else:
            return  # goes on
        self.pending = ""

    def read_statement(self, function: Function, text: str) -> None:
        if found := re.match(r"([\w$]+):\s*(\.branchtargets\s.*)", text, re.S):
            targets = found[2].removeprefix(".branchtargets")
            function.jump_tables[found[1]] = split_operands(targets)
        elif text.startswith(".reg"):
            self.read_registers(function, text)
        elif text.startswith((".local", ".shared", ".param")):
            function.body.append(parse_variable(text))
        elif text.startswith(".pragma"):
            pass
        elif text.startswith("."):
            raise PtxError(f"line {self.ptx_line}: {text}")
        else:
            guard = ""
            if found := _GUARD.match(text):
                guard, text = found.groups()
            opcode, _, operands = text.partition(" ")
            function.body.append(
                Instruction(
                    self.ptx_line,
                    self.source,
                    guard,
                    tuple(opcode.split(".")),
                    tuple(split_operands(operands)),
                )
            )

    def read_registers(self, function: Function, text: str) -> None:
        found = re.match(r"\.reg\s+\.(\w+)\s+(.*)", text, re.S)
        if found is None:
            raise PtxError(f"line {self.ptx_line}: {text}")
        for item in split_operands(found[2]):
            if several := _REGISTERS.fullmatch(item):
                names = [f"{several[1]}{i}" for i in range(int(several[2]))]
            else:
                names = [item]
            function.registers.update(dict.fromkeys(names, found[1]))


def parse(text: str) -> Module:
    return _Parser(text).module


def parse_file(path: Path) -> Module:
    return parse(path.read_text())
