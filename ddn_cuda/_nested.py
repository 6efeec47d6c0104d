"""Nested tensors of layout torch.jagged, whose ragged dim is pooled by `segment_robust_pool`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddn_cuda._arguments import refuse_kinds
from ddn_cuda._numbers import numbers_of, shown


def is_jagged(x: Any) -> bool:
    """Whether x is a nested tensor of layout torch.jagged."""
    return isinstance(x, Tensor) and x.is_nested and x.layout == torch.jagged


class Segments(NamedTuple):
    """The arguments of `segment_robust_pool` that pool the ragged dim of a nested tensor.

    Attributes:
        ragged: the ragged dim of the nested tensor.
        has_gaps: whether rows between its sets belong to none. The segments then alternate between
            such a gap and a set.
    """

    x: Tensor
    ptr: Tensor
    alpha: Any
    weight: Any
    ragged: int
    has_gaps: bool

    def answers(self, t: Tensor, keepdim: bool) -> Tensor:
        """What the pool of the nested tensor returns, of what the pool of the segments returns."""
        t = t[1::2] if self.has_gaps else t
        return t.unsqueeze(self.ragged) if keepdim else t


def segments(function: str, x: Any, alpha: Any, dim: Any, weight: Any) -> Segments:
    """The sets of a nested tensor of layout torch.jagged as segments.

    Raises:
        TypeError: dim is no int, or alpha or weight is a tensor of an unsupported kind.
        ValueError: dim is not the ragged dim of x, or alpha or weight does not fit x.
    """
    ragged = _ragged_dim(x)
    _check_dim(function, x, numbers_of(dim))
    refuse_kinds(function, alpha=alpha, weight=None if is_jagged(weight) else weight)
    offsets, lengths = x.offsets(), x.lengths()
    ptr = offsets
    if lengths is not None:
        bounds = torch.stack([offsets[:-1], offsets[:-1] + lengths], dim=1)
        ptr = torch.cat([offsets[:1], bounds.flatten()])
    if isinstance(alpha, Tensor):
        alpha = _alpha_of_segments(function, x, alpha, lengths is not None)
    if isinstance(weight, Tensor):
        weight = _weight_of_rows(function, x, weight)
    rows = x.values().movedim(ragged - 1, 0)
    return Segments(rows, ptr.to(torch.int64), alpha, weight, ragged, lengths is not None)


def _ragged_dim(x: Any) -> int:
    # A search, because with dynamic shapes the attribute is symbolic for Dynamo.
    return next(d for d in range(x.dim()) if d == x._ragged_idx)


def _check_dim(function: str, x: Any, dim: Any) -> None:
    ragged = _ragged_dim(x)
    dims = [*dim] if isinstance(dim, (tuple, list)) else [dim]
    if any(isinstance(d, bool) or not isinstance(d, (int, torch.SymInt)) for d in dims):
        raise TypeError(f"{function}: `dim` is {shown(dim)}; expected an int or several")
    if len(dims) != 1 or dims[0] not in (ragged, ragged - x.dim()):
        raise ValueError(
            f"{function}: `dim` is {shown(dim)} for a nested x with {x.dim()} dims; expected "
            f"{ragged} or {ragged - x.dim()}, its ragged dim, alone. To pool other dims, pool "
            "x.values()"
        )


def _alpha_of_segments(function: str, x: Any, alpha: Tensor, has_gaps: bool) -> Tensor:
    """alpha, which broadcasts against the answers with keepdim, for answers without the ragged
    dim."""
    at = alpha.dim() - x.dim() + _ragged_dim(x)
    if at >= 0:
        if alpha.dim() > x.dim() or alpha.shape[at] != 1:
            raise ValueError(
                f"{function}: `alpha` has shape {tuple(alpha.shape)} for a nested x with "
                f"{x.dim()} dims; expected a shape that broadcasts against the output with "
                f"keepdim=True, whose ragged dim {_ragged_dim(x)} has size 1"
            )
        alpha = alpha.squeeze(at)
    if has_gaps and alpha.dim() == x.dim() - 1 and alpha.shape[0] != 1:
        alpha = alpha.repeat_interleave(2, dim=0)
    return alpha


def _weight_of_rows(function: str, x: Any, weight: Any) -> Tensor:
    """weight, a nested tensor like x or one that broadcasts against x.values(), for the rows."""
    ragged, rank = _ragged_dim(x), x.dim()
    if not weight.is_nested:
        fits, values = weight.dim() < rank, weight
    else:
        fits = weight.dim() == rank and _ragged_dim(weight) == ragged
        fits = fits and weight.shape[ragged] == x.shape[ragged]
        if fits and x.lengths() is not None:  # the ragged size stands for the lengths alone
            fits = weight.offsets() is x.offsets()
        values = weight.values()
    if not fits:
        kind = "nested" if weight.is_nested else "dense"
        raise ValueError(
            f"{function}: `weight` is a {kind} tensor of shape {_shape(weight.shape)} for a nested "
            f"x of shape {_shape(x.shape)}; expected a nested tensor with x's offsets, as of "
            "torch.nested.nested_tensor_from_jagged(values, x.offsets()), or a dense one that "
            "broadcasts against x.values()"
        )
    values = values.reshape([1] * (rank - 1 - values.dim()) + [*values.shape])
    rows: Tensor = values.movedim(ragged - 1, 0)
    return rows


def _shape(shape: Sequence[Any]) -> str:
    return f"({', '.join(map(str, shape))})"
