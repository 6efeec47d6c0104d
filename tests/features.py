"""The matrix of docs/features.md: what works in which way of calling, found by trying it.

    python tests/features.py            # prints the page's table
    python tests/features.py --write    # puts it into the page

Each probe does something with a pool and checks the outcome against what is known of it: a set of
three points, of which Huber's answer at alpha = 1 is the mean of the two near ones and half of
alpha. A cell says "yes", or that one gets an error instead.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ddn_cuda

PAGE = Path(__file__).resolve().parent.parent / "docs" / "features.md"
BEGIN, END = "<!-- table: python tests/features.py --write -->", "<!-- end of table -->"

Pool = Callable[..., Tensor]
X = ((0.0, 0.5, 100.0), (1.0, 1.5, -100.0))
# Huber at alpha 1: the sum of the two near residuals is that of the pull, alpha.
Y = (0.75, 0.75)
DY_DX = (0.5, 0.5, 0.0)
DY_DALPHA = (0.5, -0.5)


def function(x: Tensor, alpha: float | Tensor = 1.0, weight: Tensor | None = None) -> Tensor:
    return ddn_cuda.robust_pool(x, "huber", alpha, weight=weight)


def operator(x: Tensor, alpha: float | Tensor = 1.0, weight: Tensor | None = None) -> Tensor:
    return torch.ops.ddn.robust_pool(x, "huber", alpha=alpha, weight=weight)


def compiled(x: Tensor, *args: Any) -> Tensor:
    """The function in a graph of its own, whole or not at all."""
    return torch.compile(function, fullgraph=True, backend="aot_eager")(x, *args)


WAYS: dict[str, Pool] = {
    "`robust_pool`": function,
    "the same, compiled": compiled,
    "`torch.ops.ddn.robust_pool`": operator,
}


def points(dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> Tensor:
    return torch.tensor(X, dtype=dtype, requires_grad=requires_grad)


def expect(found: Tensor, values: object, tolerance: float = 1e-6) -> None:
    expected = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(found.detach().double(), expected, rtol=0, atol=tolerance)


def of_dtype(dtype: torch.dtype) -> Callable[[Pool], None]:
    def probe(pool: Pool) -> None:
        x = points(dtype, requires_grad=True)
        y = pool(x)
        assert y.dtype == dtype
        expect(y, Y)
        (g,) = torch.autograd.grad(y.sum(), x)
        assert g.dtype == dtype
        expect(g, (DY_DX, DY_DX))

    return probe


def gradient_of_alpha(pool: Pool) -> None:
    alpha = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(pool(points(), alpha).sum(), alpha)
    expect(g[:, 0], DY_DALPHA)


def gradient_of_weights(pool: Pool) -> None:
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(pool(points()[0], 1.0, w), w)
    expect(g, (-0.375, -0.125, 0.5))


def mask(pool: Pool) -> None:
    x = points()
    x[:, 2] = torch.nan
    expect(pool(x, 1.0, torch.tensor([True, True, False])), (0.25, 1.25))


def double_backward(pool: Pool) -> None:
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    x = points(requires_grad=True)
    (g,) = torch.autograd.grad(pool(x[0], 1.0, w), x, create_graph=True)
    (h,) = torch.autograd.grad(g[0, 0], w)
    # dy/dx_0 = w_0 / (w_0 + w_1)
    expect(h, (0.25, -0.25, 0.0))


def dual_numbers(pool: Pool) -> None:
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(points(), torch.ones(2, 3, dtype=torch.float64))
        _, tangent = torch.autograd.forward_ad.unpack_dual(pool(dual))
        assert tangent is not None, "silently zero"
        expect(tangent, (1.0, 1.0))


def jvp(pool: Pool) -> None:
    tangent = torch.func.jvp(pool, (points(),), (torch.ones(2, 3, dtype=torch.float64),))[1]
    expect(tangent, (1.0, 1.0))


def func_grad(pool: Pool) -> None:
    expect(torch.func.grad(lambda x: pool(x).sum())(points()), (DY_DX, DY_DX))


def jacrev(pool: Pool) -> None:
    expect(torch.func.jacrev(pool)(points()[0]), DY_DX)


def jacfwd(pool: Pool) -> None:
    expect(torch.func.jacfwd(pool)(points()[0]), DY_DX)


def hessian(pool: Pool) -> None:
    def of_weights(w: Tensor) -> Tensor:
        return pool(points()[0], 1.0, w)

    w = torch.ones(3, dtype=torch.float64)
    # y = (w_1 / 2 + w_2) / (w_0 + w_1)
    expected = ((0.375, 0.25, -0.25), (0.25, 0.125, -0.25), (-0.25, -0.25, 0.0))
    expect(torch.func.hessian(of_weights)(w), expected)


def vmap(pool: Pool) -> None:
    expect(torch.func.vmap(pool)(points()), Y)


def vmap_over_alpha(pool: Pool) -> None:
    alpha = torch.tensor([1.0, 1000.0], dtype=torch.float64)
    found = torch.func.vmap(lambda a: pool(points()[0], a))(alpha)
    expect(found, (0.75, 100.5 / 3))


def autocast(pool: Pool) -> None:
    """Left as they are: points of either precision keep it."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            assert pool(points(dtype)).dtype == dtype


def export(pool: Pool) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return pool(x)

    program = torch.export.export(Net(), (points(),))
    expect(program.module()(points()), Y)


ROWS: dict[str, tuple[Callable[[Pool], None], str]] = {
    # what, how it is tried, and what anucvml/ddn does
    "float32": (of_dtype(torch.float32), "yes"),
    "float64": (of_dtype(torch.float64), "yes"),
    "float16": (of_dtype(torch.float16), "NaN (Q), off by up to 6.6e-2 (H)"),
    "bfloat16": (of_dtype(torch.bfloat16), "off by up to 0.19"),
    "gradient of alpha": (gradient_of_alpha, "silently None"),
    "gradient of weights": (gradient_of_weights, "no weights"),
    "masks": (mask, "no"),
    "double backward": (double_backward, "wrong (gradgradcheck fails)"),
    "forward mode (dual numbers)": (dual_numbers, "no"),
    "`torch.func.jvp`": (jvp, "raises"),
    "`torch.func.grad`": (func_grad, "raises"),
    "`torch.func.jacrev`": (jacrev, "raises"),
    "`torch.func.jacfwd`": (jacfwd, "no"),
    "`torch.func.hessian`": (hessian, "no"),
    "`torch.func.vmap`, of points": (vmap, "raises"),
    "`torch.func.vmap`, of alpha": (vmap_over_alpha, "no"),
    "autocast leaves it alone": (autocast, "solves in bfloat16"),
    "`torch.export`": (export, "no"),
}


def cell(probe: Callable[[Pool], None], pool: Pool) -> str:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*batching rule.*")  # the slow loop of vmap
        try:
            probe(pool)
        except AssertionError:
            raise
        except Exception:
            return "raises"  # which error it is depends on the version of torch
    return "yes"


def table() -> str:
    lines = ["| | " + " | ".join(WAYS) + " | anucvml/ddn |", "|---" * (len(WAYS) + 2) + "|"]
    for name, (probe, theirs) in ROWS.items():
        cells = [cell(probe, pool) for pool in WAYS.values()]
        lines.append(f"| {name} | " + " | ".join([*cells, theirs]) + " |")
    return "\n".join(lines)


def page_with(new_table: str, page: str) -> str:
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{new_table}\n\n{END}{after}"


if __name__ == "__main__":
    found = table()
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page_with(found, PAGE.read_text()))
    else:
        print(found)
