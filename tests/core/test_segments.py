"""Ragged sets: every segment gives the bits of `robust_pool` for its rows."""

import itertools
import re

import pytest
import torch

import ddn_cuda

LENGTHS = {
    "mixed": [5, 0, 1, 33, 2, 200, 7],
    "empty_at_the_ends": [0, 0, 3, 0, 5, 0],
    "one": [40],
    "all_empty": [0, 0, 0],
    "none": [],
    "one_huge_among_tiny": [1, 2] * 10 + [20_000] + [3, 0] * 10,
}
CHANNELS = [(), (3,), (2, 3)]


def offsets(lengths, device):
    return torch.tensor([0, *itertools.accumulate(lengths)], device=device)


def ragged(lengths, channels, dtype, device):
    """Points, offsets, weights, and an alpha per segment and channel."""
    rows = sum(lengths)
    x = 2 * torch.randn(rows, *channels, dtype=dtype)
    weight = 0.5 + torch.rand(rows, *channels, dtype=dtype)
    alpha = 0.5 + torch.rand(len(lengths), *channels, dtype=dtype)
    return (x.to(device), offsets(lengths, device), weight.to(device), alpha.to(device))


def upstream(y):
    """An upstream gradient of y's shape."""
    numbers = torch.linspace(0.5, 2, y.numel(), dtype=y.dtype, device=y.device)
    return numbers.reshape(y.shape)


def pooled(pool, *inputs, grad=None):
    """The answer, and the gradients of all inputs."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    y = pool(*leaves)
    return y.detach(), torch.autograd.grad(y, leaves, upstream(y) if grad is None else grad)


def by_hand(penalty, ptr, x, weight, alpha):
    """The same from a separate pool of each segment."""
    y = torch.zeros_like(alpha)
    up, points = upstream(y), [x] if weight is None else [x, weight]
    grads = [torch.zeros_like(t) for t in (*points, alpha)]

    def pool(x, *others):
        w, a = (None, *others)[-2:]
        return ddn_cuda.robust_pool(x, penalty, a, dim=0, weight=w)

    for s, (start, stop) in enumerate(itertools.pairwise(ptr.tolist())):
        if start == stop:
            continue
        rows = slice(start, stop)
        y[s], found = pooled(pool, *(t[rows] for t in points), alpha[s], grad=up[s])
        for into, g in zip([*(g[rows] for g in grads[:-1]), grads[-1][s]], found, strict=True):
            into.copy_(g)
    return y, grads


def assert_all_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize("name", LENGTHS)
def test_each_segment_is_a_set(name, channels, penalty, device, dtype):
    x, ptr, weight, alpha = ragged(LENGTHS[name], channels, dtype, device)
    y, grads = pooled(
        lambda x, w, a: ddn_cuda.segment_robust_pool(x, ptr, penalty, a, weight=w),
        *(x, weight, alpha),
    )
    assert y.shape == (len(LENGTHS[name]), *channels)
    assert y.dtype == dtype
    expected, expected_grads = by_hand(penalty, ptr, x, weight, alpha)
    assert torch.equal(y, expected)
    assert_all_equal(grads, expected_grads)
    y, grads = pooled(lambda x, a: ddn_cuda.segment_robust_pool(x, ptr, penalty, a), x, alpha)
    expected, expected_grads = by_hand(penalty, ptr, x, None, alpha)
    assert torch.equal(y, expected)
    assert_all_equal(grads, expected_grads)


@pytest.mark.parametrize("solver", ["local", "global"])
def test_the_padded_and_masked_pool_gives_the_same(solver, penalty, device, dtype):
    lengths = LENGTHS["mixed"]
    x, ptr, weight, alpha = ragged(lengths, (3,), dtype, device)
    longest = max(lengths)
    mask = torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]
    at = mask.flatten().nonzero().flatten()

    def dense(x, weight, alpha):
        def padded(t):
            full = t.new_zeros(len(lengths) * longest, 3).index_copy(0, at, t)
            return full.reshape(len(lengths), longest, 3)

        weights = mask[..., None] if weight is None else padded(weight)
        return ddn_cuda.robust_pool(
            padded(x), penalty, alpha[:, None], dim=1, weight=weights, solver=solver
        )

    def segments(x, weight, alpha):
        return ddn_cuda.segment_robust_pool(x, ptr, penalty, alpha, weight=weight, solver=solver)

    for inputs, faces in (
        ((x, weight, alpha), (segments, dense)),
        (
            (x, alpha),
            (lambda x, a: segments(x, None, a), lambda x, a: dense(x, None, a)),
        ),
    ):
        (y, grads), (expected, expected_grads) = (pooled(face, *inputs) for face in faces)
        for a, b in zip((y, *grads), (expected, *expected_grads), strict=True):
            if device.type == "cpu":
                assert torch.equal(a, b)
            else:  # lanes have other points, so sums have another order
                eps = torch.finfo(dtype).eps
                torch.testing.assert_close(a, b, rtol=64 * eps, atol=64 * eps)


@pytest.mark.parametrize("alpha_shape", [(), (3,), (1, 3), (7, 1), (7, 3)], ids=str)
@pytest.mark.parametrize("weight_shape", [(), (3,), (248, 1), (1, 3)], ids=str)
def test_what_broadcasts(alpha_shape, weight_shape, penalty, device):
    """Bitwise equal to the answers for expanded tensors; gradients are their sums."""
    dtype = torch.float64
    x, ptr, *_ = ragged(LENGTHS["mixed"], (3,), dtype, device)
    alpha = (0.5 + torch.rand(alpha_shape, dtype=dtype)).to(device)
    weight = (0.5 + torch.rand(weight_shape, dtype=dtype)).to(device)

    def pool(x, w, a):
        return ddn_cuda.segment_robust_pool(x, ptr, penalty, a, weight=w)

    y, (g, g_weight, g_alpha) = pooled(pool, x, weight, alpha)
    expected, grads = pooled(pool, x, weight.expand(248, 3).clone(), alpha.expand(7, 3).clone())
    assert torch.equal(y, expected)
    assert torch.equal(g, grads[0])
    for found, each in ((g_weight, grads[1]), (g_alpha, grads[2])):
        total = each.sum_to_size(found.shape or (1,)).reshape(found.shape)
        torch.testing.assert_close(found, total, rtol=1e-11, atol=1e-11)


def layouts(x):
    """Views of other numbers, (rows, channels) each."""
    wide = torch.cat([x, -x, 2 * x], dim=1)
    return {
        "transposed": x.T.contiguous().T,
        "sliced": wide[:, ::2],
        "every_other_row": wide[::2],
        "flipped": x.flip(0),
        "one_row_expanded": x[:1].expand(len(x), -1),
        "one_channel_expanded": x[:, :1].expand(-1, 4),
    }


@pytest.mark.parametrize("name", list(layouts(torch.zeros(2, 2))))
def test_strides(name, penalty, device, dtype):
    x, *_ = ragged(LENGTHS["mixed"], (3,), dtype, device)
    view = layouts(x)[name].detach()
    ptr = offsets([4, 0, 20, len(view) - 24], device)
    copy = view.clone(memory_format=torch.contiguous_format)
    y, (g,) = pooled(lambda x: ddn_cuda.segment_robust_pool(x, ptr, penalty, 0.7), view)
    expected, (expected_g,) = pooled(
        lambda x: ddn_cuda.segment_robust_pool(x, ptr, penalty, 0.7), copy
    )
    assert torch.equal(y, expected)
    assert torch.equal(g, expected_g)


def test_many_scattered_channel_dims(penalty, device, dtype):
    x = torch.randn((2,) * 9, dtype=dtype, device=device).permute(5, 7, 1, 3, 0, 2, 8, 6, 4)
    ptr = torch.tensor([0, 1, 2], device=device)
    y, (g,) = pooled(lambda x: ddn_cuda.segment_robust_pool(x, ptr, penalty), x)
    assert torch.equal(y, x)  # one point each
    assert torch.equal(g, torch.linspace(0.5, 2, 512, dtype=dtype).to(device).reshape(x.shape))


def test_no_points(penalty, device, dtype):
    for shape in ((0,), (0, 3), (4, 0)):
        x = torch.empty(shape, dtype=dtype, device=device)
        for ptr in ([0], [0, 0], [0, 0, 0]):
            y, (g,) = pooled(
                lambda x, ptr=ptr: ddn_cuda.segment_robust_pool(
                    x, torch.tensor(ptr, device=device), penalty
                ),
                x,
            )
            assert torch.equal(y, torch.zeros_like(y))
            assert y.shape == (len(ptr) - 1, *shape[1:])
            assert g.shape == shape


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same_bits(threads, penalty, dtype):
    x, ptr, weight, alpha = ragged(LENGTHS["one_huge_among_tiny"], (3,), dtype, "cpu")

    def run():
        y, grads = pooled(
            lambda x, w, a: ddn_cuda.segment_robust_pool(x, ptr, penalty, a, weight=w),
            *(x, weight, alpha),
        )
        return (y, *grads)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = run()
        torch.set_num_threads(threads)
        assert_all_equal(run(), expected)
    finally:
        torch.set_num_threads(before)


def test_the_info_is_that_of_the_sets(penalty, device, dtype):
    x, ptr, weight, alpha = ragged(LENGTHS["mixed"], (3,), dtype, device)
    y, info = ddn_cuda.segment_robust_pool(
        x, ptr, penalty, alpha, weight=weight, return_info=True, validate=True
    )
    assert torch.equal(y, ddn_cuda.segment_robust_pool(x, ptr, penalty, alpha, weight=weight))
    for s, (start, stop) in enumerate(itertools.pairwise(ptr.tolist())):
        if start == stop:
            assert (info.status[s] == ddn_cuda.Status.empty).all()
            assert not any(part[s].any() for part in info if part is not info.status)
            continue
        _, alone = ddn_cuda.robust_pool(
            *(x[start:stop], penalty, alpha[s]), dim=0, weight=weight[start:stop], return_info=True
        )
        for part, expected in zip(info, alone, strict=True):
            assert torch.equal(part[s], expected)


def test_solver_options_are_handed_on(device):
    x, ptr, *_ = ragged([40, 90], (3,), torch.float64, device)
    for options in ({"max_iter": 1}, {"tol": 0.5}, {"solver": "local", "max_iter": 2}):
        y = ddn_cuda.segment_robust_pool(x, ptr, "welsch", 0.3, **options)
        expected = [
            ddn_cuda.robust_pool(part, "welsch", 0.3, dim=0, **options)
            for part in x.split([40, 90])
        ]
        assert torch.equal(y, torch.stack(expected))
        assert not torch.equal(y, ddn_cuda.segment_robust_pool(x, ptr, "welsch", 0.3))


# ---- Offsets that are none -----------------------------------------------------------------------

BAD_OFFSETS = {
    "negative": ([-5, 3, 10], [0, 3, 10]),
    "beyond": ([0, 4, 99], [0, 4, 10]),
    "all_beyond": ([11, 12, 13], [10, 10, 10]),
    "all_negative": ([-3, -2, -1], [0, 0, 0]),
    "descending": ([0, 7, 3, 9], [0, 7, 7, 9]),
    "reversed": ([10, 5, 0], [10, 10, 10]),
    "not_from_the_start": ([2, 5, 8], [2, 5, 8]),
    "extremes": ([-(2**63), 2**63 - 1, 4, -1], [0, 10, 10, 10]),
}


@pytest.mark.parametrize("name", BAD_OFFSETS)
def test_offsets_are_clamped_and_made_ascending(name, penalty, device, dtype):
    """For any offsets, no memory outside x is read, and rows in no segment have zero gradients."""
    given, meant = BAD_OFFSETS[name]
    x, _, weight, _ = ragged([10], (3,), dtype, device)
    ptr, safe = (torch.tensor(values, device=device) for values in (given, meant))
    found, expected = (
        pooled(
            lambda x, w, ptr=ptr: ddn_cuda.segment_robust_pool(x, ptr, penalty, weight=w), x, weight
        )
        for ptr in (ptr, safe)
    )
    assert torch.equal(found[0], expected[0])
    assert_all_equal(found[1], expected[1])
    by_itself, grads = by_hand(penalty, safe, x, weight, x.new_ones(len(meant) - 1, 3))
    assert torch.equal(found[0], by_itself)
    assert_all_equal(found[1], grads[:2])
    covered = torch.zeros(10, dtype=torch.bool, device=device)
    covered[meant[0] : meant[-1]] = True
    for g in found[1]:
        assert not g[~covered].any()


def test_second_derivatives_of_rows_in_no_segment_are_zero(penalty, device):
    x, _, weight, _ = ragged([10], (3,), torch.float64, device)
    ptr = torch.tensor([2, 5, 8], device=device)
    x.requires_grad_()
    weight.requires_grad_()
    y = ddn_cuda.segment_robust_pool(x, ptr, penalty, 2.0, weight=weight)
    grads = torch.autograd.grad(y.sum(), (x, weight), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in grads), (x, weight))
    for g in second:
        assert not g[:2].any()
        assert not g[8:].any()
    assert second[1].any()


@pytest.mark.parametrize(
    ("ptr", "message"),
    [
        ([-1, 3], r"`ptr` holds -1; expected offsets from 0 to 10"),
        ([0, 11], r"`ptr` holds 11; expected offsets from 0 to 10"),
        ([0, 7, 3], r"`ptr` holds 3; expected offsets none of which is below the one before"),
    ],
)
def test_validate_tells_bad_offsets(ptr, message, device):
    x, *_ = ragged([10], (3,), torch.float32, device)
    with pytest.raises(ValueError, match=f"segment_robust_pool: {message}"):
        ddn_cuda.segment_robust_pool(x, torch.tensor(ptr, device=device), validate=True)


def test_validate_accepts_good_offsets(device):
    x, ptr, weight, alpha = ragged(LENGTHS["mixed"], (3,), torch.float32, device)
    y = ddn_cuda.segment_robust_pool(x, ptr, "huber", alpha, weight=weight, validate=True)
    assert torch.equal(y, ddn_cuda.segment_robust_pool(x, ptr, "huber", alpha, weight=weight))


POINTS = (10, 3)
OFFSETS = [0, 4, 10]
BAD = [  # arguments, the exception, the argument that it names, a pattern of its message
    ({"ptr": lambda: torch.tensor(OFFSETS, dtype=torch.int32)}, TypeError, "ptr", ("Int", "Long")),
    ({"ptr": lambda: torch.tensor([0.0, 4.0])}, TypeError, "ptr", ("Float", "Long")),
    ({"ptr": lambda: torch.tensor([OFFSETS])}, ValueError, "ptr", (r"\[1, 3\]", "one dim")),
    ({"ptr": lambda: torch.tensor(OFFSETS).to_sparse()}, TypeError, "ptr", ("[Ss]parse", "dense")),
    ({"ptr": lambda: torch.tensor(3)}, ValueError, "ptr", (r"\[\]", "one dim")),
    (
        {"ptr": lambda: torch.empty(0, dtype=torch.int64)},
        ValueError,
        "ptr",
        (r"\[0\]", "at least one"),
    ),
    (
        {"ptr": lambda: torch.empty(3, dtype=torch.int64, device="meta")},
        ValueError,
        "ptr",
        ("meta", "cpu|cuda", "same device"),
    ),
    ({"x": lambda: torch.tensor(1.0)}, ValueError, "x", ("0-dim", "first dim")),
    ({"x": lambda: torch.ones(POINTS, dtype=torch.int64)}, TypeError, "x", ("Long", "Half")),
    ({"weight": lambda: torch.ones(4, 1)}, ValueError, "weight", (r"\[4, 1\]", "broadcast")),
    ({"alpha": lambda: torch.ones(3, 1)}, ValueError, "alpha", (r"\[3, 1\]", "segments")),
    ({"alpha": lambda: torch.ones(10, 3)}, ValueError, "alpha", (r"\[10, 3\]", "broadcast")),
    ({"alpha": 0.0}, ValueError, "alpha", ("0", "1e-15")),
    ({"penalty": "l1"}, ValueError, "penalty", ("'l1'", "huber")),
    ({"solver": "newton"}, ValueError, "solver", ("'newton'", "'global'")),
    ({"max_iter": 0}, ValueError, "max_iter", ("0", "positive")),
    ({"tol": -1.0}, ValueError, "tol", ("-1", "positive")),
]


@pytest.mark.parametrize("face", ["function", "operator"])
@pytest.mark.parametrize(
    ("arguments", "error", "argument", "parts"),
    BAD,
    ids=[f"{row[2]}-{i}" for i, row in enumerate(BAD)],
)
def test_bad_input(arguments, error, argument, parts, face, device):
    with device:
        options = {k: v() if callable(v) else v for k, v in arguments.items()}
        x = options.pop("x", None)
        x = torch.ones(POINTS) if x is None else x
        ptr = options.pop("ptr", None)
        ptr = torch.tensor(OFFSETS) if ptr is None else ptr
    pool = ddn_cuda.segment_robust_pool if face == "function" else torch.ops.ddn.segment_robust_pool
    with pytest.raises(error) as raised:
        pool(x, ptr, **options)
    assert type(raised.value) is error
    message = str(raised.value).splitlines()[0]
    assert re.match(rf"segment_robust_pool: `{argument}` ", message), message
    for part in parts:
        assert re.search(part, message), f"{part!r} is not in {message!r}"


@pytest.mark.parametrize("ptr", [[0, 4, 10], None, 3])
def test_offsets_that_are_no_tensor(ptr):
    with pytest.raises(TypeError, match=r"segment_robust_pool: `ptr` is .*; expected an int64"):
        ddn_cuda.segment_robust_pool(torch.ones(POINTS), ptr)


def test_offsets_on_another_device(device):
    if device.type == "cpu":
        pytest.skip("needs two devices: the CPU and a CUDA device")
    x = torch.ones(POINTS, device=device)
    with pytest.raises(ValueError, match="`ptr` is on cpu"):
        ddn_cuda.segment_robust_pool(x, torch.tensor(OFFSETS))
