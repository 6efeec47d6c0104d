"""The CUDA kernels, compiled for the host: segments, 16-bit points, and second derivatives."""

import itertools

import numpy as np
import pytest
import torch

import ddn_cuda  # noqa: F401
from tests.support import reference as ref
from tests.support import sets
from tests.support.cuda_shim.shim import BFloat16, Direction, in_every_schedule
from tests.support.sweeps import sweep

OPS = torch.ops.ddn
DTYPES = (np.float32, np.float64)
SOLVERS = [(p, "local") for p in ref.PENALTIES] + [(p, "global") for p in ref.NONCONVEX]


def points(n, dtype, count=3, seed=0):
    return sets.contaminated(np.random.default_rng([seed, n]), count, n).astype(dtype)


# ---- Segments ------------------------------------------------------------------------------------

# Lengths on both sides of the limits between kernels, including zero. The first and last rows
# belong to no segment.
LENGTHS = {
    ("local", np.float32): (3, 0, 1024, 1025, 1, 16_385, 0),
    ("local", np.float64): (3, 0, 512, 513, 1, 8193, 0),
    ("global", np.float32): (3, 0, 64, 1025, 2048, 2049, 1, 8193, 0),
    ("global", np.float64): (3, 0, 64, 513, 1024, 1025, 1, 4097, 0),
}


def segments(solver, dtype, channels):
    ptr = np.cumsum([1, *LENGTHS[solver, dtype]])
    x = points(channels, dtype, int(ptr[-1]) + 2)
    return x, ptr


@pytest.mark.parametrize(("penalty", "solver"), SOLVERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_segments_give_what_dense_sets_give(penalty, solver, dtype, weighted, shim):
    """Bitwise, for answers and the gradients of points and weights."""
    x, ptr = segments(solver, dtype, 2)
    # With weights the limits between kernels are at half the size.
    weight = np.random.default_rng(5).random(x.shape).astype(dtype) if weighted else None
    wanted = ("points", "weights") if weighted else ("points",)

    def run():
        answer = shim.forward(x, penalty, solver=solver, weight=weight, ptr=ptr)
        grad = np.ldexp(1.0, np.arange(answer.y.size) % 5).astype(dtype)
        gradients = [
            shim.backward(grad, x, answer, penalty, weight=weight, ptr=ptr, of=of) for of in wanted
        ]
        return (*answer, *gradients)

    y, remainder, curvature, *gradients = in_every_schedule(shim, run)
    shim.configure()
    for s, (begin, end) in enumerate(itertools.pairwise(ptr)):
        at = slice(2 * s, 2 * s + 2)
        if begin == end:
            assert not any(part[at].any() for part in (y, remainder, curvature))
            continue
        part = x[begin:end].T
        part_weight = None if weight is None else weight[begin:end].T
        answer = shim.forward(part, penalty, solver=solver, weight=part_weight)
        np.testing.assert_array_equal((y[at], remainder[at], curvature[at]), answer)
        grad = np.ldexp(1.0, np.arange(y.size) % 5).astype(dtype)[at]
        for of, found in zip(wanted, gradients, strict=True):
            expected = shim.backward(grad, part, answer, penalty, weight=part_weight, of=of)
            np.testing.assert_array_equal(found[begin:end].T, expected)
    for gradient in gradients:
        assert not gradient[:1].any()
        assert not gradient[ptr[-1] :].any()


def test_no_points_and_no_segments(penalty, shim):
    for rows, ptr in ((0, [0, 0, 0]), (5, [0]), (0, [0])):
        x, offsets = np.zeros((rows, 3), np.float32), np.array(ptr)
        answer = shim.forward(x, penalty, solver="global", ptr=offsets)
        assert answer.y.shape == (3 * (len(ptr) - 1),)
        assert not np.any(answer)
        for of in ("points", "weights", "alpha"):
            grad = np.ones_like(answer.y)
            assert not shim.backward(grad, x, answer, penalty, ptr=offsets, of=of).any()


# ---- Points of 16 bits ---------------------------------------------------------------------------


def as_float16(x):
    return x.astype(np.float16)


def as_bfloat16(x):
    bits = torch.from_numpy(x).to(torch.bfloat16).view(torch.uint16).numpy()
    return np.ascontiguousarray(bits).view(BFloat16)


def widened(x):
    if isinstance(x, BFloat16):
        bits = np.asarray(x).astype(np.uint32) << 16
        return bits.view(np.float32)
    return x.astype(np.float32)


@pytest.mark.parametrize("narrow", [as_float16, as_bfloat16])
@pytest.mark.parametrize(("penalty", "solver"), SOLVERS)
@pytest.mark.parametrize("n", [33, 1025, 16_500])
def test_sixteen_bits_are_widened_and_rounded_once(narrow, penalty, solver, n, shim):
    x = narrow(points(n, np.float32))
    wide = widened(x)
    answer = in_every_schedule(shim, lambda: shim.forward(x, penalty, solver=solver))
    y, remainder, curvature = answer
    shim.configure()
    expected = shim.forward(wide, penalty, solver=solver)
    unrounded = expected.y.astype(np.float64) + expected.remainder
    np.testing.assert_array_equal(curvature, expected.curvature)
    y = y.view(type(x))
    np.testing.assert_array_equal(y, narrow(unrounded.astype(np.float32)))
    np.testing.assert_allclose(widened(y) + remainder.astype(np.float64), unrounded, rtol=3e-7)
    found = type(expected)(y, remainder, curvature)
    grad = narrow(np.ones(len(x), np.float32))
    gradient = shim.backward(grad, x, found, penalty)
    full = shim.backward(np.ones(len(x), np.float32), wide, expected, penalty)
    # The unrounded answer is computed in a different way; the last of 24 bits may differ.
    spacing = 2.0**-7 if isinstance(x, BFloat16) else 2.0**-10
    np.testing.assert_allclose(widened(gradient), full, rtol=spacing, atol=1e-7)


@pytest.mark.parametrize("weight_dtype", [bool, np.float16, np.float32, np.float64, BFloat16])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", sweep([33, 1025, 9000], [33, 1025]))
def test_weights_are_read_in_their_type(weight_dtype, dtype, penalty, n, shim):
    rng = np.random.default_rng(n)
    x, w = points(n, dtype), rng.integers(0, 3, (len(points(n, dtype)), n)) * 0.75
    given = (
        as_bfloat16(w.astype(np.float32)) if weight_dtype is BFloat16 else w.astype(weight_dtype)
    )
    same = (w > 0).astype(dtype) if weight_dtype is bool else w.astype(dtype)
    direction = Direction(*(rng.standard_normal(x.shape).astype(dtype) for _ in range(2)))
    grad = np.ones(len(x), dtype)
    for solver in ("local", "global"):
        answer = shim.forward(x, penalty, solver=solver, weight=given)
        expected = shim.forward(x, penalty, solver=solver, weight=same)
        np.testing.assert_array_equal(answer, expected)
    for options in ({}, {"direction": direction}):
        for of in ("points", "weights", "alpha"):
            found, wanted = (
                shim.backward(grad, x, answer, penalty, weight=weight, of=of, **options)
                for weight in (given, same)
            )
            np.testing.assert_array_equal(found, wanted)
    rows, same_rows = (np.ascontiguousarray(t.T).view(type(t)) for t in (given, same))
    ptr = np.array([0, 5, 5, n])
    answer, expected = (shim.forward(x.T, penalty, weight=t, ptr=ptr) for t in (rows, same_rows))
    np.testing.assert_array_equal(answer, expected)
    grad = np.ones(3 * len(x), dtype)
    np.testing.assert_array_equal(
        shim.backward(grad, x.T, answer, penalty, weight=rows, ptr=ptr),
        shim.backward(grad, x.T, answer, penalty, weight=same_rows, ptr=ptr),
    )


# ---- Sums over a set: alpha's gradient, and second derivatives -----------------------------------


def on_cpu(x, weight, alpha, penalty, ptr):
    """The arguments of the CPU operators, and their answer."""
    tensors = [torch.from_numpy(np.ascontiguousarray(t)) for t in (x, weight, alpha)]
    points_, weights, alphas = tensors
    offsets = None if ptr is None else torch.from_numpy(ptr)
    dim = [1] if ptr is None else [0]
    problem = (penalty, 1.0, alphas, weights, offsets, dim)
    return points_, problem, OPS._robust_pool_forward(points_, *problem, "local", None, None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "ragged"), [(9, False), (1024, False), (1025, False), (300, True)])
def test_derivatives_are_those_of_the_cpu(penalty, dtype, n, ragged, shim):
    """Other tests compare the CPU's derivatives with finite differences."""
    rng = np.random.default_rng(n)
    x = points(n, dtype, 5).T if ragged else points(n, dtype, 5)
    ptr = np.array([0, 0, 100, 299]) if ragged else None
    count = 15 if ragged else 5
    weight = rng.random(x.shape).astype(dtype)
    weight.flat[::7] = 0
    alpha = (1 + rng.random(count)).astype(dtype)
    shape = (3, 5) if ragged else (5, 1)
    points_, problem, answer = on_cpu(x, weight, alpha.reshape(shape), penalty, ptr)
    direction = Direction(
        rng.standard_normal(x.shape).astype(dtype),
        rng.standard_normal(x.shape).astype(dtype),
        rng.standard_normal(count).astype(dtype),
    )
    moving = [torch.from_numpy(np.ascontiguousarray(t)) for t in direction]
    moving[2] = moving[2].reshape(shape)
    grad = np.ldexp(1.0, np.arange(count) % 5).astype(dtype)
    grads = torch.from_numpy(grad).reshape(shape)
    given = (points_, *answer, *problem)
    first = OPS._robust_pool_backward(grads, *given, [True] * 3)
    second = OPS._robust_pool_double_backward(grads, *moving, *given, [True] * 3)
    tangent = OPS._robust_pool_jvp(*moving, *given)
    expected = dict(zip(("points", "weights", "alpha"), first, strict=True))
    expected |= dict(zip(("points'", "weights'", "alpha'"), second, strict=True))
    expected |= {"answer'": tangent}

    def run():
        found = type(shim_answer)(*(t.numpy().reshape(-1) for t in answer))
        return [
            shim.backward(
                grad,
                x,
                found,
                penalty,
                alpha,
                weight=weight,
                ptr=ptr,
                of=name.rstrip("'"),
                **({"direction": direction} if name.endswith("'") else {}),
            )
            for name in expected
        ]

    shim_answer = shim.forward(x, penalty, alpha, weight=weight, ptr=ptr)
    # Sums of some hundred terms of either sign, each accurate to a few roundings.
    tolerance = 2e-4 if dtype == np.float32 else 1e-12
    for name, result in zip(expected, in_every_schedule(shim, run), strict=True):
        wanted = expected[name].numpy().reshape(result.shape)
        scale = np.abs(wanted).max() or 1
        np.testing.assert_allclose(
            result / scale, wanted / scale, rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "ragged"), [(9, False), (1025, False), (300, True)])
def test_unused_nan_answers_send_zero_back(penalty, dtype, n, ragged, shim):
    """Sets 0 and 1 have NaN answers. The loss does not use 0, or 0 has no tangents."""
    x = points(n, dtype)
    x[:2, n // 2] = np.nan
    weight = np.ones_like(x)
    tangent = np.ones_like(x)
    tangent[0] = 0
    if ragged:
        x, weight, tangent = (t.reshape(-1, 1) for t in (x, weight, tangent))
    options = {"weight": weight, "ptr": np.array([0, n, 2 * n, 3 * n]) if ragged else None}
    alpha = np.ones(3, dtype)
    answer = shim.forward(x, penalty, alpha, **options)
    assert np.isnan(answer.y).tolist() == [True, True, False]
    grad = np.array([0, 1, 1], dtype)
    moving = Direction(tangent, tangent, np.array([0, 1, 1], dtype))

    def kinds(found):
        found = found.reshape(3, -1)
        assert not found[0].any()
        assert np.isnan(found[1]).all()
        assert np.isfinite(found[2]).all()

    for of in ("points", "weights", "alpha"):
        kinds(shim.backward(grad, x, answer, penalty, alpha, of=of, **options))
        ones = np.ones(3, dtype)  # zero because of the direction, then because of the gradient
        kinds(shim.backward(ones, x, answer, penalty, alpha, of=of, direction=moving, **options))
        whole = Direction(np.ones_like(x), np.ones_like(x), ones)
        kinds(shim.backward(grad, x, answer, penalty, alpha, of=of, direction=whole, **options))
    kinds(shim.backward(grad, x, answer, penalty, alpha, of="answer", direction=moving, **options))


@pytest.mark.parametrize("n", [33, 1030])
def test_parts_of_a_direction_may_be_missing(penalty, n, dtype, shim):
    """The derivative is linear in the direction."""
    real = np.float64 if dtype == torch.float64 else np.float32
    x = points(n, real)
    rng = np.random.default_rng(1)
    alpha = (1 + rng.random(3)).astype(real)
    answer = shim.forward(x, penalty, alpha)
    whole = Direction(rng.standard_normal(x.shape).astype(real), None, alpha)
    grad = np.ones(3, real)
    parts = [Direction(x=whole.x), Direction(alpha=whole.alpha)]
    for of in ("answer", "points", "alpha"):
        both, first, second = (
            shim.backward(grad, x, answer, penalty, alpha, of=of, direction=direction)
            for direction in (whole, *parts)
        )
        tolerance = 1e-12 if real == np.float64 else 1e-5
        np.testing.assert_allclose(first + second, both, rtol=1e-3, atol=tolerance)
