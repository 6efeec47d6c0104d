"""The answer does not depend on the dims and strides of a set, bitwise."""

import itertools

import pytest
import torch

import ddn_cuda


def assert_same(view, penalty, alpha=0.7, **options):
    """Asserts bitwise equality with the answer for the contiguous copy."""
    y = ddn_cuda.robust_pool(view, penalty, alpha, **options)
    copy = view.clone(memory_format=torch.contiguous_format)
    assert torch.equal(y, ddn_cuda.robust_pool(copy, penalty, alpha, **options))


@pytest.mark.parametrize(
    "lead", [(), (1,), (7,), (2, 3), (2, 1, 3), (2, 1, 2, 1, 2, 1, 2, 2, 1, 2)]
)
def test_any_number_of_leading_dims(lead, penalty, device, dtype):
    x = torch.randn(*lead, 40, dtype=dtype, device=device)
    y = ddn_cuda.robust_pool(x, penalty)
    assert y.shape == lead
    flat = ddn_cuda.robust_pool(x.reshape(-1, 40), penalty)
    assert torch.equal(y.flatten(), flat)


def test_dims_that_no_merging_joins(penalty, device, dtype):
    """Twelve dims, no two of which can be merged."""
    x = torch.randn((2,) * 12, dtype=dtype, device=device)
    x = x.permute(11, 9, 7, 5, 3, 1, 0, 2, 4, 6, 8, 10)
    for dim in (0, (1, 4, 9), tuple(range(1, 12)), tuple(range(11))):
        assert_same(x, penalty, dim=dim)


DIMS = [-1, 0, 1, -3, (0,), (0, 1), (2, 0), (-1, 1), (1, -1, 0), (), [0, 2]]


@pytest.mark.parametrize("dim", DIMS, ids=str)
@pytest.mark.parametrize("keepdim", [False, True])
def test_dims_are_pooled_as_torch_mean_pools_them(dim, keepdim, penalty, device, dtype):
    x = torch.randn(4, 5, 6, dtype=dtype, device=device)
    y = ddn_cuda.robust_pool(x, penalty, dim=dim, keepdim=keepdim)
    named = dim if isinstance(dim, int) else tuple(dim)
    mean = x.mean(named, keepdim=keepdim)
    assert y.shape == mean.shape
    assert y.is_contiguous()
    if penalty == "quadratic":
        eps = torch.finfo(dtype).eps
        assert torch.allclose(y, mean, rtol=8 * eps, atol=8 * eps)
    # By hand: the points in row-major order of the sorted pooled dims, moved to the last dim.
    pooled = sorted(d % 3 for d in ([named] if isinstance(named, int) else named or range(3)))
    kept = [d for d in range(3) if d not in pooled]
    by_hand = x.permute(*kept, *pooled).flatten(len(kept)).contiguous()
    expected = ddn_cuda.robust_pool(by_hand, penalty)
    assert torch.equal(y.flatten(), expected.flatten())


def test_the_order_of_dims_does_not_matter(penalty, device, dtype):
    x = torch.randn(3, 4, 5, 6, dtype=dtype, device=device)
    expected = ddn_cuda.robust_pool(x, penalty, dim=(0, 1, 3))
    for dim in itertools.permutations((0, -3, 3)):
        assert torch.equal(ddn_cuda.robust_pool(x, penalty, dim=dim), expected)


def test_a_single_number(penalty, device, dtype):
    x = torch.tensor(3.25, dtype=dtype, device=device)
    for dim in (0, -1, (), (0,), [-1]):
        for keepdim in (False, True):
            y = ddn_cuda.robust_pool(x, penalty, dim=dim, keepdim=keepdim)
            assert y.shape == ()
            assert y == x


@pytest.mark.parametrize("n", [3, 49, 1000, 5000, 20_000])
def test_strided_points(n, penalty, device, dtype):
    base = torch.randn(6, n, 4, dtype=dtype, device=device)
    for view in (
        base.transpose(1, 2),
        base[:, ::2, :3].transpose(1, 2),
        base[1::2, 1:, ::3].transpose(1, 2),
        base.flip(1).transpose(1, 2),
        base.permute(2, 0, 1),
    ):
        assert_same(view, penalty)
    assert_same(base, penalty, dim=1)
    assert_same(base, penalty, dim=(1, 2))
    assert_same(base.transpose(0, 2), penalty, dim=(0, 1))
    assert_same(base[..., 1:3], penalty, dim=(0, 2))


def test_windows_that_overlap(penalty, device, dtype):
    x = torch.randn(500, dtype=dtype, device=device)
    assert_same(x.unfold(0, 64, 3), penalty)


def test_expanded_inputs(penalty, device, dtype):
    x = torch.randn(5, 1, 40, dtype=dtype, device=device)
    expanded = x.expand(5, 9, 40)
    assert_same(expanded, penalty)  # sets that share their points
    assert_same(expanded, penalty, dim=1)  # points that share one number
    assert_same(expanded, penalty, dim=(1, 2))
    y = ddn_cuda.robust_pool(expanded, penalty)
    assert torch.equal(y, y[:, :1].expand(5, 9))


@pytest.mark.parametrize("shape", [(0, 7), (3, 0, 7), (0, 0, 1)])
def test_no_sets(shape, penalty, device, dtype):
    x = torch.empty(shape, dtype=dtype, device=device)
    y = ddn_cuda.robust_pool(x, penalty)
    assert y.shape == shape[:-1]
    assert y.dtype == dtype


# ---- alpha -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(), (1,), (1, 1, 1), (6, 1, 1), (1, 5, 1), (5, 1), (6, 5, 1)], ids=str
)
def test_an_alpha_tensor_is_one_float_per_set(shape, penalty, device, dtype):
    x = torch.randn(6, 5, 49, dtype=dtype, device=device)
    alpha = torch.rand(shape, dtype=dtype, device=device) + 0.1
    y = ddn_cuda.robust_pool(x, penalty, alpha)
    each = alpha.expand(6, 5, 1)
    for i, j in itertools.product(range(6), range(5)):
        alone = ddn_cuda.robust_pool(x[i, j], penalty, float(each[i, j, 0]))
        assert torch.equal(y[i, j], alone)


def test_an_alpha_tensor_over_several_dims(penalty, device, dtype):
    x = torch.randn(4, 3, 5, 6, dtype=dtype, device=device)
    alpha = torch.rand(3, 1, 1, dtype=dtype, device=device) + 0.1
    y = ddn_cuda.robust_pool(x, penalty, alpha, dim=(0, -1))
    for channel in range(3):
        alone = ddn_cuda.robust_pool(x[:, channel], penalty, float(alpha[channel]), dim=(0, -1))
        assert torch.equal(y[channel], alone)
    strided = (torch.rand(3, 4, dtype=dtype, device=device) + 0.1)[:, :1, None]
    assert torch.equal(
        ddn_cuda.robust_pool(x, penalty, strided, dim=(0, -1)),
        ddn_cuda.robust_pool(x, penalty, strided.contiguous(), dim=(0, -1)),
    )


def test_an_alpha_tensor_of_another_dtype(penalty, device, dtype):
    """Its values are rounded to the arithmetic type."""
    x = torch.randn(4, 49, dtype=dtype, device=device)
    alpha = torch.tensor([[0.5], [0.75], [1.25], [3.0]], device=device)
    expected = ddn_cuda.robust_pool(x, penalty, alpha.to(dtype))
    for other in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert torch.equal(ddn_cuda.robust_pool(x, penalty, alpha.to(other)), expected)


# ---- more than 2^31 elements -------------------------------------------------------------------


def test_offsets_beyond_2_to_the_31(penalty, device):
    """Few points, far apart; the memory between them is never touched."""
    far = 2**30 + 1
    memory = torch.empty(2 * far + 64, device=device)
    values = torch.randn(3, 64, device=device)
    for row in range(3):
        memory[row * far : row * far + 64] = values[row]
    sets_apart = memory.as_strided((3, 64), (far, 1))
    assert torch.equal(
        ddn_cuda.robust_pool(sets_apart, penalty, 0.5), ddn_cuda.robust_pool(values, penalty, 0.5)
    )
    points_apart = memory.as_strided((64, 3), (1, far))
    assert torch.equal(
        ddn_cuda.robust_pool(points_apart, penalty, 0.5),
        ddn_cuda.robust_pool(values.T.contiguous(), penalty, 0.5),
    )


@pytest.mark.slow  # some ten seconds on one core
def test_a_set_of_more_than_2_to_the_31_points(device):
    """All expanded from two numbers, one half -1 and the other 3, so each half affects the
    answer."""
    x = torch.tensor([[-1.0], [3.0]], device=device).expand(2, 2**30 + 1)
    assert x.numel() > 2**31
    assert ddn_cuda.robust_pool(x, "quadratic", dim=(0, 1)) == 1.0


def test_more_than_2_to_the_31_elements_in_many_sets(device):
    values = torch.arange(2.0**15 + 1, device=device)
    x = values[:, None].expand(-1, 2**16)
    assert x.numel() > 2**31
    assert torch.equal(ddn_cuda.robust_pool(x, "quadratic"), values)
