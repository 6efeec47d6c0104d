"""The checks of the guarantee reject wrong answers."""

import numpy as np
import pytest
import torch

from tests.support import contract, sets
from tests.support import reference as ref

POINTS = (
    sets.contaminated(np.random.default_rng(1), 1, 200)[0].astype(np.float32).astype(np.float64)
)


def right(penalty, dtype):
    y = ref.solve(POINTS, penalty, 1.0).y
    return float(np.float32(y)) if dtype == torch.float32 else y


def test_the_right_answer_passes(penalty, dtype):
    contract.assert_answer(right(penalty, dtype), POINTS, penalty, 1.0, dtype)


@pytest.mark.parametrize("side", [-1, 1])
def test_two_tolerances_off_is_rejected(penalty, dtype, side):
    y = right(penalty, dtype)
    d = contract.accuracy(y, 1.0, dtype)
    if penalty == "quadratic":
        d = 4 * contract.EPS[dtype] * (np.abs(POINTS).mean() + abs(y))
    with pytest.raises(AssertionError):
        contract.assert_answer(y + 2.1 * side * d, POINTS, penalty, 1.0, dtype)


@pytest.mark.parametrize("penalty", ref.NONCONVEX)
def test_a_minimum_worse_than_the_start_is_rejected(penalty, dtype):
    x = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 50.0])
    contract.assert_answer(ref.solve(x, penalty, 1.0).y, x, penalty, 1.0, torch.float64)
    with pytest.raises(AssertionError, match="above the start"):
        contract.assert_answer(50.0, x, penalty, 1.0, dtype)


def test_a_maximum_is_rejected(dtype):
    with pytest.raises(AssertionError):
        contract.assert_answer(0.0, np.array([-2.0, 2.0]), "welsch", 1.0, dtype)


def test_no_midpoint_of_a_flat_stretch_is_rejected(dtype):
    x = np.array([-5.0, -5.0, 7.0, 9.0])
    contract.assert_answer(1.0, x, "huber", 1.0, dtype)
    for y in (-4.0, 0.999, 1.001, 6.0):
        with pytest.raises(AssertionError, match="is expected"):
            contract.assert_answer(y, x, "huber", 1.0, dtype)


def test_a_high_objective_is_rejected_where_curvature_is_scarce(dtype):
    """Points 20 alpha apart; only the middle one is an inlier."""
    x = 20.0 * np.arange(-500, 501)
    assert not contract.well_conditioned(0.0, 1e-4, x, "huber", 1.0)
    contract.assert_answer(0.0, x, "huber", 1.0, dtype)
    with pytest.raises(AssertionError, match="objective above"):
        contract.assert_answer(1000.0, x, "huber", 1.0, dtype)


def test_gradients(penalty, dtype):
    y = right(penalty, dtype)
    exact = ref.gradient(POINTS, ref.solve(POINTS, penalty, 1.0).y, penalty, 1.0)
    contract.assert_gradient(exact, y, POINTS, penalty, 1.0, dtype)
    for wrong in (-exact, exact * 1.001, np.zeros_like(exact), np.roll(exact, 1) + 1e-3):
        with pytest.raises((AssertionError, ZeroDivisionError)):
            contract.assert_gradient(wrong, y, POINTS, penalty, 1.0, dtype)
