"""The decisions of the build on simulated machines, without PyTorch, compiler or toolkit."""

import os
import stat
import subprocess
import sys
from typing import Any

import pytest
import torch

from build_config import (
    BuildError,
    CudaPlan,
    check_compiler,
    compile_flags,
    decide_cuda,
    find_sources,
    macros,
    thread_flags,
    uses_gcc,
)
from build_toolkit import Toolkit, find_toolkit
from tests.support import ROOT

TOOLKIT_13 = Toolkit("/toolkit", "13.0")


def executable(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def make_toolkit(home, version="13.0"):
    """A folder that resembles a toolkit: its nvcc answers --version and a dry run."""
    (home / "include").mkdir(parents=True)
    (home / "include" / "cuda_runtime.h").touch()
    executable(
        home / "bin" / "nvcc",
        f'case "$1" in\n--version) echo "Cuda tools, release {version}, V{version}.1";;\n'
        f'--dryrun) echo "#\\$ TOP={home}/bin/..";;\nesac',
    )
    return home


def decide(setting="auto", *, torch_cuda="13.0", toolkit=(TOOLKIT_13, "here"), **machine):
    return decide_cuda(
        setting,
        system=machine.get("system", "Linux"),
        machine=machine.get("machine", "x86_64"),
        torch_cuda=torch_cuda,
        toolkit=lambda: toolkit,
        archs=lambda: "9.0",
    )


# Whether CUDA is built


def test_cuda_is_built_when_torch_and_toolkit_have_the_same_major_version():
    plan = decide(torch_cuda="13.2")
    assert plan.enabled
    assert plan.toolkit == TOOLKIT_13
    assert plan.archs == "9.0"
    assert "building with CUDA" in plan.describe()
    assert "13.2" in plan.describe()
    assert "for 9.0" in plan.describe()


CANNOT: dict[str, tuple[dict[str, Any], str]] = {
    "torch without CUDA": (dict(torch_cuda=None), "torch is a build without CUDA"),
    "no toolkit": (dict(toolkit=(None, "no CUDA toolkit found")), "no CUDA toolkit found"),
    "other major": (dict(torch_cuda="12.8"), "does not match torch's CUDA 12.8"),
    "major is a prefix": (dict(torch_cuda="1.3"), "does not match torch's CUDA 1.3"),
    "macOS": (dict(system="Darwin"), "this is Darwin x86_64"),
    "Arm": (dict(machine="aarch64"), "this is Linux aarch64"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_where_cuda_cannot_be_built_auto_says_why_and_1_fails_in_one_line(case):
    facts, why = CANNOT[case]
    plan = decide("auto", **facts)
    assert not plan.enabled
    assert why in plan.describe()
    with pytest.raises(BuildError, match="DDN_CUDA=1 but") as error:
        decide("1", **facts)
    assert why in str(error.value)
    assert "; " in str(error.value), "says what to do"
    assert "\n" not in str(error.value)


def test_0_asks_for_no_toolkit():
    def unwanted():
        raise AssertionError("asked")

    plan = decide_cuda(
        "0",
        system="Linux",
        machine="x86_64",
        torch_cuda="13.0",
        toolkit=unwanted,
        archs=unwanted,
    )
    assert not plan.enabled


def test_unknown_setting_is_refused():
    with pytest.raises(BuildError, match="DDN_CUDA='yes' is none of auto, 0, 1"):
        decide("yes")


# Which toolkit


def test_toolkit_from_cuda_home_comes_before_the_path(tmp_path):
    home, other = make_toolkit(tmp_path / "a", "13.1"), make_toolkit(tmp_path / "b", "12.4")
    env = {"CUDA_HOME": str(home), "PATH": f"{other}/bin:/bin"}
    assert find_toolkit(env, usual=())[0] == Toolkit(str(home), "13.1")


def test_cuda_home_without_a_toolkit_is_reported_not_replaced(tmp_path):
    other = make_toolkit(tmp_path / "b")
    env = {"CUDA_HOME": str(tmp_path), "PATH": f"{other}/bin:/bin"}
    toolkit, why = find_toolkit(env, usual=[str(other)])
    assert toolkit is None
    assert f"CUDA_HOME={tmp_path} holds no" in why


def test_toolkit_of_the_nvcc_on_the_path(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    toolkit, _ = find_toolkit({"PATH": f"{home}/bin:/bin"}, usual=())
    assert toolkit == Toolkit(str(home), "13.0")


def test_toolkit_behind_a_symbolic_link(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").symlink_to(home / "bin" / "nvcc")
    toolkit, _ = find_toolkit({"PATH": f"{tmp_path}/bin:/bin"}, usual=())
    assert toolkit == Toolkit(str(home), "13.0")


def test_toolkit_behind_a_wrapper_script(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    executable(tmp_path / "bin" / "nvcc", f'exec {home}/bin/nvcc "$@"')
    toolkit, _ = find_toolkit({"PATH": f"{tmp_path}/bin:/bin"}, usual=())
    assert toolkit == Toolkit(str(home), "13.0")


def test_toolkit_in_a_usual_place_when_the_wrapper_does_not_tell(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    executable(tmp_path / "bin" / "nvcc", "exit 1")
    env = {"PATH": f"{tmp_path}/bin:/bin"}
    assert find_toolkit(env, usual=[str(home)])[0] == Toolkit(str(home), "13.0")
    toolkit, why = find_toolkit(env, usual=())
    assert toolkit is None
    assert "belongs to no folder with include/cuda_runtime.h" in why


def test_no_toolkit_anywhere(tmp_path):
    toolkit, why = find_toolkit({"PATH": str(tmp_path)}, usual=())
    assert toolkit is None
    assert "neither CUDA_HOME nor nvcc" in why


def test_nvcc_that_tells_no_version(tmp_path):
    home = make_toolkit(tmp_path / "cuda")
    executable(home / "bin" / "nvcc", "exit 1")
    assert find_toolkit({"CUDA_HOME": str(home), "PATH": ""}, usual=())[0] is None


# Compiler, sources, macros, flags


def test_missing_compiler_is_one_line(tmp_path):
    include = tmp_path / "include"
    include.mkdir()
    env = {"PATH": str(tmp_path)}
    with pytest.raises(BuildError, match=r"no C\+\+ compiler \(c\+\+\) found; install one"):
        check_compiler(env, str(include))
    with pytest.raises(BuildError, match=r"no C\+\+ compiler \(clang\+\+\)"):
        check_compiler({**env, "CXX": "clang++ -m64"}, str(include))
    executable(tmp_path / "c++", "")
    with pytest.raises(BuildError, match=r"no Python\.h"):
        check_compiler(env, str(include))
    (include / "Python.h").touch()
    check_compiler(env, str(include))


@pytest.fixture
def tree(tmp_path):
    names = ["cpu/b.cpp", "cpu/a.cpp", "cpu/a.h", "ops/module.cpp", "ops/register_cuda.cpp"]
    for name in [*names, "cuda/pool.cu", "cuda/pool.h", "core/math.h"]:
        path = tmp_path / "csrc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_sources_of_a_build_without_cuda(tree):
    assert find_sources(tree, cuda=False) == [
        "csrc/cpu/a.cpp",
        "csrc/cpu/b.cpp",
        "csrc/ops/module.cpp",
    ]


def test_sources_of_a_cuda_build(tree):
    extra = set(find_sources(tree, cuda=True)) - set(find_sources(tree, cuda=False))
    assert extra == {"csrc/cuda/pool.cu", "csrc/ops/register_cuda.cpp"}


def test_the_file_that_only_cuda_builds_compile_is_there():
    assert "csrc/ops/register_cuda.cpp" in find_sources(ROOT, cuda=True)


def test_macros():
    cpu = dict(macros("1.2.3", "2.13.0+cpu", CudaPlan("no")))
    assert cpu == {"DDN_VERSION": '"1.2.3"', "DDN_TORCH_VERSION": '"2.13.0"'}
    cuda = dict(macros("1.2.3", "2.14.1+cu130", CudaPlan("yes", TOOLKIT_13, "8.0;9.0+PTX")))
    assert cuda["DDN_CUDA_VERSION"] == '"13.0"'
    assert cuda["DDN_CUDA_ARCHS"] == '"8.0;9.0+PTX"'
    assert "DDN_WITH_CUDA" in cuda


def test_flags_change_no_arithmetic_and_no_machine():
    flags = [flag for group in compile_flags({}).values() for flag in group]
    assert not [f for f in flags if "fast" in f or "march" in f or f == "-Ofast"]
    # torch adds no -gencode if the flags contain "arch"
    assert not [f for f in flags if "arch" in f]


def test_neither_compiler_contracts_products_and_sums():
    flags = compile_flags({})
    assert "-ffp-contract=off" in flags["cxx"]
    assert "-fmad=false" in flags["nvcc"]


def test_threads_are_those_of_torch():
    info = torch.__config__.parallel_info()
    assert thread_flags(info, gcc=True) == (["-fopenmp"] if "OpenMP" in info else [])
    assert thread_flags("native thread pool", gcc=True) == []
    assert thread_flags(info, gcc=False) == []
    assert "-fopenmp" in compile_flags({}, ["-fopenmp"])["cxx"]


def test_which_compiler_is_gcc(tmp_path):
    for name, defined, expected in (
        ("cc1", "#define __GNUC__ 12", True),
        ("cc2", "#define __GNUC__ 4\n#define __clang__ 1", False),
        ("cc3", "", False),
    ):
        compiler = tmp_path / name
        compiler.write_text(f"#!/bin/sh\nprintf '{defined}'\n")
        compiler.chmod(0o755)
        assert uses_gcc({"CXX": str(compiler)}) is expected


def test_ptxas_is_verbose_on_request_only():
    assert "-v" in compile_flags({"DDN_PTXAS_VERBOSE": "1"})["nvcc"]
    assert "-v" not in compile_flags({})["nvcc"]


# setup.py as a whole


def run_setup(*arguments, env, **options):
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_metadata_need_neither_torch_nor_compiler(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    done = run_setup("--version", env={"PYTHONPATH": str(tmp_path), "PATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().count(".") == 2


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("torch", "ddn_cuda: building needs torch in this environment"),
        ("compiler", "ddn_cuda: no C++ compiler"),
        ("DDN_CUDA", "ddn_cuda: DDN_CUDA='maybe' is none of auto, 0, 1"),
        ("toolkit", "ddn_cuda: DDN_CUDA=1 but "),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path, broken, message):
    env = {"CUDA_HOME": str(tmp_path)}
    if broken == "torch":
        (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
        env["PYTHONPATH"] = str(tmp_path)
    if broken == "compiler":
        env["CXX"] = "no-such-compiler"
    env["DDN_CUDA"] = {"DDN_CUDA": "maybe", "toolkit": "1"}.get(broken, "auto")
    done = run_setup(
        "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path), env=env
    )
    assert done.returncode == 1
    assert done.stderr.startswith(message), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    if broken == "torch":
        assert "--no-build-isolation" in done.stderr
