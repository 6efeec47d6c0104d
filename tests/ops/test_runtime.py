"""Devices, threads, forks, CUDA graphs, streams, and memory."""

import concurrent.futures
import copy
import io
import os
import pickle
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import ddn_cuda


def pooled(x, penalty, alpha=0.7, weight=None, **options):
    """The answer and the gradients of x and, if given, of weight."""
    leaves = [t.detach().requires_grad_() for t in (x, weight) if t is not None]
    y = ddn_cuda.robust_pool(leaves[0], penalty, alpha, weight=(*leaves, None)[1], **options)
    return (y.detach(), *torch.autograd.grad(y.sum(), leaves))


def segments(x, penalty):
    ptr = torch.tensor([0, 1, 1, len(x) // 2, len(x)], device=x.device)
    leaf = x.detach().requires_grad_()
    y = ddn_cuda.segment_robust_pool(leaf, ptr, penalty, 0.7)
    return (y.detach(), *torch.autograd.grad(y.sum(), leaf))


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


# ---- Threads and processes -----------------------------------------------------------------------


def test_python_threads(penalty, device, dtype):
    """Concurrent calls with sets of several sizes, for all kernels, give the bits of single
    calls."""
    work = [torch.randn(60, n, dtype=dtype, device=device) for n in (5, 49, 700, 1024)]
    work.append(torch.randn(2, 20_000, dtype=dtype, device=device))
    calls = [lambda x=x: pooled(x, penalty) for x in work]
    calls += [lambda x=x: pooled(x, penalty, weight=x.abs()) for x in work]
    calls += [lambda x=x: segments(x, penalty) for x in work]
    expected = [call() for call in calls]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            futures = [pool.submit(call) for call in calls]
            for future, alone in zip(futures, expected, strict=True):
                assert_same(future.result(timeout=120), alone)


class Pools(torch.utils.data.Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return torch.stack([pooled(self.x[i], p)[0] for p in ddn_cuda.PENALTIES])


def test_data_loader_workers():
    """After the parent has used all its threads; a fork must not inherit their locks."""
    x = torch.randn(12, 3, 700)
    expected = torch.stack([Pools(x)[i] for i in range(12)])
    pooled(torch.randn(512, 1000), "welsch")
    loader = torch.utils.data.DataLoader(
        Pools(x), batch_size=4, num_workers=2, multiprocessing_context="fork", timeout=120
    )
    assert torch.equal(torch.cat(list(loader)), expected)


def test_streams(cuda, penalty, dtype):
    x = [torch.randn(300, n, dtype=dtype, device=cuda) for n in (49, 700, 1024, 9000)]
    expected = [pooled(t, penalty) for t in x]
    torch.cuda.synchronize()
    for _ in range(5):
        found = []
        for t in x:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                found.append(pooled(t, penalty))
        torch.cuda.synchronize()
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)


# The code path under test on a GPU: Operands in csrc/ops/layout.cpp creates views, outputs come
# from the caching allocator, and csrc/ops/register_cuda.cpp launches on the current stream. No
# value is read, and nothing synchronises.
CAPTURED = {
    "float alpha": lambda x, a, w: ddn_cuda.robust_pool(x, "welsch", 0.7),
    "local": lambda x, a, w: ddn_cuda.robust_pool(x, "welsch", 0.7, solver="local"),
    "tensor alpha": lambda x, a, w: ddn_cuda.robust_pool(x, "huber", a),
    "weight": lambda x, a, w: ddn_cuda.robust_pool(x, "truncated_quadratic", a, weight=w),
    "strided": lambda x, a, w: ddn_cuda.robust_pool(x, "pseudo_huber", 0.7, dim=0),
    "segments": lambda x, a, w: ddn_cuda.segment_robust_pool(x, offsets(x, w), "huber", 0.7),
}


def offsets(x, w):
    """Offsets of segments of 1, 0, 3 (4 if the first weight is above 1), all other and 0 rows of x.
    They are computed on the device, because a copy from the host could not be captured."""
    steps, more = torch.arange(6, device=x.device), (w[0] > 1).long()
    return steps.clamp(max=1) + (3 + more) * (steps > 2) + (len(x) - 4 - more) * (steps > 3)


def test_the_captured_segments_are_of_several_lengths():
    for w, expected in ((0.5, [0, 1, 1, 4, 12, 12]), (1.5, [0, 1, 1, 5, 12, 12])):
        assert offsets(torch.zeros(12, 49), torch.full((49,), w)).tolist() == expected


@pytest.mark.parametrize("name", CAPTURED)
@pytest.mark.parametrize("n", [49, 1000, 20_000])
def test_cuda_graphs(n, name, cuda, dtype):
    """Captures forward and backward together, and replays them with other numbers in the same
    memory."""

    def operands():
        x, w = torch.randn(12, n, dtype=dtype, device=cuda), torch.rand(n, dtype=dtype, device=cuda)
        return x, 0.5 + torch.rand(12, 1, dtype=dtype, device=cuda), 0.5 + w

    def run(x, alpha, weight):
        y = CAPTURED[name](x, alpha, weight)
        grads = torch.autograd.grad(y.sum(), (x, alpha, weight), allow_unused=True)
        return (y, *(g for g in grads if g is not None))

    held = [t.requires_grad_() for t in operands()]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(*held)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(*held)
    for _ in range(3):
        new = operands()
        with torch.no_grad():
            for into, t in zip(held, new, strict=True):
                into.copy_(t)
        graph.replay()
        assert_same(captured, run(*(t.requires_grad_() for t in new)))


@pytest.mark.parametrize("name", CAPTURED)
def test_nothing_waits_for_the_gpu(name, cuda, dtype):
    x = torch.randn(12, 300, dtype=dtype, device=cuda, requires_grad=True)
    alpha = torch.ones(12, 1, dtype=dtype, device=cuda, requires_grad=True)
    weight = torch.ones(300, dtype=dtype, device=cuda, requires_grad=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = CAPTURED[name](x, alpha, weight)
        grads = torch.autograd.grad(
            y.sum(), (x, alpha, weight), create_graph=True, allow_unused=True
        )
        total = sum(g.square().sum() for g in grads if g is not None)
        torch.autograd.grad(total, x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- Modules -------------------------------------------------------------------------------------


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "deepcopy": copy.deepcopy,
    "torch.save": saved_and_loaded,
}


@pytest.mark.parametrize("copied", COPIES)
def test_modules_are_copied(copied, penalty, device):
    """Including compiled modules and modules that have run; a copy shares nothing with the
    original."""
    pool = ddn_cuda.RobustPool(penalty, 0.3, dim=(0, 1), keepdim=True, tol=1e-3).to(device)
    x = torch.randn(3, 20, 2, device=device, requires_grad=True)
    pool(x).sum().backward()
    twin = COPIES[copied](pool)
    assert torch.equal(twin(x), pool(x))
    assert repr(twin) == repr(pool)
    assert all(
        a is not b and a.data_ptr() != b.data_ptr()
        for a, b in zip(pool.state_dict().values(), twin.state_dict().values(), strict=True)
    )


def test_state_dicts_go_round(penalty, device):
    source, target = (ddn_cuda.RobustPool(penalty, alpha).to(device) for alpha in (0.25, 3.0))
    missing, unexpected = target.load_state_dict(source.state_dict())
    assert not missing
    assert not unexpected
    x = torch.randn(4, 9, dtype=torch.float64, device=device)
    assert torch.equal(source(x), target(x))


@pytest.mark.parametrize("to", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_modules_move_with_their_model(to, penalty, device):
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), ddn_cuda.RobustPool(penalty, 0.5, dim=1))
    x = torch.randn(2, 7, 3, device=device, dtype=to)
    model = model.to(device, to)
    assert all(t.dtype == to for t in model.parameters())
    assert model[1].alpha.dtype == torch.float64  # a scale of 1e5 would be infinite in float16
    y = model(x)
    assert y.dtype == to
    assert torch.equal(y, ddn_cuda.robust_pool(model[0](x), penalty, 0.5, dim=1))
    y.sum().backward()


def test_a_repr_is_told_from_another(penalty):
    shown = {
        repr(ddn_cuda.RobustPool(penalty, **options))
        for options in (
            {},
            {"alpha": 0.25},
            {"dim": (0, 1)},
            {"keepdim": True},
            {"solver": "local"},
            {"max_iter": 3},
            {"tol": 1e-3},
        )
    }
    assert len(shown) == 7


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
