"""A stand-in for `segment_robust_pool`: pads the sets to the longest of them and masks the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddn_cuda.functional import robust_pool


def segment_robust_pool(
    x: Tensor,
    ptr: Tensor,
    penalty: str = "huber",
    alpha: float | Tensor = 1.0,
    *,
    weight: Tensor | None = None,
    solver: str = "global",
    max_iter: int | None = None,
    tol: float | None = None,
) -> Tensor:
    """Pools x of shape (T, \\*channels) over S sets to (S, \\*channels).

    Waits for the device and takes memory for S times the longest set.

    Args:
        x: points, those of set s in the rows ptr[s] to ptr[s + 1].
        ptr: S + 1 offsets, int64.
        weight: broadcasts against x.
        penalty, alpha, solver, max_iter, tol: as in `robust_pool`; alpha broadcasts against the
            result.
    """
    if isinstance(alpha, Tensor) and alpha.requires_grad:
        # The penalties depend on z / alpha alone, up to a factor: the answer scales with alpha.
        options: dict[str, Any] = dict(weight=weight, solver=solver, max_iter=max_iter, tol=tol)
        alpha = alpha.to(x.dtype)
        if alpha.dim() == x.dim() and alpha.size(0) > 1:
            raise NotImplementedError("the stand-in has no gradient for one alpha per set")
        return alpha * segment_robust_pool(x / alpha, ptr, penalty, 1.0, **options)
    lengths = ptr.diff()
    longest = int(lengths.max()) if len(lengths) else 0
    if longest == 0:
        return (x.sum(0) * 0).expand(len(lengths), *x.shape[1:])
    place = torch.arange(longest, device=x.device)
    rows = (ptr[:-1, None] + place).clamp(max=x.size(0) - 1)
    present = (place < lengths[:, None]).reshape(*rows.shape, *[1] * (x.dim() - 1))
    if weight is not None:
        weight = weight.expand(x.size(0), *weight.shape[1:])[rows]
        present = torch.where(present, weight, torch.zeros_like(weight))
    if isinstance(alpha, Tensor) and alpha.dim() == x.dim():
        alpha = alpha.unsqueeze(1)
    return robust_pool(
        x[rows], penalty, alpha, dim=1, weight=present, solver=solver, max_iter=max_iter, tol=tol
    )
