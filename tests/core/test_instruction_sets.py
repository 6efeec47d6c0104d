"""The CPU kernels for every instruction set of this machine give correct answers."""

import os
import subprocess
import sys

import pytest

import ddn_cuda
from tests.support import ROOT

# Runs in a separate process, because the instruction set is chosen once. Checks the answers, then
# prints the name of the instruction set in use.
PROGRAM = """
import ddn_cuda, numpy as np, torch
from tests.support import contract, sets
from tests.support import reference as ref
for penalty in ref.CONVEX:
    for n in (1, 7, 49, 1000, 20_000):
        points = sets.contaminated(np.random.default_rng(n), 3, n)
        for dtype in (torch.float32, torch.float64):
            x = torch.tensor(points, dtype=dtype, requires_grad=True)
            y = ddn_cuda.robust_pool(x, penalty)
            y.sum().backward()
            assert torch.allclose(x.grad.sum(-1), torch.ones(3, dtype=dtype), atol=1e-4)
            for row, answer in zip(x.detach().double().numpy(), y.tolist()):
                contract.assert_answer(answer, row, penalty, 1.0, dtype)
for penalty in ref.NONCONVEX:
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor(sets.contaminated(np.random.default_rng(0), 3, 1000), dtype=dtype)
        for row, answer in zip(x.double().numpy(), ddn_cuda.robust_pool(x, penalty).tolist()):
            contract.assert_answer(answer, row, penalty, 1.0, dtype)
# Sums over lists of the points near the breakpoints, with points exactly at their limits; masks.
rng = np.random.default_rng(1)
for n in (5, 16, 17, 300):
    steps = rng.integers(-40, 41, (8, n)) * 0.05  # the breakpoints, 0.1 and 0.15 to their sides
    two = np.where(rng.random((8, n)) < 0.5, -2.0, 2.5) + 0.3 * rng.standard_normal((8, n))
    for points in (steps, two, 1e4 + steps):
        mask = torch.tensor(rng.random((8, n)) < 0.7)
        mask[:, 0] = True
        for dtype in (torch.float32, torch.float64):
            x = torch.tensor(points, dtype=dtype)
            for penalty in ref.PENALTIES:
                for weight in (None, mask):
                    y = ddn_cuda.robust_pool(x, penalty, weight=weight).tolist()
                    for i, row in enumerate(x.double().numpy()):
                        kept = row if weight is None else row[mask[i].numpy()]
                        contract.assert_answer(y[i], kept, penalty, 1.0, dtype)
print(ddn_cuda.build_info()["cpu_isa"])
"""

WIDEST_FIRST = ["avx512", "avx2", "base"]


def run(isa):
    environment = {**os.environ, "DDN_CPU_ISA": isa, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("isa", WIDEST_FIRST)
def test_answers(isa):
    widest = ddn_cuda.build_info()["cpu_isa"]
    if WIDEST_FIRST.index(isa) < WIDEST_FIRST.index(widest):
        pytest.skip(f"this machine has {widest} at best")
    done = run(isa)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa]


def test_an_unknown_instruction_set_raises():
    done = run("sse9")
    assert done.returncode != 0
    assert "DDN_CPU_ISA is 'sse9'; expected avx512, avx2 or base" in done.stderr
