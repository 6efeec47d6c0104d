"""Parsers of registers and spills from ptxas, and of kernel metrics from ncu."""

import re
import sys
from typing import Any

import pytest

from bench import kernel_resources, profile_kernels
from bench.kernel_resources import Kernel, parse_ptxas, short_name, verdict
from tests.support import ROOT

# Output of ptxas from CUDA 13, with spills in a kernel and in a device function.
REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z6kernelIdLi64EEvPT_' for 'sm_80'
ptxas info    : Function properties for _Z6kernelIdLi64EEvPT_
    512 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 96 registers, used 1 barriers, 512 bytes cumulative stack size, 512 bytes smem
ptxas info    : Compile time = 66.739 ms
ptxas info    : Compiling entry function '_Z6kernelIfLi8EEvPT_' for 'sm_90'
ptxas info    : Function properties for _Z6kernelIfLi8EEvPT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 29 registers, used 1 barriers
ptxas info    : Function properties for _Z6helperf
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
"""


def test_ptxas_report_is_parsed():
    double, single, helper = parse_ptxas(REPORT)
    assert double == Kernel("_Z6kernelIdLi64EEvPT_", "sm_80", 96, 512, 512, 8, 16)
    assert single == Kernel("_Z6kernelIfLi8EEvPT_", "sm_90", 29)
    assert helper == Kernel("_Z6helperf", "sm_90", 0, 0, 8, 4, 4)
    assert [k.spills for k in (double, single, helper)] == [True, False, True]


SPILLING: dict[str, Any] = {"arch": "sm_90", "spill_stores": 4, "spill_loads": 4}


@pytest.mark.parametrize(
    ("kernel", "accepted", "good"),
    [
        (Kernel("void f<Huber, float>(Args)", "sm_90"), {}, True),
        (Kernel("void f<Huber, float>(Args)", **SPILLING), {}, False),
        (Kernel("void f<Huber, float>(Args)", **SPILLING), {"Huber": "why"}, True),
        (Kernel("void f<Huber, float>(Args)", **SPILLING), {"Welsch": "why"}, False),
        (Kernel("helper(int)", **SPILLING), {}, False),
        (Kernel("void f<Huber, double>(float)", **SPILLING), {}, False),
        (Kernel("void f<Huber, double>(float)", **SPILLING), {"Huber, double": "why"}, True),
        (Kernel("void f<float>(Args)", **{**SPILLING, "arch": "sm_80"}), {"f<float>": "why"}, True),
        (Kernel("void f<float>(Args)", **{**SPILLING, "arch": "sm_80"}), {}, False),
    ],
)
def test_which_spills_are_accepted(kernel, accepted, good):
    assert verdict(kernel, accepted)[0] is good


def test_a_spilling_report_fails(tmp_path, capsys):
    report = tmp_path / "log"
    report.write_text(REPORT)
    assert kernel_resources.main(["--report", str(report)]) == 1
    report.write_text("\n".join(REPORT.splitlines()[6:10]))
    assert kernel_resources.main(["--report", str(report)]) == 0
    assert "kernel<float, 8>" in capsys.readouterr().out
    report.write_text("nothing compiled")
    with pytest.raises(SystemExit, match="no kernel found"):
        kernel_resources.main(["--report", str(report)])


def test_the_largest_spill_of_a_called_function_counts():
    less = """\
ptxas info    : Function properties for _Z6helperf
    0 bytes stack frame, 0 bytes spill stores, 4 bytes spill loads
"""
    assert parse_ptxas(REPORT + less) == parse_ptxas(REPORT)


def test_kernels_are_listed_and_functions_only_where_they_spill(capsys):
    kernels = [
        Kernel("void f<ddn::Huber, float, ddn::cuda::Block<8> >(A)", "sm_90", 96, 512),
        Kernel("void f<ddn::Huber, double, ddn::cuda::Block<8> >(A)", "sm_90", 128, 512, 8),
        Kernel("quiet(int)", "sm_90", stack=8),
    ]
    assert kernel_resources.print_table(kernels, {})
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert kernel_resources.print_table(kernels, {}, condensed=True)
    _, row = capsys.readouterr().out.splitlines()
    assert row.split() == [
        "sm_90",
        "96-128",
        "16-20",
        "512",
        "0-8",
        "0",
        "2",
        "f<Huber,",
        "Block<8>>",
    ]
    kernels.append(Kernel("helper(int)", **SPILLING))
    assert not kernel_resources.print_table(kernels, {}, condensed=True)
    assert "helper" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "condensed"),
    [
        ("f<Huber, float, Block<256>, false>", "f<Huber, Block<256>>"),
        ("global<Welsch, double, 128, true>", "global<Welsch, 128>"),
        ("backward_strided<Huber, Half, float>", "backward_strided<Huber>"),
        ("sort_by_size", "sort_by_size"),
    ],
)
def test_templates_of_kernels(name, condensed):
    assert kernel_resources.template(name) == condensed


def test_short_names_of_kernels():
    name = "void ddn::cuda::(anonymous namespace)::back<ddn::Huber, float>(ddn::BackwardArgs)"
    assert short_name(name) == "back<Huber, float>"


@pytest.mark.parametrize(
    ("registers", "arch", "warps"),
    [
        (32, "sm_90", 64),
        (32, "sm_86", 48),
        (33, "sm_90", 48),
        (128, "sm_80", 16),
        (255, "sm_90", 8),
    ],
)
def test_registers_limit_the_warps(registers, arch, warps):
    assert kernel_resources.warps_by_registers(Kernel("k", arch, registers)) == warps


# Output of ncu 2025 with --csv --page raw, shortened.
RAW_PAGE = """==PROF== Connected to process 1 (/usr/bin/python3)
==PROF== Disconnected from process 1
"ID","Process Name","Kernel Name","Block Size","gpu__time_duration.sum","launch__registers"
"","","","","ns","register/thread"
"0","python3","local_pipeline","(256, 1, 1)","1,234.5","64"
"1","python3","global_shared_memory","(128, 1, 1)","2","nan"
"""


def test_raw_pages_of_ncu_are_parsed():
    first, second = profile_kernels.parse(RAW_PAGE)
    assert first["Kernel Name"] == "local_pipeline"
    assert first["metrics"]["gpu__time_duration.sum"] == [1234.5, "ns"]
    assert second["metrics"]["launch__registers"][1] == "register/thread"
    with pytest.raises(ValueError, match="no table"):
        profile_kernels.parse("==ERROR== LibraryNotLoaded")


def stub_ncu(folder, body):
    ncu = folder / "ncu"
    ncu.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    ncu.chmod(0o755)
    return str(ncu)


def test_kernels_are_profiled_or_it_is_said_why_not(tmp_path):
    found, good = profile_kernels.profile(str(tmp_path / "no-ncu"), "python3")
    assert not good
    assert "no-ncu" in found["error"]
    write = "open(sys.argv[sys.argv.index('--log-file') + 1], 'w').write"
    refused = f"{write}('==ERROR== LibraryNotLoaded'); sys.exit(1)"
    found, good = profile_kernels.profile(stub_ncu(tmp_path, refused), "python3")
    assert not good
    assert "LibraryNotLoaded" in found["text"]
    found, good = profile_kernels.profile(stub_ncu(tmp_path, f"{write}({RAW_PAGE!r})"), "python3")
    assert not good
    assert "missing: ['backward_contiguous']" in found["error"]
    assert len(found["launches"]) == 2
    whole = RAW_PAGE + '"2","python3","backward_contiguous","(256, 1, 1)","3","40"\n'
    found, good = profile_kernels.profile(stub_ncu(tmp_path, f"{write}({whole!r})"), "python3")
    assert good
    assert len(found["launches"]) == 3


def test_the_profiled_kernels_are_in_the_sources():
    sources = "".join(file.read_text() for file in (ROOT / "csrc" / "cuda").glob("*.cu*"))
    for name in profile_kernels.KERNELS:
        assert re.search(rf"^    {name}\(const __grid_constant__ ", sources, re.M), name
