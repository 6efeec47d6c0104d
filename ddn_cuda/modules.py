"""Robust pooling as a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ddn_cuda._alpha import Scale
from ddn_cuda._capture import refuse_script
from ddn_cuda._numbers import number, numbers_of
from ddn_cuda.functional import robust_pool


class ScaledModule(nn.Module):
    """The members that modules with a submodule `scale` share."""

    scale: Scale

    @property
    def alpha(self) -> Tensor:
        """The current scale; it carries a gradient if it is learned.

        Can be set to what the constructor accepts, of a shape that broadcasts to that of the
        initial alpha: `pool.alpha = 0.5`. The buffer or parameter is changed in place.
        """
        scale: Tensor = self.scale()
        return scale

    @alpha.setter
    def alpha(self, value: float | Sequence[Any] | Tensor) -> None:
        self.scale.set_alpha(value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "alpha":  # for an nn.Parameter as well, which nn.Module would register
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def reset_parameters(self) -> None:
        """Resets alpha to its initial value."""
        self.scale.reset_parameters()

    __prepare_scriptable__ = refuse_script

    def __repr__(self) -> str:
        # One line, without the submodule that has alpha: PyG's layers print theirs inline.
        return f"{type(self).__name__}({self.extra_repr()})"


def describe(
    penalty: str, scale: Scale, solver: str, max_iter: int | None, tol: float | None, *more: str
) -> str:
    """The common part of the reprs of the pooling modules."""
    parts = [f"'{penalty}'", f"alpha={scale.shown()}", *more]
    if scale.is_learned:
        parts.append("learn_alpha=True")
    parts.append(f"solver='{solver}'")
    if max_iter is not None:
        parts.append(f"max_iter={max_iter}")
    if tol is not None:
        parts.append(f"tol={tol}")
    return ", ".join(parts)


class RobustPool(ScaledModule):
    """`robust_pool` as a module, with alpha in its state dict.

    Args:
        penalty, dim, keepdim, solver, max_iter, tol: as in `robust_pool`.
        alpha: the scale of the penalty, in the units of the input. A float from 1e-30 to 1e30
            (float32 and 16-bit input: 1e-15 to 1e15), or a tensor or nested list of such values
            that broadcasts against the output with `keepdim=True`, such as one value per channel.
            On the meta device only a float, a list and a tensor on another device have values that
            `to_empty` and `reset_parameters` can restore.
        learn_alpha: whether alpha is learned. The parameter is log alpha, so alpha stays positive;
            it is clamped to the range above for the dtype of the input.

    alpha can be changed later, fixed or learned: `pool.alpha = 0.5`. State dicts of modules with a
    fixed and with a learned alpha load into each other.

    Shape:
        - input, weight: any shape and dtype that `robust_pool` accepts, also nested tensors of
          layout torch.jagged.
        - output: the input's shape without the pooled dims, the input's dtype.

    Raises:
        TypeError: alpha is neither a float, a list of floats nor a floating-point tensor, or is an
            nn.Parameter (`learn_alpha=True` creates one); or learn_alpha is not a bool.
        ValueError: alpha is out of range. The first call checks all other arguments.

    Example:
        >>> pool = RobustPool("huber", alpha=0.5, dim=-1)
        >>> pool(torch.tensor([[0.0, 0.1, -0.1, 50.0]]))
        tensor([0.1667])
    """

    def __init__(
        self,
        penalty: str = "huber",
        alpha: float | Sequence[Any] | Tensor = 1.0,
        *,
        dim: int | Sequence[int] = -1,
        keepdim: bool = False,
        learn_alpha: bool = False,
        solver: str = "global",
        max_iter: int | None = None,
        tol: float | None = None,
    ) -> None:
        super().__init__()
        self.penalty = penalty
        self.dim = numbers_of(dim)  # no NumPy numbers, which torch.compile treats as tensors
        self.keepdim = keepdim
        self.solver = solver
        self.max_iter = number(max_iter)
        self.tol = number(tol)
        self.scale = Scale(alpha, learn_alpha, "RobustPool")

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """`robust_pool` of x with this module's penalty and alpha."""
        return robust_pool(
            x,
            self.penalty,
            self.scale(x),
            dim=self.dim,
            keepdim=self.keepdim,
            weight=weight,
            solver=self.solver,
            max_iter=self.max_iter,
            tol=self.tol,
        )

    def extra_repr(self) -> str:
        more = [f"dim={self.dim}"] + (["keepdim=True"] if self.keepdim else [])
        return describe(self.penalty, self.scale, self.solver, self.max_iter, self.tol, *more)
