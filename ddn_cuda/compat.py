"""The names of `ddn.pytorch.robustpool` of https://github.com/anucvml/ddn, on top of this library.

A network written for that module runs after a change of one line:

    import ddn_cuda.compat as robustpool

- `RobustGlobalPool2d`, `RobustGlobalPool2dFn`: pool the last two dims, (B, C, H, W) to (B, C).
- `Quadratic`, `PseudoHuber`, `Huber`, `Welsch`, `TruncatedQuadratic`: the methods they take.

Names and signatures are those of ddn. Answers and gradients are those of `ddn_cuda.robust_pool`,
the minimum of each set. ddn's answers may differ and are then not minima; docs/compat.md lists the
differences. New code should use `robust_pool` and `RobustPool`, which have more features.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ddn_cuda._alpha import Scale
from ddn_cuda._C import PENALTY_TRAITS
from ddn_cuda._numbers import is_beyond_float, number, shown
from ddn_cuda.functional import robust_pool

__all__ = [
    "Huber",
    "PseudoHuber",
    "Quadratic",
    "RobustGlobalPool2d",
    "RobustGlobalPool2dFn",
    "TruncatedQuadratic",
    "Welsch",
]


class _Method:
    """A penalty with the members of a method of `ddn.pytorch.robustpool`.

    Attributes:
        penalty: name in `ddn_cuda.PENALTIES`.
        is_convex: whether phi is convex, so that all local minima are global.
    """

    penalty: ClassVar[str]
    is_convex: ClassVar[bool]

    def __init_subclass__(cls) -> None:
        cls.is_convex = PENALTY_TRAITS[cls.penalty]["certificate"] == "convex"

    @staticmethod
    def phi(z: Tensor, alpha: float | Tensor = 1.0) -> Tensor:
        """phi(z; alpha) of residuals z of any shape; alpha is positive and broadcasts."""
        raise NotImplementedError

    @staticmethod
    def _curvature(z: Tensor, alpha: float | Tensor) -> Tensor:
        """phi''(z; alpha)."""
        raise NotImplementedError

    @classmethod
    def Dy(cls, z: Tensor, alpha: float | Tensor = 1.0) -> Tensor:  # noqa: N802, ddn's name
        """dy/dx from the residuals z = y - x, (\\*, H, W), at the minimum y of each set.

        This is phi''(z) / S with the sum S of phi''(z) over the last two dims, the factor in the
        backward pass of `RobustGlobalPool2dFn`; zero if S does not exceed its rounding. Not
        clipped.
        """
        each = cls._curvature(z, alpha)
        total = each.sum((-2, -1), keepdim=True)
        rounding = 8 * torch.finfo(z.dtype).eps * each.abs().sum((-2, -1), keepdim=True)
        # The denominator is positive everywhere, so that a gradient through `where` is not NaN.
        sound = total > rounding
        return torch.where(sound, each / torch.where(sound, total, 1), 0)


class Quadratic(_Method):
    """z^2 / 2: the mean; alpha is not used."""

    penalty = "quadratic"

    @staticmethod
    def phi(z: Tensor, alpha: float | Tensor = 1.0) -> Tensor:
        return z.square() / 2

    @staticmethod
    def _curvature(z: Tensor, alpha: float | Tensor) -> Tensor:
        return torch.ones_like(z)


class PseudoHuber(_Method):
    """alpha^2 (sqrt(1 + (z/alpha)^2) - 1)."""

    penalty = "pseudo_huber"

    @staticmethod
    def phi(z: Tensor, alpha: float | Tensor = 1.0) -> Tensor:
        # The form without a difference does not cancel near zero.
        return z.square() / (1 + (1 + (z / alpha).square()).sqrt())

    @staticmethod
    def _curvature(z: Tensor, alpha: float | Tensor) -> Tensor:
        return (1 + (z / alpha).square()).pow(-1.5)


class Huber(_Method):
    """z^2 / 2 to abs(z) = alpha, then linear: alpha (abs(z) - alpha / 2)."""

    penalty = "huber"

    @staticmethod
    def phi(z: Tensor, alpha: float | Tensor = 1.0) -> Tensor:
        inner = z.abs().clamp(max=alpha)
        return inner * (z.abs() - inner / 2)

    @staticmethod
    def _curvature(z: Tensor, alpha: float | Tensor) -> Tensor:
        return (z.abs() <= alpha).to(z.dtype)


class Welsch(_Method):
    """1 - exp(-z^2 / (2 alpha^2))."""

    penalty = "welsch"

    @staticmethod
    def phi(z: Tensor, alpha: float | Tensor = 1.0) -> Tensor:
        return -torch.expm1(-(z / alpha).square() / 2)

    @staticmethod
    def _curvature(z: Tensor, alpha: float | Tensor) -> Tensor:
        t2 = (z / alpha).square()
        return (1 - t2) * torch.exp(-t2 / 2) / (alpha * alpha)


class TruncatedQuadratic(_Method):
    """min(z^2, alpha^2) / 2."""

    penalty = "truncated_quadratic"

    @staticmethod
    def phi(z: Tensor, alpha: float | Tensor = 1.0) -> Tensor:
        return z.abs().clamp(max=alpha).square() / 2

    @staticmethod
    def _curvature(z: Tensor, alpha: float | Tensor) -> Tensor:
        return (z.abs() <= alpha).to(z.dtype)


# The predecessor's penalties; a newer one is for `robust_pool` alone.
_METHODS = (Quadratic, PseudoHuber, Huber, Welsch, TruncatedQuadratic)


def _check_method(where: str, method: Any) -> None:
    if not (isinstance(method, type) and issubclass(method, _METHODS)):
        names = ", ".join(each.__name__ for each in _METHODS)
        raise TypeError(
            f"{where}: `method` is {method!r}; expected one of the classes {names} of "
            "ddn_cuda.compat"
        )


class RobustGlobalPool2dFn:
    """Pools the last two dims; called as `RobustGlobalPool2dFn.apply(x, method, alpha)`.

    Not a `torch.autograd.Function`: only `apply` exists. The gradient is that of
    `ddn_cuda.robust_pool`.
    """

    @staticmethod
    def apply(x: Tensor, method: type[_Method], alpha: float | Tensor) -> Tensor:
        r"""argmin_y sum_hw phi(y - x_hw; alpha) of each set.

        Args:
            x: points (\*, H, W), such as (B, C, H, W), of a dtype of `robust_pool`.
            method: `Quadratic`, `PseudoHuber`, `Huber`, `Welsch` or `TruncatedQuadratic`.
            alpha: the scale of the penalty, positive: a tensor of one element, as in ddn. Also
                accepted: a float, or a tensor that broadcasts against (\*, 1, 1). The values of a
                tensor are not checked; an invalid value gives NaN.

        Returns:
            A tensor (\*) of x's dtype and device.

        Raises:
            TypeError: method is none of the five, or x or alpha has no floating-point dtype.
            ValueError: x has fewer than two dims or no points, or a float alpha is out of range.
        """
        _check_method("RobustGlobalPool2dFn.apply", method)
        if x.dim() < 2:
            raise ValueError(
                f"RobustGlobalPool2dFn.apply: `x` has shape {list(x.shape)}; expected at least the "
                "two dims to pool"
            )
        if isinstance(alpha, Tensor):
            # ddn accepts an alpha on the CPU or of an integer dtype.
            alpha = alpha.to(x.device, alpha.dtype if alpha.is_floating_point() else x.dtype)
        return robust_pool(x, method.penalty, alpha, dim=(-2, -1))


class RobustGlobalPool2d(Scale):
    r"""`RobustGlobalPool2dFn` as a module: (\*, H, W) to (\*).

    Args:
        method: `Quadratic`, `PseudoHuber`, `Huber`, `Welsch` or `TruncatedQuadratic`.
        alpha: the scale of the penalty, a float from 1e-30 to 1e30 (for float32 input, from 1e-15
            to 1e15).

    Attributes:
        alpha: the scale, a buffer of shape (1) as in ddn, so that ddn's checkpoints load. Can be
            set to a float or a tensor.

    Raises:
        TypeError: method is none of the five, or alpha is not a number.
        ValueError: alpha is out of range.
    """

    def __init__(self, method: type[_Method], alpha: float = 1.0) -> None:
        _check_method("RobustGlobalPool2d", method)
        alpha = number(alpha)
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
            raise TypeError(f"RobustGlobalPool2d: `alpha` is {alpha!r}; expected a float")
        if is_beyond_float(alpha):
            raise ValueError(
                f"RobustGlobalPool2d: `alpha` is {shown(alpha)}; expected a float in 1e-30 to 1e30"
            )
        super().__init__([float(alpha)], False, "RobustGlobalPool2d")
        self.method = method

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "alpha" and not isinstance(value, Tensor):
            self.set_alpha(value)
        else:
            super().__setattr__(name, value)

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        """`RobustGlobalPool2dFn.apply` with this module's method and alpha."""
        return RobustGlobalPool2dFn.apply(input, self.method, self.alpha)

    def extra_repr(self) -> str:
        return f"method={self.method.__name__}, alpha={self.shown()}"
