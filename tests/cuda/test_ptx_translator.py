"""The PTX translator: its errors, and its output for a few instructions."""

from collections import Counter

import pytest

from tests.support.ptx_emulator import parser
from tests.support.ptx_emulator.emulator import Use
from tests.support.ptx_emulator.parser import PtxError
from tests.support.ptx_emulator.translator import KernelTranslator


def translated(body, **options):
    """The C++ of a kernel with these instructions."""
    registers = ".reg .pred %p<4>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .b64 %rd<9>;"
    registers += ".reg .f64 %fd<9>; .reg .b16 %rs<9>;"
    text = f".visible .entry k(\n.param .u64 k_param_0\n)\n{{\n{registers}\n{body}\nret;\n}}\n"
    module = parser.parse(text)
    translator = KernelTranslator(module, module.functions["k"], **options)
    return translator.translate().text, translator


@pytest.mark.parametrize(
    "instruction",
    [
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%rd1], [%rd2], %r1",
        "barrier.cluster.arrive",
        "mbarrier.try_wait.parity.shared.b64 %p1, [%rd1], %r1",
        "wgmma.fence.sync.aligned",
        "cp.async.ca.shared.global [%rd1], [%rd2], 12",
        "cp.async.cg.shared.global [%rd1], [%rd2], 4",
        "cp.async.ca.shared.global [%rd1], [%rd2], 4, %p1",
        "cp.async.ca.shared::cluster.global [%rd1], [%rd2], 4",
        "cp.async.mbarrier.arrive.shared.b64 [%rd1]",
        "bar.sync 1",
        "bar.sync 0, 64",
        "add.rz.f32 %f1, %f2, %f3",
        "add.cc.u32 %r1, %r2, %r3",
        "cvt.rz.f16.f32 %rs1, %f1",
        "cvt.rn.satfinite.bf16x2.f32 %r1, %f1, %f2",
        "cvt.rn.bf16x2.f32 %r1, %f1",
        "cvt.rn.bf16.f64 %rs1, %fd1",
        "cvt.u32.f16 %r1, %rs1",
        "add.f16 %rs1, %rs2, %rs3",
        "setp.lt.f16 %p1, %rs1, %rs2",
        "fma.rn.bf16x2 %r1, %r2, %r3, %r4",
        "fence.proxy.async",
        "st.shared::cluster.u32 [%rd1], %r1",
        "ld.shared::cluster.u32 %r1, [%rd1]",
        "fma.rn.relu.f32 %f1, %f2, %f3, %f4",
        "min.relu.s32 %r1, %r2, %r3",
        "min.f32 %f1, %f2, %f3, %f4",
        "sqrt.rz.f32 %f1, %f2",
        "rcp.rz.f32 %f1, %f2",
        "rcp.approx.ftz.f64 %fd1, %fd2",
        "shf.l.clamp.b32 %r1, %r2, %r3, %r4",
        "bfind.s32 %r1, %r2",
        "vote.sync.uni.pred %p1, %p2, -1",
        "mul.hi.u16 %rs1, %rs2, %rs3",
        "cvt.sat.f64.f64 %fd1, %fd2",
        "mov.u32 %r1, %clock",
        "ld.param.u32 %r1, [k_param_0+6]",
        "ld.param.u64 %rd1, [k_param_0+8]",
    ],
)
def test_what_is_not_supported_is_named(instruction):
    with pytest.raises(PtxError) as caught:
        translated(f"{instruction};")
    assert instruction.split()[0] in str(caught.value)


@pytest.mark.parametrize(
    "text", [".visible .entry k() { ret;", ".weird .b8 x;", ".func f() { .x; }"]
)
def test_text_that_is_no_ptx_raises(text):
    with pytest.raises(PtxError):
        parser.parse(text)


def test_contraction_fuses_what_ptx_permits():
    apart = "mul.f32 %f1, %f2, %f3; add.f32 %f4, %f1, %f5;"
    for text, contract_, fused in [
        (apart, True, 1),
        (apart, False, 0),
        (apart.replace("mul.", "mul.rn."), True, 0),
        (apart.replace("add.", "add.rn."), True, 0),
        (apart.replace("add", "sub"), True, 1),
        ("mul.f32 %f1, %f2, %f3; mov.f32 %f2, %f4; add.f32 %f4, %f1, %f5;", True, 0),
        ("mul.f32 %f1, %f2, %f3;\n$L__1:\nadd.f32 %f4, %f1, %f5; bra $L__1;", True, 0),
    ]:
        cpp, translator = translated(text, contract=contract_)
        assert (translator.fused, cpp.count("ptx::fma(")) == (fused, fused), text


COPY = "add.s32 %r1, %r2, 128; add.s64 %rd1, %rd2, 256; cp.async.ca.shared.global [%r1], [%rd1], 4;"


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        (COPY, ["add.s32", "add.s64"]),
        (
            f"{COPY} {COPY.replace('%r1', '%r3').replace('%rd1', '%rd3')}",
            2 * ["add.s32", "add.s64"],
        ),
        (COPY.replace(", 128", ", %r4"), ["add.s64"]),  # not a constant
        (COPY.replace("add.s64", "sub.s64"), ["add.s32"]),
        (f"{COPY} ld.global.f32 %f1, [%rd1];", ["add.s32"]),
        (f"{COPY} st.shared.f32 [%r1], %f1;", ["add.s64"]),
        (f"{COPY} mov.u32 %r5, %r1;", ["add.s64"]),
        (f"{COPY} setp.eq.s64 %p1, %rd1, 0;", ["add.s32"]),
        (f"{COPY} add.s32 %r1, %r1, 128;", ["add.s64"]),  # one that advances
        (COPY.replace(", 4;", ", 4, %r1;"), ["add.s64"]),  # also the number of valid bytes
        (f"{COPY} mov.u64 %rd1, %rd3;", ["add.s32"]),  # of two values
        (COPY.partition("cp")[0], ["add.s32", "add.s64"]),  # which nothing reads
    ],
)
def test_constant_offsets_of_copies_are_folded(text, folded):
    """Unless another instruction reads the register of the address or writes it again."""
    _, translator = translated(text, count=True)
    opcodes = Counter()
    for block in translator.blocks:
        opcodes += block.opcodes
    found = Counter({name: n for name, n in opcodes.items() if name.endswith(" folded")})
    assert found == Counter(f"{name} folded" for name in folded)


def test_objects_in_shared_memory_are_aligned_as_declared_and_no_better():
    declared = ".shared .align 4 .b8 a[16];\n.shared .align 8 .b8 b[16];\n"
    text, translator = translated(f"{declared}mov.u64 %rd1, a; mov.u64 %rd2, b;")
    assert translator.symbols == {"a": "(shared_begin + 4)", "b": "(shared_begin + 24)"}
    assert "shared_begin + 24" in text


def test_uses_beyond_the_limits_are_named():
    assert Use(256, 256, 48 << 10).excesses() == []
    assert Use(0, 256, 0).excesses() == []
    assert Use(0, 512, 0).excesses() == ["512 threads, of a kernel without __launch_bounds__"]
    assert Use(512, 512, 49 << 10).excesses() == ["50176 bytes of static shared memory"]
