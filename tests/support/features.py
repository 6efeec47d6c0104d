"""The table of docs/features.md: the features that work with each way of calling, found by probes.

    python -m tests.support.features                        # prints the page's table
    python -m tests.support.features --write                # puts it into the page
    python -m tests.support.features --write --theirs PATH  # tries a clone of anucvml/ddn too

Each probe uses a pool and checks the result for a set of three points, whose Huber answer at alpha
= 1 is the mean of the two near points plus half of alpha. A cell says "yes" or describes the error.
If this machine lacks a GPU or anucvml/ddn, their cells of the page are kept. Numbers are checked to
1e-3, a tolerance that any iterative solver meets; other tests check the accuracy.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

import ddn_cuda
from tests.support import ROOT

PAGE = ROOT / "docs" / "features.md"
BEGIN, END = "<!-- table: python -m tests.support.features --write -->", "<!-- end of table -->"

Pool = Callable[..., Tensor]
X = ((0.0, 0.5, 100.0), (1.0, 1.5, -100.0))
# Huber at alpha 1: the residuals of the two near points sum to the influence of the third, alpha.
Y = (0.75, 0.75)
DY_DX = (0.5, 0.5, 0.0)
DY_DALPHA = (0.5, -0.5)


def function(x: Tensor, alpha: float | Tensor = 1.0, weight: Tensor | None = None) -> Tensor:
    return ddn_cuda.robust_pool(x, "huber", alpha, weight=weight)


def operator(x: Tensor, alpha: float | Tensor = 1.0, weight: Tensor | None = None) -> Tensor:
    return torch.ops.ddn.robust_pool(x, "huber", alpha=alpha, weight=weight)


def of_segments(call: Pool) -> Pool:
    """Sets as columns: one segment of all points, and an empty one."""

    def pool(x: Tensor, alpha: float | Tensor = 1.0, weight: Tensor | None = None) -> Tensor:
        ptr = torch.tensor([0, len(X[0]), len(X[0])])  # on the default device, as all points
        if isinstance(alpha, Tensor) and alpha.dim():
            alpha = alpha.movedim(-1, 0)
        if weight is not None and x.dim() > 1:
            weight = weight[:, None]
        return call(x.movedim(-1, 0), ptr, "huber", alpha=alpha, weight=weight)[0]

    return pool


def compiled(pool: Pool) -> Pool:
    """Compiled in one full graph."""
    return lambda x, *args: torch.compile(pool, fullgraph=True, backend="aot_eager")(x, *args)


segments = of_segments(ddn_cuda.segment_robust_pool)

WAYS: dict[str, Pool] = {
    "`robust_pool`": function,
    "compiled": compiled(function),
    "operator": operator,
    "`segment_robust_pool`": segments,
    "its compiled": compiled(segments),
    "its operator": of_segments(torch.ops.ddn.segment_robust_pool),
}
GPU, THEIRS = "on a GPU", "anucvml/ddn"


class LacksError(Exception):
    """The pool has no argument for this feature."""


def of_theirs(checkout: Path) -> Pool:
    """The pool of a clone of https://github.com/anucvml/ddn."""
    sys.path.insert(0, str(checkout))
    from ddn.pytorch import robustpool  # type: ignore[import-not-found]

    def pool(x: Tensor, alpha: float | Tensor = 1.0, weight: Tensor | None = None) -> Tensor:
        if weight is not None:
            raise LacksError("no weights")
        if not isinstance(alpha, Tensor):
            alpha = torch.tensor([alpha], dtype=x.dtype)
        y: Tensor = robustpool.RobustGlobalPool2dFn.apply(x[..., None], robustpool.Huber, alpha)
        return y

    return pool


def points(dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> Tensor:
    return torch.tensor(X, dtype=dtype, requires_grad=requires_grad)


def expect(found: Tensor, values: object, tolerance: float = 1e-3) -> None:
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
    for x, expected in zip(points(requires_grad=True), DY_DALPHA, strict=True):
        alpha = torch.ones((), dtype=torch.float64, requires_grad=True)
        pool(x, alpha).backward()  # type: ignore[no-untyped-call]
        assert alpha.grad is not None, "silently None"
        expect(alpha.grad, expected)


def alpha_of_each_set(pool: Pool) -> None:
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


def double_backward_of_gradients(pool: Pool) -> None:
    x, v = points(requires_grad=True), torch.ones(2, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(pool(x), x, v, create_graph=True)
    (h,) = torch.autograd.grad(g[:, 0].sum(), v)
    expect(h, (0.5, 0.5))


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


def jvp_of_vmap(pool: Pool) -> None:
    tangents = (torch.ones(2, 3, dtype=torch.float64),)
    tangent = torch.func.jvp(torch.func.vmap(pool), (points(),), tangents)[1]
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
    """Autocast does not convert points of either precision."""
    with torch.autocast(points().device.type, dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            assert pool(points(dtype)).dtype == dtype


def export(pool: Pool) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return pool(x)

    program = torch.export.export(Net(), (points(),))
    expect(program.module()(points()), Y)


def compiled_autograd(pool: Pool) -> None:
    x = points(requires_grad=True)
    y = pool(x)
    compiler = torch.compile(backend="aot_eager", fullgraph=True)
    with torch._dynamo.compiled_autograd._enable(compiler, dynamic=False):
        y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    expect(x.grad, (DY_DX, DY_DX))


def functionalize(pool: Pool) -> None:
    expect(torch.func.functionalize(pool)(points()), Y)


def functionalize_of_vmap(pool: Pool) -> None:
    expect(torch.func.functionalize(torch.func.vmap(pool))(points()), Y)


def symbolic_trace(pool: Pool) -> None:
    module = torch.fx.symbolic_trace(lambda x: pool(x))
    x = points(requires_grad=True)
    expect(module(x), Y)
    (g,) = torch.autograd.grad(module(x).sum(), x)
    expect(g, (DY_DX, DY_DX))


def jit_trace(pool: Pool) -> None:
    x = points(requires_grad=True)
    module = torch.jit.trace(pool, (x + 1,))
    expect(module(x), Y)
    (g,) = torch.autograd.grad(module(x).sum(), x)
    expect(g, (DY_DX, DY_DX))


ROWS: dict[str, Callable[[Pool], None]] = {
    "float32": of_dtype(torch.float32),
    "float64": of_dtype(torch.float64),
    "float16": of_dtype(torch.float16),
    "bfloat16": of_dtype(torch.bfloat16),
    "gradient of alpha": gradient_of_alpha,
    "an alpha for each set": alpha_of_each_set,
    "gradient of weights": gradient_of_weights,
    "masks": mask,
    "double backward, of incoming gradients": double_backward_of_gradients,
    "double backward, of weights": double_backward,
    "forward mode (dual numbers)": dual_numbers,
    "`torch.func.jvp`": jvp,
    "`torch.func.grad`": func_grad,
    "`torch.func.jacrev`": jacrev,
    "`torch.func.jacfwd`": jacfwd,
    "`torch.func.hessian`": hessian,
    "`torch.func.vmap`, of points": vmap,
    "`torch.func.vmap`, of alpha": vmap_over_alpha,
    "`torch.func.jvp` of `vmap`": jvp_of_vmap,
    "autocast leaves it alone": autocast,
    "compiled autograd": compiled_autograd,
    "`torch.export`": export,
    "`torch.func.functionalize`": functionalize,
    "`torch.func.functionalize` of `vmap`": functionalize_of_vmap,
    "`torch.fx.symbolic_trace`": symbolic_trace,
    "`torch.jit.trace` (deprecated)": jit_trace,
}


def cell(probe: Callable[[Pool], None], pool: Pool, device: str = "cpu") -> str:
    torch._dynamo.reset()
    with warnings.catch_warnings(), nullcontext() if device == "cpu" else torch.device(device):
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*batching rule.*")  # the slow loop of vmap
        try:
            probe(pool)
        except AssertionError:
            raise
        except LacksError as lack:
            return str(lack)
        except Exception:
            return "raises"  # the type of error depends on the PyTorch version
    return "yes"


def cells(name: str, device: str = "cpu") -> list[str]:
    return [cell(ROWS[name], pool, device) for pool in WAYS.values()]


def on_gpu(name: str, here: list[str]) -> str:
    """The cells that differ from those on the CPU."""
    there = cells(name, "cuda")
    differs = [f"{way}: {b}" for way, a, b in zip(WAYS, here, there, strict=True) if a != b]
    return "; ".join(differs) or "the same"


def of_their_pool(name: str, pool: Pool) -> str:
    try:
        return cell(ROWS[name], pool)
    except AssertionError as error:
        # PyTorch's comparison reports numbers in several lines.
        return "wrong numbers" if "\n" in str(error) or not str(error) else str(error)


def rows_of(page: str) -> dict[str, list[str]]:
    """The table's cells by the name of their row."""
    lines = page.split(BEGIN)[1].split(END)[0].splitlines()
    rows = [
        [part.strip() for part in line.strip("|").split("|")] for line in lines if line[:1] == "|"
    ]
    return {name: rest for name, *rest in rows[2:]}


def table(page: str, theirs: Pool | None) -> str:
    names = ["", *WAYS, GPU, THEIRS]
    lines = [f"| {' | '.join(names)} |".replace("|  |", "| |"), "|---" * len(names) + "|"]
    known = {name: row for name, row in rows_of(page).items() if len(row) == len(names) - 1}
    for name in ROWS:
        here = cells(name)
        gpu, their = known[name][-2:] if name in known else ["not tried", "not tried"]
        if torch.cuda.is_available():
            gpu = on_gpu(name, here)
        if theirs is not None:
            their = of_their_pool(name, theirs)
        lines.append(f"| {' | '.join([name, *here, gpu, their])} |")
    return "\n".join(lines)


def page_with(new_table: str, page: str) -> str:
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{new_table}\n\n{END}{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--theirs", type=Path, help="a checkout of anucvml/ddn")
    arguments = parser.parse_args()
    old = PAGE.read_text()
    found = table(old, of_theirs(arguments.theirs) if arguments.theirs else None)
    if arguments.write:
        PAGE.write_text(page_with(found, old))
    else:
        print(found)
