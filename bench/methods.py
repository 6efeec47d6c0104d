"""The timed methods: this library, torch's reductions, and robust pooling without this library."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench import correctness, nodes
from bench.workloads import Sets
from ddn_cuda import compat
from ddn_cuda._C import PENALTY_TRAITS

NONCONVEX = nodes.NONCONVEX
REDUCTIONS = ("mean", "amax", "median")
OPERATIONS = ("forward", "backward", "forward+backward")
PREDECESSOR = "anucvml/ddn"
PREDECESSOR_METHODS = {method.penalty: method.__name__ for method in compat._METHODS}

# The points that slow methods get, on the CPU and on a GPU.
FEW_POINTS = {"scipy": {"cpu": 1 << 14, "cuda": 1 << 14}}
SOME_POINTS = {"cpu": 1 << 16, "cuda": 1 << 22}


def label(penalty: str, solver: str) -> str:
    """The name of our method; that of a convex penalty, which has one solver, omits the solver."""
    return f"{penalty} ({solver})" if penalty in NONCONVEX else penalty


def is_mean(penalty: str) -> bool:
    """Whether the answer is the mean."""
    return PENALTY_TRAITS[penalty]["is_mean"]


def ours(penalties: Sequence[str]) -> list[tuple[str, str]]:
    """Penalties with their solvers."""
    pairs = []
    for penalty in penalties:
        solvers = ("local", "global") if penalty in NONCONVEX else ("global",)
        pairs += [(penalty, solver) for solver in solvers]
    return pairs


@dataclass(frozen=True)
class Method:
    """One way to pool some sets.

    Attributes:
        name: as in tables.
        sets: the sets that it pools, all or the first of them.
        pool: maps x of `sets` to the answers; None if the method is not timed.
        skipped: the reason why it is not timed.
        right: the share of the checked answers that are right.
        seldom: whether it is slow and runs in few rounds.
        refused: whether it is one of ours and gave wrong answers.
    """

    name: str
    sets: Sets
    pool: Callable[[Tensor], Tensor] | None
    skipped: str | None = None
    right: float | None = None
    seldom: bool = False
    refused: bool = False


def prove(
    name: str,
    sets: Sets,
    pool: Callable[[Tensor], Tensor],
    check: Callable[[], float],
    kinds: Collection[str] = OPERATIONS,
) -> Method:
    """The method, if its answers are right and its operations work; otherwise skipped, with what
    is wrong. Ours may not even fail."""
    try:
        method = Method(name, sets, pool, right=check())
        for kind, operation in operations(method).items():
            if kind in kinds:
                operation()
    except correctness.Wrong as wrong:
        return Method(name, sets, None, f"refused: {wrong}", refused=True)
    except RuntimeError as error:
        ours = not name.startswith("torch.")
        return Method(name, sets, None, failure(error), refused=ours)
    return method


def failure(error: Exception) -> str:
    """An error in one line."""
    line = next(iter(str(error).strip().splitlines()), "")
    return f"failed: {type(error).__name__}: {line}"[:200]


def our_methods(
    sets: Sets,
    penalties: Sequence[str],
    alpha: float,
    kinds: Collection[str] = OPERATIONS,
) -> list[Method]:
    found = []
    for penalty, solver in ours(penalties):
        pool = sets.pool(penalty, alpha, solver)

        def check(penalty: str = penalty, solver: str = solver) -> float:
            return float(correctness.check(penalty, sets, alpha, solver) > 0)

        found.append(prove(label(penalty, solver), sets, pool, check, kinds))
    return found


def reductions(
    sets: Sets, names: Sequence[str] = REDUCTIONS, kinds: Collection[str] = OPERATIONS
) -> list[Method]:
    found = []
    for name in names:
        pool = sets.reduction(name)
        if pool is None:
            reason = "torch has none for segments"
            found.append(Method(f"torch.{name}", sets, None, reason))
            continue

        def check(name: str = name) -> float:
            return float(correctness.check_reduction(name, sets) > 0)

        found.append(prove(f"torch.{name}", sets, pool, check, kinds))
    return found


def find_predecessor() -> tuple[types.ModuleType | None, str]:
    """`ddn.pytorch.robustpool`, or None and the reason."""
    try:
        module = importlib.import_module("ddn.pytorch.robustpool")
    except ImportError as error:
        return None, f"not importable: {error} (put a clone of {PREDECESSOR} on PYTHONPATH)"
    if not hasattr(module, "RobustGlobalPool2dFn"):
        return None, f"not importable: {module!r} is another package"
    return module, ""


def predecessor_pool(
    module: types.ModuleType, penalty: str, alpha: float
) -> Callable[[Tensor], Tensor]:
    """Its pool over the last two dims of (B, C, H, W), of rows (S, n)."""
    method = getattr(module, PREDECESSOR_METHODS[penalty])

    def pool(x: Tensor) -> Tensor:
        scale = torch.tensor([alpha], dtype=x.dtype, device=x.device)
        return module.RobustGlobalPool2dFn.apply(x[None, :, :, None], method, scale)[0]

    return pool


def baselines(
    sets: Sets,
    penalties: Sequence[str],
    alpha: float,
    *,
    compiled: Collection[str] = (),
    backend: str = "inductor",
) -> list[Method]:
    """The nodes of bench/nodes.py and the predecessor, for each of their penalties whose answer is
    not a mean; each on the first of the sets."""
    kind = sets.x.device.type
    module, reason = find_predecessor()
    found = []
    for penalty in penalties:
        if is_mean(penalty) or penalty not in nodes.FORMULAS:
            continue
        pools: dict[str, Callable[[Tensor], Tensor] | None] = {
            f"{name} {penalty}": nodes.bound(node, penalty, alpha)
            for name, node in nodes.NODES.items()
        }
        for name in ("lbfgs", "newton") if penalty in compiled else ():
            pools[f"{name} compiled {penalty}"] = nodes.compiled(name, penalty, alpha, backend)
        pools[f"{PREDECESSOR} {penalty}"] = (
            predecessor_pool(module, penalty, alpha) if module is not None else None
        )
        for name, pool in pools.items():
            few = FEW_POINTS.get(name.split()[0], SOME_POINTS)[kind]
            found.append(_baseline(name, penalty, pool, sets, few, alpha, reason))
    return found


def _baseline(
    name: str,
    penalty: str,
    pool: Callable[[Tensor], Tensor] | None,
    sets: Sets,
    few: int,
    alpha: float,
    reason: str,
) -> Method:
    if pool is None:
        return Method(name, sets, None, reason)
    some = sets.first(few)
    if some is None:
        what = "sets of one size" if sets.ptr is not None else f"sets of up to {few} points"
        return Method(name, sets, None, f"takes {what} here")
    try:
        right = correctness.share_right(penalty, pool, some, alpha)
        for operation in operations(Method(name, some, pool)).values():
            operation()
    except Exception as error:  # in third-party code, or a missing compiler
        return Method(name, some, None, failure(error))
    # The predecessor is timed even if answers are wrong; the share of right ones is reported.
    if right < 1 and not name.startswith(PREDECESSOR):
        return Method(name, some, None, f"refused: {1 - right:.0%} of the answers are wrong")
    return Method(name, some, pool, right=right, seldom=True)


def operations(method: Method) -> dict[str, Callable[[], object]]:
    """What is timed of a method: forward, backward, and both."""
    pool, x = method.pool, method.sets.x
    assert pool is not None
    leaf = x.detach().requires_grad_()
    y = pool(leaf)
    ones = torch.ones_like(y)

    def forward_backward() -> object:
        return torch.autograd.grad(pool(leaf), leaf, ones)

    return {
        "forward": partial(pool, x),
        "backward": partial(torch.autograd.grad, y, leaf, ones, retain_graph=True),
        "forward+backward": forward_backward,
    }
