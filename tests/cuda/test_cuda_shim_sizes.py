"""The forward kernels of the local solver, compiled for the host: every size class with every
layout of points and weights, and the same bits whatever else is in the batch."""

import itertools

import numpy as np
import pytest
import torch

from tests.support import contract, sets
from tests.support import reference as ref
from tests.support.cuda_shim.shim import ORDERS, BFloat16, in_every_schedule

TORCH = {np.float32: torch.float32, np.float64: torch.float64}
DTYPES = (np.float32, np.float64)
ALPHA = 1.0
# Of the size classes of csrc/cuda/local.cuh, in ascending order.
GROUPS = ("Lanes<1>", "Lanes<1>", "Lanes<4>", "Lanes<16>", "Lanes<32>", "Block<128>", "Block<512>")


def limits(dtype, weighted):
    """The most points of a set in each class but the last one, for an arithmetic dtype."""
    point = np.dtype(dtype).itemsize * (2 if weighted else 1)
    lane = min(64, 512 // point)
    blocks = min(64 * 128, (64 << 10) // point), min(64 * 512, (128 << 10) // point)
    return (lane // 2, lane, 4 * lane, 16 * lane, 32 * lane, *blocks)


def kernel_of(n, penalty, dtype, weighted):
    """The name of the kernel that solves sets of n points on a device of compute capability 9.0."""
    name = {"huber": "Huber", "welsch": "Welsch"}[penalty]
    real = "double" if dtype == np.float64 else "float"
    flag = str(weighted).lower()
    for most, group in zip(limits(dtype, weighted), GROUPS, strict=True):
        if n <= most:
            if real == "double" and group in ("Lanes<4>", "Lanes<16>"):
                group = "Lanes<32>"  # fewer kernels for double precision
            return f"local_pipeline<{name}, {real}, {group}, {flag}>"
    return f"local_global_memory<{name}, {real}, {flag}>"


def points(n, dtype, count=2):
    return sets.contaminated(np.random.default_rng(n), count, n).astype(dtype)


def weights(x):
    """Weights over a range of 1e4, a fifth of them zero."""
    rng = np.random.default_rng(x.shape[-1])
    w = 10.0 ** rng.uniform(-2, 2, x.shape) * (rng.random(x.shape) < 0.8)
    w[:, 0] = 1
    return w.astype(x.dtype)


def assert_stationary(y, x, w, penalty, dtype):
    """The weighted objective has a minimum within the promised accuracy of y."""
    y, d = float(y), contract.accuracy(float(y), ALPHA, TORCH[dtype])
    at = [(w * ref.psi(u - x, penalty, ALPHA)).sum() for u in (y - d, y + d)]
    noise = 1e-14 * w.sum()
    assert at[0] <= noise, f"{len(x)} points: f'={at[0]} at {y} - {d}"
    assert at[1] >= -noise, f"{len(x)} points: f'={at[1]} at {y} + {d}"


def rounded(x, narrow):
    """x in 16 bits."""
    if narrow is np.float16:
        return x.astype(np.float16)
    bits = torch.from_numpy(x).to(torch.bfloat16).view(torch.uint16).numpy()
    return np.ascontiguousarray(bits).view(BFloat16)


def widened(x):
    if isinstance(x, BFloat16):
        return (np.asarray(x).astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32)


# ---- Sizes on both sides of a limit --------------------------------------------------------------


def sides(weighted):
    """(dtype, n): the limits of the classes, and one point more."""
    return [
        (dtype, most + more)
        for dtype in DTYPES
        for most in limits(dtype, weighted)
        for more in (0, 1)
    ]


@pytest.mark.parametrize(("dtype", "n"), sides(weighted=False))
@pytest.mark.parametrize("penalty", ["huber", "welsch"])
def test_sizes_at_the_limits(dtype, n, penalty, shim):
    x = points(n, dtype)
    shim.forget_launches()
    y, *_ = in_every_schedule(shim, lambda: shim.forward(x, penalty, ALPHA))
    assert shim.launched() == {kernel_of(n, penalty, dtype, weighted=False)}
    for one, answer in zip(x.astype(np.float64), y, strict=True):
        contract.assert_answer(float(answer), one, penalty, ALPHA, TORCH[dtype])


@pytest.mark.parametrize(("dtype", "n"), sides(weighted=True))
@pytest.mark.parametrize("penalty", ["huber", "welsch"])
def test_weighted_sizes_at_the_limits(dtype, n, penalty, shim):
    x = points(n, dtype)
    w = weights(x)
    shim.forget_launches()
    y, *_ = in_every_schedule(shim, lambda: shim.forward(x, penalty, ALPHA, weight=w))
    assert shim.launched() == {kernel_of(n, penalty, dtype, weighted=True)}
    for one, weight, answer in zip(x.astype(np.float64), w.astype(np.float64), y, strict=True):
        assert_stationary(answer, one, weight, penalty, dtype)


@pytest.mark.parametrize("narrow", [np.float16, BFloat16])
@pytest.mark.parametrize(
    "n", [size for dtype, size in sides(weighted=False) if dtype is np.float32]
)
def test_sixteen_bits_at_the_limits(narrow, n, shim):
    """Points of 16 bits, with and without weights, have the answers of the widened points."""
    x = rounded(points(n, np.float32), narrow)
    wide = widened(x)
    w = rounded(weights(wide), narrow)
    for options, same in (({}, {}), ({"weight": w}, {"weight": widened(w)})):
        found = shim.forward(x, "huber", ALPHA, **options)
        expected = shim.forward(wide, "huber", ALPHA, **same)
        np.testing.assert_array_equal(found.curvature, expected.curvature)
        unrounded = expected.y.astype(np.float64) + expected.remainder
        np.testing.assert_array_equal(found.y, rounded(unrounded.astype(np.float32), narrow))


@pytest.mark.parametrize("kind", [bool, np.float16, BFloat16, np.float32, np.float64])
@pytest.mark.parametrize(("dtype", "n"), sides(weighted=True))
def test_types_of_weights_at_the_limits(kind, dtype, n, shim):
    """Weights of another type have the answers of the same numbers in the type of the points."""
    x = points(n, dtype)
    w = np.random.default_rng(n).integers(0, 3, x.shape) * (1.0 if kind is bool else 0.75)
    given = rounded(w.astype(np.float32), kind) if kind is BFloat16 else w.astype(kind)
    same = given.astype(dtype) if kind is bool else w.astype(dtype)
    found, expected = (shim.forward(x, "huber", ALPHA, weight=t) for t in (given, same))
    np.testing.assert_array_equal(found, expected)


# ---- Layouts -------------------------------------------------------------------------------------


def layouts(x):
    """Copies of x [sets, n] as [sets, *pooled], by name: rows that begin at any multiple of the
    element, strided ones, points in two dims."""
    count, n = x.shape
    room = np.full(8 * x.size + 8, np.nan, x.dtype)
    found = {
        "offset of one": room[1 : 1 + x.size].reshape(count, n),
        "rows with gaps": room[: count * (n + 3)].reshape(count, n + 3)[:, :n],
        "aligned rows with gaps": room[: count * (n + 8)].reshape(count, n + 8)[:, :n],
        "every second point": room[: 2 * x.size].reshape(count, 2 * n)[:, 1::2],
        "channels last": room[: x.size].reshape(n, count).T,
        "reversed": room[: x.size].reshape(count, n)[::-1, ::-1],
    }
    if n % 3 == 0:
        parts = room[: 2 * x.size].reshape(count, 3, -1)
        found["two dims"] = parts[:, :, : n // 3]
        found["two dims, swapped"] = room[: x.size].reshape(n // 3, count, 3).transpose(1, 2, 0)
    for name, view in found.items():
        room[...] = np.nan
        view[...] = x.reshape(view.shape)
        yield name, view


# Odd ones, so that rows of a tensor are not aligned, and multiples of 4 and 3; in each class.
LAYOUT_SIZES = (7, 9, 27, 33, 57, 64, 111, 252, 1023, 1020, 1995, 2043, 4095, 9999, 33_003)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", LAYOUT_SIZES)
def test_layouts(dtype, n, shim):
    """Points and weights of any layout have the answers of contiguous ones."""
    count = 37 if n <= 64 else 9 if n <= 256 else 2
    x = points(n, dtype, count)
    w = weights(x)
    plain = shim.forward(x, "huber", ALPHA)
    weighted = shim.forward(x, "huber", ALPHA, weight=w)
    for k, ((name, view), (_, view_of_w)) in enumerate(zip(layouts(x), layouts(w), strict=True)):
        shim.configure(ORDERS[k % 3], k)
        found = shim.forward(view, "huber", ALPHA)
        np.testing.assert_array_equal(found, plain, err_msg=name)
        found = shim.forward(view, "huber", ALPHA, weight=view_of_w)
        np.testing.assert_array_equal(found, weighted, err_msg=name)
    found = shim.forward(x, "huber", ALPHA, weight=view_of_w.reshape(x.shape))
    np.testing.assert_array_equal(found, weighted)


@pytest.mark.parametrize("n", LAYOUT_SIZES)
def test_expanded_points_and_weights(n, shim):
    """Dims of stride 0, of the sets or of the points."""
    x = points(n, np.float32, 34 if n <= 64 else 3)
    w = weights(x)
    one_set, one_point = np.broadcast_to(x[1], x.shape), np.broadcast_to(x[:, :1], x.shape)
    one_row, ones = np.broadcast_to(w[1], x.shape), np.broadcast_to(np.float32(1), x.shape)
    cases = ((one_set, None), (one_point, None), (x, one_row), (x, ones), (one_set, w))
    for view, weight in cases:
        found = shim.forward(view, "huber", ALPHA, weight=weight)
        copies = [None if t is None else t.copy() for t in (view, weight)]
        expected = shim.forward(copies[0], "huber", ALPHA, weight=copies[1])
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(shim.forward(one_point, "huber", ALPHA).y, x[:, 0])


# ---- Segments ------------------------------------------------------------------------------------


def assert_segments(shim, x, ptr, penalty, weight):
    """Segments have the bits of dense sets."""
    channels = x.shape[1]
    answer = in_every_schedule(shim, lambda: shim.forward(x, penalty, ptr=ptr, weight=weight))
    shim.configure()
    for s, (begin, end) in enumerate(itertools.pairwise(ptr)):
        of_segment = [part[channels * s : channels * (s + 1)] for part in answer]
        if begin == end:
            assert not np.any(of_segment)
            continue
        rows = None if weight is None else weight[begin:end].T
        expected = shim.forward(x[begin:end].T, penalty, weight=rows)
        np.testing.assert_array_equal(of_segment, expected, err_msg=f"{end - begin} points")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 64])
def test_segments_of_all_classes(channels, dtype, weighted, shim):
    """In one tensor, with empty ones; 64 channels only up to the blocks of 128 threads."""
    classes = limits(dtype, weighted)[: 5 if channels == 64 else None]
    lengths = [0, *itertools.chain(*((most, 0, most + 1) for most in classes)), 0, 1, 5, 0]
    lengths = np.random.default_rng(channels).permutation([*lengths, *range(1, 40)])
    ptr = np.cumsum([1, *lengths])
    rng = np.random.default_rng(7)
    x = sets.contaminated(rng, int(ptr[-1]) + 2, channels).astype(dtype)
    weight = rng.random(x.shape).astype(dtype) if weighted else None
    shim.forget_launches()
    assert_segments(shim, x, ptr, "huber", weight)
    kernels = {kernel_of(n, "huber", dtype, weighted) for n in lengths}
    assert kernels <= shim.launched()


@pytest.mark.parametrize("lengths", [[0], [0, 0, 0], [1], [33] * 3, [65], [0, 300]])
def test_segments_of_one_class(lengths, shim):
    ptr = np.cumsum([0, *lengths])
    x = points(3, np.float32, int(ptr[-1]))
    assert_segments(shim, x, ptr, "huber", None)


# ---- The same bits whatever else is in the batch -------------------------------------------------

DEVICES: tuple[dict[str, int], ...] = (
    {},
    {"multiprocessors": 3},
    {"shared_kib": 164},
    {"shared_kib": 100},
)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [19, 57, 200, 1000, 1999, 5001, 16_000, 33_003])
def test_bits_do_not_depend_on_the_batch(n, dtype, weighted, shim):
    """A set alone, first and 33rd of many, beside larger ones, on other devices and in other orders
    of threads."""
    kernel = kernel_of(n, "huber", dtype, weighted)
    count = 40 if n <= 1000 else 3
    x = points(n, dtype, count)
    w = weights(x) if weighted else None

    def solve(at, **options):
        weight = None if w is None else w[at]
        return np.array(shim.forward(x[at], "huber", ALPHA, weight=weight, **options))

    later = min(32, count - 1)
    alone = [solve([i])[:, 0] for i in (0, later)]
    rows = [x[0], points(n + 301, dtype, 1)[0], x[0], points(5, dtype, 1)[0]]
    flat = np.concatenate(rows)[:, None]
    ptr = np.cumsum([0, *map(len, rows)])
    flat_w = np.concatenate([w[0], np.ones(n + 301), w[0], np.ones(5)]) if weighted else None
    for device, order in itertools.product(DEVICES, ORDERS[:: 1 if n <= 1000 else 2]):
        shim.use_device(**device)
        shim.configure(order, 5)
        shim.forget_launches()
        found = solve(slice(None))
        if kernel not in shim.launched():  # points in global memory take the place of large blocks
            assert "Block<512>" in kernel
            assert "shared_kib" in device
            continue
        for i, expected in zip((0, later), alone, strict=True):
            np.testing.assert_array_equal(found[:, i], expected, err_msg=f"{i} {device} {order}")
        weight = None if flat_w is None else flat_w.astype(dtype)[:, None]
        segments = np.array(shim.forward(flat, "huber", ALPHA, ptr=ptr, weight=weight))
        for i in (0, 2):
            np.testing.assert_array_equal(segments[:, i], alone[0], err_msg=f"{device} {order}")


@pytest.mark.parametrize(("dtype", "weighted"), [(np.float32, False), (np.float64, True)])
def test_little_shared_memory(dtype, weighted, shim):
    """Where a block has 99 KiB, large sets that fill 128 KiB stay in global memory."""
    n = limits(dtype, weighted)[-1]
    x = points(n, dtype)
    w = weights(x) if weighted else None
    shim.use_device(shared_kib=100)
    shim.forget_launches()
    y, *_ = in_every_schedule(shim, lambda: shim.forward(x, "huber", ALPHA, weight=w))
    assert shim.launched() == {kernel_of(1 << 20, "huber", dtype, weighted)}
    for i, one in enumerate(x.astype(np.float64)):
        weight = np.ones(n) if w is None else w[i].astype(np.float64)
        assert_stationary(y[i], one, weight, "huber", dtype)
    ptr = np.array([0, n, n, n + 3])
    flat = np.concatenate([x[0], x[1, :3]])[:, None]
    weight = None if w is None else np.concatenate([w[0], w[1, :3]])[:, None]
    found = shim.forward(flat, "huber", ALPHA, ptr=ptr, weight=weight)
    assert found.y[0] == y[0]


# Batches with so little shared memory that one warp or block solves all of them: sets, points, and
# the memory of a multiprocessor in KiB. Each of its stages has sets at least twice.
RINGS = (
    (300, 33, 48),
    (300, 20, 40),
    (75, 100, 48),
    (19, 400, 48),
    (9, 1000, 56),
    (5, 1281, 48),
    (5, 2055, 228),
    (5, 16_390, 228),
)


@pytest.mark.parametrize(("count", "n", "shared_kib"), RINGS)
@pytest.mark.parametrize("layout", ["rows", "columns", "bfloat16"])
def test_tiles_in_turn(count, n, shared_kib, layout, shim):
    """One block with as few warps as fit gives the bits of a large device."""
    x = points(n, np.float32, count)
    if layout == "columns":
        x = np.asfortranarray(x)
    if layout == "bfloat16":
        x = rounded(x, BFloat16)
    shim.use_device(multiprocessors=1000)
    expected = shim.forward(x, "huber", ALPHA)
    shim.use_device(shared_kib=shared_kib)
    for seed, order in enumerate(ORDERS):
        shim.configure(order, seed, most_blocks=1)
        np.testing.assert_array_equal(shim.forward(x, "huber", ALPHA), expected)
        found = shim.forward(x[::-1], "huber", ALPHA)
        np.testing.assert_array_equal([part[::-1] for part in found], expected)


@pytest.mark.parametrize(
    ("count", "n", "shared_kib"), [(150, 20, 48), (10, 600, 64), (5, 4000, 228)]
)
def test_weighted_tiles_in_turn(count, n, shared_kib, shim):
    x = points(n, np.float64, count)
    w = weights(x)
    shim.use_device(multiprocessors=1000)
    expected = shim.forward(x, "welsch", ALPHA, weight=w)
    shim.use_device(shared_kib=shared_kib)
    for seed, order in enumerate(ORDERS):
        shim.configure(order, seed, most_blocks=1)
        found = shim.forward(x, "welsch", ALPHA, weight=w)
        np.testing.assert_array_equal(found, expected)
