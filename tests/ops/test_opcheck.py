"""The operators satisfy the contracts of PyTorch's compilers and of opcheck."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import ddn_cuda
from tests.support import reference as ref
from tests.support.contract import DTYPES
from tests.support.sweeps import sweep

OPS = torch.ops.ddn
opcheck = torch.library.opcheck  # all checks, by default


def check_both_overloads(x, penalty, **options):
    opcheck(OPS.robust_pool.default, (x, penalty), {"alpha": 0.5, **options})
    alpha = torch.tensor(0.5, dtype=x.dtype, device=x.device, requires_grad=x.requires_grad)
    opcheck(OPS.robust_pool.tensor, (x, penalty), {"alpha": alpha, **options})


def test_public_operator(penalty, device, dtype):
    check_both_overloads(
        torch.randn(5, 33, dtype=dtype, device=device, requires_grad=True), penalty
    )


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((33,), {"keepdim": True}),
        ((4, 5, 6), {"dim": [0, 2]}),
        ((4, 5, 6), {"dim": [-2], "keepdim": True}),
        ((4, 5), {"dim": []}),
        ((0, 5), {}),
        ((), {}),
    ],
)
def test_public_operator_on_other_shapes(shape, options, requires_grad, device):
    check_both_overloads(
        torch.randn(shape, device=device, requires_grad=requires_grad), "welsch", **options
    )


@pytest.mark.parametrize("name", ["transposed", "sliced", "expanded", "permuted"])
def test_public_operator_on_other_layouts(name, device, dtype):
    x = torch.randn(4, 6, 5, dtype=dtype, device=device)
    views = {
        "transposed": x.transpose(0, 1),
        "sliced": x[:, ::2],
        "expanded": x[:, :1].expand(4, 9, 5),
        "permuted": x.permute(2, 0, 1),
    }
    leaf = views[name].detach().requires_grad_()
    opcheck(OPS.robust_pool.default, (leaf, "huber"), {"dim": [1]})


@pytest.mark.parametrize("channels", sweep([(), (3,), (2, 3)], [(3,)]))
def test_public_segment_operator(channels, penalty, device, dtype):
    x = torch.randn(30, *channels, dtype=dtype, device=device, requires_grad=True)
    ptr = torch.tensor([0, 7, 7, 30], device=device)
    weight = (torch.rand(30, *channels, device=device) + 0.5).requires_grad_()
    alpha = torch.full((3, *channels), 0.5, dtype=dtype, device=device, requires_grad=True)
    opcheck(OPS.segment_robust_pool.default, (x, ptr, penalty), {"alpha": 0.5})
    opcheck(OPS.segment_robust_pool.tensor, (x, ptr, penalty), {"alpha": alpha, "weight": weight})


@pytest.mark.parametrize("solver", ["local", "global"])
def test_public_operators_with_a_mask_and_solver_options(solver, device):
    x = torch.randn(4, 9, device=device, requires_grad=True)
    mask, ptr = torch.rand(4, 9, device=device) < 0.7, torch.tensor([0, 1, 4], device=device)
    options = {"weight": mask, "solver": solver, "max_iter": 3, "tol": 1e-3}
    opcheck(OPS.robust_pool.default, (x, "welsch"), {"dim": [0], "keepdim": True, **options})
    opcheck(OPS.segment_robust_pool.default, (x, ptr, "welsch"), options)


# Arguments of the inner operators: shapes of alpha and weight, or None, and offsets of segments, or
# None.
SEGMENTS = [0, 2, 2, 5]
PROBLEMS = [
    (None, None, None),
    ((), (33,), None),
    ((5, 1, 1), None, None),
    ((1, 4, 1), (5, 1, 33), None),
    (None, None, SEGMENTS),
    ((3, 1, 1), (5, 1, 1), SEGMENTS),
    ((4, 33), (5, 4, 33), SEGMENTS),
]


# Each problem with one penalty, and two of them with all. FEW: each problem once, with alternating
# dtypes.
PAIRS = [(problem, "welsch") for problem in PROBLEMS]
PAIRS += [(PROBLEMS[i], p) for i in (3, 6) for p in ref.PENALTIES if p != "welsch"]
EVERY = [(*pair, dtype) for pair in PAIRS for dtype in DTYPES]
FEW = [(problem, "welsch", DTYPES[i % 2]) for i, problem in enumerate(PROBLEMS)]
every_problem = pytest.mark.parametrize("case", sweep(EVERY, FEW), ids=str)


def inner_problem(problem, penalty, dtype, device, requires_grad=True):
    """x, and the arguments after it in the schemas up to dim."""
    alpha_shape, weight_shape, offsets = problem
    x = torch.randn(5, 4, 33, dtype=dtype, device=device, requires_grad=requires_grad)

    def some(shape):
        if shape is None:
            return None
        drawn = 0.5 + torch.rand(shape, dtype=dtype, device=device)
        return drawn.requires_grad_(requires_grad)

    ptr = None if offsets is None else torch.tensor(offsets, device=device)
    dim = [2] if ptr is None else [0]
    return x, (penalty, 0.5, some(alpha_shape), some(weight_shape), ptr, dim)


def solved(x, problem):
    """The common arguments of the derivatives: x, its answer, and the problem."""
    with torch.no_grad():
        return (x, *OPS._robust_pool_forward(x, *problem, "global", None, None), *problem)


@every_problem
def test_inner_forwards(case, device):
    x, problem = inner_problem(*case, device)
    for operator in (OPS._robust_pool_forward, OPS._robust_pool_forward_info):
        opcheck(operator.default, (x, *problem, "local", None, None))


def all_or_one_wanted(problem):
    """The combinations of wanted gradients, of x, weight and alpha."""
    there = [True, problem[3] is not None, problem[2] is not None]
    alone = [[i == j for j in range(3)] for i in range(3) if there[i]]
    return [there, *alone] if len(alone) > 1 else alone


@every_problem
def test_inner_backward(case, device):
    x, problem = inner_problem(*case, device)
    sets = solved(x, problem)
    grad = torch.randn_like(sets[1]).requires_grad_()
    for wanted in all_or_one_wanted(problem):
        opcheck(OPS._robust_pool_backward.default, (grad, *sets, wanted))


def directions(x, y, problem):
    """Directions of x, weight and alpha: all at once and each alone."""
    parts = [torch.randn_like(x), problem[3], problem[2]]
    parts = [None if t is None else torch.randn_like(t).requires_grad_() for t in parts]
    alone = [[t if i == j else None for j, t in enumerate(parts)] for i in range(3)]
    return [parts, *(part for part in alone if any(t is not None for t in part))]


@every_problem
def test_inner_tangent(case, device):
    x, problem = inner_problem(*case, device)
    sets = solved(x, problem)
    for direction in directions(x, sets[1], problem):
        opcheck(OPS._robust_pool_jvp.default, (*direction, *sets))


@every_problem
def test_inner_double_backward(case, device):
    """Without the checks of the autograd registration: third derivatives raise, which these checks
    would count as a failure."""
    x, problem = inner_problem(*case, device, requires_grad=False)
    sets = solved(x, problem)
    grad = torch.randn_like(sets[1])
    for direction in directions(x, sets[1], problem):
        direction = [None if t is None else t.detach() for t in direction]
        for wanted in all_or_one_wanted(problem):
            opcheck(
                OPS._robust_pool_double_backward.default,
                (grad, *direction, *sets, wanted),
                test_utils=("test_schema", "test_faketensor"),
            )


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("still", [False, True])
def test_inner_gradients_of_other_layouts(still, segments, device):
    """Fake kernels give the right strides, even for a zero direction."""
    for x in (torch.randn(4, 5, 6).transpose(0, 1), torch.randn(5, 4, 12)[..., ::2]):
        x = x.to(device)
        weight, alpha = torch.ones_like(x), torch.ones(1, 1, 1, device=device)
        ptr = torch.tensor([0, 2, 5], device=device) if segments else None
        sets = solved(x, ("welsch", 0.5, alpha, weight, ptr, [0]))
        direction = (None, None, None) if still else (x, weight, alpha)
        opcheck(
            OPS._robust_pool_double_backward.default,
            (torch.randn_like(sets[1]), *direction, *sets, [True, True, True]),
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.parametrize("penalty", [p for p in ref.PENALTIES if not ref.REGISTRY[p].is_mean])
def test_inner_outputs_give_the_unrounded_answer(penalty, device):
    """y + remainder in float32 is closer to the float64 answer than any float32 y."""
    x = 1000 + torch.randn(50, 99, device=device)
    y, remainder, curvature = OPS._robust_pool_forward(
        x, penalty, 3.0, None, None, None, [1], "local", None, None
    )
    exact = ddn_cuda.robust_pool(x.double(), penalty, 3.0, keepdim=True)
    assert (y.double() - exact).abs().max() > 1e-5  # half a spacing of floats is 3e-5
    assert (y.double() + remainder.double() - exact).abs().max() < 4e-6 * 3
    assert (curvature > 0).all()


@pytest.mark.parametrize("dim", [-1, 0, (0, 2), (-1, -2), ()])
@pytest.mark.parametrize("keepdim", [False, True])
def test_fake_tensors_have_the_shape_of_real_ones(dim, keepdim, penalty, device, dtype):
    x = torch.randn(4, 3, 5, dtype=dtype, device=device)
    real = ddn_cuda.robust_pool(x, penalty, dim=dim, keepdim=keepdim)
    assert real.shape == torch.mean(x, dim, keepdim=keepdim).shape
    with FakeTensorMode() as mode:
        fake = ddn_cuda.robust_pool(mode.from_tensor(x), penalty, dim=dim, keepdim=keepdim)
    assert fake.shape == real.shape
    assert fake.dtype == real.dtype
    assert fake.device == real.device
    assert fake.stride() == real.stride()


def test_meta_tensors_have_the_shape_of_real_ones(penalty, dtype):
    x = torch.empty(4, 3, 5, dtype=dtype, device="meta")
    y = ddn_cuda.robust_pool(x, penalty, dim=1)
    assert y.shape == (4, 5)
    assert y.dtype == dtype


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("overload", ["float", "tensor"])
@pytest.mark.parametrize("face", ["function", "operator"])
def test_compile_without_graph_breaks(backend, overload, face, device, dtype):
    torch._dynamo.reset()
    weight = torch.randn(8, 3, dtype=dtype, device=device)
    alpha = torch.tensor(0.5, dtype=dtype, device=device) if overload == "tensor" else 0.5

    def network(x):
        x = torch.relu(x @ weight)
        if face == "function":
            y = ddn_cuda.robust_pool(x, "welsch", alpha, dim=1)
        else:
            y = OPS.robust_pool(x, "welsch", alpha=alpha, dim=1)
        return torch.sin(y).sum()

    compiled = torch.compile(network, fullgraph=True, backend=backend)
    x = torch.randn(4, 20, 8, dtype=dtype, device=device, requires_grad=True)
    expected, result = network(x), compiled(x)
    assert torch.equal(result, expected)
    (g,) = torch.autograd.grad(result, x)
    (expected_g,) = torch.autograd.grad(expected, x)
    assert torch.equal(g, expected_g)


def test_compile_with_changing_shapes(device):
    """One graph serves batches and sets of any size."""
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: ddn_cuda.robust_pool(x * 2, "huber").sum(),
        fullgraph=True,
        backend="aot_eager",
        dynamic=True,
    )
    for shape in ((3, 20), (5, 7), (8, 33)):
        x = torch.randn(shape, device=device, requires_grad=True)
        (g,) = torch.autograd.grad(compiled(x), x)
        (expected,) = torch.autograd.grad(ddn_cuda.robust_pool(x * 2, "huber").sum(), x)
        assert torch.equal(g, expected)


def test_export(device):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = ddn_cuda.RobustPool("welsch", 0.5, dim=1)

        def forward(self, x):
            return self.pool(torch.relu(x))

    net = Net().to(device)
    x = torch.randn(3, 20, 4, device=device)
    program = torch.export.export(net, (x,))
    assert torch.equal(program.module()(x), net(x))


# ---- The order of the overloads ------------------------------------------------------------------


def test_a_one_element_tensor_is_not_taken_for_a_float(device):
    """A conversion by a silent .item() would lose its gradient."""
    x = torch.randn(4, 9, device=device)
    for shape in ((), (1,), (1, 1)):
        alpha = torch.ones(shape, device=device, requires_grad=True)
        y = OPS.robust_pool(x, "huber", alpha=alpha)
        (g,) = torch.autograd.grad(y.sum(), alpha)
        assert g.shape == alpha.shape
        assert g.abs().sum() > 0


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the operators that reach the dispatcher, and the alpha of the inner forward."""

    def __init__(self):
        super().__init__()
        self.alphas = []
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        if func is OPS._robust_pool_forward.default:
            self.alphas.append(args[3])
        return func(*args, **(kwargs or {}))


def test_the_resolved_overloads(device):
    x = torch.randn(4, 9, device=device)
    with Calls() as calls:
        OPS.robust_pool(x, "huber", alpha=torch.tensor(2.0, device=device))
        OPS.robust_pool(x, "huber", alpha=torch.tensor([2.0], device=device))
        OPS.robust_pool(x, "huber", alpha=2.0)
        OPS.robust_pool(x, "huber")
    assert [isinstance(alpha, torch.Tensor) for alpha in calls.alphas] == [True, True, False, False]
    assert not any("_local_scalar_dense" in name for name in calls.names)


def test_a_float_alpha_copies_nothing_to_the_host(device, penalty):
    """No operator synchronises, sorts or reduces with ATen: only inner operators and views are
    called."""
    x = torch.randn(4, 9, device=device, requires_grad=True)
    with Calls() as calls:
        y = ddn_cuda.robust_pool(x, penalty, 0.5)
        y.backward(torch.ones_like(y))
    allowed = ("ddn.", "aten.squeeze", "aten.unsqueeze", "aten.view", "aten.detach")
    allowed += ("aten.ones_like", "aten.zeros")  # incoming gradients
    assert all(name.startswith(allowed) for name in calls.names), calls.names
    assert sum(name.startswith("ddn.") for name in calls.names) == 2


@pytest.mark.parametrize("name", ["robust_pool", "segment_robust_pool"])
def test_the_schemas_put_the_tensor_overload_first(name):
    schemas = list(torch._C._jit_get_schemas_for_operator(f"ddn::{name}"))
    assert [s.overload_name for s in schemas] == ["tensor", ""]
    for schema in schemas:
        (alpha,) = [a for a in schema.arguments if a.name == "alpha"]
        assert alpha.kwarg_only
