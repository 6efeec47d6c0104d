"""Ragged sets: every segment gives the bits of `robust_pool` for its rows."""

import itertools

import pytest
import torch

import ddn_cuda
from tests.support.segments import assert_all_equal, by_hand, offsets, pooled, ragged

LENGTHS = {
    "mixed": [5, 0, 1, 33, 2, 200, 7],
    "empty_at_the_ends": [0, 0, 3, 0, 5, 0],
    "one": [40],
    "all_empty": [0, 0, 0],
    "none": [],
    "one_huge_among_tiny": [1, 2] * 10 + [20_000] + [3, 0] * 10,
}
CHANNELS = [(), (3,), (2, 3)]


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
