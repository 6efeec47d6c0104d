"""The operators are what torch's compilers and checks take them for."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import ddn_cuda

OPS = torch.ops.ddn


def check_both_overloads(x, penalty, **options):
    torch.library.opcheck(OPS.robust_pool.default, (x, penalty), {"alpha": 0.5, **options})
    alpha = torch.tensor(0.5, dtype=x.dtype, device=x.device)
    torch.library.opcheck(OPS.robust_pool.tensor, (x, penalty), {"alpha": alpha, **options})


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
    torch.library.opcheck(OPS.robust_pool.default, (leaf, "huber"), {"dim": [1]})


@pytest.mark.parametrize("weight_shape", [None, (33,), (5, 1, 33)])
@pytest.mark.parametrize("alpha_shape", [None, (), (5, 1, 1), (1, 4, 1)])
def test_inner_operators(alpha_shape, weight_shape, penalty, device, dtype):
    x = torch.randn(5, 4, 33, dtype=dtype, device=device)
    alpha = (
        None if alpha_shape is None else torch.full(alpha_shape, 0.5, dtype=dtype, device=device)
    )
    weight = None
    if weight_shape is not None:
        weight = torch.rand(weight_shape, dtype=dtype, device=device, requires_grad=True)
    for operator in (OPS._robust_pool_forward, OPS._robust_pool_forward_info):
        torch.library.opcheck(
            operator.default,
            (x.clone().requires_grad_(), penalty, 0.5, alpha, weight, [2], "local", None, None),
        )
    if weight is not None:
        weight = weight.detach()
    arguments = (penalty, 0.5, alpha, weight, [2])
    y, remainder, curvature = OPS._robust_pool_forward(x, *arguments, "local", None, None)
    for operator in (OPS._robust_pool_backward, OPS._robust_pool_backward_weight):
        torch.library.opcheck(
            operator.default,
            (torch.ones_like(y), x, y, remainder, curvature, *arguments),
            # The gradient of this one is not supported: it raises, which the check of autograd's
            # registration would count as a failure.
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.parametrize("penalty", ["pseudo_huber", "huber", "welsch", "truncated_quadratic"])
def test_inner_outputs_give_the_unrounded_answer(penalty, device):
    """y + remainder in float32 is nearer to the float64 answer than y can be."""
    x = 1000 + torch.randn(50, 99, device=device)
    y, remainder, curvature = OPS._robust_pool_forward(
        x, penalty, 3.0, None, None, [1], "local", None, None
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
    """One graph for batches and sets of any size."""
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
    """Taken for one, by a silent .item(), it would lose its gradient."""
    x = torch.randn(4, 9, device=device)
    for shape in ((), (1,), (1, 1)):
        alpha = torch.ones(shape, device=device, requires_grad=True)
        with pytest.raises(NotImplementedError, match="`alpha` is a tensor that requires grad"):
            OPS.robust_pool(x, "huber", alpha=alpha)


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
    """No operator path waits, sorts or reduces with ATen: only the inner operators and views."""
    x = torch.randn(4, 9, device=device, requires_grad=True)
    with Calls() as calls:
        y = ddn_cuda.robust_pool(x, penalty, 0.5)
        y.backward(torch.ones_like(y))
    allowed = ("ddn.", "aten.squeeze", "aten.unsqueeze", "aten.view", "aten.detach")
    allowed += ("aten.ones_like", "aten.zeros")  # incoming gradients
    assert all(name.startswith(allowed) for name in calls.names), calls.names
    assert sum(name.startswith("ddn.") for name in calls.names) == 2


def test_the_schemas_put_the_tensor_overload_first():
    schemas = list(torch._C._jit_get_schemas_for_operator("ddn::robust_pool"))
    assert [s.overload_name for s in schemas] == ["tensor", ""]
    for schema in schemas:
        (alpha,) = [a for a in schema.arguments if a.name == "alpha"]
        assert alpha.kwarg_only
