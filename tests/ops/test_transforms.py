"""torch.func and vmap: batched by the kernels, and never a silent zero."""

import itertools
import warnings

import pytest
import torch

import ddn_cuda
from tests.support import problems
from tests.support.sweeps import sweep, sweep_cases

OPS = torch.ops.ddn
func = torch.func


@pytest.fixture(autouse=True)
def warnings_are_errors():
    """Without a vmap rule, an operator falls back to a loop with only a warning."""
    enabled = torch._C._functorch._is_vmap_fallback_enabled()
    torch._C._functorch._set_vmap_fallback_enabled(False)  # for fallbacks that only a log reports
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield
    torch._C._functorch._set_vmap_fallback_enabled(enabled)


def function(penalty, **options):
    return lambda x, alpha, weight: ddn_cuda.robust_pool(
        x, penalty, alpha, weight=weight, **options
    )


def operator(penalty, **options):
    return lambda x, alpha, weight: OPS.robust_pool(
        x, penalty, alpha=alpha, weight=weight, **options
    )


FACES = {"function": function, "operator": operator}


def operands(device, dtype=torch.float64, batch=4):
    """x, alpha and weight, each with a batch dim in front."""
    x = 2 * torch.randn(batch, 3, 5, 6, dtype=dtype)
    alpha = 0.5 + torch.rand(batch, 5, 1, dtype=dtype)
    weight = 0.5 + torch.rand(batch, 5, 6, dtype=dtype)
    return x.to(device), alpha.to(device), weight.to(device)


def looped(f, in_dims, *inputs):
    """The result of vmap, by a loop."""
    size = next(t.shape[d] for t, d in zip(inputs, in_dims, strict=True) if d is not None)
    answers = [
        f(*(t if d is None else t.select(d, i) for t, d in zip(inputs, in_dims, strict=True)))
        for i in range(size)
    ]
    return torch.utils._pytree.tree_map(lambda *parts: torch.stack(parts), *answers)


def assert_same(found, expected):
    leaves = torch.utils._pytree.tree_leaves
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        assert torch.equal(a, b)


# ---- vmap ----------------------------------------------------------------------------------------

IN_DIMS = [
    (0, None, None),
    (None, 0, None),
    (None, None, 0),
    (0, 0, None),
    (0, None, 0),
    (None, 0, 0),
    (0, 0, 0),
]


@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
@pytest.mark.parametrize("face", FACES)
def test_vmap(face, in_dims, penalty, device, dtype):
    """Bitwise equal to a loop."""
    inputs = operands(device, dtype)
    inputs = [t if d is not None else t[0] for t, d in zip(inputs, in_dims, strict=True)]
    for options in ({}, {"dim": 0}, {"dim": (0, 2), "keepdim": True}, {"dim": ()}):
        own = list(inputs)
        if options and options["dim"] != (0, 2):
            own[1] = own[1].mean((-2, -1), keepdim=True)  # a scalar alpha
        f = FACES[face](penalty, **options)
        assert_same(func.vmap(f, in_dims)(*own), looped(f, in_dims, *own))


@pytest.mark.parametrize("face", FACES)
def test_vmap_over_other_dims(face, penalty, device):
    x, alpha, weight = operands(device)
    f = FACES[face](penalty)
    expected = looped(f, (0, 0, 0), x, alpha, weight)
    for dims in ((1, 2, 1), (-1, -1, -1), (3, 0, 2)):
        moved = [t.movedim(0, d) for t, d in zip((x, alpha, weight), dims, strict=True)]
        assert_same(func.vmap(f, dims)(*moved), expected)
        assert_same(func.vmap(f, dims, out_dims=1)(*moved), expected.movedim(0, 1))
    assert_same(func.vmap(f, (0, 0, 0), chunk_size=3)(x, alpha, weight), expected)


@pytest.mark.parametrize("face", FACES)
def test_nested_vmap(face, penalty, device):
    x, alpha, weight = operands(device)
    f = FACES[face](penalty)
    own = (x.mean(1), alpha.mean(), weight[0, 0])
    assert_same(
        func.vmap(func.vmap(f, (0, None, None)), (0, None, None))(*own),
        looped(lambda *t: looped(f, (0, None, None), *t), (0, None, None), *own),
    )
    # Three operands at three levels.
    nested = func.vmap(func.vmap(func.vmap(f, (0, None, None)), (None, 0, None)), (None, None, 0))
    found = nested(x, alpha, weight)
    assert found.shape == (4, 4, 4, 3, 5)
    for k in range(4):
        for j in range(4):
            for i in range(4):
                assert torch.equal(found[k, j, i], f(x[i], alpha[j], weight[k]))


def test_a_batch_of_nothing_and_of_one(penalty, device):
    x = torch.randn(1, 3, 6, device=device)
    f = function(penalty)
    alpha, weight = torch.tensor(0.7, device=device), torch.rand(6, device=device)
    assert_same(func.vmap(f, (0, None, None))(x, alpha, weight), f(x, alpha, weight))
    none = func.vmap(f, (0, None, None))(x[:0], alpha, weight)
    assert none.shape == (0, 3)


def test_masks_and_float_alphas(penalty, device):
    x = torch.randn(4, 3, 6, device=device)
    mask = torch.rand(4, 3, 6, device=device) < 0.7

    def f(x, mask):
        return ddn_cuda.robust_pool(x, penalty, 0.7, weight=mask, dim=0)

    for dims in ((0, 0), (None, 0), (0, None)):
        own = [t if d is not None else t[0] for t, d in zip((x, mask), dims, strict=True)]
        assert_same(func.vmap(f, dims)(*own), looped(f, dims, *own))


def test_info_under_vmap(penalty, device):
    x, alpha, weight = operands(device)

    def f(x, alpha, weight):
        y, info = ddn_cuda.robust_pool(x, penalty, alpha, weight=weight, return_info=True)
        return (y, *info)

    assert_same(func.vmap(f)(x, alpha, weight), looped(f, (0, 0, 0), x, alpha, weight))


def test_modules_under_vmap(penalty, device):
    x = torch.randn(4, 3, 6, device=device)
    pool = ddn_cuda.RobustPool(penalty, 0.7).to(device)
    assert_same(func.vmap(pool)(x), pool(x))
    # An ensemble: copies of a module with different alphas.
    alphas = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64, device=device)
    found = func.vmap(
        lambda alpha, x: func.functional_call(pool, {"scale.alpha": alpha}, (x,)), (0, None)
    )(alphas, x[0])
    for alpha, y in zip(alphas.tolist(), found, strict=True):
        assert torch.equal(y, ddn_cuda.robust_pool(x[0], penalty, alpha))


BAD_SHAPES = {
    "alpha": (lambda x: function("huber")(x, torch.ones_like(x[:2, :1]), None), ValueError),
    "weight": (lambda x: function("huber")(x, 1.0, torch.ones_like(x[:, 1:])), ValueError),
    "dim": (lambda x: ddn_cuda.robust_pool(x, dim=2), IndexError),
}


@pytest.mark.parametrize("name", BAD_SHAPES)
def test_bad_shapes_under_vmap_raise(name, device):
    """Shapes are checked without the batch dim."""
    f, error = BAD_SHAPES[name]
    with pytest.raises(error, match=f"`{name}`"):
        func.vmap(f)(torch.randn(4, 3, 6, device=device))


SEGMENT_FACES = {
    "function": lambda penalty, ptr: (
        lambda x, a, w: ddn_cuda.segment_robust_pool(x, ptr, penalty, a, weight=w)
    ),
    "operator": lambda penalty, ptr: (
        lambda x, a, w: OPS.segment_robust_pool(x, ptr, penalty, alpha=a, weight=w)
    ),
}


@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
@pytest.mark.parametrize("face", SEGMENT_FACES)
def test_vmap_of_segments(face, in_dims, penalty, device, dtype):
    ptr = torch.tensor([0, 3, 3, 7], device=device)
    x = torch.randn(4, 7, 2, dtype=dtype, device=device)
    f = SEGMENT_FACES[face](penalty, ptr)
    for alpha_shape, weight_shape in (((3, 2), (7, 2)), ((), (7, 1)), ((2,), (2,)), ((3, 1), ())):
        alpha = (0.5 + torch.rand(4, *alpha_shape, dtype=dtype)).to(device)
        weight = (0.5 + torch.rand(4, *weight_shape, dtype=dtype)).to(device)
        own = [
            t if d is not None else t[0] for t, d in zip((x, alpha, weight), in_dims, strict=True)
        ]
        assert_same(func.vmap(f, in_dims)(*own), looped(f, in_dims, *own))


@pytest.mark.parametrize("face", SEGMENT_FACES)
def test_batched_offsets_raise(face, device):
    x, ptr = torch.randn(7, 2, device=device), torch.tensor([[0, 3, 7], [0, 2, 7]], device=device)
    alpha = torch.tensor(1.0, device=device)
    with pytest.raises(NotImplementedError, match="`ptr` is batched by vmap"):
        func.vmap(lambda ptr: SEGMENT_FACES[face]("huber", ptr)(x, alpha, None))(ptr)


# ---- Derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["grad", "jacrev", "jacfwd", "hessian"])
@pytest.mark.parametrize("argument", [0, 1, 2, (0, 1, 2)], ids=str)
def test_derivatives_per_sample(argument, transform, penalty, device):
    """vmap of a derivative is bitwise equal to a loop over the samples."""
    x, alpha, weight = operands(device, batch=3)
    x, alpha, weight = x[:, 0, :2, :4], alpha[:, :2], weight[:, :2, :4]
    f = function(penalty)
    g = (lambda *t: f(*t).sin().sum()) if transform in ("grad", "hessian") else f
    derivative = getattr(func, transform)(g, argnums=argument)
    assert_same(
        func.vmap(derivative)(x, alpha, weight), looped(derivative, (0, 0, 0), x, alpha, weight)
    )


def test_gradients_per_sample_of_a_network(penalty, device):
    """vmap(grad) with shared parameters: batched data, unbatched weights."""
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Tanh(), ddn_cuda.RobustPool(penalty, 0.7, dim=0)
    ).to(device, torch.float64)
    params = {name: p.detach() for name, p in net.named_parameters()}
    x = torch.randn(5, 8, 3, dtype=torch.float64, device=device)

    def loss(params, x):
        return func.functional_call(net, params, (x,)).square().sum()

    found = func.vmap(func.grad(loss), (None, 0))(params, x)
    for i in range(5):
        alone = func.grad(loss)(params, x[i])
        for name, g in alone.items():
            # The linear layer's products are batched in a different way.
            torch.testing.assert_close(found[name][i], g, rtol=1e-9, atol=1e-9)


def test_jvp_and_vjp(penalty, device):
    x, alpha, weight = operands(device)
    inputs, f = (x[0], alpha[0], weight[0]), function(penalty)
    tangents = tuple(torch.randn_like(t) for t in inputs)
    y, moved = func.jvp(f, inputs, tangents)
    assert torch.equal(y, f(*inputs))
    y, pull = func.vjp(f, *inputs)
    assert torch.equal(y, f(*inputs))
    v = torch.randn_like(y)
    pulled = pull(v)
    total = sum((p * t).sum() for p, t in zip(pulled, tangents, strict=True))
    # The same bilinear form, summed in two orders.
    torch.testing.assert_close((moved * v).sum(), total, rtol=1e-12, atol=1e-12)
    batch = torch.stack([v, -v, 2 * v])
    assert_same(func.vmap(pull)(batch), looped(pull, (0,), batch))
    directions = tuple(torch.stack([t, 2 * t]) for t in tangents)
    along = func.vmap(lambda *t: func.jvp(f, inputs, t)[1])(*directions)
    assert_same(along[0], moved)
    assert_same(along[1], 2 * moved)


def test_jacobians_agree(penalty, device):
    problem = problems.regular(penalty, problems.SHAPES[2], device)
    f, every = problem.pool(penalty), (0, 1, 2)
    jacrev = func.jacrev(f, every)(*problem[:3])
    jacfwd = func.jacfwd(f, every)(*problem[:3])
    classic = torch.autograd.functional.jacobian(f, problem[:3])
    vectorized = torch.autograd.functional.jacobian(f, problem[:3], vectorize=True)
    for a, b, c, d in zip(jacrev, jacfwd, classic, vectorized, strict=True):
        assert a.abs().max() > 0 or penalty == "quadratic" or "truncated" in penalty
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)  # two orders of one sum
        torch.testing.assert_close(a, c, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(a, d, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("face", FACES)
def test_batched_gradients(face, penalty, device):
    """torch.autograd.grad(is_grads_batched=True), on the operator too."""
    x, alpha, weight = (t[0].requires_grad_() for t in operands(device))
    y = FACES[face](penalty)(x, alpha, weight)
    v = torch.randn(4, *y.shape, dtype=y.dtype, device=device)
    found = torch.autograd.grad(y, (x, alpha, weight), v, is_grads_batched=True, retain_graph=True)
    for i in range(4):
        alone = torch.autograd.grad(y, (x, alpha, weight), v[i], retain_graph=True)
        assert_same([g[i] for g in found], alone)


def test_derivatives_of_segments(penalty, device):
    ptr = torch.tensor([0, 3, 3, 7], device=device)
    x = torch.randn(3, 7, 2, dtype=torch.float64, device=device)
    alpha = torch.full((3, 2), 0.7, dtype=torch.float64, device=device)
    weight = torch.rand(3, 7, 2, dtype=torch.float64).to(device) + 0.5
    f = SEGMENT_FACES["function"](penalty, ptr)
    for derivative in (func.jacrev(f, (0, 1, 2)), func.jacfwd(f, (0, 1, 2))):
        assert_same(
            func.vmap(derivative, (0, None, 0))(x, alpha, weight),
            looped(derivative, (0, None, 0), x, alpha, weight),
        )
    g = func.hessian(lambda x: f(x, alpha, None).sin().sum())
    assert_same(func.vmap(g)(x), looped(g, (0,), x))


# ---- What works where ----------------------------------------------------------------------------

TRANSFORMS = {
    "vmap": lambda f, x, v: func.vmap(f)(x),
    "grad": lambda f, x, v: func.grad(lambda x: f(x).sum())(x),
    "vmap(grad)": lambda f, x, v: func.vmap(func.grad(lambda x: f(x).sum()))(x),
    "vjp": lambda f, x, v: func.vjp(f, x)[1](f(v))[0],
    "jvp": lambda f, x, v: func.jvp(f, (x,), (v,))[1],
    "jacrev": lambda f, x, v: func.jacrev(f)(x),
    "jacfwd": lambda f, x, v: func.jacfwd(f)(x),
    "hessian": lambda f, x, v: func.hessian(lambda x: f(x).sum())(x),
    # Forward mode around vmap, which hides tangents from the mapped function.
    "grad(vmap)": lambda f, x, v: func.grad(lambda x: func.vmap(f)(x).sum())(x),
    "jvp(vmap)": lambda f, x, v: func.jvp(func.vmap(f), (x,), (v,))[1],
    "jvp(vmap(vmap))": lambda f, x, v: func.jvp(
        func.vmap(func.vmap(f)), (x[:, None],), (v[:, None],)
    )[1],
    "vmap(jvp)": lambda f, x, v: func.vmap(lambda x, v: func.jvp(f, (x,), (v,))[1])(x, v),
    "vmap(jvp(vmap))": lambda f, x, v: func.vmap(
        lambda x, v: func.jvp(func.vmap(f), (x,), (v,))[1]
    )(x[:, None], v[:, None]),
    "jacfwd(vmap)": lambda f, x, v: func.jacfwd(func.vmap(f))(x),
    "hessian(vmap)": lambda f, x, v: func.hessian(lambda x: func.vmap(f)(x).sum())(x),
}

POOLS = {
    "function": lambda x: ddn_cuda.robust_pool(x, "pseudo_huber"),
    "info": lambda x: ddn_cuda.robust_pool(x, "pseudo_huber", return_info=True)[0],
    "operator": lambda x: OPS.robust_pool(x, "pseudo_huber"),
    "segments": lambda x: ddn_cuda.segment_robust_pool(
        x, torch.tensor([0, 2, 3], device=x.device), "pseudo_huber"
    ),
    "segment operator": lambda x: OPS.segment_robust_pool(
        x, torch.tensor([0, 2, 3], device=x.device), "pseudo_huber"
    ),
}

# Cases in which a transform does not raise.
EVERYWHERE = ("function", "info", "segments")
WORKS = {
    "eager": {
        "vmap": tuple(POOLS),
        **{name: EVERYWHERE for name in TRANSFORMS if name != "vmap"},
    },
    "compile": {"vmap": tuple(POOLS)},
}


# Compiled, `make test` runs one transform of each kind.
COMPILED = ("vmap", "grad", "jvp", "hessian", "jvp(vmap)", "vmap(jvp)")


@pytest.mark.parametrize(
    ("mode", "transform"),
    sweep_cases(
        itertools.product(WORKS, TRANSFORMS), lambda case: case[0] == "eager" or case[1] in COMPILED
    ),
)
@pytest.mark.parametrize("pool", POOLS)
def test_what_works(pool, mode, transform, device):
    """Either the result of eager mode or an exception."""
    torch._dynamo.reset()
    x, v = torch.randn(2, 3, 4, 5, dtype=torch.float64, device=device)
    apply, f = TRANSFORMS[transform], POOLS[pool]

    def run(x, v):
        return apply(f, x, v)

    if mode == "compile":
        run = torch.compile(run, backend="aot_eager", fullgraph=True)
    if pool in WORKS[mode].get(transform, ()):
        reference = POOLS["segments" if "segment" in pool else "function"]
        # Offsets cannot be batched, so vmap is over x only.
        assert_same(run(x, v), apply(reference, x, v))
        return
    errors = (RuntimeError, NotImplementedError, torch._dynamo.exc.TorchDynamoException)
    with pytest.raises(errors):
        run(x, v)


TANGENT = r"`\w+` carries a forward-mode tangent"


@pytest.mark.parametrize("argument", range(3))
@pytest.mark.parametrize("face", ["operator", "segment operator"])
def test_no_tangent_is_lost_in_a_vmap(face, argument, device):
    """Of no argument: x, alpha, weight."""
    ptr = torch.tensor([0, 1, 3], device=device)
    f = operator("welsch") if face == "operator" else SEGMENT_FACES["operator"]("welsch", ptr)
    inputs = [
        torch.randn(2, 3, 4, device=device),
        torch.ones(2, 1, 1, device=device),
        torch.ones(2, 3, 4, device=device),
    ]

    def moved(t):
        return func.vmap(f)(*inputs[:argument], t, *inputs[argument + 1 :])

    t = inputs[argument]
    with pytest.raises(NotImplementedError, match=TANGENT):
        func.jvp(moved, (t,), (torch.ones_like(t),))
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=TANGENT):
        moved(forward_ad.make_dual(t, torch.ones_like(t)))


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("segments", [False, True])
def test_no_tangent_is_lost_in_an_inner_operator(segments, mapped, device):
    x = torch.randn(3, 4, device=device)
    alpha, weight = torch.ones(1, 1, device=device), torch.ones(3, 1, device=device)
    ptr = torch.tensor([0, 1, 3], device=device) if segments else None
    problem = ("welsch", 1.0, alpha, weight, ptr, [0])
    solver, wanted = ("global", None, None), [True, True, True]
    y, remainder, curvature = OPS._robust_pool_forward(x, *problem, *solver)
    sets = (x, y, remainder, curvature, *problem)
    calls = {
        OPS._robust_pool_forward: (x, *problem, *solver),
        OPS._robust_pool_forward_info: (x, *problem, *solver),
        OPS._robust_pool_backward: (y, *sets, wanted),
        OPS._robust_pool_jvp: (x, weight, alpha, *sets),
        OPS._robust_pool_double_backward: (y, x, weight, alpha, *sets, wanted),
    }
    name = "segment_robust_pool" if segments else "robust_pool"
    for call, args in calls.items():
        for i, t in enumerate(args):
            if not isinstance(t, torch.Tensor) or t is ptr:
                continue

            def moved(t, call=call, args=args, i=i):
                return call(*args[:i], t, *args[i + 1 :])

            f, t = (func.vmap(moved), t[None]) if mapped else (moved, t)
            with pytest.raises(NotImplementedError, match=f"^{name}: {TANGENT}"):
                func.jvp(f, (t,), (torch.ones_like(t),))


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_no_tangent_is_lost_in_an_exported_program(mapped, decomposed, device):
    class Net(torch.nn.Module):
        def forward(self, x):
            return ddn_cuda.robust_pool(x, "welsch", 2.0)

    x = torch.randn(3, 4, device=device)
    program = torch.export.export(Net(), (x,))
    net = (program.run_decompositions() if decomposed else program).module()
    f, x = (func.vmap(net), torch.randn(2, 3, 4, device=device)) if mapped else (net, x)
    with pytest.raises(NotImplementedError, match=TANGENT):
        func.jvp(f, (x,), (torch.ones_like(x),))
    traced = torch.fx.experimental.proxy_tensor.make_fx(f)(x)
    with pytest.raises(NotImplementedError, match=TANGENT):
        func.jvp(traced, (x,), (torch.ones_like(x),))


@pytest.mark.parametrize("transform", sweep(TRANSFORMS, COMPILED))
def test_with_graph_breaks_all_of_it_works(transform, device):
    """Dynamo runs unsupported parts in eager mode, or raises."""
    torch._dynamo.reset()
    x, v = torch.randn(2, 3, 4, 5, dtype=torch.float64, device=device)
    apply, f = TRANSFORMS[transform], POOLS["function"]
    expected = apply(f, x, v)
    try:
        found = torch.compile(lambda x, v: apply(f, x, v), backend="aot_eager")(x, v)
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException):
        return
    assert_same(found, expected)
