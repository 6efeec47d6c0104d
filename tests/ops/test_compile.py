"""torch.compile, torch.export and AOTInductor capture the pools in one graph."""

import itertools

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import ddn_cuda
from tests.support.sweeps import sweep_cases

OPS = torch.ops.ddn


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def ptr_of(device):
    return torch.tensor([0, 2, 2, 5], device=device)


# Pools of x (5, 4, 6), with alpha and weight.
FUNCTIONS = {
    "function": lambda x, a, w: ddn_cuda.robust_pool(x, "welsch", a, dim=1, weight=w),
    "several dims": lambda x, a, w: ddn_cuda.robust_pool(x, "huber", a, dim=(0, 2), weight=w),
    "operator": lambda x, a, w: OPS.robust_pool(x, "welsch", alpha=a, dim=[1], weight=w),
    "segments": lambda x, a, w: ddn_cuda.segment_robust_pool(
        x, ptr_of(x.device), "pseudo_huber", a, weight=w
    ),
    "segment operator": lambda x, a, w: OPS.segment_robust_pool(
        x, ptr_of(x.device), "pseudo_huber", alpha=a, weight=w
    ),
    "info": lambda x, a, w: ddn_cuda.robust_pool(x, "welsch", a, weight=w, return_info=True)[0],
}


def operands(device, dtype=torch.float32):
    x = torch.randn(5, 4, 6, dtype=dtype, device=device, requires_grad=True)
    alpha = torch.tensor(0.7, dtype=dtype, device=device, requires_grad=True)
    weight = (0.5 + torch.rand(4, 1, dtype=dtype)).to(device).requires_grad_()
    return x, alpha, weight


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_graph_with_all_gradients(name, backend, device, dtype):
    """Bitwise equal to eager mode."""

    def network(x, alpha, weight):
        return FUNCTIONS[name](torch.relu(x) - x, alpha.exp(), weight.square()).sin().sum()

    inputs = operands(device, dtype)
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    expected, found = network(*inputs), compiled(*inputs)
    assert torch.equal(found, expected)
    for a, b in zip(
        torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_16_bit_inputs(half, device):
    x = torch.randn(5, 9, device=device).to(half).requires_grad_()
    compiled = torch.compile(
        lambda x: ddn_cuda.robust_pool(x, "huber"), backend="aot_eager", fullgraph=True
    )
    y = compiled(x)
    (g,) = torch.autograd.grad(y.sum(), x)
    expected = ddn_cuda.robust_pool(x, "huber")
    assert torch.equal(y, expected)
    assert torch.equal(g, torch.autograd.grad(expected.sum(), x)[0])


@pytest.mark.parametrize("pool", ["function", "segments"])
def test_dynamic_shapes_make_one_graph(pool, device):
    counter = CompileCounter()

    # The first sizes are all different, because Dynamo would treat equal ones as one symbol.
    def f(x, ptr):
        if pool == "function":
            return ddn_cuda.robust_pool(x, "welsch", dim=1)
        return ddn_cuda.segment_robust_pool(x, ptr, "welsch")

    compiled = torch.compile(f, backend=counter, fullgraph=True, dynamic=True)
    for rows, channels, cuts in ((7, 5, [0, 2, 7]), (9, 6, [0, 4, 4, 9]), (40, 2, [0, 1, 2])):
        x, ptr = torch.randn(rows, channels, device=device), torch.tensor(cuts, device=device)
        assert torch.equal(compiled(x, ptr), f(x, ptr))
    assert counter.frame_count == 1


# Pools with data-dependent sizes, of x (7, 4), a mask of its rows, offsets (4), a mask of them,
# alpha (1, 4) and weight (7, 4).
CHOSEN = {
    "points": lambda x, m, p, k, a, w: ddn_cuda.robust_pool(x[m], "welsch", dim=0),
    "all": lambda x, m, p, k, a, w: ddn_cuda.robust_pool(x[m], dim=()),
    "info": lambda x, m, p, k, a, w: ddn_cuda.robust_pool(x[m], dim=0, return_info=True)[0],
    "operator": lambda x, m, p, k, a, w: OPS.robust_pool(x[m], "welsch", alpha=a, dim=[0]),
    "points with weights": lambda x, m, p, k, a, w: ddn_cuda.robust_pool(
        x[m], "welsch", a, dim=0, weight=w[m]
    ),
    "points with one weight": lambda x, m, p, k, a, w: ddn_cuda.robust_pool(
        x[m], "welsch", a, dim=0, weight=w[:1]
    ),
    "sets": lambda x, m, p, k, a, w: ddn_cuda.robust_pool(x[m], "welsch", a[:, :1], weight=w[0]),
    "sets with alphas": lambda x, m, p, k, a, w: ddn_cuda.robust_pool(x[m], "welsch", w[m][:, :1]),
    "rows of segments": lambda x, m, p, k, a, w: ddn_cuda.segment_robust_pool(
        x[m], p, "welsch", a, weight=w[m]
    ),
    "segments": lambda x, m, p, k, a, w: ddn_cuda.segment_robust_pool(
        x, p[k], "welsch", a, weight=w[:, :1]
    ),
    "segment operator": lambda x, m, p, k, a, w: OPS.segment_robust_pool(x[m], p[k], "welsch"),
}


@pytest.mark.parametrize("name", CHOSEN)
@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_sizes_that_only_a_run_tells(name, device):
    compiled = torch.compile(CHOSEN[name], backend="aot_eager", fullgraph=True)
    ptr = torch.tensor([0, 2, 2, 7], device=device)
    for chosen in ([1, 0, 1, 1, 0, 1, 1], [0, 0, 0, 1, 0, 1, 0]):
        mask = torch.tensor(chosen, device=device).bool()
        leaves = [
            (0.5 + torch.rand(shape, device=device)).requires_grad_()
            for shape in ((7, 4), (1, 4), (7, 4))
        ]
        x, alpha, weight = leaves
        args = (x, mask, ptr, torch.tensor([1, 1, 0, 1], device=device).bool(), alpha, weight)
        found, expected = compiled(*args), CHOSEN[name](*args)
        assert torch.equal(found, expected)
        own = torch.autograd.grad(found.sum(), leaves, allow_unused=True)
        others = torch.autograd.grad(expected.sum(), leaves, allow_unused=True)
        for a, b in zip(own, others, strict=True):
            assert b is None or torch.equal(a, b)


def test_a_suggested_alpha(penalty, device):
    x = torch.randn(7, 20, device=device)

    def f(x):
        return ddn_cuda.robust_pool(x, penalty, ddn_cuda.suggest_alpha(x, penalty))

    compiled = torch.compile(f, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), f(x))


@pytest.mark.parametrize("pool", ["points", "segments"])
@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_no_points_and_no_offsets_raise_in_a_run(pool, device):
    """The same errors as in eager mode."""
    compiled = torch.compile(CHOSEN[pool], backend="aot_eager", fullgraph=True)
    x, weight, alpha = (torch.ones(n, 4, device=device) for n in (7, 7, 1))
    ptr, none = torch.tensor([0, 2, 2, 7], device=device), torch.zeros(7, device=device).bool()
    args = (x, none, ptr, none[:4], alpha, weight)
    with pytest.raises(ValueError, match="expected"):
        CHOSEN[pool](*args)
    with pytest.raises((RuntimeError, ValueError)):
        compiled(*args)


@pytest.mark.parametrize("alpha", ["tensor", "module"])
def test_another_value_of_alpha_compiles_nothing(alpha, device):
    counter = CompileCounter()
    module = ddn_cuda.RobustPool("huber", 1.0).to(device)

    def f(x, value):
        return module(x) if alpha == "module" else ddn_cuda.robust_pool(x, "huber", value)

    compiled = torch.compile(f, backend=counter, fullgraph=True)
    x = torch.randn(5, 9, device=device)
    seen = set()
    for value in (0.25, 0.5, 1.0, 2.0):
        with torch.no_grad():
            module.load_state_dict(ddn_cuda.RobustPool("huber", value).state_dict())
        y = compiled(x, torch.tensor(value, device=device))
        assert torch.equal(y, ddn_cuda.robust_pool(x, "huber", value))
        seen.add(y.sum().item())
    assert len(seen) > 1
    assert counter.frame_count == 1


def test_modules_hold_alpha_as_a_tensor():
    """A Python float would be a constant of the graph, and each value would need a new graph."""
    for penalty in ddn_cuda.PENALTIES:
        assert isinstance(ddn_cuda.RobustPool(penalty, 0.5).alpha, torch.Tensor)
    counter = CompileCounter()
    compiled = torch.compile(
        lambda x, a: ddn_cuda.robust_pool(x, "huber", a), backend=counter, fullgraph=True
    )
    for value in (0.5, 1.0):
        compiled(torch.ones(3, 4), value)
    assert counter.frame_count == 2  # which is why


def test_second_derivatives(device):
    """Dynamo's graphs support them; AOTAutograd supports no second derivatives and raises."""
    x = torch.randn(4, 9, dtype=torch.float64, device=device, requires_grad=True)

    def f(x):
        return ddn_cuda.robust_pool(x, "welsch", 2.0).sin().sum()

    def second(f):
        (g,) = torch.autograd.grad(f(x), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), x)[0]

    assert torch.equal(second(torch.compile(f, backend="eager", fullgraph=True)), second(f))
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        second(torch.compile(f, backend="aot_eager", fullgraph=True))


MOVED = itertools.product(("function", "operator", "segments", "info"), ("x", "alpha", "weight"))


@pytest.mark.parametrize(
    ("name", "moved"), sweep_cases(MOVED, lambda case: case[0] == "function" or case[1] == "x")
)
def test_forward_mode_raises_or_breaks_the_graph(name, moved, device):
    """Tangents are never dropped: a full graph raises, otherwise eager mode computes them."""
    x, alpha, weight = (t.detach() for t in operands(device, torch.float64))
    if name == "info":
        weight = weight.reshape(4, 1)
    inputs = {"x": x, "alpha": alpha, "weight": weight}

    def f(t):
        return FUNCTIONS[name](**dict(zip("xaw", {**inputs, moved: t}.values(), strict=True)))

    t = inputs[moved]
    v = torch.linspace(-1, 2, t.numel(), dtype=t.dtype, device=device).reshape(t.shape)

    def along(t, v):
        return torch.func.jvp(f, (t,), (v,))[1]

    errors = (NotImplementedError, torch._dynamo.exc.TorchDynamoException)
    with pytest.raises(errors):
        torch.compile(along, backend="aot_eager", fullgraph=True)(t, v)
    if name != "operator":
        torch._dynamo.reset()
        expected = along(t, v)
        assert expected.any()
        assert torch.equal(torch.compile(along, backend="aot_eager")(t, v), expected)


@pytest.mark.slow
def test_inductor(device):
    """With Inductor's kernels around the pools, whose sums may round differently."""
    x, alpha, weight = operands(device)

    def network(x, alpha, weight):
        y = ddn_cuda.robust_pool(torch.tanh(x), "welsch", alpha, dim=1, weight=weight)
        z = ddn_cuda.segment_robust_pool(x * 2, ptr_of(x.device), "huber", alpha)
        return y.sin().sum() + z.cos().mean()

    expected, found = (
        network(x, alpha, weight),
        torch.compile(network, fullgraph=True)(x, alpha, weight),
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(found, (x, alpha, weight)),
        torch.autograd.grad(expected, (x, alpha, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# ---- Programs that leave the process -------------------------------------------------------------


class Net(torch.nn.Module):
    """A network with modules and functions, float and tensor alphas, weights and segments."""

    def __init__(self):
        super().__init__()
        self.pool = ddn_cuda.RobustPool("welsch", 0.5, dim=1)
        self.scale = torch.nn.Parameter(torch.tensor(0.8))

    def forward(self, x, ptr):
        y = self.pool(x)
        rows = x.flatten(0, 1)
        z = ddn_cuda.segment_robust_pool(rows, ptr, "huber", self.scale)
        return y, z, ddn_cuda.robust_pool(x, "pseudo_huber", 2.0, weight=x > 0, keepdim=True)


def example(device, batch=3, points=20, segments=(0, 5, 5, 20)):
    x = torch.randn(batch, points, 4, device=device)
    return x, torch.tensor([*segments, batch * points], device=device)


def exported(net, device):
    dim = torch.export.Dim
    shapes = ({0: dim("batch", min=2), 1: dim("points", min=2)}, {0: dim("offsets", min=3)})
    return torch.export.export(net, example(device), dynamic_shapes=shapes)


def assert_runs_as(net, program, device):
    for inputs in (example(device), example(device, 5, 7, (0, 1, 30, 30, 31))):
        with torch.no_grad():
            for a, b in zip(program(*inputs), net(*inputs), strict=True):
                assert torch.equal(a, b)


def test_export_save_load_run(tmp_path, device):
    net = Net().to(device)
    program = exported(net, device)
    called = {str(node.target) for node in program.graph.nodes}
    assert any(target.startswith("ddn.") for target in called)
    file = tmp_path / "net.pt2"
    torch.export.save(program, file)
    loaded = torch.export.load(file)
    assert_runs_as(net, loaded.module(), device)
    # The program still trains: its parameter gets its gradient.
    module, inputs = loaded.module(), example(device)
    sum(y.sum() for y in module(*inputs)).backward()
    sum(y.sum() for y in net(*inputs)).backward()
    (scale,) = module.parameters()
    assert torch.equal(scale.grad, net.scale.grad)


@pytest.mark.slow
def test_aot_inductor_loads_and_runs_it(tmp_path, device):
    net = Net().to(device).eval()
    for p in net.parameters():
        p.requires_grad_(False)
    with torch.no_grad():
        program = exported(net, device)
        file = torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / "net.pt2")
        )
        assert_runs_as(net, torch._inductor.aoti_load_package(file), device)
