"""The backward kernels, compiled for the host: tiles of contiguous tensors, and offsets of
segments. The gradients of each set must have the bits that the set has by itself in a strided
tensor, which another kernel computes."""

import itertools

import numpy as np
import pytest
import torch

from bench.gpu_model.points import aligned
from tests.support.cuda_shim.shim import Answer, BFloat16, in_every_schedule, real_dtype

DTYPES = (np.float32, np.float64, np.float16, BFloat16)


def as_dtype(x, dtype):
    if dtype is not BFloat16:
        return aligned(x.astype(dtype))
    bits = torch.from_numpy(np.ascontiguousarray(x)).to(torch.bfloat16).view(torch.uint16).numpy()
    return aligned(bits).view(BFloat16)


def spread(x):
    """The same numbers with gaps between neighbours, which only the strided kernel takes."""
    wide = np.zeros((*x.shape, 2), x.dtype).view(type(x))
    wide[..., 0] = x
    return wide[..., 0]


def invented(shape, count, dtype, seed=0):
    """Points, incoming gradients, and answers that need not be right."""
    rng = np.random.default_rng([seed, count, *shape])
    x = as_dtype(rng.standard_normal(shape) * 2, dtype)
    real = real_dtype(x)
    y = as_dtype(rng.standard_normal(count), dtype)
    curvature = (rng.random(count) + 0.5).astype(real)
    curvature[::5] = 0
    answer = Answer(y, (rng.standard_normal(count) * 1e-3).astype(real), curvature)
    return x, answer, as_dtype(rng.standard_normal(count), dtype)


def gradients(shim, x, answer, grad, penalty, weight=None, is_aligned=True, **options):
    """In every schedule: of points without weights, and of points and weights with weights."""
    shim.aligned = is_aligned
    alpha = (1 + np.arange(grad.size) % 3 / 2).astype(real_dtype(x))

    def run():
        yield gradient("points", None)
        if weight is not None:
            yield gradient("points", weight)
            yield gradient("weights", weight)

    def gradient(of, weight):
        # In the memory order of x, as PyTorch allocates it.
        into = aligned(np.asarray(x).astype(x.dtype if of == "points" else real_dtype(x)))
        into[...] = 0x7FC0 if into.dtype == np.uint16 else np.nan
        into = into.view(type(x)) if of == "points" else into
        options_ = {"weight": weight, "into": into, **options}
        return shim.backward(grad, x, answer, penalty, alpha, of=of, **options_)

    try:
        return in_every_schedule(shim, run)
    finally:
        shim.aligned = False


def assert_same(found, expected):
    for part, same in zip(found, expected, strict=True):
        np.testing.assert_array_equal(part, same)


# Around the vectors of all dtypes, the tiles and the tables of shared values.
POINTS = [(700, 1), (300, 2), (500, 3), (9, 7), (100, 10), (7, 31), (50, 64), (5, 1023), (5, 1025),
          (3, 4099), (2, 20_001)]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "n"), POINTS)
def test_rows(count, n, dtype, shim):
    x, answer, grad = invented((count, n), count, dtype)
    expected = gradients(shim, spread(x), answer, grad, "welsch")
    assert_same(gradients(shim, x, answer, grad, "welsch"), expected)
    misaligned = aligned(np.zeros(x.size + 1, x.dtype)).view(type(x))[1:].reshape(x.shape)
    misaligned[...] = x
    assert_same(gradients(shim, misaligned, answer, grad, "welsch", is_aligned=False), expected)


@pytest.mark.parametrize("dtype", [np.float32, BFloat16])
@pytest.mark.parametrize(
    ("batch", "n", "channels"),
    [(3, 5, 2), (2, 300, 3), (4, 49, 64), (2, 9, 511), (2, 3, 520), (1, 5, 1048), (2, 2, 1031)],
)
def test_channels_last(batch, n, channels, dtype, shim):
    x, answer, grad = invented((batch, n, channels), batch * channels, dtype)
    last = x.transpose(0, 2, 1)
    options = {"set_rank": 2}
    found = gradients(shim, last, answer, grad, "huber", **options)
    assert_same(found, gradients(shim, spread(last), answer, grad, "huber", **options))


WEIGHTS = {
    "of each point": lambda w: w,
    "of sets": lambda w: np.broadcast_to(w[..., :1], w.shape),
    "of a broadcast set": lambda w: np.broadcast_to(w[(0,) * (w.ndim - 1)], w.shape),
    "reversed": lambda w: w[..., ::-1],
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 13), (3, 2500), (3, 70, 5)])
def test_weights(shape, dtype, kind, shim):
    channels_last = len(shape) == 3
    count = shape[0] * (shape[2] if channels_last else 1)
    x, answer, grad = invented(shape, count, dtype)
    weight = np.random.default_rng(3).random(x.shape).astype(np.float32)
    if channels_last:
        x, weight = x.transpose(0, 2, 1), weight.transpose(0, 2, 1)
    weight = WEIGHTS[kind](weight)
    options = {"weight": weight, "set_rank": 2 if channels_last else 1}
    found = gradients(shim, x, answer, grad, "pseudo_huber", **options)
    assert_same(found, gradients(shim, spread(x), answer, grad, "pseudo_huber", **options))


LENGTHS = {
    "short": lambda rng: rng.integers(1, 31, 300),
    "more than a table holds": lambda rng: rng.integers(0, 4, 1500),
    "mostly empty": lambda rng: np.where(rng.random(9000) < 0.1, rng.integers(0, 9, 9000), 0),
    "long": lambda rng: np.array([3, 9000, 0, 0, 5000, 1, 7]),
    "one": lambda rng: np.array([6000]),
    "empty": lambda rng: np.zeros(7, int),
}


# Channels, and rows before and after the segments.
ROWS = [(c, b, a) for c in (1, 3) for b, a in ((0, 0), (5, 3), (4200, 5000))]
WIDE = [(64, 0, 0), (64, 5, 3)]
SEGMENTS = [*itertools.product(LENGTHS, ROWS)]
SEGMENTS += itertools.product(("short", "more than a table holds", "empty"), WIDE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("lengths", "sizes"), SEGMENTS)
def test_segments(lengths, sizes, dtype, shim):
    channels, before, after = sizes
    sizes = LENGTHS[lengths](np.random.default_rng(1))
    ptr = np.concatenate([[before], before + np.cumsum(sizes)]).astype(np.int64)
    rows = int(ptr[-1]) + after
    x, answer, grad = invented((rows, channels), len(sizes) * channels, dtype)
    if rows > 0:
        x[0] = x[-1] = np.nan if dtype is not BFloat16 else 0x7FC0
    weight = np.random.default_rng(3).random((rows, channels)).astype(np.float32)
    for w in (None, weight, np.broadcast_to(weight[:, :1], weight.shape)):
        options = {"weight": w, "ptr": ptr}
        found = gradients(shim, x, answer, grad, "truncated_quadratic", **options)
        strided = gradients(shim, spread(x), answer, grad, "truncated_quadratic", **options)
        assert_same(found, strided)
        for part in found:
            assert not part[:before].any()
            assert not part[ptr[-1] :].any()
        if w is None:
            continue
        for s, (begin, end) in list(enumerate(itertools.pairwise(ptr)))[:20]:
            at = slice(s * channels, (s + 1) * channels)
            part = [t[at] for t in answer]
            inside = shim.backward(
                grad[at], x[begin:end].T, Answer(*part), "truncated_quadratic",
                (1 + np.arange(grad.size) % 3 / 2).astype(real_dtype(x))[at], weight=w[begin:end].T,
            )  # fmt: skip
            np.testing.assert_array_equal(found[1][begin:end].T, inside)


OFFSETS = {
    "good": [0, 3, 3, 10],
    "out of range": [-5, 3, 99, 2**63 - 1, -(2**63)],
    "descending": [9, 8, 7, 10, 0],
    "one": [4],
}


@pytest.mark.parametrize("name", OFFSETS)
def test_offsets(name, shim):
    assert_offsets(shim, np.array(OFFSETS[name]), 10)


@pytest.mark.parametrize("count", [31, 32, 33, 255, 257, 2047, 2048, 2049, 5000, 70_001])
def test_offsets_of_many_segments(count, shim):
    rng = np.random.default_rng(count)
    rising = np.cumsum(rng.integers(0, 5, count))
    assert_offsets(shim, rising, int(rising[-1]))
    assert_offsets(shim, rising[::-1].copy(), int(rising[0]) + 7)
    rare = np.where(rng.random(count) < 0.01, rng.integers(0, 2 * count, count), -1)
    assert_offsets(shim, rare, count)


def assert_offsets(shim, given, rows):
    (found,) = in_every_schedule(shim, lambda: [shim.offsets(given, rows)])
    np.testing.assert_array_equal(found, np.maximum.accumulate(np.clip(given, 0, rows)))
