"""Where the pools run: threads, forks, CUDA graphs, streams, modules."""

import concurrent.futures
import copy
import io
import pickle

import pytest
import torch

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
