"""Unsupported derivatives raise errors that name the caller's function."""

import pytest
import torch
from torch.autograd import forward_ad

import ddn_cuda
from tests.support import problems
from tests.support.problems import NAMES, OPS, moving, scalar

# ---- Unsupported derivatives raise ---------------------------------------------------------------


def test_third_derivatives_raise(penalty, device):
    problem = problems.regular(penalty, problems.SHAPES[1], device)
    f = scalar(penalty, problem.alpha, problem.weight)
    x, ones = problem.x, torch.ones_like(problem.x)
    func = torch.func

    def third_in_reverse():
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(f(leaf), leaf, create_graph=True)
        (h,) = torch.autograd.grad(g.square().sum(), leaf, create_graph=True)
        torch.autograd.grad(h.square().sum(), leaf)

    def along(g):
        return lambda x: func.jvp(g, (x,), (ones,))[1]

    for third in (
        third_in_reverse,
        lambda: func.grad(lambda x: func.grad(lambda x: func.grad(f)(x).sum())(x).sum())(x),
        lambda: func.jacfwd(func.hessian(f))(x),
        lambda: func.jacrev(func.hessian(f))(x),
        lambda: along(func.grad(along(f)))(x),
        lambda: func.grad(along(along(f)))(x),
        # Second derivatives, forward mode over forward mode.
        lambda: along(along(f))(x),
        lambda: func.jacfwd(func.jacfwd(f))(x),
    ):
        with pytest.raises(NotImplementedError, match="this derivative is not supported"):
            third()


def test_third_derivatives_of_segments_raise_in_their_name(device):
    ptr = torch.tensor([0, 2, 5], device=device)
    x = torch.randn(5, dtype=torch.float64, device=device)
    func = torch.func

    def f(x):
        return ddn_cuda.segment_robust_pool(x, ptr, "welsch").sin().sum()

    def along(g):
        return lambda x: func.jvp(g, (x,), (torch.ones_like(x),))[1]

    expected = "^segment_robust_pool: this derivative is not supported"
    for third in (func.jacrev(func.hessian(f)), func.jacfwd(func.hessian(f)), along(along(f))):
        with pytest.raises(NotImplementedError, match=expected):
            third(x)


def inner_calls(penalty, device):
    """The arguments of each inner operator, and the positions that may carry a tangent."""
    x = torch.randn(3, 4, dtype=torch.float64, device=device)
    alpha, weight = torch.rand_like(x[:, :1]) + 1, torch.rand_like(x) + 0.5
    problem = (penalty, 1.0, alpha, weight, None, [1])
    y, remainder, curvature = OPS._robust_pool_forward(x, *problem, "global", None, None)
    sets_ = (x, y, remainder, curvature, *problem)
    direction, grad, every = (x.clone(), weight.clone(), alpha.clone()), y.clone(), [True] * 3
    return {
        "robust_pool": ((x, penalty), {"alpha": alpha, "weight": weight}),
        "segment_robust_pool": (
            (x, torch.tensor([0, 1, 3], device=device), penalty),
            {"alpha": alpha[0], "weight": weight},
        ),
        "_robust_pool_forward": ((x, *problem, "global", None, None), {}),
        "_robust_pool_forward_info": ((x, *problem, "global", None, None), {}),
        "_robust_pool_backward": ((grad, *sets_, every), {}),
        "_robust_pool_jvp": ((*direction, *sets_), {}),
        "_robust_pool_double_backward": ((grad, *direction, *sets_, every), {}),
    }


OPERATORS = (
    "robust_pool",
    "segment_robust_pool",
    "_robust_pool_forward",
    "_robust_pool_forward_info",
    "_robust_pool_backward",
    "_robust_pool_jvp",
    "_robust_pool_double_backward",
)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_tangent_that_reaches_an_operator_raises(name, requires_grad, device):
    """At any position, whether or not autograd records: never a silent zero."""
    args, kwargs = inner_calls("pseudo_huber", device)[name]
    places = [
        i for i, a in enumerate(args) if isinstance(a, torch.Tensor) and a.is_floating_point()
    ]
    assert places
    for place in (*places, *kwargs):
        own_args, own_kwargs = list(args), dict(kwargs)
        holder = own_kwargs if place in kwargs else own_args
        primal = holder[place].clone().requires_grad_(requires_grad)
        with forward_ad.dual_level():
            holder[place] = forward_ad.make_dual(primal, torch.ones_like(primal))
            with pytest.raises((NotImplementedError, RuntimeError)):
                getattr(OPS, name)(*own_args, **own_kwargs)


@pytest.mark.parametrize("face", ["function", "operator"])
def test_the_tangent_of_an_incoming_gradient(face, penalty, device):
    """The function keeps it; without the function, it reaches an operator in the backward pass."""
    x = torch.randn(3, 4, dtype=torch.float64, device=device, requires_grad=True)
    y = ddn_cuda.robust_pool(x, penalty) if face == "function" else OPS.robust_pool(x, penalty)
    grad, tangent = torch.ones_like(y), torch.tensor([1.0, -2.0, 0.5], dtype=y.dtype).to(device)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(grad, tangent)
        if face == "operator":
            with pytest.raises((NotImplementedError, RuntimeError)):
                torch.autograd.grad(y, x, dual)
            return
        (g,) = torch.autograd.grad(y, x, dual)
        primal, moved = forward_ad.unpack_dual(g)
        assert torch.equal(moved, primal * tangent[:, None])


@pytest.mark.parametrize("transform", ["jvp", "jacfwd", "hessian", "linearize"])
def test_forward_mode_of_the_operator_raises(transform, penalty, device):
    x = torch.randn(3, 4, dtype=torch.float64, device=device)

    def f(x):
        return OPS.robust_pool(x, penalty).sum()

    def run():
        if transform in ("jvp", "linearize"):
            given = ((x,), (x,)) if transform == "jvp" else (x,)
            return getattr(torch.func, transform)(f, *given)
        return getattr(torch.func, transform)(f)(x)

    with pytest.raises((NotImplementedError, RuntimeError)):
        run()


def test_answers_and_info_are_told_apart(penalty, device):
    """The gradient flows through the answer only; the diagnostics have none."""
    problem = problems.regular(penalty, problems.SHAPES[1], device)
    inputs = moving(problem, NAMES)
    y, info = ddn_cuda.robust_pool(
        inputs[0], penalty, inputs[1], weight=inputs[2], return_info=True
    )
    assert not any(part.requires_grad for part in info)
    with_info = torch.autograd.grad(y.sum(), inputs, create_graph=True)
    plain = torch.autograd.grad(problem.pool(penalty)(*inputs).sum(), inputs, create_graph=True)
    for a, b in zip(with_info, plain, strict=True):
        assert torch.equal(a, b)
    second = [
        torch.autograd.grad(sum(g.square().sum() for g in grads), inputs)
        for grads in (with_info, plain)
    ]
    for a, b in zip(*second, strict=True):
        assert torch.equal(a, b)
