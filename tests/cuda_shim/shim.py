"""Compiles the kernels for the host and calls them with NumPy arrays. Needs a C++ compiler alone.

See cuda_shim.h for what is checked while they run. With `-fsanitize=address` among the flags, and
libasan preloaded into Python, AddressSanitizer follows the fibers.
"""

import ctypes
import math
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
# A fortified longjmp refuses to move between stacks. Functions with the same code stay apart, since
# kernels are told from each other by their addresses.
FLAGS = ("-std=c++17", "-fPIC", "-U_FORTIFY_SOURCE", "-fno-ipa-icf", "-DDDN_CUDA_SHIM")
MARGIN = 64  # numbers on either side of an output that a kernel must not touch

ORDERS = ("forward", "reversed", "random")
ALL_BLOCKS = 2**31 - 1


class ShimError(Exception):
    """A launch failed or a kernel did what CUDA leaves undefined."""


def compile_unit(source: Path, into: Path, csrc: Path = CSRC, flags: Sequence[str] = ()) -> Path:
    """The object file of one source, in the folder `into`."""
    compiler = os.environ.get("CXX", "g++")
    target = into / f"{source.name}.o"
    includes = [f"-I{HERE}", f"-I{csrc}"]
    files = ["-x", "c++", "-c", str(source), "-o", str(target)]
    subprocess.run([compiler, *FLAGS, *flags, *includes, *files], check=True)
    return target


def compile_units(jobs: Iterable[tuple[Any, ...]]) -> list[Path]:
    """compile_unit() for each tuple of its arguments, on all cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda job: compile_unit(*job), jobs))


def link(objects: Iterable[Path], library: Path) -> Path:
    """Of a template that two objects hold, the first one's is taken."""
    compiler = os.environ.get("CXX", "g++")
    subprocess.run([compiler, "-shared", *objects, "-o", library], check=True)
    return library


def kernel_units(csrc: Path = CSRC) -> list[Path]:
    return sorted((csrc / "cuda").glob("*.cu"))


def shim_units() -> list[Path]:
    return sorted([*HERE.glob("*.cpp"), *HERE.glob("*.cu")])


class Answer(NamedTuple):
    """What the forward kernels write, each [sets] and of x's dtype."""

    y: np.ndarray
    remainder: np.ndarray
    curvature: np.ndarray


class Guarded:
    """An array filled with NaN between margins that show when they are written to."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        size = math.prod(shape)
        self._whole = np.full(size + 2 * MARGIN, np.nan, dtype)
        self._margins = self._whole[:MARGIN], self._whole[MARGIN + size :]
        self.array = self._whole[MARGIN : MARGIN + size].reshape(shape)

    def check(self) -> np.ndarray:
        for margin in self._margins:
            if not np.isnan(margin).all():
                raise ShimError("a kernel wrote next to its output")
        return self.array


def layout_of(x: np.ndarray, set_rank: int) -> ctypes.Array:
    """The first set_rank dims of x number the sets, the others their points."""
    numbers = [math.prod(x.shape[:set_rank]), math.prod(x.shape[set_rank:])]
    for dims in (range(set_rank), range(set_rank, x.ndim)):
        numbers.append(len(dims))
        for d in dims:
            numbers += [x.shape[d], x.strides[d] // x.itemsize]
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _pointer(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


class Shim:
    """A library of compiled kernels. One thread at a time."""

    def __init__(self, library: Path) -> None:
        self.path = library
        self._c = ctypes.CDLL(str(library))
        self._c.shim_error.restype = ctypes.c_char_p
        self.configure()

    def configure(self, order: str = "forward", seed: int = 0, most_blocks: int = ALL_BLOCKS):
        """The order of threads and blocks; `seed` is for the random one."""
        self._c.shim_configure(
            ORDERS.index(order), ctypes.c_uint64(seed), ctypes.c_uint(most_blocks)
        )

    def forward(
        self,
        x: np.ndarray,
        penalty: str,
        alpha: float | np.ndarray = 1.0,
        *,
        set_rank: int = 1,
        weight: np.ndarray | None = None,
        solver: str = "local",
        max_iter: int = -1,
    ) -> Answer:
        """alpha: a number, or one per set as an array of x's dtype; weight: of x's shape and dtype,
        with any strides."""
        sets = (math.prod(x.shape[:set_rank]),)
        outputs = [Guarded(sets, x.dtype) for _ in Answer._fields]
        self._call(
            self._c.shim_forward,
            x.itemsize,
            self._penalty(penalty),
            int(solver == "global"),
            layout_of(x, set_rank),
            _pointer(x),
            *(_pointer(output.array) for output in outputs),
            *self._alpha(alpha, x.dtype, sets),
            *self._weight(weight, x, set_rank),
            ctypes.c_int64(max_iter),
            ctypes.c_double(-1.0),
        )
        return Answer(*(output.check() for output in outputs))

    def backward(
        self,
        grad: np.ndarray,
        x: np.ndarray,
        answer: Answer,
        penalty: str,
        alpha: float | np.ndarray = 1.0,
        *,
        set_rank: int = 1,
        weight: np.ndarray | None = None,
        of: str = "points",
        into: np.ndarray | None = None,
    ) -> np.ndarray:
        """The gradient of x or, `of` the "weights", of those, in a new array of x's shape unless
        there is one to write it into."""
        output = Guarded(x.shape, x.dtype)
        grad_x = output.array if into is None else into
        assert grad.dtype == x.dtype == grad_x.dtype
        assert grad_x.shape == x.shape
        self._call(
            self._c.shim_backward,
            x.itemsize,
            self._penalty(penalty),
            layout_of(x, set_rank),
            layout_of(grad_x, set_rank),
            _pointer(grad),
            _pointer(x),
            *(_pointer(part) for part in answer),
            *self._alpha(alpha, x.dtype, grad.shape),
            *self._weight(weight, x, set_rank),
            _pointer(grad_x if of == "points" else None),
            _pointer(grad_x if of == "weights" else None),
        )
        output.check()
        return grad_x

    def toy(self, name: str, size: int = 1024) -> np.ndarray:
        """What a kernel of toys.cu writes; NaN where it does not."""
        out = np.full(size, np.nan)
        code = self._call(self._c.shim_toy, name.encode(), _pointer(out))
        assert code == 0, f"no toy {name}"
        return out

    def kernels(self) -> dict[str, bool]:
        """The pooling kernels of the library and whether each has been launched since it was
        loaded. A kernel is known by its one argument, which it takes by value."""
        listing = subprocess.run(
            ["nm", "-C", "--defined-only", self.path], check=True, capture_output=True, text=True
        )
        symbols = [line.split(" ", 2) for line in listing.stdout.splitlines()]
        addresses = {name: int(at, 16) for at, kind, name in symbols if kind in "tTwWuU"}
        known = ctypes.cast(self._c.shim_forward, ctypes.c_void_p).value
        assert known is not None
        base = known - addresses["shim_forward"]
        return {
            name: bool(self._c.shim_was_launched(ctypes.c_void_p(base + address)))
            for name, address in addresses.items()
            if re.search(
                r"^void ddn::cuda::.*\(ddn::(ForwardArgs|BackwardArgs|cuda::GlobalArgs)\)$", name
            )
        }

    def _penalty(self, name: str) -> int:
        number = self._c.shim_penalty(name.encode())
        assert number >= 0, f"no penalty {name}"
        return number

    def _alpha(self, alpha: float | np.ndarray, dtype: np.dtype, sets: tuple[int, ...]):
        if not isinstance(alpha, np.ndarray):
            return _pointer(None), ctypes.c_double(alpha)
        assert alpha.dtype == dtype
        assert alpha.shape == sets
        assert alpha.flags.c_contiguous
        return _pointer(alpha), ctypes.c_double(math.nan)

    def _weight(self, weight: np.ndarray | None, x: np.ndarray, set_rank: int):
        if weight is None:
            return _pointer(None), None
        assert weight.dtype == x.dtype
        assert weight.shape == x.shape
        return _pointer(weight), layout_of(weight, set_rank)

    def _call(self, function, *arguments) -> int:
        code = function(*arguments)
        message = self._c.shim_error().decode()
        self._c.shim_clear_error()
        if message or code > 0:
            raise ShimError(f"{message or 'no message'} (cudaError {code})")
        return code
