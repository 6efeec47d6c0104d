"""All derivatives up to second order, in both modes, by x, alpha and weight, jointly and alone."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import ddn_cuda
from tests.support import contract, problems
from tests.support.problems import NAMES, OPS, moving, scalar

MOVED = [("x",), ("alpha",), ("weight",), NAMES]


# ---- Against differences -------------------------------------------------------------------------


@pytest.mark.parametrize("moved", MOVED, ids="-".join)
@pytest.mark.parametrize("shapes", problems.SHAPES, ids=str)
def test_the_function(shapes, moved, penalty, device):
    problem = problems.regular(penalty, shapes, device)
    inputs, pool = moving(problem, moved), problem.pool(penalty)
    assert gradcheck(
        pool,
        inputs,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )
    assert gradgradcheck(
        pool,
        inputs,
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
        check_batched_grad=True,
    )


def operator_pool(penalty, dim):
    dims = [dim] if isinstance(dim, int) else list(dim)
    return lambda x, alpha, weight: OPS.robust_pool(
        x, penalty, alpha=alpha, dim=dims, weight=weight
    )


@pytest.mark.parametrize("shapes", problems.SHAPES, ids=str)
def test_the_operator(shapes, penalty, device):
    """Reverse mode, once and twice; forward mode raises, see below."""
    problem = problems.regular(penalty, shapes, device)
    inputs, pool = moving(problem, NAMES), operator_pool(penalty, problem.dim)
    assert gradcheck(pool, inputs, check_batched_grad=True)
    assert gradgradcheck(pool, inputs, check_batched_grad=True)


@pytest.mark.parametrize("face", ["function", "operator"])
def test_segments(face, penalty, device):
    shapes = problems.Shapes((5, 2), 0, (2,), (5, 1))
    parts = [problems.regular(penalty, shapes, device, seed=seed) for seed in (1, 2)]
    x, weight = (torch.cat([getattr(p, name) for p in parts]) for name in ("x", "weight"))
    alpha = torch.stack([p.alpha for p in parts])
    ptr = torch.tensor([0, 5, 5, 10], device=device)
    alpha = torch.stack([alpha[0], alpha[0], alpha[1]])  # that of the empty segment is ignored
    inputs = moving((x, alpha, weight), NAMES)

    def pool(x, alpha, weight):
        if face == "operator":
            return OPS.segment_robust_pool(x, ptr, penalty, alpha=alpha, weight=weight)
        return ddn_cuda.segment_robust_pool(x, ptr, penalty, alpha, weight=weight)

    forward = face == "function"
    assert gradcheck(pool, inputs, check_forward_ad=forward, check_batched_grad=True)
    assert gradgradcheck(pool, inputs, check_fwd_over_rev=forward, check_batched_grad=True)


def test_a_float_alpha(penalty, device):
    problem = problems.regular(penalty, problems.Shapes((2, 6), -1, (), ()), device)
    x, alpha = problem.x.requires_grad_(), problem.alpha.item()

    def pool(x):
        return ddn_cuda.robust_pool(x, penalty, alpha)

    assert gradcheck(pool, x, check_forward_ad=True)
    assert gradgradcheck(pool, x, check_fwd_over_rev=True)


# ---- One second derivative, many ways to it ------------------------------------------------------


def close(a, b, eps=contract.EPS[torch.float64]):
    """Equal up to the rounding of two sums of a few terms."""
    torch.testing.assert_close(a, b, rtol=0, atol=256 * eps * max(1.0, float(b.abs().max())))


def test_hessian_vector_products(penalty, device):
    problem = problems.regular(penalty, problems.SHAPES[1], device)
    x, f = problem.x, scalar(penalty, problem.alpha, problem.weight)
    v = torch.randn_like(x)
    hessian = torch.func.hessian(f)(x)
    expected = torch.einsum("ijkl,kl->ij", hessian, v)
    assert penalty == "quadratic" or expected.abs().max() > 1e-3
    grad = torch.func.grad(f)
    close(torch.func.jvp(grad, (x,), (v,))[1], expected)
    close(torch.func.grad(lambda x: (grad(x) * v).sum())(x), expected)
    close(torch.func.grad(lambda x: torch.func.jvp(f, (x,), (v,))[1])(x), expected)
    close(torch.func.vjp(grad, x)[1](v)[0], expected)
    close(torch.func.jacrev(grad)(x), hessian)
    close(torch.func.jacfwd(grad)(x), hessian)
    close(torch.autograd.functional.hessian(f, x), hessian)
    close(torch.autograd.functional.vhp(f, x, v)[1], expected)
    close(hessian, hessian.permute(2, 3, 0, 1))


def test_the_double_backward_trick_for_hessian_vector_products_raises(penalty, device):
    """The trick differentiates three times, and a function cannot know that only the linear part of
    the third derivative is needed. The message names the alternatives."""
    problem = problems.regular(penalty, problems.SHAPES[1], device)
    x, f = problem.x, scalar(penalty, problem.alpha, problem.weight)
    v = torch.randn_like(x)
    with pytest.raises(NotImplementedError, match=r"vhp, or torch\.func\.jvp of torch\.func\.grad"):
        torch.autograd.functional.hvp(f, x, v)
    _, expected = torch.autograd.functional.vhp(f, x, v)
    close(torch.func.jvp(torch.func.grad(f), (x,), (v,))[1], expected)


@pytest.mark.parametrize("shapes", problems.SHAPES, ids=str)
def test_mixed_derivatives_do_not_depend_on_the_order(shapes, penalty, device):
    problem = problems.regular(penalty, shapes, device)

    def f(*inputs):
        return problem.pool(penalty)(*inputs).sin().sum()

    hessian = torch.func.hessian(f, argnums=(0, 1, 2))(*problem[:3])
    for i in range(3):
        for j in range(i):
            a, b = hessian[i][j], hessian[j][i]
            rows = problem[i].dim()
            close(a, b.permute(*range(b.dim() - rows, b.dim()), *range(b.dim() - rows)))


@pytest.mark.parametrize("shapes", problems.SHAPES, ids=str)
def test_float32(shapes, penalty, device):
    """Equal to the derivatives in float64, up to float32's rounding and last step."""
    problem = problems.regular(penalty, shapes, device, dtype=torch.float32)

    def f(*inputs):
        return problem.pool(penalty)(*inputs).sin().sum()

    def second(tensors):
        g = torch.func.grad(f, argnums=(0, 1, 2))(*tensors)
        inputs = moving(tensors, NAMES)
        grads = torch.autograd.grad(f(*inputs), inputs, create_graph=True)
        total = sum(g.square().sum() for g in grads)
        return (*g, *torch.autograd.grad(total, inputs))

    found, expected = second(problem[:3]), second([t.double() for t in problem[:3]])
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        # A step of 4e-6 alpha changes each second derivative by at most a few units times that.
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


def test_a_gradient_may_be_any_view(penalty, device, dtype):
    x = torch.randn(4, 33, dtype=dtype, device=device, requires_grad=True)
    y = ddn_cuda.robust_pool(x, penalty, 2.0)
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    v = torch.randn(33, 4, dtype=dtype, device=device)
    (expected,) = torch.autograd.grad(g, x, v.T.contiguous(), retain_graph=True)
    (found,) = torch.autograd.grad(g, x, v.T, retain_graph=True)
    assert torch.equal(found, expected)
    (found,) = torch.autograd.grad(g, x, torch.ones((), dtype=dtype, device=device).expand(4, 33))
    # The gradients of a set sum to one for any x.
    assert found.abs().max() <= 64 * contract.EPS[dtype]
