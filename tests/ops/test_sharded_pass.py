"""The operator of the distributed solver: the numbers of each pass against the reference, for every
dtype, layout and kind of weights."""

import numpy as np
import pytest
import torch

import ddn_cuda  # noqa: F401  registers the operators
from tests.support import passes
from tests.support import reference as ref

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
RUNS = [(kind, penalty) for penalty in ref.PENALTIES for kind in passes.kinds(penalty)]


def run(x, weight, sets, parameters, penalty, kind, dim=(1,)):
    return torch.ops.ddn._sharded_pass(
        x,
        weight,
        list(dim),
        torch.tensor(sets),
        torch.tensor(parameters, dtype=torch.float64).reshape(-1, 4),
        penalty,
        passes.KINDS.index(kind),
    )


def requests(kind, inverse_unit=1.0):
    """Several requests for two of the sets, and none for another."""
    alpha, margin = 0.7, 0.7 * 1.5e-3
    for of, u in ((0, 0.3), (0, -1.1), (2, 0.31), (2, 4.0)):
        reach = {"huber": margin, "sums": margin, "totals": 3.0}.get(kind, 0.15)
        yield of, (inverse_unit, alpha, u, reach)


def assert_numbers(found, kind, penalty, x, weight, request):
    """x, weight: the arrays of the set."""
    wanted = np.array(passes.expected(kind, penalty, x, weight, request), np.float64)
    assert found.shape == wanted.shape
    if kind == "ends":
        unit, largest = found[2], wanted[2]
        assert largest / 2 < unit <= largest or unit == largest
        found, wanted = found[:2], wanted[:2]
    # Derivatives of the reference are differences; a series is a sum of large terms.
    size = len(x) * (1 if weight is None else max(np.max(weight), 1) * request[0])
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-8 * size)


@pytest.mark.parametrize("weights", [None, "mask", "some"])
@pytest.mark.parametrize("n", [1, 7, 300, 40_000])
@pytest.mark.parametrize(("kind", "penalty"), RUNS)
def test_numbers(kind, penalty, n, weights):
    rng = np.random.default_rng(n)
    x = torch.tensor(rng.standard_normal((3, n)) + 3 * (rng.random((3, n)) < 0.3))
    weight = None
    if weights == "mask":
        weight = torch.tensor(rng.random((3, n)) < 0.6)
    elif weights == "some":
        weight = torch.tensor(rng.uniform(0.1, 20, (3, n)) * (rng.random((3, n)) < 0.8)).float()
    inverse_unit = 1 / 16 if weights == "some" else 1.0
    dtypes = DTYPES if n == 300 else DTYPES[:2]
    for dtype in dtypes:
        points = x.to(dtype)
        of, parameters = zip(*requests(kind, inverse_unit), strict=True)
        found = run(points, weight, of, parameters, penalty, kind).numpy()
        assert found.dtype == np.float64
        for i, row, request in zip(of, found, parameters, strict=True):
            own = None if weight is None else weight[i].double().numpy()
            assert_numbers(row, kind, penalty, points[i].double().numpy(), own, request)


@pytest.mark.parametrize(("kind", "penalty"), RUNS)
def test_layouts_and_infinite_points(kind, penalty):
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    if penalty != "quadratic":
        x[1, 2, 3], x[2, 1, 0] = torch.inf, -torch.inf
    of, parameters = zip(*requests(kind), strict=True)
    found = run(x, None, of, parameters, penalty, kind, dim=(0, 2)).numpy()
    rows = x.permute(1, 0, 2).reshape(3, -1)
    assert torch.equal(
        run(rows, None, of, parameters, penalty, kind), torch.tensor(found)
    )  # bitwise
    if kind == "series":  # the reference takes powers of the distance
        return
    for i, row, request in zip(of, found, parameters, strict=True):
        assert_numbers(row, kind, penalty, rows[i].numpy(), None, request)


@pytest.mark.parametrize(("kind", "penalty"), RUNS)
def test_no_points(kind, penalty):
    """The numbers of an empty shard are neutral."""
    of, parameters = zip(*requests(kind), strict=True)
    for x, weight in ((torch.randn(3, 0), None), (torch.randn(3, 4), torch.zeros(3, 4))):
        found = run(x, weight, of, parameters, penalty, kind)
        neutral = -torch.inf if kind in ("ends", "nearest") else 0.0
        assert (found == neutral).all()


def test_invalid_weights():
    x = torch.randn(4, 6)
    weight = torch.ones(4, 6)
    weight[1, 2], weight[2, 3], weight[3, 0] = -1, torch.nan, torch.inf
    parameters = [(1.0, 1.0, torch.nan, 0.0)] * 4
    totals = run(x, weight, range(4), parameters, "huber", "totals")
    assert totals[:, 3].isnan().tolist() == [False, True, True, True]


def test_invalid_arguments():
    x, parameters = torch.randn(3, 4), [(1.0, 1.0, 0.0, 0.0)] * 2
    for of in ([0, 3], [-1, 0], [2, 1]):
        with pytest.raises(ValueError, match="`sets` holds"):
            run(x, None, of, parameters, "huber", "around")
    with pytest.raises(
        ValueError, match=r"`parameters` has shape \[2, 4\] and dtype Double .* shape \[1, 4\]"
    ):
        run(x, None, [0], parameters, "huber", "around")
    with pytest.raises(ValueError, match=r"`sets` has shape \[2\] and dtype Float .* dtype Long"):
        run(x, None, [0.0, 1.0], parameters, "huber", "around")
    with pytest.raises(ValueError, match="`pass` is 9"):
        run(x, None, [0, 1], parameters, "huber", "losses")
