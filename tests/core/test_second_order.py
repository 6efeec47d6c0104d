"""All derivatives up to second order, in both modes: of x, alpha, weight, together and alone."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import ddn_cuda
from tests.support import contract, exact, problems, sets
from tests.support import reference as ref

OPS = torch.ops.ddn
NAMES = ("x", "alpha", "weight")
MOVED = [("x",), ("alpha",), ("weight",), NAMES]


def moving(problem, moved):
    """The problem's tensors, those that are named as leaves."""
    return tuple(
        t.detach().clone().requires_grad_(name in moved)
        for name, t in zip(NAMES, problem, strict=False)
    )


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
    """Reverse mode, once and twice; forward mode raises: see below."""
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
    alpha = torch.stack([alpha[0], alpha[0], alpha[1]])  # the empty one's plays no part
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
    """Up to the roundings of two sums of a few terms."""
    torch.testing.assert_close(a, b, rtol=0, atol=256 * eps * max(1.0, float(b.abs().max())))


def scalar(penalty, alpha, weight):
    return lambda x: ddn_cuda.robust_pool(x, penalty, alpha, weight=weight).sin().sum()


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
    """It differentiates three times; what a function is told of the gradients that are needed does
    not tell it that only the linear part of the third one is. The message names what to call."""
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
    """The derivatives of the same numbers in float64, up to float32's rounding and solver step."""
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
        # A step of 4e-6 alpha moves each second derivative by its bending, a few units at most.
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
    # The gradients of a set sum to one whatever x is.
    assert found.abs().max() <= 64 * contract.EPS[dtype]


# ---- The gradient of alpha -----------------------------------------------------------------------

RESOLUTION = {torch.float32: 2e-5, torch.float64: 1e-11}


def alpha_gradient(x, penalty, alpha, weight):
    alpha = alpha.detach().clone().requires_grad_()
    y = ddn_cuda.robust_pool(x, penalty, alpha, weight=weight)
    return y.detach(), torch.autograd.grad(y.sum(), alpha)[0]


def alpha_cases():
    """Names, points in units of alpha [sets, points], and alpha."""
    rng = np.random.default_rng(5)
    for alpha in (1e-8, 1.0, 1e8):
        near = sets.contaminated(rng, 4, 15)
        yield f"alpha_{alpha:g}", near / alpha, alpha
        yield f"alpha_{alpha:g}_of_its_width", near, alpha
        yield (
            f"alpha_{alpha:g}_outliers_1e8_away",
            np.concatenate([near, near[:, :4] * 1e8], axis=1),
            alpha,
        )


ALPHA_CASES = list(alpha_cases())


@pytest.mark.parametrize(("name", "units", "alpha"), ALPHA_CASES, ids=[c[0] for c in ALPHA_CASES])
def test_the_gradient_of_alpha(name, units, alpha, penalty, device, dtype):
    """As exact differences of the answers give it, relative to the terms that it is a sum of.

    The solver's step, 4e-6 alpha in float32 and 1e-12 in float64, moves each term by a few units.
    """
    del name
    rng = np.random.default_rng(len(units[0]))
    x = torch.tensor(units * alpha, dtype=dtype, device=device)
    weight = torch.tensor(rng.uniform(0.5, 1.5, units.shape), dtype=dtype, device=device)
    alphas = torch.full((len(x), 1), alpha, dtype=dtype, device=device)
    y, g = alpha_gradient(x, penalty, alphas, weight)
    close_by = ddn_cuda.robust_pool(x.double(), penalty, alphas.double(), weight=weight.double())
    assert (g != 0).any() == (penalty not in ("quadratic", "truncated_quadratic")) or alpha != 1
    for i in range(len(x)):
        points, weights = x[i].tolist(), weight[i].tolist()
        start, own = close_by[i].item(), alphas[i].item()
        assert abs(y[i].item() - start) <= contract.accuracy(start, own, dtype)
        expected, terms = exact.by_alpha(start, points, weights, penalty, own)
        off = abs(g[i].item() - expected)
        # An isolated point's terms vanish but for the cube of how far from it y was rounded to.
        assert off <= RESOLUTION[dtype] * terms + 1e-18, f"set {i}: {g[i].item()}, not {expected}"


def test_the_gradient_of_alpha_against_the_reference(penalty, device):
    """Differences of the reference's answers: its step of 1e-5 leaves 1e-9 of either error."""
    problem = problems.regular(penalty, problems.Shapes((3, 12), -1, (3, 1), ()), device)
    _, g = alpha_gradient(problem.x, penalty, problem.alpha, None)
    for points, alpha, found in zip(problem.x, problem.alpha, g, strict=True):
        row, at, h = points.cpu().numpy(), alpha.item(), 1e-5
        up, down = (ref.solve(row, penalty, at + side * h).y for side in (1, -1))
        assert found.item() == pytest.approx((up - down) / (2 * h), abs=1e-8)


def test_a_broadcast_alpha_gathers_its_gradients(penalty, device, dtype):
    problem = problems.regular(penalty, problems.Shapes((6, 5, 9), -1, (6, 5, 1), ()), device)
    x = problem.x.to(dtype)
    for shape in ((), (1,), (5, 1), (6, 1, 1), (1, 5, 1), (6, 5, 1)):
        alpha = torch.full(shape, 1.3, dtype=dtype, device=device)
        _, g = alpha_gradient(x, penalty, alpha, None)
        _, each = alpha_gradient(x, penalty, alpha.expand(6, 5, 1).contiguous(), None)
        assert g.shape == alpha.shape
        expected = each.double().sum_to_size(shape if shape else (1,)).reshape(shape)
        eps = contract.EPS[dtype]
        torch.testing.assert_close(g.double(), expected, rtol=0, atol=64 * eps)


def test_alpha_of_another_dtype(penalty, device, dtype):
    """Its gradient has its dtype."""
    x = torch.randn(4, 33, dtype=dtype, device=device)
    for other in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        alpha = torch.full((4, 1), 0.75, dtype=other, device=device)
        y, g = alpha_gradient(x, penalty, alpha, None)
        _, expected = alpha_gradient(x, penalty, alpha.to(dtype), None)
        assert y.dtype == dtype
        assert g.dtype == other
        assert torch.equal(g, expected.to(other))


# ---- Where the theorem does not hold, and special points ----------------------------------------


def every_derivative(x, penalty, alpha, weight, still=None):
    """First and second derivatives, in reverse and forward mode; the weight of a point that stands
    `still` does not move."""
    inputs = [t.detach().clone().requires_grad_() for t in (x, alpha, weight)]

    def pool(x, alpha, weight):
        return ddn_cuda.robust_pool(x, penalty, alpha, weight=weight)

    first = torch.autograd.grad(pool(*inputs).sum(), inputs, create_graph=True)
    generator = torch.Generator().manual_seed(1)
    directions = [
        torch.randn(t.shape, dtype=x.dtype, generator=generator).to(x.device) for t in inputs
    ]
    if still is not None:
        directions[2][still] = 0
    total = sum((g * v).sum() for g, v in zip(first, directions, strict=True))
    second = torch.autograd.grad(total, inputs)
    values = tuple(t.detach() for t in inputs)
    _, moved = torch.func.jvp(pool, values, tuple(directions))
    return {
        **{f"d{name}": g.detach() for name, g in zip(NAMES, first, strict=True)},
        **{f"dd{name}": g for name, g in zip(NAMES, second, strict=True)},
        "dy": moved,
    }


@pytest.mark.parametrize("distance", [2.5, 1e3])
def test_flat_sets_move_nothing(distance, device, dtype):
    x = torch.tensor([[0.0, 0.1, distance, distance + 0.1]], dtype=dtype, device=device)
    alpha, weight = x.new_ones(1, 1), torch.ones_like(x)
    assert ddn_cuda.robust_pool(x, "huber", return_info=True)[1].status == ddn_cuda.Status.flat
    for name, derivative in every_derivative(x, "huber", alpha, weight).items():
        assert not derivative.any(), name  # which is not NaN either


@pytest.mark.parametrize("empty", ["weight", "mask"])
def test_empty_sets_move_nothing(empty, penalty, device, dtype):
    x = torch.tensor([[0.0, 2.0, math.nan]], dtype=dtype, device=device)
    if empty == "weight":
        for name, derivative in every_derivative(
            x, penalty, x.new_ones(1, 1), torch.zeros_like(x)
        ).items():
            assert not derivative.any(), name
        return
    x.requires_grad_()
    y = ddn_cuda.robust_pool(x, penalty, weight=torch.zeros(3, device=device) > 0)
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), x)
    assert not g.any()
    assert not h.any()


@pytest.mark.parametrize("far", [math.inf, -math.inf, 1e300])
def test_points_far_away(far, penalty, device):
    """They add nothing or, in the convex penalties, a pull with w alpha: as a point at 1e6 does."""
    problem = problems.regular(penalty, problems.Shapes((2, 9), -1, (2, 1), (2, 9)), device)
    if penalty == "quadratic":
        pytest.skip("a mean follows its far points; with one at infinity nothing moves it")
    x, alpha, weight, _ = problem
    still = (0, 4) if math.isinf(far) else None
    x[0, 4] = far
    found = every_derivative(x, penalty, alpha, weight, still)
    x[0, 4] = math.copysign(1e6, far)
    expected = every_derivative(x, penalty, alpha, weight, still)
    for name, derivative in found.items():
        assert torch.isfinite(derivative).all(), name
        # pseudo_huber: at 1e6 its pull is short of alpha by (1e-6)^2 / 2.
        close = torch.isclose(derivative, expected[name], rtol=1e-9, atol=1e-9)
        if math.isinf(far) and name in ("dweight", "ddweight"):
            # Of an infinite point they are zero, by convention.
            assert derivative[0, 4] == 0, (name, derivative[0, 4])
            close[0, 4] = True
        assert close.all(), (name, derivative, expected[name])


def test_sets_whose_answer_is_infinite_move_nothing(device, dtype):
    x = torch.tensor([[math.inf, math.inf, 0.0]], dtype=dtype, device=device)
    for penalty in ("quadratic", "pseudo_huber", "huber"):
        derivatives = every_derivative(x, penalty, x.new_ones(1, 1), torch.ones_like(x))
        for name, derivative in derivatives.items():
            assert not derivative.any(), (penalty, name)


def test_nan_stays_in_its_set(penalty, device, dtype):
    problem = problems.regular(penalty, problems.Shapes((3, 9), -1, (3, 1), (3, 9)), device, dtype)
    x, alpha, weight, _ = problem
    expected = every_derivative(x, penalty, alpha, weight)
    x[1, 4] = math.nan
    for name, derivative in every_derivative(x, penalty, alpha, weight).items():
        assert torch.equal(derivative[[0, 2]], expected[name][[0, 2]]), name
        assert derivative[1].isnan().all(), name


def test_a_point_without_weight(penalty, device):
    """dy/dw = -psi/H; x's derivatives are zero; second ones are those of all but no weight."""
    problem = problems.regular(penalty, problems.Shapes((2, 9), -1, (2, 1), (2, 9)), device)
    x, alpha, weight, _ = problem
    weight[:, 3] = 0
    found = every_derivative(x, penalty, alpha, weight)
    y = ddn_cuda.robust_pool(x, penalty, alpha, weight=weight)
    for i in range(2):
        z, at = (y[i] - x[i]).cpu().numpy(), alpha[i].item()
        curvature = math.fsum(weight[i].cpu().numpy() * ref.dpsi(z, penalty, at))
        expected = -ref.psi(z, penalty, at) / curvature
        assert found["dweight"][i].tolist() == pytest.approx(expected.tolist(), abs=1e-10)
    assert not found["dx"][:, 3].any()
    weight[:, 3] = 1e-9
    for name, expected in every_derivative(x, penalty, alpha, weight).items():
        # 1e-9 times the next derivative, a number of order 10.
        torch.testing.assert_close(found[name], expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_point_without_weight_or_value(value, penalty, device, dtype):
    """All its derivatives are zero, the others' are those of the set without it."""
    problem = problems.regular(penalty, problems.Shapes((2, 9), -1, (2, 1), (2, 9)), device, dtype)
    x, alpha, weight, _ = problem
    weight[:, 3] = 0
    expected = every_derivative(x, penalty, alpha, weight)
    x[:, 3] = value
    kept = [i for i in range(9) if i != 3]
    for name, derivative in every_derivative(x, penalty, alpha, weight).items():
        if name in ("dx", "dweight", "ddx", "ddweight"):
            assert not derivative[:, 3].any(), name
            derivative, expected[name] = derivative[:, kept], expected[name][:, kept]
        # A weight that moves takes the point of a finite value with it, into every second
        # derivative and dy: those are compared where that does not reach.
        if name in ("dx", "dweight", "dalpha"):
            assert torch.equal(derivative, expected[name]), name
        assert torch.isfinite(derivative).all(), name


# ---- What is not differentiable raises -----------------------------------------------------------


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
        # Second derivatives, of forward mode by forward mode.
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
    """Each inner operator's arguments with the places of what may carry a tangent."""
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
        "_robust_pool_tangent": ((*direction, *sets_), {}),
        "_robust_pool_double_backward": ((grad, *direction, *sets_, every), {}),
    }


OPERATORS = (
    "robust_pool",
    "segment_robust_pool",
    "_robust_pool_forward",
    "_robust_pool_forward_info",
    "_robust_pool_backward",
    "_robust_pool_tangent",
    "_robust_pool_double_backward",
)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_tangent_that_reaches_an_operator_raises(name, requires_grad, device):
    """At any place, whether autograd records or not: never a silent zero."""
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
    """Kept by the function; it reaches an operator in the backward pass of the other."""
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
    """The gradient flows through the answer alone; what is told of it has none."""
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
