"""Calls the kernels, compiled for the host, with NumPy arrays. cuda_shim.h lists the checks at run
time."""

import ctypes
import math
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.support import passes

MARGIN = 64  # guard elements on either side of an output
ORDERS = ("forward", "reversed", "random")
ALL_BLOCKS = 2**31 - 1
# Orders and numbers of blocks; with one or two blocks, each processes several sets.
SCHEDULES = (("forward", 0, ALL_BLOCKS), ("reversed", 0, 1), ("random", 1, 2))


class ShimError(Exception):
    """A launch failed or a kernel has undefined behaviour."""


class Answer(NamedTuple):
    """The outputs of the forward kernels, [sets] each; y in x's dtype, the others in the arithmetic
    dtype."""

    y: np.ndarray
    remainder: np.ndarray
    curvature: np.ndarray


class Info(NamedTuple):
    """The diagnostics of each answer, [sets] each; see `ddn_cuda.RobustPoolInfo`."""

    iterations: np.ndarray
    residual: np.ndarray
    curvature: np.ndarray
    objective: np.ndarray
    gap: np.ndarray
    status: np.ndarray

    @classmethod
    def empty(cls, sets: int) -> "Info":
        integers = ("iterations", "status")
        return cls(*(np.zeros(sets, np.int64 if f in integers else float) for f in cls._fields))


class Direction(NamedTuple):
    """Tangents of points (in x's dtype), weights and alphas (in the arithmetic dtype)."""

    x: np.ndarray | None = None
    weight: np.ndarray | None = None
    alpha: np.ndarray | None = None


NO_DIRECTION = Direction()


class Guarded:
    """An array filled with NaN between guard elements that detect writes; uint16 arrays have the
    bits of bfloat16."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        size = math.prod(shape)
        self._blank = np.nan if dtype.kind == "f" else 0x7FC0
        self._whole = np.full(size + 2 * MARGIN, self._blank, dtype)
        self._margins = self._whole[:MARGIN], self._whole[MARGIN + size :]
        self.array = self._whole[MARGIN : MARGIN + size].reshape(shape)

    def check(self) -> np.ndarray:
        for margin in self._margins:
            if not np.array_equal(margin, np.full_like(margin, self._blank), equal_nan=True):
                raise ShimError("a kernel wrote next to its output")
        return self.array


def layout_of(x: np.ndarray, set_rank: int, ptr: np.ndarray | None = None) -> ctypes.Array:
    """The layout of x: the first set_rank dims index the sets, the others the points; with ptr, the
    first dim has the points of all segments and the others are channels."""
    if ptr is None:
        set_dims, point_dims = range(set_rank), range(set_rank, x.ndim)
        channels, segments = 1, 1
    else:
        set_dims, point_dims = range(1, x.ndim), range(1)
        channels, segments = math.prod(x.shape[1:]), len(ptr) - 1
    sizes = [math.prod(x.shape[d] for d in dims) for dims in (set_dims, point_dims)]
    numbers = [sizes[0] * segments, sizes[1], channels]
    for dims in (set_dims, point_dims):
        numbers.append(len(dims))
        for d in dims:
            numbers += [x.shape[d], x.strides[d] // x.itemsize]
    return (ctypes.c_int64 * len(numbers))(*numbers)


class BFloat16(np.ndarray):
    """Bits of bfloat16 numbers, as uint16."""


def real_dtype(x: np.ndarray) -> np.dtype:
    """The dtype of the arithmetic on x."""
    return np.dtype(np.float64 if x.dtype == np.float64 else np.float32)


def _dtype_number(x: np.ndarray) -> int:
    if isinstance(x, BFloat16):
        return 3
    dtypes = (np.float32, np.float64, np.float16, None, np.bool_)
    return [t and np.dtype(t) for t in dtypes].index(x.dtype)


class _Array(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("layout", ctypes.POINTER(ctypes.c_int64)))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("dtype", ctypes.c_int),
        ("penalty", ctypes.c_int),
        ("ptr", ctypes.c_void_p),
        ("x", _Array),
        ("alpha", ctypes.c_void_p),
        ("alpha_value", ctypes.c_double),
        ("weight", _Array),
        ("weight_dtype", ctypes.c_int),
    )


class Problem(NamedTuple):
    """A problem. alpha: a number, or one per set in the arithmetic dtype. weight: of x's shape, any
    dtype or Boolean, any strides. ptr: int64 offsets of segments along the first dim."""

    x: np.ndarray
    penalty: str
    alpha: float | np.ndarray = 1.0
    weight: np.ndarray | None = None
    set_rank: int = 1
    ptr: np.ndarray | None = None

    def shape(self) -> tuple[int, ...]:
        """The shape of the answers."""
        if self.ptr is not None:
            return ((len(self.ptr) - 1) * math.prod(self.x.shape[1:]),)
        return (math.prod(self.x.shape[: self.set_rank]),)


class Shim:
    """A library of compiled kernels. Not thread-safe."""

    # Whether the emulator aligns arrays like tensors on a GPU, or as little as their dtype permits.
    aligned = False

    def __init__(self, library: Path) -> None:
        self.path = library
        self._kernels: dict[str, int] = {}  # their addresses
        self._c = ctypes.CDLL(str(library))
        self._c.shim_error.restype = ctypes.c_char_p
        self.configure()
        self.use_device()

    def configure(self, order: str = "forward", seed: int = 0, most_blocks: int = ALL_BLOCKS):
        """The order of threads and blocks; `seed` is for the random one."""
        self._c.shim_configure(
            ORDERS.index(order), ctypes.c_uint64(seed), ctypes.c_uint(most_blocks)
        )

    def use_device(self, multiprocessors: int = 1, shared_kib: int = 228) -> None:
        """The device that launchers ask about: its multiprocessors and the shared memory of each,
        in KiB: 228 with compute capability 9.0, 164 with 8.0, 100 with 8.6 and 8.9. A block may
        have 1 KiB less."""
        self._c.shim_use_device(multiprocessors, shared_kib << 10)

    def forward(
        self,
        x: np.ndarray,
        penalty: str,
        alpha: float | np.ndarray = 1.0,
        *,
        solver: str = "local",
        max_iter: int = -1,
        info: Info | None = None,
        **options: Any,
    ) -> Answer:
        """Runs the forward kernel. info: filled in; options: of a `Problem`."""
        problem = Problem(x, penalty, alpha, **options)
        shape, real = problem.shape(), real_dtype(x)
        outputs = [Guarded(shape, x.dtype), Guarded(shape, real), Guarded(shape, real)]
        self._call(
            self._c.shim_forward,
            *self._sets(problem),
            int(solver == "global"),
            *(self._pointer(output.array) for output in outputs),
            ctypes.c_int64(max_iter),
            ctypes.c_double(-1.0),
            info and (ctypes.c_void_p * len(info))(*(self._pointer(part).value for part in info)),
        )
        y, remainder, curvature = (output.check() for output in outputs)
        return Answer(y.view(type(x)), remainder, curvature)

    def backward(
        self,
        grad: np.ndarray,
        x: np.ndarray,
        answer: Answer,
        penalty: str,
        alpha: float | np.ndarray = 1.0,
        *,
        of: str = "points",
        into: np.ndarray | None = None,
        direction: Direction = NO_DIRECTION,
        **options: Any,
    ) -> np.ndarray:
        """The gradient of the "points", the "weights" (of x's shape) or "alpha" (one per set), in a
        new array unless one is given. With a direction, the directional derivative of that
        gradient; `of` the "answer", the directional derivative of the answer."""
        problem = Problem(x, penalty, alpha, **options)
        real = real_dtype(x)
        shapes = {"points": (x.shape, x.dtype), "weights": (x.shape, real)}
        shapes |= {"alpha": (problem.shape(), real), "answer": (problem.shape(), x.dtype)}
        output = Guarded(*shapes[of])
        result = output.array if into is None else into
        assert grad.dtype == x.dtype
        assert (result.shape, result.dtype) == shapes[of]
        if problem.ptr is not None and (direction is not NO_DIRECTION or 0 in problem.shape()):
            result[...] = 0  # second derivatives of rows in no segment are not written
        self._call(
            self._c.shim_backward,
            *self._sets(problem),
            *(self._input(part) for part in answer),
            self._input(None if of == "answer" else grad),
            self._array(problem, result if of == "points" else None),
            self._array(problem, result if of == "weights" else None),
            self._pointer(result if of == "alpha" else None),
            self._array(problem, direction.x, writable=False),
            self._array(problem, direction.weight, writable=False),
            self._input(direction.alpha),
            self._pointer(result if of == "answer" else None),
        )
        output.check()
        return result.view(type(x)) if of in ("points", "answer") else result

    def offsets(self, given: np.ndarray, rows: int) -> np.ndarray:
        """The offsets of segments as the kernels need them, for any given."""
        output = Guarded(given.shape, given.dtype)
        sizes = (ctypes.c_int64(given.size), ctypes.c_int64(rows))
        function = self._c.shim_offsets
        self._call(function, self._input(given), self._pointer(output.array), *sizes)
        return output.check()

    def sharded(
        self,
        x: np.ndarray,
        penalty: str,
        kind: str,
        sets: np.ndarray,
        parameters: np.ndarray,
        **options: Any,
    ) -> np.ndarray:
        """What `ddn::_sharded_pass` returns for a pass of tests/support/passes.py."""
        output = Guarded((len(sets), passes.numbers(kind, penalty)), np.dtype(np.float64))
        self._call(
            self._c.shim_sharded,
            *self._sets(Problem(x, penalty, 1.0, **options)),
            passes.KINDS.index(kind),
            ctypes.c_int64(len(sets)),
            self._input(sets),
            self._input(parameters),
            self._pointer(output.array),
        )
        return output.check()

    def toy(self, name: str, size: int = 1024) -> np.ndarray:
        """The output of a kernel of toys.cu; NaN where it does not write."""
        out = np.full(size, np.nan)
        code = self._call(self._c.shim_toy, name.encode(), self._pointer(out))
        assert code == 0, f"no toy {name}"
        return out

    def addresses(self) -> dict[str, int]:
        """The addresses of the library's functions, by demangled names."""
        listing = subprocess.run(
            ["nm", "-C", "--defined-only", self.path], check=True, capture_output=True, text=True
        )
        symbols = [line.split(" ", 2) for line in listing.stdout.splitlines()]
        offsets = {name: int(at, 16) for at, kind, name in symbols if kind in "tTwWuU"}
        known = ctypes.cast(self._c.shim_forward, ctypes.c_void_p).value
        assert known is not None
        base = known - offsets["shim_forward"]
        return {name: base + offset for name, offset in offsets.items()}

    def kernels(self) -> dict[str, bool]:
        """The pooling kernels of the library and whether each has been launched since the library
        was loaded or forget_launches() was called.

        A pooling kernel is recognised by its single argument, passed by value."""
        if not self._kernels:
            kernel = re.compile(
                r"^(void )?ddn::cuda::.*"
                r"\(ddn::(BackwardArgs|ShardedArgs|cuda::(\w+Args|SegmentLists))\)$"
            )
            found = self.addresses()
            self._kernels = {name: at for name, at in found.items() if kernel.search(name)}
        return {
            name: bool(self._c.shim_was_launched(ctypes.c_void_p(address)))
            for name, address in self._kernels.items()
        }

    def launched(self) -> set[str]:
        """The names of the pooling kernels launched, with their template arguments but without
        namespaces."""
        return {
            re.sub(r"\(ddn::.*|^void |ddn::|cuda::", "", name)
            for name, launched in self.kernels().items()
            if launched
        }

    def forget_launches(self) -> None:
        self._c.shim_forget_launches()

    def _penalty(self, name: str) -> int:
        number = self._c.shim_penalty(name.encode())
        assert number >= 0, f"no penalty {name}"
        return number

    def _sets(self, problem: Problem) -> tuple[Any, ...]:
        x, penalty, alpha, weight, _, ptr = problem
        each = alpha if isinstance(alpha, np.ndarray) else None
        if each is not None:
            assert each.dtype == real_dtype(x)
            assert each.shape == problem.shape()
            assert each.flags.c_contiguous
        sets = _Sets(
            _dtype_number(x),
            self._penalty(penalty),
            self._input(ptr),
            self._array(problem, x, writable=False),
            self._input(each),
            math.nan if each is not None else alpha,
            self._array(problem, weight, writable=False),
            0 if weight is None else _dtype_number(weight),
        )
        return (ctypes.byref(sets),)

    def _pointer(self, array: np.ndarray | None, writable: bool = True) -> ctypes.c_void_p:
        """The pointer to an array for the kernels of the next call."""
        return ctypes.c_void_p(None if array is None else array.ctypes.data)

    def _input(self, array: np.ndarray | None) -> ctypes.c_void_p:
        return self._pointer(array, writable=False)

    def _array(self, problem: Problem, t: np.ndarray | None, writable: bool = True) -> _Array:
        """The arguments for a tensor of the shape of the problem's x, which has to stay alive."""
        if t is None:
            return _Array()
        assert t.shape == problem.x.shape
        layout = layout_of(t, problem.set_rank, problem.ptr)
        data = self._pointer(t, writable)
        return _Array(data, ctypes.cast(layout, ctypes.POINTER(ctypes.c_int64)))

    def _call(self, function, *arguments) -> int:
        code = function(*arguments)
        message = self._c.shim_error().decode()
        self._c.shim_clear_error()
        if message or code > 0:
            raise ShimError(f"{message or 'no message'} (cudaError {code})")
        return code


def in_every_schedule(shim, run):
    """The arrays that run() returns, which must be bitwise equal in every schedule."""
    expected = None
    for schedule in SCHEDULES:
        shim.configure(*schedule)
        found = [np.array(part) for part in run()]
        expected = expected or found
        for part, same in zip(found, expected, strict=True):
            np.testing.assert_array_equal(part, same, err_msg=str(schedule))
    return expected
