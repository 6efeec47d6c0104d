"""Robust pooling as a module."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ddn_cuda._capture import as_node, is_proxy, refuse_script
from ddn_cuda._numbers import is_beyond_float, number, numbers_of, shown
from ddn_cuda._roles import opmath
from ddn_cuda.functional import robust_pool


def _learned_alpha(log_alpha: Tensor, points: Tensor | None) -> Tensor:
    """exp of log_alpha, within the range that the dtype of the points allows."""
    if is_proxy(log_alpha, points):
        alpha: Tensor = as_node(_learned_alpha, log_alpha, points)
        return alpha
    narrow = isinstance(points, Tensor) and points.dtype != torch.float64
    # Reduced by the rounding of log alpha, so that exp stays within the range.
    bound = math.log(1e15 if narrow else 1e30) * (1 - 2e-7)
    wide = log_alpha.to(opmath(log_alpha))
    # A straight-through clamp: the difference is zero and carries the derivatives.
    return (wide.clamp(-bound, bound).detach() + (wide - wide.detach())).exp()


class Scale(nn.Module):
    """The scale of a penalty: a buffer `alpha`, or exp of a parameter `log_alpha`.

    The logarithm is learned because alpha is a scale: an optimiser step multiplies it by a factor,
    whatever its unit, and never makes it negative. alpha is clamped to the range that the dtype of
    the points allows. At an end of the range it keeps the gradient of exp, so training can move it
    back. exp is computed in float32 or float64.

    Args:
        alpha: a float, or a floating-point tensor whose values are copied.
        learn_alpha: whether `log_alpha` is a parameter.
        owner: name of the module that has the scale, for messages.

    Raises:
        TypeError: alpha is neither a float nor a floating-point tensor, or is an nn.Parameter; or
            learn_alpha is not a bool.
        ValueError: a value of alpha is outside 1e-30 to 1e30.
    """

    alpha: Tensor
    log_alpha: nn.Parameter

    def __init__(self, alpha: float | Tensor, learn_alpha: bool, owner: str) -> None:
        super().__init__()
        alpha = number(alpha)
        is_number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
        if not is_number and not (isinstance(alpha, Tensor) and alpha.is_floating_point()):
            raise TypeError(
                f"{owner}: `alpha` is {alpha!r}; expected a float or a floating-point tensor"
            )
        if isinstance(alpha, nn.Parameter):
            raise TypeError(
                f"{owner}: `alpha` is an nn.Parameter, which would not be trained; expected its "
                "values, such as alpha.detach(), with learn_alpha=True to train them"
            )
        if not isinstance(learn_alpha, bool):
            raise TypeError(f"{owner}: `learn_alpha` is {learn_alpha!r}; expected True or False")
        if is_beyond_float(alpha):
            raise ValueError(
                f"{owner}: `alpha` is {shown(alpha)}; expected a float in 1e-30 to 1e30"
            )
        if is_number:
            alpha = float(alpha)
        # In double precision, so that float64 inputs use the exact value given. On the CPU, so that
        # the values exist even if the module is created on the meta device.
        initial = torch.as_tensor(alpha, dtype=torch.float64, device="cpu").detach().clone()
        bad = initial[~((initial >= 1e-30) & (initial <= 1e30))]
        if bad.numel():
            raise ValueError(
                f"{owner}: `alpha` {'is' if is_number else 'holds'} {bad.flatten()[0].item()!r}; "
                "expected a float in 1e-30 to 1e30"
            )
        self.initial = initial.tolist()
        if isinstance(alpha, Tensor):
            device, dtype = alpha.device, alpha.dtype
        else:
            device, dtype = torch.get_default_device(), torch.get_default_dtype()
        if learn_alpha:
            self.log_alpha = nn.Parameter(initial.log().to(device, dtype))
        else:
            self.register_buffer("alpha", initial.to(device))

    @property
    def is_learned(self) -> bool:
        return "log_alpha" in self._parameters

    def forward(self, points: Tensor | None = None) -> Tensor:
        if not self.is_learned:
            return self.alpha
        return _learned_alpha(self.log_alpha, points)

    def reset_parameters(self) -> None:
        initial = torch.tensor(self.initial, dtype=torch.float64, device="cpu")
        with torch.no_grad():
            if self.is_learned:
                self.log_alpha.copy_(initial.log())
            else:
                self.alpha.copy_(initial)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Scale:
        """Moves the buffer to the module's device but keeps its dtype, because alpha could
        underflow or overflow in 16 bits."""
        before = None if self.is_learned else self.alpha
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if before is not None:
            device = self.alpha.device
            if before.is_meta and device.type != "meta":
                before = torch.tensor(self.initial, dtype=torch.float64, device="cpu")
            self.alpha = before.to(device)
        return self


def describe(
    penalty: str, scale: Scale, solver: str, max_iter: int | None, tol: float | None, *more: str
) -> str:
    """The common part of the reprs of the pooling modules."""
    alpha = scale().detach()
    if alpha.numel() != 1:
        shown = f"of shape {tuple(alpha.shape)}"
    else:
        # A tensor on the meta device has no value.
        value = torch.tensor(scale.initial, device="cpu").item() if alpha.is_meta else alpha.item()
        shown = f"{value:g}"
    parts = [f"'{penalty}'", f"alpha={shown}", *more]
    if scale.is_learned:
        parts.append("learn_alpha=True")
    parts.append(f"solver='{solver}'")
    if max_iter is not None:
        parts.append(f"max_iter={max_iter}")
    if tol is not None:
        parts.append(f"tol={tol}")
    return ", ".join(parts)


class RobustPool(nn.Module):
    """`robust_pool` as a module, with alpha in its state dict.

    Args:
        penalty, dim, keepdim, solver, max_iter, tol: as in `robust_pool`.
        alpha: the scale of the penalty, in the units of the input. A float from 1e-30 to 1e30
            (float32 and 16-bit input: 1e-15 to 1e15), or a tensor of such values that broadcasts
            against the output with `keepdim=True`, such as one value per channel.
        learn_alpha: whether alpha is learned. The parameter is log alpha, so alpha stays positive;
            it is clamped to the range above for the dtype of the input.

    Shape:
        - input, weight: any shape and dtype that `robust_pool` accepts.
        - output: the input's shape without the pooled dims, the input's dtype.

    Raises:
        TypeError: alpha is neither a float nor a floating-point tensor, or is an nn.Parameter
            (`learn_alpha=True` creates one).
        ValueError: alpha is out of range. The first call checks all other arguments.

    Example:
        >>> pool = RobustPool("huber", alpha=0.5, dim=-1)
        >>> pool(torch.tensor([[0.0, 0.1, -0.1, 50.0]]))
        tensor([0.1667])
    """

    def __init__(
        self,
        penalty: str = "huber",
        alpha: float | Tensor = 1.0,
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

    @property
    def alpha(self) -> Tensor:
        """The current scale; it carries a gradient if it is learned."""
        scale: Tensor = self.scale()
        return scale

    def reset_parameters(self) -> None:
        """Resets alpha to its initial value."""
        self.scale.reset_parameters()

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

    __prepare_scriptable__ = refuse_script

    def extra_repr(self) -> str:
        more = [f"dim={self.dim}"] + (["keepdim=True"] if self.keepdim else [])
        return describe(self.penalty, self.scale, self.solver, self.max_iter, self.tol, *more)

    def __repr__(self) -> str:
        # One line, without the submodule that has alpha.
        return f"{type(self).__name__}({self.extra_repr()})"
