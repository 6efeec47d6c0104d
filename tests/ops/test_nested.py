"""Nested tensors of layout torch.jagged: their ragged dim is pooled by segments."""

import re

import pytest
import torch

import ddn_cuda
from ddn_cuda import robust_pool

pytestmark = pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested tensors:UserWarning",
    "ignore:The PyTorch API of MaskedTensors:UserWarning",
)

LENGTHS = (3, 5, 1, 40)


def jagged(parts, **options):
    return torch.nested.nested_tensor(list(parts), layout=torch.jagged, **options)


def drawn(*channels, dtype=torch.float32):
    return [torch.randn(n, *channels, dtype=dtype) for n in LENGTHS]


def pooled(parts, *args, dim=0, **options):
    return torch.stack([robust_pool(part, *args, dim=dim, **options) for part in parts])


def with_gaps():
    """Sets that begin at rows 0, 1, 2 of 6 rows each, and their parts. The gaps are NaN."""
    padded = torch.randn(3, 6, 2)
    starts, lengths = torch.tensor([0, 1, 2]), torch.tensor([3, 0, 4])
    for row, start, length in zip(padded, starts, lengths, strict=True):
        row[:start] = row[start + length :] = torch.nan
    padded.requires_grad_()
    return padded, torch.nested.narrow(padded, 1, starts, lengths, layout=torch.jagged)


@pytest.mark.parametrize("channels", [(), (4,), (2, 3)], ids=str)
def test_a_nested_tensor_is_pooled_over_its_ragged_dim(channels, penalty, device):
    parts = [part.to(device) for part in drawn(*channels)]
    x = jagged(parts)
    y = robust_pool(x, penalty, 0.5, dim=1)
    assert torch.equal(y, pooled(parts, penalty, 0.5))
    assert torch.equal(robust_pool(x, penalty, 0.5, dim=-1 - len(channels)), y)
    assert torch.equal(robust_pool(x, penalty, 0.5, dim=[1], keepdim=True), y.unsqueeze(1))


def test_the_ragged_dim_can_be_any_but_the_first():
    parts = drawn(2, 3)
    for ragged in (2, 3):
        x = jagged(parts).transpose(1, ragged)
        moved = [part.transpose(0, ragged - 1) for part in parts]
        y = robust_pool(x, "welsch", 0.5, dim=ragged)
        assert torch.equal(y, pooled(moved, "welsch", 0.5, dim=ragged - 1))
        kept = robust_pool(x, "welsch", 0.5, dim=ragged, keepdim=True)
        assert torch.equal(kept, y.unsqueeze(ragged))


def test_gradients_of_points_weights_and_alpha():
    """Bitwise those of the sets, each pooled alone."""
    x = jagged(drawn(4, dtype=torch.float64)).requires_grad_()
    weight = torch.rand(x.values().shape, dtype=torch.float64)
    weight = torch.nested.nested_tensor_from_jagged(weight, x.offsets()).requires_grad_()
    alpha = torch.rand(len(LENGTHS), 1, 4, dtype=torch.float64, requires_grad=True)
    y = robust_pool(x, "welsch", alpha, dim=1, weight=weight)
    grad = torch.randn_like(y)
    y.backward(grad)
    assert x.grad.is_nested
    for i, (points, weights) in enumerate(zip(x.unbind(), weight.unbind(), strict=True)):
        points, weights, scale = (
            t.detach().requires_grad_() for t in (points, weights, alpha[i].squeeze(0))
        )
        alone = robust_pool(points, "welsch", scale, dim=0, weight=weights)
        alone.backward(grad[i])
        assert torch.equal(alone, y[i])
        assert torch.equal(points.grad, x.grad.unbind()[i])
        assert torch.equal(weights.grad, weight.grad.unbind()[i])
        assert torch.equal(scale.grad, alpha.grad[i, 0])


def test_second_derivatives():
    x = jagged(drawn(2, dtype=torch.float64)).requires_grad_()
    values = x.detach().values().clone().requires_grad_()

    def hessian_product(y, points, first_order):
        (grad,) = torch.autograd.grad(y.square().sum(), points, create_graph=True)
        return torch.autograd.grad(first_order(grad).square().sum(), points)[0]

    found = hessian_product(robust_pool(x, "welsch", dim=1), x, lambda grad: grad.values())
    y = ddn_cuda.segment_robust_pool(values, x.offsets(), "welsch")
    assert torch.equal(found.values(), hessian_product(y, values, lambda grad: grad))


@pytest.mark.parametrize("shape", [(), (4,), (49, 1), (1, 4), (49, 4)], ids=str)
@pytest.mark.parametrize("ragged", [1, 2])
def test_dense_weights_broadcast_against_the_values(shape, ragged):
    values = torch.cat(drawn(4))
    weight = torch.rand(shape)
    if ragged == 2 and len(shape) > 1:
        weight = weight.T
    elif ragged == 2 and len(shape) == 1:
        weight = weight[:, None]
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0)
    x = torch.nested.nested_tensor_from_jagged(values, offsets)
    x = x.transpose(1, ragged)
    y = robust_pool(x, "welsch", 0.5, dim=ragged, weight=weight)
    rows = weight.T if ragged == 2 and weight.dim() == 2 else weight
    expected = ddn_cuda.segment_robust_pool(values, offsets, "welsch", 0.5, weight=rows)
    assert torch.equal(y, expected)


def test_a_nested_mask():
    x = jagged(drawn(4))
    y = robust_pool(x, dim=1, weight=x > 0)
    expected = [robust_pool(part, dim=0, weight=part > 0) for part in x.unbind()]
    assert torch.equal(y, torch.stack(expected))


def test_lengths_leave_gaps_between_sets():
    """Rows in gaps change no answer and have zero gradients, whatever their values."""
    padded, x = with_gaps()
    alpha = torch.rand(3, 1, 1, requires_grad=True)
    y, info = robust_pool(x, "welsch", alpha, dim=1, return_info=True)
    assert y.shape == info.status.shape == (3, 2)
    assert (info.status[1] == ddn_cuda.Status.empty).all()
    y.sum().backward()
    for i, (part, place) in enumerate(
        zip(x.unbind(), (slice(0, 3), slice(1, 1), slice(2, 6)), strict=True)
    ):
        own = part.detach().requires_grad_()
        if not len(part):
            assert not y[i].any()
        else:
            alone = robust_pool(own, "welsch", alpha[i].detach(), dim=0)
            alone.sum().backward()
            assert torch.equal(y[i], alone)
            assert torch.equal(padded.grad[i, place], own.grad)
            padded.grad[i, place] = 0
    assert not padded.grad.any()
    assert alpha.grad.isfinite().all()


def test_lengths_of_no_sets():
    none = torch.zeros(0, dtype=torch.int64)
    x = torch.nested.nested_tensor_from_jagged(torch.randn(4, 2), none.new_zeros(1), none)
    assert robust_pool(x, dim=1).shape == (0, 2)


def test_weights_with_gaps_must_have_the_same_offsets():
    lengths = torch.tensor([2, 3])
    x, same, other = (
        torch.nested.nested_tensor_from_jagged(torch.rand(8, 2), offsets, lengths)
        for offsets in [torch.tensor([0, 4, 8])] * 2 + [torch.tensor([1, 5, 8])]
    )
    expected = [
        robust_pool(points, dim=0, weight=weights)
        for points, weights in zip(x.unbind(), same.unbind(), strict=True)
    ]
    assert torch.equal(robust_pool(x, dim=1, weight=same), torch.stack(expected))
    with pytest.raises(ValueError, match="`weight` is a nested tensor of shape"):
        robust_pool(x, dim=1, weight=other)


def test_diagnostics_are_dense():
    parts = drawn(4)
    _, info = robust_pool(jagged(parts), dim=1, keepdim=True, return_info=True)
    for i, part in enumerate(parts):
        _, alone = robust_pool(part, dim=0, return_info=True)
        for t, expected in zip(info, alone, strict=True):
            assert torch.equal(t[i, 0], expected)


def test_an_empty_set_gives_zero():
    x = torch.nested.nested_tensor_from_jagged(torch.ones(3, 2), torch.tensor([0, 0, 3]))
    assert robust_pool(x, dim=1).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("dim", [-1, 0, 2, (), (0, 1), (1, 2), 7], ids=str)
def test_only_the_ragged_dim_can_be_pooled(dim):
    message = f"robust_pool: `dim` is {dim} for a nested x with 3 dims; expected 1 or -2, its"
    with pytest.raises(ValueError, match=re.escape(message)):
        robust_pool(jagged(drawn(4)), dim=dim)


@pytest.mark.parametrize("dim", [True, "1", 1.0, None, [None]], ids=repr)
def test_a_dim_of_another_type(dim):
    with pytest.raises(TypeError, match=r"robust_pool: `dim` is .*; expected an int or several"):
        robust_pool(jagged(drawn(4)), dim=dim)


@pytest.mark.parametrize("shape", [(4, 1), (2, 4), (1, 4, 1, 4), (4, 2, 4)], ids=str)
def test_alpha_broadcasts_against_the_output_with_keepdim(shape):
    with pytest.raises(ValueError, match=r"robust_pool: `alpha` has shape .* for a nested x"):
        robust_pool(jagged(drawn(4)), "huber", torch.ones(shape), dim=1)


def test_weights_that_do_not_fit():
    x = jagged(drawn(4))
    for weight in (
        jagged(drawn(4)),  # other offsets, although of the same values
        x.transpose(1, 2),
        jagged(drawn()),
        torch.ones(4, 1, 4),
        torch.ones(1, 49, 4),
    ):
        with pytest.raises(ValueError, match=r"`weight` is a (nested|dense) tensor of shape"):
            robust_pool(x, dim=1, weight=weight)
    with pytest.raises(ValueError, match=r"`weight` has shape .*; expected a shape that broad"):
        robust_pool(x, dim=1, weight=torch.ones(3))
    with pytest.raises(TypeError, match=r"`weight` is .*; expected a tensor or None"):
        robust_pool(x, dim=1, weight=[1.0])


def test_other_invalid_arguments_of_a_nested_pool():
    x = jagged(drawn(4))
    with pytest.raises(TypeError, match="robust_pool: `keepdim` is 1; expected True or False"):
        robust_pool(x, dim=1, keepdim=1)
    with pytest.raises(ValueError, match="`penalty` is 'l9'"):
        robust_pool(x, "l9", dim=1)
    with pytest.raises(TypeError, match="`x` has dtype Long"):
        robust_pool(jagged([torch.ones(2, 3, dtype=torch.int64)]), dim=1)


UNSUPPORTED = {
    "strided": lambda: torch.nested.nested_tensor(drawn(4), layout=torch.strided),
    "masked": lambda: torch.masked.masked_tensor(torch.ones(4, 4), torch.ones(4, 4).bool()),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_kinds_say_what_is_expected(kind):
    """On the fast path a strided nested tensor is a tensor of no subclass."""
    bad, x = UNSUPPORTED[kind](), torch.ones(4, 4)
    instead = {"strided": "layout=torch.jagged", "masked": r"get_data\(\); its get_mask\(\)"}[kind]
    with pytest.raises(TypeError, match=f"^robust_pool: `x` is a .*; expected .*{instead}"):
        robust_pool(bad, dim=1)
    nested = jagged(drawn(4))
    for call, name in (
        (lambda: robust_pool(x, "huber", bad), "robust_pool: `alpha`"),
        (lambda: robust_pool(x, weight=bad), "robust_pool: `weight`"),
        (lambda: robust_pool(nested, "huber", bad, dim=1), "robust_pool: `alpha`"),
        (lambda: robust_pool(nested, weight=bad, dim=1), "robust_pool: `weight`"),
        (lambda: ddn_cuda.segment_robust_pool(bad, torch.tensor([0, 4])), "segment_robust_pool:"),
        (lambda: ddn_cuda.suggest_alpha(bad), "suggest_alpha: `x`"),
        (lambda: ddn_cuda.RobustPool(dim=1)(bad), "robust_pool: `x`"),
    ):
        with pytest.raises(TypeError, match=f"^{name}.* is a .*; expected a dense tensor"):
            call()


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_operators_refuse_nested_tensors(layout):
    nested = torch.nested.nested_tensor(drawn(4), layout=layout)
    with pytest.raises(TypeError, match=r"^robust_pool: `x` is a nested tensor; expected a dense"):
        torch.ops.ddn.robust_pool(nested, dim=1)
    with pytest.raises(TypeError, match=r"^robust_pool: `weight` is a nested tensor; expected a"):
        torch.ops.ddn.robust_pool(torch.ones(4, 4), weight=nested)


def test_nested_alpha_and_weights_need_a_nested_x():
    x, nested = torch.ones(4, 4), jagged(drawn(4))
    for options in ({"alpha": nested}, {"weight": nested}):
        with pytest.raises(TypeError, match=r"is a nested tensor of layout torch\.jagged; ex"):
            robust_pool(x, **options)
    with pytest.raises(TypeError, match=r"`alpha` is a nested tensor of layout torch\.jagged"):
        robust_pool(nested, "huber", nested, dim=1)
    with pytest.raises(TypeError, match="segment_robust_pool: `x` is a nested tensor"):
        ddn_cuda.segment_robust_pool(nested, nested.offsets())


def test_the_module_and_autocast():
    x = jagged(drawn(4))
    pool = ddn_cuda.RobustPool("welsch", 0.5, dim=1, learn_alpha=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = pool(x, x.detach() > -1)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert pool.scale.log_alpha.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dynamic", [None, True])
def test_compiled(dynamic):
    torch._dynamo.reset()

    def pool(x, weight):
        return 2 * robust_pool(x, "welsch", 0.5, dim=1, weight=weight)

    compiled = torch.compile(pool, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for lengths in (LENGTHS, (2, 7)):
        parts = [torch.randn(n, 4, dtype=torch.float64) for n in lengths]
        values = []
        for function in (pool, compiled):
            x = jagged(parts).requires_grad_()
            weight = torch.nested.nested_tensor_from_jagged(x.detach().values() ** 2, x.offsets())
            y = function(x, weight.requires_grad_())
            y.sum().backward()
            values.append((y, x.grad.values(), weight.grad.values()))
        for own, expected in zip(*values, strict=True):
            assert torch.equal(own, expected)
    _, x = with_gaps()
    one = torch.ones(2)
    assert torch.equal(compiled(x, one), pool(x, one))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_compiled_module_with_a_nested_input():
    torch._dynamo.reset()
    x = jagged(drawn(4))
    pool = ddn_cuda.RobustPool("welsch", 0.5, dim=1)
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), pool(x))


def test_traced_by_fx_and_under_vmap():
    x = jagged(drawn(4))
    y = robust_pool(x, dim=1)
    assert torch.equal(torch.fx.symbolic_trace(lambda x: robust_pool(x, dim=1))(x), y)
    alpha = torch.tensor([0.5, 1.0])
    batch = torch.vmap(lambda a: robust_pool(x, "huber", a, dim=1))(alpha)
    assert torch.equal(batch[1], y)
