"""A scale for the penalties from the spread of the points."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from ddn_cuda._arguments import Arguments
from ddn_cuda._C import PENALTIES, PENALTY_TRAITS
from ddn_cuda._capture import as_node, is_proxy

_NAMES = {short: name for name, short in PENALTIES.items()}
_NORMAL = 1.4826  # the deviation of a normal distribution over its median absolute deviation


def _median(x: Tensor) -> Tensor:
    """Of the last dim, kept; the mean of the two in the middle where their number is even."""
    lower, upper = x.median(-1, keepdim=True).values, -(-x).median(-1, keepdim=True).values
    return torch.where(lower == upper, lower, lower + (upper - lower) / 2)


@torch.no_grad()
def suggest_alpha(x: Tensor, penalty: str = "huber", *, dim: int | Sequence[int] = -1) -> Tensor:
    r"""An alpha for points whose bulk is about normal, from their median absolute deviation.

    alpha = c 1.4826 median(abs(x - median(x))). Times 1.4826 the median absolute deviation is the
    standard deviation of normal points, and up to half of a set may be outliers without carrying it
    away. c is the constant of the penalty with which the pool of normal points has a variance of
    1/0.95 of their mean's, such as 1.345 for "huber"; csrc/core/penalties.h has the constants and
    their sources.

    Args:
        x: points, any shape, a dtype of `robust_pool`.
        penalty: a name or short name of `ddn_cuda.PENALTIES`.
        dim: the dim or dims over which the spread is taken; `()` takes all. Those that are pooled,
            for an alpha of each set; or more of them, such as a batch, for one that sets share,
            which small sets are better off with.

    Returns:
        A tensor on x's device, of x's shape with size 1 in the dims of `dim`, so that it broadcasts
        as `alpha` where these are pooled, or some of them; float64 for float64 points, else
        float32. Without gradient: learn alpha, or differentiate by it, from there on.

        Where more than half of the points are equal their deviation is zero. alpha is then the
        spacing of numbers at that value, which is what a pool with it gives. alpha is kept within
        what `robust_pool` accepts, 1e-15 to 1e15 (float64: 1e-30 to 1e30). NaN where a point is
        NaN, or the median not finite.

    Raises:
        TypeError, ValueError, IndexError: as `ddn_cuda.robust_pool`.

    Example:
        >>> x = torch.tensor([[0.0, 1.0, 2.0, 3.0, 1e6], [0.0, 0.1, 0.2, 0.3, 0.4]])
        >>> suggest_alpha(x, "huber")
        tensor([[1.9941],
                [0.1994]])
        >>> robust_pool(x, "huber", suggest_alpha(x, "huber"))
        tensor([2.0000, 0.2000])

    Sources: P. J. Huber, "Robust Statistics", Wiley, 1981, chapters 4 and 5; P. W. Holland, R. E.
    Welsch, "Robust regression using iteratively reweighted least-squares", Comm. Statist. A 6(9),
    1977; F. R. Hampel, "The influence curve and its role in robust estimation", J. Amer. Statist.
    Assoc. 69, 1974 (the median absolute deviation).
    """
    if is_proxy(x):
        node: Tensor = as_node(suggest_alpha, x, penalty, dim=dim)
        return node
    dims = Arguments("suggest_alpha", x, penalty, dim=dim).checked().dims()
    x = x if x.dtype == torch.float64 else x.float()
    kept = [1 if d in dims else size for d, size in enumerate(x.shape)]
    others = [d for d in range(x.dim()) if d not in dims]
    count = prod([x.shape[d] for d in dims])
    points = x.permute([*others, *dims]).reshape([x.shape[d] for d in others] + [count])
    middle = _median(points)
    spread = _median((points - middle).abs())
    limit = 1e30 if x.dtype == torch.float64 else 1e15
    spacing = torch.finfo(x.dtype).eps * middle.abs()
    alpha = PENALTY_TRAITS[_NAMES.get(penalty, penalty)]["tuning"] * _NORMAL * spread
    return torch.maximum(alpha, spacing).clamp(1 / limit, limit).reshape(kept)
