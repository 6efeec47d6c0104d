"""Bad offsets of segments, and invalid input of `segment_robust_pool`."""

import re

import pytest
import torch

import ddn_cuda
from tests.support.segments import assert_all_equal, by_hand, pooled, ragged

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
    x, ptr, weight, alpha = ragged([5, 0, 1, 33, 2, 200, 7], (3,), torch.float32, device)
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
    (
        {"alpha": lambda: torch.ones(10, 3)},
        ValueError,
        "alpha",
        (r"\[10, 3\]", r"\(segments, \*channels\)"),
    ),
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
