"""float16 and bfloat16 points: solved in float32, rounded once."""

import itertools

import numpy as np
import pytest
import torch

import ddn_cuda
from tests.support import contract, sets
from tests.support.sweeps import sweep

OPS = torch.ops.ddn


def bits(t):
    return t.view(torch.int16)


def every_number(half, device):
    """All 65,536 bit patterns."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(half).to(device)


def pooled(x, *args, upstream=None, **options):
    x = x.detach().clone().requires_grad_()
    y = ddn_cuda.robust_pool(x, *args, **options)
    (g,) = torch.autograd.grad(y, x, torch.ones_like(y) if upstream is None else upstream)
    return y.detach(), g


# ---- The answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 3])
def test_every_number_is_read_and_written(copies, half, penalty, device):
    """The answer to a set of one number, once or thrice, is bitwise that number, except for NaN and
    zeros."""
    x = every_number(half, device)
    y, g = pooled(x[:, None].expand(-1, copies), penalty, 2.0)
    nan = x.isnan()
    assert y.dtype == g.dtype == half
    assert torch.equal(y.isnan(), nan)
    assert torch.equal(y[~nan], x[~nan])  # where 0 == -0
    kept = ~nan & (x != 0)
    assert torch.equal(bits(y[kept]), bits(x[kept]))
    assert torch.equal(g.isnan(), nan[:, None].expand(-1, copies))
    infinite = x.isinf()
    assert not g[infinite].any()
    share = torch.tensor(1 / copies).to(half)
    assert (g[~nan & ~infinite] == share).all()


def test_every_number_is_a_weight_and_an_alpha(half, device):
    """Bitwise equal to the answers for the tensors converted to float32."""
    t = every_number(half, device)
    x = torch.tensor([0.0, 1.0, 3.0], device=device).expand(len(t), 3)
    weight = torch.stack([torch.ones_like(t), t, torch.ones_like(t)], dim=1)
    for penalty in ("pseudo_huber", "welsch"):
        for options, wide in (
            ({"weight": weight}, {"weight": weight.float()}),
            ({"alpha": t[:, None]}, {"alpha": t[:, None].float()}),
        ):
            y = ddn_cuda.robust_pool(x, penalty, **options)
            expected = ddn_cuda.robust_pool(x, penalty, **wide)
            assert torch.equal(y.nan_to_num(7), expected.nan_to_num(7))


def neighbours(y):
    """The midpoints between y and the next numbers of its type, in float64."""
    inf = torch.full_like(y, torch.inf)
    exact = y.double()
    below, above = torch.nextafter(y, -inf).double(), torch.nextafter(y, inf).double()
    # Beyond the largest number, extrapolated by the last spacing.
    below = torch.where(below.isinf(), 2 * exact - above, below)
    above = torch.where(above.isinf(), 2 * exact - below, above)
    return (exact + below) / 2, (exact + above) / 2


SIZES = [1, 2, 7, 33, 128, 1000, 5000, 20_000, 70_001]


@pytest.mark.parametrize("n", SIZES)
def test_the_answer_is_rounded_once(n, half, penalty, device):
    """The exact answer lies within float32's accuracy of a number that rounds to y; nearly always
    it rounds to y itself."""
    rng = np.random.default_rng(n)
    many = max(3, min(2000, 100_000 // n))
    x = torch.tensor(sets.unimodal(rng, many, n) * 3, dtype=half, device=device)
    alpha = 2.0
    y = ddn_cuda.robust_pool(x, penalty, alpha)
    exact = ddn_cuda.robust_pool(x.double(), penalty, alpha)
    low, high = neighbours(y)
    d = contract.STEP[torch.float32] * alpha + 2.0**-22 * exact.abs()
    if penalty == "quadratic":
        d = 8 * contract.EPS[torch.float32] * x.double().abs().mean(-1)
    assert ((low - d <= exact) & (exact <= high + d)).all()
    # A share of 2 d / spacing of numbers lies within d of a midpoint, on average; but the middle of
    # two points is a midpoint every other time.
    coarse = high - low > 50 * d
    chance = 2 / 50
    different = (y != exact.to(half))[coarse].double()
    assert n == 2 or different.sum() <= chance * len(different) + 4 * (chance * many) ** 0.5


def test_it_is_rounded_once_and_not_twice(half, device):
    """A mean just above the midpoint of two numbers, which float32 rounds to the midpoint."""
    one, up = 1.0, torch.nextafter(torch.ones((), dtype=half), 2 * torch.ones((), dtype=half))
    x = torch.tensor([one, float(up)], dtype=half, device=device)
    lean = 1 + 2.0**-22
    for weight, expected in (([1.0, lean], float(up)), ([lean, 1.0], one)):
        w = torch.tensor(weight, dtype=torch.float32, device=device)
        assert ddn_cuda.robust_pool(x, "quadratic", weight=w).item() == expected
    middle = ddn_cuda.robust_pool(x, "quadratic").item()
    assert middle == one  # to even


@pytest.mark.parametrize("solver", ["local", "global"])
def test_it_is_the_answer_of_the_widened_set(solver, half, penalty, device):
    """Equal to float32's y rounded, except that double rounding at a tie may give the next
    number."""
    x = torch.tensor(sets.contaminated(np.random.default_rng(2), 4000, 50), dtype=half)
    x = x.to(device)
    y = ddn_cuda.robust_pool(x, penalty, 0.7, solver=solver)
    wide = ddn_cuda.robust_pool(x.float(), penalty, 0.7, solver=solver)
    different = y != wide.to(half)
    assert different.double().mean() <= 5e-3
    low, high = neighbours(y[different])
    ulp = 2.0**-23 * wide[different].abs()
    assert ((wide[different] >= low - ulp) & (wide[different] <= high + ulp)).all()


def test_info_is_that_of_the_rounded_answer(half, penalty, device):
    x = torch.randn(50, 40, device=device).to(half)
    y, info = ddn_cuda.robust_pool(x, penalty, return_info=True)
    assert torch.equal(y, ddn_cuda.robust_pool(x, penalty))
    assert y.dtype == half
    assert info.objective.dtype == torch.float64
    assert (info.status == ddn_cuda.Status.converged).all()
    _, wide = ddn_cuda.robust_pool(x.float(), penalty, return_info=True)
    assert torch.equal(info.iterations, wide.iterations)
    # y's rounding, 2^-8 |y| in bfloat16, raises the objective by f'' / 2 times its square.
    rise = 40 * (y.double() - ddn_cuda.robust_pool(x.double(), penalty)).square() / 2
    assert (info.objective <= wide.objective + rise * 1.01 + 1e-5).all()


# ---- Gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 128, 1000, 20_000])
def test_the_gradient_of_x_is_rounded_once(n, half, penalty, device):
    rng = np.random.default_rng(n)
    x = torch.tensor(sets.contaminated(rng, 20, n), dtype=half, device=device)
    upstream = torch.tensor(rng.standard_normal(20), dtype=half, device=device)
    _, g = pooled(x, penalty, 2.0, upstream=upstream)
    _, wide = pooled(x.float(), penalty, 2.0, upstream=upstream.float())
    assert g.dtype == half
    low, high = neighbours(g)
    # The last step in float32, 4e-6 alpha, times psi'' of the penalty; no bound at a breakpoint.
    room = 2e-5 * wide.double().abs() + 2e-5 * wide.double().abs().max(-1, keepdim=True)[0]
    assert ((low - room <= wide) & (wide <= high + room)).all()
    assert (g != wide.to(half)).double().mean() <= 0.02


def test_gradients_have_the_type_of_their_input(half, penalty, device):
    x = torch.randn(4, 30, device=device).to(half)
    for weight_type, alpha_type in itertools.product(
        (half, torch.float32, torch.float64), repeat=2
    ):
        leaves = [
            x.clone().requires_grad_(),
            (0.5 + torch.rand(4, 30, device=device)).to(weight_type).requires_grad_(),
            torch.full((4, 1), 0.75, dtype=alpha_type, device=device).requires_grad_(),
        ]
        y = ddn_cuda.robust_pool(leaves[0], penalty, leaves[2], weight=leaves[1])
        assert y.dtype == half
        grads = torch.autograd.grad(y.sum(), leaves)
        assert [g.dtype for g in grads] == [half, weight_type, alpha_type]
        wide = [t.detach().float().requires_grad_() for t in leaves]
        y = ddn_cuda.robust_pool(wide[0], penalty, wide[2], weight=wide[1])
        for g, expected in zip(grads, torch.autograd.grad(y.sum(), wide), strict=True):
            # float32's gradient, rounded once.
            eps = max(torch.finfo(g.dtype).eps, 1e-5)
            torch.testing.assert_close(g.float(), expected, rtol=eps, atol=2e-5)


def test_second_order_and_forward_mode(half, penalty, device):
    x = torch.randn(4, 30, device=device).to(half)
    v = torch.randn(4, 30, device=device).to(half)

    def f(x):
        return ddn_cuda.robust_pool(x, penalty, 3.0)

    y, moved = torch.func.jvp(f, (x,), (v,))
    _, expected = torch.func.jvp(f, (x.float(),), (v.float(),))
    assert y.dtype == moved.dtype == half
    eps = torch.finfo(half).eps
    torch.testing.assert_close(moved.float(), expected, rtol=eps, atol=1e-4)
    second = torch.func.grad(lambda x: (torch.func.grad(lambda x: f(x).sum())(x) * v).sum())
    wide = torch.func.grad(lambda x: (torch.func.grad(lambda x: f(x).sum())(x) * v.float()).sum())
    assert second(x).dtype == half
    torch.testing.assert_close(second(x).float(), wide(x.float()), rtol=eps, atol=1e-4)
    assert torch.equal(torch.func.vmap(f)(x), f(x))


def test_small_gradients_need_no_scaling(half, device):
    """Each gradient of a mean of 4,096 numbers is 2^-12, which float16 represents; no sum is in
    float16."""
    x = torch.randn(3, 4096, device=device).to(half)
    _, g = pooled(x, "quadratic")
    assert (g == 2.0**-12).all()
    weight = torch.ones(4096, dtype=half, device=device, requires_grad=True)
    y = ddn_cuda.robust_pool(x, "quadratic", weight=weight)
    (g_weight,) = torch.autograd.grad(y.sum(), weight)
    mean = x.float().mean(-1, keepdim=True)
    expected = ((x.float() - mean) / 4096).sum(0)
    eps = torch.finfo(half).eps
    torch.testing.assert_close(g_weight.float(), expected, rtol=eps, atol=1e-7)


# ---- The ends of the range -----------------------------------------------------------------------


def test_large_numbers(half, penalty, device):
    """Neither sums nor squares are computed in 16 bits, so representable results do not
    overflow."""
    big = torch.finfo(half).max
    x = torch.full((3, 1000), big, dtype=half, device=device)
    x[1] = -big
    x[2, ::2] = big * 0.5
    y, g = pooled(x, penalty, 1.0)
    assert y[:2].tolist() == [big, -big]
    assert big * 0.5 <= y[2].item() <= big
    assert torch.isfinite(g).all()
    _, info = ddn_cuda.robust_pool(x, penalty, 1.0, return_info=True)
    assert torch.isfinite(info.objective).all() or half == torch.bfloat16


def test_subnormal_numbers(half, penalty, device):
    tiny = torch.finfo(half).smallest_normal * torch.finfo(half).eps
    units = torch.tensor([[1, 2, 3, 3, 40], [-3, -2, -2, 0, 9], [5, 5, 5, 5, 5]])
    x = (units.double() * tiny).to(half).to(device)
    for alpha in (1e-15, 1e-6, 1.0):
        y, g = pooled(x, penalty, alpha)
        assert ((x.min(-1)[0] <= y) & (y <= x.max(-1)[0])).all()
        assert torch.isfinite(g).all()
    y, _ = pooled(x, "quadratic")
    steps = y.double().cpu() / tiny
    assert steps.tolist() == torch.round(units.double().mean(-1)).tolist()


def test_nan_and_infinity(half, penalty, device):
    inf, nan = torch.inf, torch.nan
    x = torch.tensor([[0, 1, nan], [0, 1, inf], [inf, inf, inf], [0, 1, 2]], device=device).to(half)
    y, g = pooled(x, penalty, 1.0)
    wide, wide_g = pooled(x.float(), penalty, 1.0)
    assert torch.equal(y.nan_to_num(9), wide.to(half).nan_to_num(9))
    assert torch.equal(g.nan_to_num(9), wide_g.to(half).nan_to_num(9))


# ---- Layouts, batches, segments ------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 49, 1000, 5000, 20_000])
def test_layouts(n, half, penalty, device):
    base = torch.randn(4, n, 3, device=device).to(half)
    for view in (base.transpose(1, 2), base[:, ::2, :2].transpose(1, 2), base.permute(2, 0, 1)):
        expected, expected_g = pooled(view.contiguous(), penalty, 0.7)
        leaf = view.detach().requires_grad_()
        y = ddn_cuda.robust_pool(leaf, penalty, 0.7)
        assert torch.equal(y, expected)
        assert torch.equal(torch.autograd.grad(y.sum(), leaf)[0], expected_g)


@pytest.mark.parametrize("n", [1, 33, 200, 20_000])
def test_alone_and_in_batches(n, half, penalty, device):
    x = torch.randn(40, n, device=device).to(half)
    y, g = pooled(x, penalty, 0.5)
    for i in (0, 1, 17, 39):
        alone, alone_g = pooled(x[i], penalty, 0.5)
        assert torch.equal(y[i], alone)
        assert torch.equal(g[i], alone_g)


def test_segments(half, penalty, device):
    lengths = [5, 0, 33, 1, 200]
    x = torch.randn(sum(lengths), 3, device=device).to(half).requires_grad_()
    ptr = torch.tensor([0, *itertools.accumulate(lengths)], device=device)
    y = ddn_cuda.segment_robust_pool(x, ptr, penalty, 0.7)
    (g,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype == g.dtype == half
    for s, part in enumerate(x.detach().split(lengths)):
        if len(part):
            alone, alone_g = pooled(part, penalty, 0.7, dim=0)
            assert torch.equal(y[s], alone)
            assert torch.equal(g[ptr[s] : ptr[s + 1]], alone_g)
        else:
            assert not y[s].any()


@pytest.mark.parametrize("penalty", sweep(ddn_cuda.PENALTIES, ["welsch"]))
def test_opcheck(half, penalty, device):
    x = torch.randn(3, 9, device=device).to(half).requires_grad_()
    alpha = torch.full((3, 1), 0.5, dtype=half, device=device, requires_grad=True)
    weight = torch.rand(9, device=device).to(half).requires_grad_()
    torch.library.opcheck(OPS.robust_pool.default, (x, penalty), {"alpha": 0.5})
    torch.library.opcheck(OPS.robust_pool.tensor, (x, penalty), {"alpha": alpha, "weight": weight})
