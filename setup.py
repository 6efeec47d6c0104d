"""Build of the extension `ddn_cuda._C`.

All metadata are in pyproject.toml, the decisions in build_config.py.
."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # a PEP 517 front end runs this file without its folder on the path

import build_config as config  # noqa: E402
import build_toolkit  # noqa: E402


def import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise config.BuildError(
            f"building needs torch in this environment ({error}); install torch, then run pip with "
            "--no-build-isolation"
        ) from None
    return torch


def plan_cuda(torch: Any) -> config.CudaPlan:
    """Decides, says so in one line, and points torch's builder at toolkit and architectures."""

    def capabilities() -> list[tuple[int, int]]:
        return [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]

    def archs() -> str:
        setting = os.environ.get("TORCH_CUDA_ARCH_LIST")
        return config.choose_archs(setting, config.torch_archs(torch), capabilities)

    plan = config.decide_cuda(
        os.environ.get("DDN_CUDA") or "auto",
        system=platform.system(),
        machine=platform.machine(),
        torch_cuda=torch.version.cuda,
        toolkit=lambda: build_toolkit.find_toolkit(os.environ),
        archs=archs,
    )
    print(f"ddn_cuda: torch {torch.__version__}; {plan.describe()}", flush=True)
    if plan.toolkit is not None and plan.archs is not None:
        os.environ["CUDA_HOME"] = plan.toolkit.home
        os.environ["TORCH_CUDA_ARCH_LIST"] = plan.archs
    return plan


def use_packaged_ninja() -> None:
    """Puts the installed package's ninja on the PATH: the environment need not be activated."""
    try:
        import ninja
    except ImportError:
        return
    os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, os.environ.get("PATH", "")])


def make_extension(torch: Any, plan: config.CudaPlan, version: str) -> Extension:
    try:
        import pybind11
    except ImportError:
        raise config.BuildError("building needs pybind11; pip install pybind11 ninja") from None
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    parallel = torch.__config__.parallel_info()
    threads = config.thread_flags(parallel, config.uses_gcc(os.environ))
    if not threads:
        print("ddn_cuda: CPU kernels use one thread: torch has no OpenMP, or CXX is not g++")
    return (CUDAExtension if plan.enabled else CppExtension)(
        "ddn_cuda._C",
        config.find_sources(ROOT, plan.enabled),
        include_dirs=[str(ROOT / "csrc"), pybind11.get_include()],
        define_macros=config.macros(version, torch.__version__, plan),
        extra_compile_args=config.compile_flags(os.environ, threads),
    )


class BuildExt(build_ext):
    """Turns to torch only to compile something: metadata and an sdist need no torch."""

    def finalize_options(self) -> None:
        self.own_build_temp = self.build_temp is None
        super().finalize_options()

    def run(self) -> None:
        try:
            self.delegate()
        except config.BuildError as error:
            raise SystemExit(f"ddn_cuda: {error}") from None

    def delegate(self) -> None:
        config.check_compiler(os.environ, sysconfig.get_path("include"))
        torch = import_torch()
        plan = plan_cuda(torch)
        use_packaged_ninja()
        # Imported only now: the module fixes its idea of CUDA_HOME when it is loaded.
        from torch.utils.cpp_extension import BuildExtension

        version = self.distribution.get_version()
        self.distribution.ext_modules = [make_extension(torch, plan, version)]
        builder = BuildExtension(self.distribution)
        for option in ("build_lib", "debug", "inplace", "editable_mode", "verbose"):
            setattr(builder, option, getattr(self, option))
        builder.build_temp = self.build_temp
        if self.own_build_temp:
            # One folder per torch, kept between builds: only what changed is compiled again.
            kind = "cuda" if plan.enabled else "cpu"
            tag = f"{sys.implementation.cache_tag}-torch-{torch.__version__}-{kind}"
            builder.build_temp = str(ROOT / "build" / tag)
        builder.ensure_finalized()
        builder.run()


setup(
    # The real extension is made when it is built; this one tells its name and sources.
    ext_modules=[Extension("ddn_cuda._C", config.find_sources(ROOT, cuda=True))],
    cmdclass={"build_ext": BuildExt},
)
