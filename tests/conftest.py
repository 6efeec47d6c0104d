"""Fixtures for devices, dtypes and penalties, and the options of the test run."""

import os
import time
from collections import Counter

import numpy as np
import pytest
import torch

from tests.support import reference as ref
from tests.support.contract import DTYPES, HALVES
from tests.support.devices import REQUIRE_CUDA, cuda_missing, gpu_missing

DEADLINE = float(os.environ.get("DDN_TEST_DEADLINE", "inf"))  # in seconds, as time.time() counts


LEFT_OUT = pytest.StashKey[Counter]()  # number of skipped tests by reason


def require(missing):
    """Skips with the reason; fails if DDN_REQUIRE_CUDA=1."""
    if missing is not None and REQUIRE_CUDA:
        pytest.fail(f"DDN_REQUIRE_CUDA=1, but this test {missing}")
    if missing is not None:
        pytest.skip(missing)


def mark(items):
    """Marks the tests that need CUDA."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if parameters.get("device") == "cuda" or "cuda" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cuda)


def needs_gpu(item):
    """The reason if a test lacks a GPU or a build with CUDA; None if it can run."""
    if item.get_closest_marker("cuda"):
        return cuda_missing()
    return gpu_missing() if item.get_closest_marker("cpu_only_build") else None


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config, items):
    mark(items)
    slow = {item for item in items if item.get_closest_marker("slow")}
    yield  # -m and -k select
    said = config.stash[LEFT_OUT]
    if config.option.markexpr == "not slow" and slow:
        said["slow tests were left out: `make test-slow` runs them"] = len(slow)
    if REQUIRE_CUDA:
        return
    lacking = {item: reason for item in items if (reason := needs_gpu(item))}
    items[:] = [item for item in items if item not in lacking]
    config.hook.pytest_deselected(items=list(lacking))
    for reason, count in Counter(lacking.values()).items():
        where = "`make gpu-check` runs them where there is one"
        said[f"tests need a GPU ({reason}): {where}"] = count


def pytest_configure(config):
    config.stash[LEFT_OUT] = Counter()
    if hasattr(config, "workerinput"):  # one of several processes, which share the cores
        torch.set_num_threads(1)
    elif getattr(config.option, "numprocesses", None):
        # Read when a worker loads NumPy. Idle threads of a BLAS spin.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = dict(session.config.stash[LEFT_OUT])


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, each of whose processes collects all tests
def pytest_testnodedown(node):
    node.config.stash[LEFT_OUT] = Counter(getattr(node, "workeroutput", {}).get("left out"))


def pytest_terminal_summary(terminalreporter, config):
    for line, count in config.stash[LEFT_OUT].items():
        terminalreporter.write_line(f"{count:,} {line}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if time.time() > DEADLINE:
        pytest.skip("not run: the time is used up")


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda":
        require(cuda_missing())
    return torch.device(request.param)


@pytest.fixture
def cuda():
    """For tests that run on CUDA only."""
    require(cuda_missing())
    return torch.device("cuda")


@pytest.fixture(params=DTYPES, ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(params=HALVES, ids=["float16", "bfloat16"])
def half(request):
    return request.param


@pytest.fixture(params=ref.PENALTIES)
def penalty(request):
    return request.param


@pytest.fixture(autouse=True)
def random_state():
    """Seeds the global generators for each test, and restores their state."""
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    np.random.seed(0)
    # torch.manual_seed() formats the stack for each kind of device that is absent.
    torch.default_generator.manual_seed(0)
    if cuda_states is not None:
        torch.cuda.manual_seed_all(0)
    yield
    np.random.set_state(numpy_state)
    torch.set_rng_state(torch_state)
    if cuda_states is not None:
        torch.cuda.set_rng_state_all(cuda_states)


def pytest_addoption(parser):
    parser.addoption(
        "--kernels",
        choices=("source", "ptx"),
        default="source",
        help="what the tests of the CUDA kernels run: their source by the C++ compiler, or the PTX "
        "that nvcc makes of all of them, which takes minutes to build",
    )


@pytest.fixture(scope="session")
def source_library():
    """The CUDA kernels, compiled for the host by the C++ compiler."""
    from tests.support.cuda_shim import host_build

    return host_build.build()


@pytest.fixture(scope="session")
def library(request):
    """The same or, with --kernels=ptx, the translation of nvcc's PTX."""
    if request.config.getoption("--kernels") == "source":
        return request.getfixturevalue("source_library")
    from tests.support.cuda_shim.host_build import Library, kernel_units, shim_units
    from tests.support.ptx_emulator import build

    if reason := build.missing():
        pytest.skip(reason)
    sources = [*kernel_units(), *(unit for unit in shim_units() if unit.suffix == ".cu")]
    return Library(build.build_kept("all", sources), {})


@pytest.fixture(scope="session")
def source_only(request):
    """For tests of the host shim itself; the emulator has its own tests."""
    if request.config.getoption("--kernels") != "source":
        pytest.skip("of the host shim: runs without --kernels=ptx")


@pytest.fixture(scope="session")
def ptx_only(request):
    """For tests that build their own kernels for the emulator."""
    if request.config.getoption("--kernels") != "ptx":
        pytest.skip("takes seconds of nvcc: runs with --kernels=ptx, as in make test-ptx")


@pytest.fixture
def shim(library):
    library.shim.configure()
    library.shim.use_device()
    return library.shim
