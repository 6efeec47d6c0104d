"""Robust pooling for PyTorch Geometric (PyG): an aggregation over the sets of a graph.

Requires `torch-geometric`. No other module of ddn_cuda imports it.

- `RobustAggregation`: replaces PyG's mean or max, in a layer or as a read-out.
- `register`: lets PyG find the aggregation by name, as in `aggr="robust"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddn_cuda._alpha import Scale
from ddn_cuda._arguments import has_values
from ddn_cuda._numbers import number
from ddn_cuda.functional import segment_robust_pool
from ddn_cuda.modules import ScaledModule, describe

try:
    import torch_geometric.nn.aggr
    from torch_geometric import Index
    from torch_geometric.nn.aggr import Aggregation
except ModuleNotFoundError as error:
    # A dependency that PyG lacks is a different error and keeps its message.
    if (error.name or "").partition(".")[0] != "torch_geometric":
        raise
    raise ImportError(
        "ddn_cuda.pyg needs PyTorch Geometric, which is not installed: pip install torch-geometric"
    ) from error

__all__ = ["RobustAggregation", "register"]


class RobustAggregation(ScaledModule, Aggregation):  # type: ignore[misc,unused-ignore]
    r"""Aggregates each set, per channel, to argmin_u sum_i w_i phi(u - x_i; alpha).

    A drop-in replacement for PyG's aggregations: as `aggr=` of a layer, inside `MultiAggregation`,
    or as the read-out of a graph. Unlike a mean it bounds the influence of outliers (by how much
    depends on the penalty, see `ddn_cuda.robust_pool`); unlike a median it gives gradients to all
    inliers. Each set is solved independently: bitwise, its answer depends neither on the other sets
    nor on whether `index` is sorted, if the order of the points within the set is the same.

    Args:
        penalty: a name or short name of `ddn_cuda.PENALTIES`, such as "huber" or "welsch".
        alpha: the scale of the penalty, in the units of the features; points further than alpha
            from the answer count as outliers. A float from 1e-30 to 1e30 (float32 features: 1e-15
            to 1e15), or a tensor or nested list of such values that broadcasts against the output
            (\*, S, F), such as one of shape (F,) with a value per channel.
        learn_alpha: whether alpha is learned. The parameter is log alpha, so alpha stays positive,
            and is clamped to the range above. `reset_parameters` resets it to `alpha`.
        solver, max_iter, tol: as in `ddn_cuda.robust_pool`.

    alpha can be changed later, and state dicts with a fixed and a learned alpha load into each
    other, as in `ddn_cuda.RobustPool`.

    Shape:
        - x: (\*, T, F), floating point, with T points along `dim` and F channels.
        - index: (T), the set of each point; or ptr: (S + 1), the offsets of S sets.
        - output: (\*, S, F), with S sets along `dim`, x's dtype and device. An empty set gives 0
          and has no gradient.

    Raises:
        TypeError: alpha is neither a float, a list of floats nor a floating-point tensor, or is an
            nn.Parameter; or learn_alpha is not a bool.
        ValueError: alpha is out of range. The first call checks penalty, solver, max_iter and tol.

    Example:
        >>> aggr = RobustAggregation("truncated_quadratic", alpha=1.0)
        >>> x = torch.tensor([[0.0], [0.2], [50.0], [7.0]])
        >>> aggr(x, torch.tensor([0, 0, 0, 2]))
        tensor([[0.1000],
                [0.0000],
                [7.0000]])
        >>> conv = torch_geometric.nn.SAGEConv(16, 32, aggr=RobustAggregation("welsch"))

    Source of the base class and its conventions: M. Fey, J. E. Lenssen, "Fast Graph Representation
    Learning with PyTorch Geometric", 2019, and torch_geometric.nn.aggr.Aggregation.
    """

    def __init__(
        self,
        penalty: str = "huber",
        alpha: float | Sequence[Any] | Tensor = 1.0,
        *,
        learn_alpha: bool = False,
        solver: str = "global",
        max_iter: int | None = None,
        tol: float | None = None,
    ) -> None:
        super().__init__()
        self.penalty = penalty
        self.solver = solver
        self.max_iter = number(max_iter)
        self.tol = number(tol)
        self.scale = Scale(alpha, learn_alpha, "RobustAggregation")

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
        *,
        weight: Tensor | None = None,
    ) -> Tensor:
        r"""Aggregates the sets of x along `dim`.

        Args:
            x: points (\*, T, F) with any strides and any number of dims.
            index: the set of each point, (T) integers in [0, dim_size), in any order. Grouping the
                points by set takes a stable sort of `index`, a copy of x and, in the backward pass,
                a copy of its gradient. An index that is sorted already skips these, if it is on the
                CPU or a `torch_geometric.Index`. On a GPU the test would synchronise with the
                device, so other indices are always sorted. `ptr` avoids the sort.
            ptr: (S + 1) int64 offsets of the sets in an x that is grouped by set. ptr takes
                precedence over index. With neither, all points are one set.
            dim_size: S. None: from ptr, or max(index) + 1, which synchronises with the device.
            dim: the dim to aggregate.
            weight: w >= 0, a floating-point tensor that broadcasts against x, such as (T, 1), or a
                Boolean mask; False excludes the point. Only direct calls can pass it, as message
                passing layers have no such argument.

        Returns:
            (\*, S, F).

        Raises:
            TypeError: index is not int64 or int32; otherwise as `ddn_cuda.robust_pool`.
            ValueError: index or weight does not fit x, dim_size does not fit ptr or index, or dim
                is out of range; otherwise as `ddn_cuda.robust_pool`.
            IndexError: index has a value outside [0, dim_size). Checked on the CPU only; on a GPU
                such a point belongs to no set.
        """
        points = x.movedim(dim, 0)
        if weight is not None:
            weight = _beside("weight", weight, "x", x.shape, dim)
        if ptr is None:
            order, ptr = _group(x, index, dim_size, dim)
            if order is not None:
                # Rows are distinct, so the scatter in the backward pass is deterministic.
                points = points.index_select(0, order)
                if weight is not None and weight.size(0) > 1:
                    weight = weight.index_select(0, order)
        alpha: Tensor = self.scale(x)
        if alpha.dim():
            answers = [*x.shape]
            answers[dim] = ptr.size(0) - 1
            alpha = _beside("alpha", alpha, "the output", answers, dim)
        y = segment_robust_pool(
            points,
            ptr,
            self.penalty,
            alpha,
            weight=weight,
            solver=self.solver,
            max_iter=self.max_iter,
            tol=self.tol,
        )
        return y.movedim(0, dim)

    def extra_repr(self) -> str:
        return describe(self.penalty, self.scale, self.solver, self.max_iter, self.tol)


def _beside(name: str, t: Tensor, other: str, shape: Sequence[int], dim: int) -> Tensor:
    """t, which broadcasts against `shape`, with as many dims and `dim` moved to the front; a
    view."""
    try:
        whole = torch.broadcast_shapes(t.shape, tuple(shape))  # type: ignore[no-untyped-call]
        fits = bool(whole == torch.Size(shape))
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"RobustAggregation: `{name}` has shape {list(t.shape)}; expected one that "
            f"broadcasts against {other}, {list(shape)}"
        )
    return t.reshape(*[1] * (len(shape) - t.dim()), *t.shape).movedim(dim, 0)


def _group(
    x: Tensor, index: Tensor | None, dim_size: int | None, dim: int
) -> tuple[Tensor | None, Tensor]:
    """The order that groups the points by set, None if they are grouped, and the sets' offsets."""
    size = x.size(dim)
    if index is None:
        return None, torch.tensor([0, size], device=x.device)
    if index.dtype not in (torch.int64, torch.int32):
        raise TypeError(
            f"RobustAggregation: `index` is of dtype {index.dtype}; expected int64 or int32"
        )
    if index.dim() != 1 or index.numel() != size:
        raise ValueError(
            f"RobustAggregation: `index` has shape {list(index.shape)}; expected [{size}], one "
            f"number for each point along dim {dim} of x, {list(x.shape)}"
        )
    if index.device != x.device:
        raise ValueError(
            f"RobustAggregation: `index` is on {index.device}; expected x's device, {x.device}"
        )
    is_sorted = isinstance(index, Index) and index.is_sorted
    if isinstance(index, Index):
        index = index.as_tensor()
    index = index.contiguous()
    # Values may be read if that neither synchronises with a device nor breaks a graph.
    is_eager = not torch.compiler.is_compiling()
    can_read = is_eager and index.device.type == "cpu" and has_values(index)
    if not is_sorted and can_read:
        is_sorted = bool((index[1:] >= index[:-1]).all())
    order = None
    if not is_sorted:
        index, order = torch.sort(index, stable=True)
    if dim_size is None:
        dim_size = int(index[-1]) + 1 if size else 0
    if can_read and size and not 0 <= int(index[0]) <= int(index[-1]) < dim_size:
        raise IndexError(
            f"RobustAggregation: `index` holds {int(index[0])} to {int(index[-1])}; expected "
            f"numbers in [0, {dim_size}), by dim_size"
        )
    # The offset of set s is the count of indices below s. Needs neither atomics nor
    # synchronisation.
    sets = torch.arange(dim_size + 1, dtype=index.dtype, device=index.device)
    return order, torch.searchsorted(index, sets)


def register() -> None:
    """Lets PyG find `RobustAggregation` by the names "robust" and "RobustAggregation".

    PyG looks up names among the classes of its module `torch_geometric.nn.aggr`; this function adds
    the class to that module. Repeated calls have no further effect.

    Example:
        >>> ddn_cuda.pyg.register()
        >>> conv = torch_geometric.nn.SAGEConv(
        ...     16, 32, aggr="robust", aggr_kwargs={"penalty": "welsch", "alpha": 0.5}
        ... )
    """
    torch_geometric.nn.aggr.RobustAggregation = RobustAggregation
