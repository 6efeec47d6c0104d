"""The alpha of a module: fixed or learned, set, reset, moved, loaded and shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ddn_cuda._arguments import check_flag, dtensor_class, has_values
from ddn_cuda._capture import as_node, is_proxy
from ddn_cuda._numbers import is_beyond_float, number, shown
from ddn_cuda._roles import opmath


def _read(alpha: Any, owner: str) -> Any:
    """The values of an alpha as a float64 array. They are NaN for a tensor that has none, on the
    meta device or under FakeTensorMode; otherwise they are in range."""
    if isinstance(alpha, nn.Parameter):
        raise TypeError(
            f"{owner}: `alpha` is an nn.Parameter, which would not be trained; expected its "
            "values, such as alpha.detach(), with learn_alpha=True to train them"
        )
    if isinstance(alpha, Tensor) and alpha.is_floating_point() and not has_values(alpha):
        return np.full(alpha.shape, math.nan)
    alpha = number(alpha)
    if is_beyond_float(alpha):
        raise ValueError(f"{owner}: `alpha` is {shown(alpha)}; expected a float in 1e-30 to 1e30")
    if isinstance(alpha, int) and not isinstance(alpha, bool):
        alpha = float(alpha)
    is_tensor = isinstance(alpha, Tensor)
    try:
        # NumPy, because the values are needed even if PyTorch creates tensors without values.
        values = np.asarray(alpha.tolist() if is_tensor else alpha)
        good = values.dtype.kind == "f" or (values.dtype.kind in "iu" and not is_tensor)
    except (ValueError, RuntimeError):  # a ragged list; a tensor subclass without `tolist`
        good = False
    if not good:
        raise TypeError(
            f"{owner}: `alpha` is {alpha!r}; expected a float, a list of floats or a "
            "floating-point tensor (of a DTensor, its full_tensor())"
        )
    values = values.astype(np.float64).reshape(alpha.shape if is_tensor else values.shape)
    bad = values[~((values >= 1e-30) & (values <= 1e30))]
    if bad.size:
        raise ValueError(
            f"{owner}: `alpha` {'is' if values.size == 1 else 'holds'} {bad[0].item()!r}; "
            "expected a float in 1e-30 to 1e30"
        )
    return values


def _exp(log_alpha: Tensor, limit: float) -> Tensor:
    """exp in float32 or float64, within 1 / limit to limit, with the gradient of exp everywhere."""
    # Reduced by the rounding of log alpha, so that exp stays within the range.
    bound = math.log(limit) * (1 - 2e-7)
    log_alpha = log_alpha.to(opmath(log_alpha))
    # A straight-through clamp: the difference is zero and carries the derivatives.
    return (log_alpha.clamp(-bound, bound).detach() + (log_alpha - log_alpha.detach())).exp()


def _learned(log_alpha: Tensor, points: Tensor | None) -> Tensor:
    """exp within the range that the dtype of the points allows."""
    if is_proxy(log_alpha, points):
        alpha: Tensor = as_node(_learned, log_alpha, points)
        return alpha
    narrow = isinstance(points, Tensor) and points.dtype != torch.float64
    return _exp(log_alpha, 1e15 if narrow else 1e30)


class Scale(nn.Module):
    """The scale of a penalty: a buffer `alpha`, or exp of a parameter `log_alpha`.

    The logarithm is learned because alpha is a scale: an optimiser step multiplies it by a factor,
    whatever its unit, and never makes it negative. alpha is clamped to the range that the dtype of
    the points allows. At an end of the range it keeps the gradient of exp, so training can move it
    back. exp is computed in float32 or float64.

    The parameter of a 0-dim alpha has shape (1), because FSDP shards no 0-dim parameters.

    Args:
        alpha: a float, a list of floats, or a floating-point tensor whose values are copied.
        learn_alpha: whether `log_alpha` is a parameter.
        owner: name of the module that has the scale, for messages.

    Raises:
        TypeError: alpha is none of these, or is an nn.Parameter; or learn_alpha is not a bool.
        ValueError: a value of alpha is outside 1e-30 to 1e30.
    """

    alpha: Tensor
    log_alpha: Tensor

    def __init__(self, alpha: Any, learn_alpha: bool, owner: str) -> None:
        super().__init__()
        check_flag(owner, "learn_alpha", learn_alpha)
        # Kept as an array, which has values even if the module is created on the meta device.
        self.initial = _read(alpha, owner)
        self.shape = self.initial.shape
        self.owner = owner
        # Decided once: pruning, parametrisations, data-parallel replicas and FSDP replace the
        # parameter by an attribute that they compute.
        self.is_learned = learn_alpha
        if isinstance(alpha, Tensor):
            device, dtype = alpha.device, alpha.dtype
        else:
            device, dtype = torch.get_default_device(), torch.get_default_dtype()
        if learn_alpha:
            held = torch.empty(self.shape or (1,), dtype=dtype, device=device)
            self.log_alpha = nn.Parameter(held)
        else:
            # In double precision, so that float64 inputs use the exact value given.
            held = torch.empty(self.shape, dtype=torch.float64, device=device)
            self.register_buffer("alpha", held)
        self._write(self.initial)

    def forward(self, points: Tensor | None = None) -> Tensor:
        if not self.is_learned:
            return self.alpha
        alpha = _learned(self.log_alpha, points)
        # A sum of one, because DTensors do not squeeze a sharded dim.
        return alpha if self.shape else alpha.sum()

    def set_alpha(self, alpha: Any) -> None:
        """Replaces the values; alpha broadcasts to the shape of the initial one."""
        values = _read(alpha, self.owner)
        if np.isnan(values).any():
            raise ValueError(f"{self.owner}: `alpha` is {alpha!r}; expected a tensor with values")
        try:
            values = np.broadcast_to(values, self.shape)
        except ValueError:
            raise ValueError(
                f"{self.owner}: `alpha` has shape {list(values.shape)}; expected one that "
                f"broadcasts to {list(self.shape)}, the shape of the initial alpha"
            ) from None
        self._write(values)

    def reset_parameters(self) -> None:
        """Restores the initial values."""
        if np.isnan(self.initial).any():
            raise RuntimeError(
                f"{self.owner}: the initial `alpha` was a tensor without values, on the meta "
                "device or under FakeTensorMode; expected one with values, such as a list of "
                "floats, or a state dict to load instead of a reset"
            )
        self._write(self.initial)

    @property
    def _name(self) -> str:
        return "log_alpha" if self.is_learned else "alpha"

    def _own(self) -> Tensor | None:
        """The parameter or buffer; None if it has been replaced by a computed attribute."""
        return (self._parameters if self.is_learned else self._buffers).get(self._name)

    @torch.no_grad()
    def _write(self, values: Any) -> None:
        """Writes values of this shape to where they are held, in place."""
        own = self._own()
        if own is not None and own.numel() == values.size and not has_values(own):
            # torch.tensor would leave a constant in FakeTensorMode. A deepcopy of any tensor of the
            # mode also copies the mode, and PyTorch 2.13 then frees the constant's storage twice.
            return
        values = np.log(values) if self.is_learned else values
        new = torch.tensor(values, dtype=torch.float64, device="cpu")
        if own is not None and own.numel() == new.numel():
            new = new.reshape(own.shape)
            if isinstance(own, dtensor_class()):  # this rank's part, without communication
                whole = own.from_local(new, own.device_mesh, run_check=False)
                new = whole.redistribute(placements=own.placements).to_local()
                own = own.to_local()
            own.copy_(new)
        elif parametrize.is_parametrized(self, self._name):
            now = getattr(self, self._name)
            setattr(self, self._name, new.reshape(now.shape).to(now))
        else:
            raise RuntimeError(
                f"{self.owner}: `alpha` cannot be set or reset, because {self._name!r} of the "
                "submodule `scale` is computed from other tensors, as by pruning, or is a shard of "
                "FSDP1; expected a change of these tensors, or a call before it is sharded"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Scale:
        """Moves a fixed alpha but keeps its dtype, because it could underflow or overflow in 16
        bits. An alpha that leaves the meta device gets its initial values."""

        def move(t: Tensor) -> Tensor:
            moved = fn(t)
            if moved is t or t.is_meta:
                return moved.to(t.dtype)
            return t.to(moved.device)

        before = self._own()
        was_meta = before is not None and before.is_meta
        super()._apply(fn if self.is_learned else move, recurse)  # type: ignore[no-untyped-call]
        after = self._own()
        if was_meta and after is not None and not after.is_meta:
            self._write(self.initial)
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Also accepts the entry of a scale that is learned where this one is fixed, or fixed where
        this one is learned; and one value of shape () for one of shape (1), and vice versa."""
        own = self._own()
        if own is not None:
            key = prefix + self._name
            other = prefix + ("alpha" if self.is_learned else "log_alpha")
            if key not in state_dict and isinstance(state_dict.get(other), Tensor):
                value = state_dict.pop(other).detach().double()
                value = value.log() if self.is_learned else _exp(value, 1e30)
                state_dict[key] = value.to(own.dtype)
            value = state_dict.get(key)
            if isinstance(value, Tensor) and {value.shape, own.shape} == {(), (1,)}:
                state_dict[key] = value.reshape(own.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def shown(self) -> str:
        """alpha for a repr; calls no hooks and does not communicate, as one rank may print."""
        held: Any = getattr(self, self._name)
        if isinstance(held, dtensor_class()):
            held = held.to_local()
        if math.prod(self.shape) != 1 or held.numel() != 1:
            return f"of shape {self.shape}"
        if not has_values(held):
            return f"{self.initial.item():g}"
        if held.untyped_storage().nbytes() == 0:  # FSDP has freed it
            return f"of shape {self.shape}"
        held = held.detach()
        return f"{(_exp(held, 1e30) if self.is_learned else held).item():g}"
