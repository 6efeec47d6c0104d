"""Device code has no fused multiply-add except the explicit ones.

A compiler may contract a product and a sum in one copy of an inlined function and not in another,
so the same set could have different bits in another kernel. `-fmad=false` prevents contraction in
nvcc. The machine code shows that ptxas contracts nothing either.
"""

import os
import re
import struct
import subprocess

import pytest

from build_config import MIN_ARCH, compile_flags
from build_toolkit import find_toolkit
from tests.support import ROOT

TOOLKIT, WHY = find_toolkit(os.environ)
pytestmark = pytest.mark.skipif(TOOLKIT is None, reason=WHY)

ARCH = f"-arch=sm_{MIN_ARCH[0]}{MIN_ARCH[1]}"
FLAGS = compile_flags({})["nvcc"]
CONTRACTING = [flag for flag in FLAGS if not flag.startswith("-fmad")] + ["-fmad=true"]

TOY = """
__global__ void toy(float* x, double* y) {
  x[0] = x[1] * x[2] + x[3];
  x[4] = x[5] * x[6];
  y[0] = y[1] * y[2] + y[3];
}
"""
# Kernels with each kind of arithmetic: terms in single precision, sums and a series in double.
KERNEL = """
#include "cuda/local.cuh"
namespace ddn::cuda {
template __global__ void local_pipeline<Welsch, float, Warp, false>(
    const __grid_constant__ LocalArgs);
}
"""
# The lowest nine bits of an instruction, the same for every form of its operands.
OPCODES = {0x20: "FMUL", 0x21: "FADD", 0x23: "FFMA", 0x28: "DMUL", 0x29: "DADD", 0x2B: "DFMA"}
CONTRACTIBLE = re.compile(r"\b(?:add|sub|mul)(?:\.\w+)*\.f(?:32|64)\b")


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def to_ptx(folder, text, flags):
    source, ptx = folder / "kernel.cu", folder / "kernel.ptx"
    source.write_text(text)
    run(
        f"{TOOLKIT.home}/bin/nvcc",
        *("-ptx", ARCH, "-std=c++17", "--expt-relaxed-constexpr", f"-I{ROOT / 'csrc'}"),
        *flags,
        *("-o", str(ptx), str(source)),
    )
    return ptx.read_text()


def to_machine_code(folder, ptx, fmad):
    """The SASS instructions from ptxas, by kernel."""
    source, cubin = folder / "to_assemble.ptx", folder / "kernel.cubin"
    source.write_text(ptx)
    run(
        f"{TOOLKIT.home}/bin/ptxas",
        *(ARCH, "-O3", f"--fmad={fmad}", "-o", str(cubin), str(source)),
    )
    return text_sections(cubin.read_bytes())


def text_sections(elf):
    at, size, count, names = struct.unpack_from("<Q10xHHH", elf, 0x28)
    headers = [struct.unpack_from("<IIQQQQ", elf, at + i * size) for i in range(count)]
    first = headers[names][4]
    sections = {}
    for name, _, _, _, offset, length in headers:
        text = elf[first + name : elf.index(b"\0", first + name)].decode()
        if text.startswith(".text."):
            sections[text] = elf[offset : offset + length]
    assert sections
    return sections


def opcodes(sections):
    """Counts of each of OPCODES."""
    found = dict.fromkeys(OPCODES.values(), 0)
    for code in sections.values():
        for (low,) in struct.iter_unpack("<Q8x", code):
            if (low & 0x1FF) in OPCODES:
                found[OPCODES[low & 0x1FF]] += 1
    return found


def contractible(ptx):
    """Instructions that ptxas may contract: those without an explicit rounding mode."""
    return [found for found in CONTRACTIBLE.findall(ptx) if ".rn" not in found]


def test_the_flags_of_the_build_forbid_contraction(tmp_path):
    separate = to_machine_code(tmp_path, to_ptx(tmp_path, TOY, FLAGS), fmad="true")
    assert opcodes(separate) == {"FMUL": 2, "FADD": 1, "FFMA": 0, "DMUL": 1, "DADD": 1, "DFMA": 0}


def test_contraction_would_be_noticed(tmp_path):
    ptx = to_ptx(tmp_path, TOY, CONTRACTING)
    fused = to_machine_code(tmp_path, ptx, fmad="true")
    assert opcodes(fused) == {"FMUL": 1, "FADD": 0, "FFMA": 1, "DMUL": 0, "DADD": 0, "DFMA": 1}
    assert contractible(ptx) == ["mul.f32"]
    # With contraction permitted, ptxas contracts instructions without a rounding mode.
    loose = re.sub(r"\b(add|mul)\.rn", r"\1", to_ptx(tmp_path, TOY, FLAGS))
    assert len(contractible(loose)) == 5
    fused, separate = (to_machine_code(tmp_path, loose, fmad) for fmad in ("true", "false"))
    assert opcodes(fused)["FFMA"] == opcodes(fused)["DFMA"] == 1
    assert fused != separate


@pytest.mark.slow
def test_ptxas_has_nothing_to_contract_in_a_kernel(tmp_path):
    ptx = to_ptx(tmp_path, KERNEL, FLAGS)
    assert len(CONTRACTIBLE.findall(ptx)) > 1000
    assert contractible(ptx) == []
    allowed, forbidden = (to_machine_code(tmp_path, ptx, fmad) for fmad in ("true", "false"))
    assert allowed == forbidden
    found = opcodes(allowed)
    assert all(found.values()), found
