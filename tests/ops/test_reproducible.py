"""Batch invariance: a set gives the same answer and gradient, bitwise, in any batch."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import ddn_cuda
from tests.support import contract, sets
from tests.support import reference as ref

SIZES = [1, 2, 7, 16, 33, 49, 128, 1000, 1024, 5000]
LARGE_SIZES = [20_000, 70_001]


def pool_and_gradient(x, penalty, alpha=0.5):
    x = x.detach().clone().requires_grad_()
    y = ddn_cuda.robust_pool(x, penalty, alpha)
    (g,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), g


def batch(n, count, dtype, device):
    """Sets of different kinds and scales in one batch; the first is the set under test."""
    torch.manual_seed(n)
    x = torch.randn(count, n, dtype=dtype, device=device)
    x[1::3] *= 100
    x[2::3] = (x[2::3] > 0) * 5.0 + 0.1 * x[2::3]
    return x


@pytest.mark.parametrize("n", SIZES + LARGE_SIZES)
def test_alone_and_in_batches(n, penalty, device, dtype):
    others = 4096 if n <= 128 else 8
    x = batch(n, others, dtype, device)
    y, g = pool_and_gradient(x, penalty)
    for place in (0, 1, 2, 3, 5, others // 2, others - 2, others - 1):
        alone_y, alone_g = pool_and_gradient(x[place], penalty)
        assert torch.equal(y[place], alone_y)
        assert torch.equal(g[place], alone_g)
        first = max(0, min(place - 3, others - 8))
        eight_y, eight_g = pool_and_gradient(x[first : first + 8], penalty)
        assert torch.equal(y[first : first + 8], eight_y)
        assert torch.equal(g[first : first + 8], eight_g)


@pytest.mark.parametrize("n", [200, 1024])
def test_in_a_batch_of_4096_at_any_place(n, penalty, device):
    """With different neighbours, including hard sets and NaN."""
    one = batch(n, 1, torch.float32, device)[0]
    alone_y, alone_g = pool_and_gradient(one, penalty)
    x = batch(n, 4096, torch.float32, device) + 3
    x[7], x[9, 0], x[11] = torch.nan, torch.inf, 1e30
    places = torch.tensor([0, 1, 2, 8, 10, 12, 1023, 2048, 4094, 4095], device=device)
    x[places] = one
    y, g = pool_and_gradient(x, penalty)
    assert torch.equal(y[places], alone_y.expand(len(places)))
    assert torch.equal(g[places], alone_g.expand(len(places), n))


@pytest.mark.parametrize("n", SIZES + LARGE_SIZES)
def test_at_any_alignment(n, penalty, device, dtype):
    one = batch(n, 1, dtype, device)[0]
    expected_y, expected_g = pool_and_gradient(one, penalty)
    memory = torch.empty(n + 20, dtype=dtype, device=device)
    for start in (1, 2, 3, 5, 8, 15):
        memory[start : start + n] = one
        leaf = memory[start : start + n].detach().requires_grad_()
        y = ddn_cuda.robust_pool(leaf, penalty, 0.5)
        assert torch.equal(y, expected_y)
        assert torch.equal(torch.autograd.grad(y, leaf)[0], expected_g)


@pytest.mark.parametrize("n", [1, 2, 33, 49, 1000, 5000, 20_000])
def test_at_any_stride(n, penalty, device, dtype):
    one = batch(n, 1, dtype, device)[0]
    expected_y, expected_g = pool_and_gradient(one, penalty)
    for stride in (2, 3, 16):
        wide = torch.zeros(n, stride, dtype=dtype, device=device)
        wide[:, stride // 2] = one
        leaf = wide[:, stride // 2].detach().requires_grad_()
        y = ddn_cuda.robust_pool(leaf, penalty, 0.5)
        assert torch.equal(y, expected_y)
        assert torch.equal(torch.autograd.grad(y, leaf)[0], expected_g)


@pytest.mark.parametrize("n", [49, 1000, 70_001])
def test_in_any_run(n, penalty, device, dtype):
    x = batch(n, 64 if n < 1001 else 3, dtype, device)
    expected = pool_and_gradient(x, penalty)
    for _ in range(5):
        y, g = pool_and_gradient(x, penalty)
        assert torch.equal(y, expected[0])
        assert torch.equal(g, expected[1])


@pytest.mark.parametrize("n", [3, 49, 1000, 70_001])
def test_with_any_number_of_threads(n, penalty, dtype):
    x = batch(n, 513 if n < 1001 else 5, dtype, torch.device("cpu"))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = pool_and_gradient(x, penalty)
        for count in (2, 3):
            torch.set_num_threads(count)
            y, g = pool_and_gradient(x, penalty)
            assert torch.equal(y, expected[0])
            assert torch.equal(g, expected[1])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("shape", [(9000, 4), (200, 200)], ids=str)
def test_subnormal_points_follow_the_thread_that_calls(shape, flush, penalty, dtype):
    """torch.set_flush_denormal sets the state of one thread, to which OpenMP's threads are deaf."""
    tiny = {torch.float32: 2.0**-149, torch.float64: 2.0**-1074}[dtype]
    x = (tiny * torch.randint(1, 99, shape).double()).to(dtype)
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(2)
    ddn_cuda.robust_pool(x, penalty)  # starts the threads, in their own state
    try:
        if not torch.set_flush_denormal(flush):
            pytest.skip("this processor cannot flush subnormal numbers")
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(pool_and_gradient(x, penalty))
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one.view(torch.uint8), two.view(torch.uint8))
    assert found[0][0].any() != flush
    again = pool_and_gradient(x, penalty)  # the threads have their own state again
    assert again[0].all()


def test_in_another_process(device):
    """Nothing depends on memory addresses."""
    script = (
        "import hashlib, torch, ddn_cuda\n"
        "torch.manual_seed(3)\n"
        f"x = torch.randn(50, 333).to('{device}')\n"
        "y = [ddn_cuda.robust_pool(x, p, 0.3).cpu() for p in ddn_cuda.PENALTIES]\n"
        "print(hashlib.sha256(torch.stack(y).numpy().tobytes()).hexdigest())\n"
    )
    # The other process imports the same package.
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", script]
    options = {"capture_output": True, "text": True, "env": {**os.environ, "PYTHONPATH": path}}
    runs = [subprocess.run(command, check=True, **options) for _ in range(2)]
    assert len(runs[0].stdout.strip()) == 64
    assert runs[0].stdout == runs[1].stdout


def test_with_a_gradient_or_without(penalty, device, dtype):
    x = batch(100, 9, dtype, device)
    y, _ = pool_and_gradient(x, penalty)
    assert torch.equal(ddn_cuda.robust_pool(x, penalty, 0.5), y)


def test_the_neighbours_of_hard_sets(penalty, device, dtype):
    """A set of two clusters at +-500, hard to solve, does not affect the others."""
    easy = torch.randn(64, 64, dtype=dtype, device=device)
    expected_y, expected_g = pool_and_gradient(easy, penalty)
    mixed = easy.clone()
    mixed[17] = torch.where(torch.arange(64, device=device) % 2 == 0, 500.0, -500.0)
    y, g = pool_and_gradient(mixed, penalty)
    others = torch.arange(64, device=device) != 17
    assert torch.equal(y[others], expected_y[others])
    assert torch.equal(g[others], expected_g[others])


@pytest.mark.parametrize("n", [49, 1000])
def test_any_order_of_the_points_gives_a_convex_answer_up_to_rounding(n, device, dtype):
    rng = np.random.default_rng(n)
    points = torch.tensor(sets.contaminated(rng, 20, n), dtype=dtype, device=device)
    shuffled = points[:, torch.randperm(n, device=device)]
    for penalty in ref.CONVEX:
        y, z = ddn_cuda.robust_pool(points, penalty), ddn_cuda.robust_pool(shuffled, penalty)
        for a, b in zip(y.tolist(), z.tolist(), strict=True):
            assert abs(a - b) <= 2 * contract.accuracy(a, 1.0, dtype)
