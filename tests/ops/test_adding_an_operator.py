"""docs/adding_an_operator.md: in Python, an operator needs only an entry in the registry."""

import pytest
import torch
from torch.library import opcheck

import ddn_cuda  # noqa: F401
from ddn_cuda import _autograd, _operators
from ddn_cuda._roles import Derivative, Operator, Output, Role

LIBRARY = torch.library.Library("ddn", "FRAGMENT")
LIBRARY.define("_moment(Tensor x, Tensor? weight, int[] dim) -> Tensor")  # csrc/ops/schemas.cpp


@torch.library.impl(LIBRARY, "_moment", "CPU")  # csrc/ops/device_operators.h
def moment(x, weight, dim):
    squares = x * x if weight is None else weight * x * x
    return squares.sum(dim, keepdim=True) if dim else squares.clone()


# The entry.
class Moment(Derivative):
    saves = ("x", "weight")

    @staticmethod
    def backward(calls, given, grads, needs):
        x, weight, grad = given["x"], given["weight"], grads[0]
        found = {}
        if "x" in needs:
            found["x"] = 2 * x * grad if weight is None else 2 * weight * x * grad
        if "weight" in needs:
            found["weight"] = (x * x * grad).sum_to_size(weight.shape)
        return found

    @staticmethod
    def jvp(calls, given, tangents):
        x, weight, dim = given["x"], given["weight"], given["dim"]
        moved = torch.zeros_like(x)
        if "x" in tangents:
            moved = moved + 2 * x * tangents["x"] * (1 if weight is None else weight)
        if "weight" in tangents:
            moved = moved + x * x * tangents["weight"]
        return [moved.sum(dim, keepdim=True) if dim else moved]


MOMENT = Operator(
    name="_moment",
    arguments={"x": Role.POINTS, "weight": Role.TO_POINTS, "dim": Role.DIMS},
    outputs=[Output("y", Role.ANSWERS)],
    derivative=Moment,
)
# The end of the entry.

_operators.register([MOMENT])
(FUNCTION,) = _autograd.as_functions([MOMENT])[1].values()
FACES = {"operator": torch.ops.ddn._moment.default, "function": FUNCTION.apply}


def inputs(*shape):
    x, weight = torch.randn(*shape, dtype=torch.float64), torch.rand(shape[-1], dtype=torch.float64)
    return x.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize("dim", [[], [1], [0, 2]], ids=str)
def test_shapes_and_registrations(dim):
    opcheck(torch.ops.ddn._moment.default, (*inputs(3, 4, 5), dim))


@pytest.mark.parametrize("face", FACES)
def test_derivatives(face):
    forward = face == "function"
    f = FACES[face]
    torch.autograd.gradcheck(lambda x, w: f(x, w, [1]), inputs(3, 4), check_forward_ad=forward)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("in_dims", [(0, None), (2, 0), (None, 1)], ids=str)
def test_vmap(face, in_dims):
    call = FACES[face]
    shapes = ((3, 4), (4,))
    x, w = (
        torch.rand(shape if d is None else (*shape[:d], 5, *shape[d:]), dtype=torch.float64)
        for shape, d in zip(shapes, in_dims, strict=True)
    )

    def f(x, w):
        return call(x, w, [1])

    expected = torch.stack(
        [
            f(*(t if d is None else t.select(d, i) for t, d in zip((x, w), in_dims, strict=True)))
            for i in range(5)
        ]
    )
    torch.testing.assert_close(torch.func.vmap(f, in_dims)(x, w), expected)


def test_compiled():
    def f(x, w):
        return torch.ops.ddn._moment(x, w, [1]).sin().sum()

    x, w = inputs(3, 4)
    compiled = torch.compile(f, backend="aot_eager", fullgraph=True)
    for a, b in zip(
        torch.autograd.grad(compiled(x, w), (x, w)),
        torch.autograd.grad(f(x, w), (x, w)),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_an_entry_that_is_not_the_schema():
    wrong = Operator("_moment", {"x": Role.POINTS, "dim": Role.DIMS}, MOMENT.outputs, Moment)
    with pytest.raises(TypeError, match="ddn::_moment: the entry has the arguments"):
        _operators.register([wrong])


def test_every_inner_operator_has_an_entry():
    schemas = torch._C._jit_get_all_schemas()
    inner = {s.name.removeprefix("ddn::") for s in schemas if s.name.startswith("ddn::_")}
    own = {operator.name for operator in _operators.OPERATORS}
    # Neither has derivatives, and no transform sees either.
    without = {"_robust_pool_check", "_sharded_pass"}
    assert inner - without - {"_moment"} == own
