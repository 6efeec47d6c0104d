"""Robust pooling as a module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ddn_cuda.functional import robust_pool


class RobustPool(nn.Module):
    """`robust_pool` as a module; alpha is a buffer, so that it is saved and moved with the model.

    Args:
        penalty, dim, keepdim, solver, max_iter, tol: as in `robust_pool`.
        alpha: the scale of the penalty, in the units of the input: a float from 1e-30 to 1e30 (for
            float32 input, from 1e-15 to 1e15).

    Shape:
        - input: any shape, float32 or float64.
        - output: the input's shape less the pooled dims.

    Raises:
        TypeError: alpha is no number.
        ValueError: alpha is out of range. All other arguments are checked by the first call.

    Example:
        >>> pool = RobustPool("huber", alpha=0.5, dim=-1)
        >>> pool(torch.tensor([[0.0, 0.1, -0.1, 50.0]]))
        tensor([0.1667])
    """

    alpha: Tensor

    def __init__(
        self,
        penalty: str = "huber",
        alpha: float = 1.0,
        *,
        dim: int | Sequence[int] = -1,
        keepdim: bool = False,
        solver: str = "global",
        max_iter: int | None = None,
        tol: float | None = None,
    ) -> None:
        super().__init__()
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
            raise TypeError(f"RobustPool: `alpha` is {alpha!r}; expected a float")
        if not 1e-30 <= alpha <= 1e30:
            raise ValueError(f"RobustPool: `alpha` is {alpha!r}; expected a float in 1e-30 to 1e30")
        self.penalty = penalty
        self.dim = dim
        self.keepdim = keepdim
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        # In double precision, so that a float64 input meets the number that was given.
        self.register_buffer("alpha", torch.tensor(float(alpha), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return robust_pool(
            x,
            self.penalty,
            self.alpha,
            dim=self.dim,
            keepdim=self.keepdim,
            solver=self.solver,
            max_iter=self.max_iter,
            tol=self.tol,
        )

    def extra_repr(self) -> str:
        parts = [f"'{self.penalty}'", f"alpha={self.alpha.item():g}", f"dim={self.dim}"]
        if self.keepdim:
            parts.append("keepdim=True")
        parts.append(f"solver='{self.solver}'")
        if self.max_iter is not None:
            parts.append(f"max_iter={self.max_iter}")
        if self.tol is not None:
            parts.append(f"tol={self.tol}")
        return ", ".join(parts)
