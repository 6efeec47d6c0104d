"""The passes of the distributed solver on CUDA, compiled for the host: against the reference, in
several orders of threads."""

from functools import partial

import numpy as np
import pytest

from tests.ops.test_sharded_pass import RUNS, assert_numbers, requests
from tests.support.cuda_shim.shim import in_every_schedule


@pytest.mark.parametrize("n", [5, 3000])
@pytest.mark.parametrize(("kind", "penalty"), RUNS)
def test_numbers(kind, penalty, n, shim):
    rng = np.random.default_rng(n)
    x = rng.standard_normal((3, n)) + 3 * (rng.random((3, n)) < 0.3)
    w = rng.uniform(0.1, 20, (3, n)) * (rng.random((3, n)) < 0.8)
    for dtype, weight, inverse_unit in (
        (np.float64, None, 1.0),
        (np.float32, w, 1 / 16),
        (np.float16, w > 0, 1.0),
    ):
        of, parameters = zip(*requests(kind, inverse_unit), strict=True)
        points = np.asfortranarray(x.astype(dtype))
        asked = np.array(of), np.array(parameters)
        call = partial(shim.sharded, points, penalty, kind, *asked, weight=weight)
        (found,) = in_every_schedule(shim, lambda call=call: [call()])
        for i, row, request in zip(of, found, parameters, strict=True):
            own = None if weight is None else weight[i].astype(float)
            if kind == "totals" and weight is not None:
                row[7] = np.nan  # the points of no weight count here
            assert_numbers(row, kind, penalty, points[i].astype(float), own, request)
