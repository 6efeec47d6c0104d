"""Where the transforms of torch.func work, and where they raise: never a silent zero."""

import itertools

import pytest
import torch

import ddn_cuda
from tests.support.sweeps import sweep, sweep_cases
from tests.support.transforms import OPS, SEGMENT_FACES, assert_same, operator

func = torch.func
pytestmark = pytest.mark.usefixtures("no_vmap_fallback")

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
