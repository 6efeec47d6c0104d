"""Registers, shared memory and spills of every CUDA kernel, as reported by ptxas, and the number of
warps that the registers of a multiprocessor allow. Needs no GPU.

    python -m bench.kernel_resources --arch 9.0 --arch 8.0
    python -m bench.kernel_resources --report LOG   # of a build with DDN_PTXAS_VERBOSE=1
    python -m bench.kernel_resources --condensed    # all types of a template in one row

Every register spill is listed with its reason from `ACCEPTED_SPILLS`. A spill without a reason is a
failure, in kernels and in functions that they call.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from build_config import compile_flags, parse_arch
from build_toolkit import find_toolkit

ROOT = Path(__file__).resolve().parent.parent

# Pattern of a demangled kernel name: why its spills are accepted.
ACCEPTED_SPILLS: dict[str, str] = {
    r"\blocal_\w+<.*Welsch": "its descents keep more sums than 128 or 168 registers hold",
    r"\blocal_global_memory<": (
        "loads of points and weights in flight, at the bound of 128 registers"
    ),
    r"\bsharded_pass<": "its solver waits for messages between passes; not yet timed",
    r"\bglobal_\w+<": "a whole search in one kernel, at the bound of 255 registers; not yet timed",
    r"\b(write_info|\w+Search|Candidates)<": "called once a set; not yet timed",
}

_FUNCTION = re.compile(r"Function properties for (\S+)")
_ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(sm_\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Kernel:
    """The resources of one function, from ptxas; sizes in bytes, without dynamic shared memory.

    A function that kernels call has no register count of its own.
    """

    name: str
    arch: str
    registers: int = 0
    shared: int = 0
    stack: int = 0
    spill_stores: int = 0
    spill_loads: int = 0

    @property
    def spill(self) -> int:
        return self.spill_stores + self.spill_loads

    @property
    def spills(self) -> bool:
        return self.spill > 0

    @property
    def is_called(self) -> bool:
        return self.registers == 0


def parse_ptxas(report: str) -> list[Kernel]:
    """The functions in the output of `ptxas -v`, in order, with mangled names.

    For a device function that is not inlined, ptxas reports only stack and spills, once for each
    file; the maxima are returned.
    """
    kernels: dict[tuple[str, str], Kernel] = {}
    arch, key = "", ("", "")
    for line in report.splitlines():
        if entry := _ENTRY.search(line):
            name, arch = entry.groups()
            key = (name, arch)
            kernels[key] = Kernel(name, arch)
        elif function := _FUNCTION.search(line):
            key = (function.group(1), arch)
            kernels.setdefault(key, Kernel(*key))
        elif stack := _STACK.search(line):
            frame, stores, loads = map(int, stack.groups())
            known = kernels[key]
            kernels[key] = replace(
                known,
                stack=max(known.stack, frame),
                spill_stores=max(known.spill_stores, stores),
                spill_loads=max(known.spill_loads, loads),
            )
        elif used := _USED.search(line):
            shared = _SHARED.search(line)
            kernels[key] = replace(
                kernels[key],
                registers=int(used.group(1)),
                shared=int(shared.group(1)) if shared else 0,
            )
    return list(kernels.values())


def demangle(kernels: Sequence[Kernel]) -> list[Kernel]:
    names = "\n".join(kernel.name for kernel in kernels)
    done = subprocess.run(["c++filt"], input=names, capture_output=True, text=True, check=True)
    return [
        replace(kernel, name=name)
        for kernel, name in zip(kernels, done.stdout.splitlines(), strict=True)
    ]


def verdict(kernel: Kernel, accepted: Mapping[str, str]) -> tuple[bool, str]:
    """Whether a kernel passes, and the remark on its spills ("" without a spill)."""
    if not kernel.spills:
        return True, ""
    for pattern, reason in accepted.items():
        if re.search(pattern, kernel.name):
            return True, f"spills: {reason}"
    return False, "SPILLS without a reason in ACCEPTED_SPILLS"


def compile_kernels(source: Path, arch: str, nvcc: str) -> str:
    """The report of ptxas on one file, compiled with the flags of the build."""
    parsed = parse_arch(arch)
    if parsed is None:
        raise SystemExit(f"--arch {arch}: expected a version such as 9.0")
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-cubin", f"-arch=sm_{parsed[0]}{parsed[1]}{parsed[2]}"]
        command += [*compile_flags({"DDN_PTXAS_VERBOSE": "1"})["nvcc"], "-std=c++17"]
        command += ["--expt-relaxed-constexpr", f"-I{ROOT / 'csrc'}"]
        command += ["-o", f"{folder}/out.cubin", str(source)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\nnvcc failed on {source}")
    return done.stdout


def compile_all(sources: Sequence[Path], archs: Sequence[str]) -> list[Kernel]:
    toolkit, why = find_toolkit(os.environ)
    if toolkit is None:
        raise SystemExit(f"kernel_resources: {why}; install a CUDA toolkit or set CUDA_HOME")
    found: list[Kernel] = []
    for arch in archs:
        for source in sources or sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
            found += parse_ptxas(compile_kernels(source, arch, f"{toolkit.home}/bin/nvcc"))
    return found


def warps_by_registers(kernel: Kernel) -> int:
    """The largest number of resident warps that the registers and the warp limit of a
    multiprocessor allow: an upper bound of the occupancy, which block sizes and shared memory may
    lower.

    A multiprocessor has four parts of 16,384 registers, given to a warp by 256 (CUDA C++
    Programming Guide, compute capabilities 8.0 to 12.1).
    """
    few = re.fullmatch(r"sm_(86|87|89|12\d)\w?", kernel.arch)
    per_warp = max(1, -(-kernel.registers * 32 // 256)) * 256
    return min(48 if few else 64, 4 * (16384 // per_warp))


def short_name(name: str) -> str:
    """A demangled name without return type, arguments and the namespaces of this project."""
    name = re.sub(r"\(anonymous namespace\)::|\bddn::(cuda::)?|^void ", "", name)
    return re.sub(r"\([^()]*\)$", "", name)


def template(name: str) -> str:
    """A short name without the template arguments for dtypes and weights."""
    name = re.sub(r"(, )?\b(double|float|Half|BFloat16|true|false)\b", "", name)
    return name.replace("<, ", "<").replace("> >", ">>")


def span(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least}-{most}"


def print_table(
    kernels: Sequence[Kernel], accepted: Mapping[str, str], condensed: bool = False
) -> bool:
    """Prints a row per kernel, or per template and penalty with minima and maxima, and a row per
    called function that spills. Returns whether all pass."""
    rows: dict[tuple[str, str], list[Kernel]] = {}
    for kernel in kernels:
        if not kernel.is_called or kernel.spills:
            name = short_name(kernel.name)
            short = condensed and not kernel.is_called
            rows.setdefault((kernel.arch, template(name) if short else name), []).append(kernel)
    columns = "{:8}{:>9}{:>7}{:>13}{:>11}{:>9}{:>4}  {}"
    head = ("regs", "warps", "shared", "stack", "spill", "of")
    print(columns.format("arch", *head, "kernel"))
    passed = True
    for (arch, name), of in rows.items():
        each = [(k.registers, warps_by_registers(k), k.shared, k.stack, k.spill) for k in of]
        print(columns.format(arch, *map(span, zip(*each, strict=True)), len(of), name))
        for good, remark in dict.fromkeys(verdict(k, accepted) for k in of):
            passed &= good
            if remark:
                print(f"{'':61}^ {remark}")
    return passed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arch", action="append", help="such as 9.0; may be given several times")
    parser.add_argument("--report", type=Path, help="output of a build, instead of compiling")
    parser.add_argument("--condensed", action="store_true", help="a row per template and penalty")
    parser.add_argument("sources", nargs="*", type=Path, help="default: csrc/cuda/*.cu")
    options = parser.parse_args(arguments)
    if options.report:
        found = parse_ptxas(options.report.read_text())
    else:
        found = compile_all(options.sources, options.arch or ["9.0"])
    if not found:
        raise SystemExit("kernel_resources: no kernel found")
    found = demangle(found)
    passed = print_table(found, ACCEPTED_SPILLS, options.condensed)
    called, spilling = sum(k.is_called for k in found), sum(k.spills for k in found)
    print(
        f"{len(found) - called} kernels and {called} functions that they call, {spilling} with "
        f"spills: {'passed' if passed else 'FAILED'}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
