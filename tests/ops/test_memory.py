"""The memory that the pools take, and more than 2^31 numbers."""

import os
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import ddn_cuda

# ---- Memory --------------------------------------------------------------------------------------


def allocations(run, device):
    """The sizes of allocations from PyTorch's allocator."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.memory._record_memory_history(max_entries=100_000)
        run()
        trace = torch.cuda.memory._snapshot()["device_traces"][torch.cuda.current_device()]
        torch.cuda.memory._record_memory_history(enabled=None)
        return [entry["size"] for entry in trace if entry["action"] == "alloc"]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = profiler.profiler.kineto_results.events()
    return [e.nbytes() for e in events if e.name() == "[memory]" and e.nbytes() > 0]


LAYOUTS = {
    "last dim": (lambda x: x, -1),
    "point-major": (lambda x: x.permute(0, 2, 1).contiguous(), 1),
    "transposed": (lambda x: x.transpose(0, 2), 0),
    "channels last": (
        lambda x: x.reshape(4, 16, 32, 32).contiguous(memory_format=torch.channels_last),
        (2, 3),
    ),
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_of_a_pool(layout, half, penalty, device, dtype):
    """Forward: y and two numbers per set. Backward: the gradient, of x's size."""
    make, dim = LAYOUTS[layout]
    x = make(torch.randn(4, 16, 1024, dtype=dtype, device=device))
    x = (x.to(torch.float16) if half else x).detach().requires_grad_()
    bytes_of_x, sets = x.numel() * x.element_size(), 64
    real = 8 if x.dtype == torch.float64 else 4

    def forward():
        return ddn_cuda.robust_pool(x, penalty, 0.7, dim=dim)

    y = forward()
    grad = torch.ones_like(y)
    taken = allocations(forward, device)
    assert sum(taken) >= sets * x.element_size()  # the recorder sees allocations
    # The allocator rounds sizes up.
    assert sum(taken) <= sets * (x.element_size() + 2 * real) + 3 * 512
    assert max(taken) < bytes_of_x / 8
    taken = allocations(lambda: torch.autograd.grad(y, x, grad, retain_graph=True), device)
    large = [size for size in taken if size > bytes_of_x / 8]
    assert large == [bytes_of_x]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("shape", [(), (1024,), (16, 1), (4, 1, 1), (1, 16, 1024)], ids=str)
def test_the_memory_of_broadcast_weights(shape, half, penalty, device, dtype):
    """Weights are not expanded in the forward pass. Their gradient takes at most one temporary of
    x's size; with 16-bit x, where it is in float32, it is computed in slices."""
    x = torch.randn(4, 16, 1024, dtype=dtype, device=device)
    x = x.bfloat16() if half else x
    weight = (0.5 + torch.rand(shape, dtype=dtype)).to(device).requires_grad_()
    size = x.numel() * x.element_size()

    def forward():
        return ddn_cuda.robust_pool(x, penalty, 0.7, weight=weight)

    y = forward()
    assert max(allocations(forward, device)) < size / 8
    taken = allocations(lambda: torch.autograd.grad(y.sum(), weight, retain_graph=True), device)
    assert half or sum(t > size / 2 for t in taken) <= 1
    assert max(taken) <= size


def test_the_memory_of_a_mask(penalty, device):
    """Masks and weights of any dtype are read without conversion."""
    x, mask = torch.randn(4, 16, 1024, device=device), torch.rand(16, 1024, device=device) < 0.7
    for weight in (mask, mask.half(), mask.bfloat16(), mask.double()):
        taken = allocations(
            lambda weight=weight: ddn_cuda.robust_pool(x, penalty, 0.7, weight=weight), device
        )
        assert max(taken) < mask.numel()


def test_the_memory_of_segments(penalty, device, dtype):
    x = torch.randn(4096, 16, dtype=dtype, device=device, requires_grad=True)
    ptr = torch.tensor([0, 5, 5, 1000, 4096], device=device)
    size = x.numel() * x.element_size()

    def forward():
        return ddn_cuda.segment_robust_pool(x, ptr, penalty, 0.7)

    y = forward()
    assert max(allocations(forward, device)) < size / 8
    taken = allocations(lambda: torch.autograd.grad(y.sum(), x, retain_graph=True), device)
    assert [t for t in taken if t > size / 8] == [size]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("channels", [4, 40])
def test_the_lists_of_long_segments(channels, weighted, cuda, dtype):
    """docs/features.md, Memory: a global search over more points than fit in shared memory."""
    points, segments = 20_000, 100
    x = torch.randn(points, channels, dtype=dtype, device=cuda)
    weight = torch.rand(points, 1, dtype=dtype, device=cuda) if weighted else None
    ptr = torch.arange(segments + 1, device=cuda) * (points // segments)

    def forward(penalty):
        return ddn_cuda.segment_robust_pool(x, ptr, penalty, 0.7, weight=weight)

    by_length = 64 + 24 * segments
    lists = points * min(channels, 32) * x.element_size() * (2 if weighted else 1)
    taken = allocations(lambda: forward("welsch"), cuda)
    assert lists + by_length <= max(taken) < lists + by_length + 512
    answer = segments * channels * max(x.element_size(), 4)
    assert max(allocations(lambda: forward("huber"), cuda)) < max(by_length, answer) + 512


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
def test_the_peak_of_a_process():
    """PyTorch's profiler does not see the kernels' own allocations; the operating system does."""
    script = textwrap.dedent("""
        import torch, ddn_cuda
        torch.set_num_threads(2)

        def peak(run):
            open("/proc/self/clear_refs", "w").write("5")
            def read(name):
                lines = open("/proc/self/status").read().splitlines()
                return next(int(line.split()[1]) for line in lines if line.startswith(name))
            before = read("VmRSS")
            result = run()
            return (read("VmHWM") - before) / 1024, result

        small = torch.randn(8, 64, 16, requires_grad=True)
        y = ddn_cuda.robust_pool(small, "welsch", dim=1)
        torch.autograd.grad(y, small, torch.ones_like(y))  # excludes one-time loading
        x = torch.randn(32, 4096, 64).requires_grad_()  # 32 MiB
        for penalty in ("quadratic", "huber", "welsch"):
            for dim in (1, 2, (0, 1)):
                up, y = peak(lambda: ddn_cuda.robust_pool(x, penalty, dim=dim))
                g = torch.ones_like(y)
                down, _ = peak(lambda: torch.autograd.grad(y, x, g))
                print(penalty, str(dim).replace(" ", ""), up, down)
    """)
    path = os.pathsep.join(filter(None, sys.path))
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    rows = [line.split() for line in run.stdout.splitlines()]
    assert len(rows) == 9
    for penalty, dim, up, down in rows:
        # A margin for delayed accounting; a copy of x would be 32 MiB.
        assert float(up) < 8, (penalty, dim, up)
        assert 24 < float(down) < 32 + 8, (penalty, dim, down)


# ---- More than 2^31 numbers ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["sets", "segments"])
def test_more_than_2_to_the_31_numbers(pool, device):
    """Expanded from few numbers; the last sets are as accurate as the first."""
    if pool == "sets":
        values = torch.randn(33, 1, device=device)
        x = values.expand(33, 2**31 // 33 + 7)
        assert x.numel() > 2**31
        assert torch.equal(ddn_cuda.robust_pool(x, "quadratic"), values[:, 0])
        return
    rows, value = 2**15 + 1, torch.randn(1, 1, device=device)
    x = value.expand(rows, 2**16)
    assert x.numel() > 2**31
    ptr = torch.tensor([0, 3, rows - 2, rows], device=device)
    y = ddn_cuda.segment_robust_pool(x, ptr, "quadratic")
    assert torch.equal(y, value.expand(3, 2**16))


@pytest.mark.parametrize("shape", [(4096, 512), (2, 2**19)])
def test_sets_and_chunks_are_shared_among_the_threads(shape):
    """Measured by the time that other threads work, relative to the time of a single thread.

    The time of the calling thread is useless on a busy machine, because it includes waiting.
    """
    if "OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("torch has no OpenMP")
    x = torch.randn(shape, dtype=torch.float64)

    def seconds_of_work(threads):
        torch.set_num_threads(threads)
        ddn_cuda.robust_pool(x, "pseudo_huber")  # threads are there
        own, all_threads = time.thread_time(), time.process_time()
        for _ in range(5):
            ddn_cuda.robust_pool(x, "pseudo_huber")
        own = time.thread_time() - own
        return own, time.process_time() - all_threads - own

    before = torch.get_num_threads()
    shares = []
    try:
        for _ in range(20):  # on a busy core, whichever thread runs first takes the work
            alone, others_of_one = seconds_of_work(1)
            assert others_of_one < 0.1 * alone
            _, others = seconds_of_work(2)
            shares.append(others / alone)
            if shares[-1] > 0.25:
                break
    finally:
        torch.set_num_threads(before)
    assert max(shares) > 0.25, shares
