"""Times a workload at full size on a GPU, relative to the bandwidth bound."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import ddn_cuda
from bench.gpu_model.counted import LONGEST, Counted
from bench.timing import Operation, Timing, ratio, time_interleaved
from bench.workloads import DTYPES, outliers

ROUNDS = 15
SECONDS = 2.0
ALPHA = 1.0


def offsets(workload: Counted, device: torch.device) -> Tensor:
    """The offsets of all segments at full size."""
    generator = torch.Generator(device).manual_seed(5)
    segments = workload.full[0]
    draw = partial(torch.randint, generator=generator, device=device)
    if workload.rows:
        rows = workload.rows * segments // workload.shape[0]
        inner = draw(0, rows + 1, (segments - 1,)).sort().values
        ends = (torch.tensor([end], device=device) for end in (0, rows))
        return torch.cat([next(ends), inner, next(ends)])
    sizes = draw(1, LONGEST + 1, (segments,))
    return torch.cat([torch.zeros(1, dtype=torch.int64, device=device), sizes.cumsum(0)])


def prepare(workload: Counted, device: torch.device) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The points and the arguments of the pool."""
    generator = torch.Generator(device).manual_seed(0)
    if workload.layout == "segments":
        ptr = offsets(workload, device)
        x = outliers((int(ptr[-1]), workload.full[1]), generator)
        pool = partial(ddn_cuda.segment_robust_pool, ptr=ptr)
    else:
        x = outliers(workload.full, generator)
        pool = partial(ddn_cuda.robust_pool, dim=1)
    weight = None
    if workload.weighted:
        weight = torch.empty_like(x).uniform_(0.5, 2, generator=generator)
    options = {"weight": weight, "solver": workload.solver}
    pool = partial(pool, penalty=workload.penalty, alpha=ALPHA, **options)
    return x.to(DTYPES[workload.dtype]), pool


def measure(workload: Counted, device: torch.device) -> Timing:
    """The time relative to the bandwidth bound, with the bandwidth of a copy of x.

    Raises:
        RuntimeError: from torch or the operator, such as too little memory.
    """
    x, pool = prepare(workload, device)
    timed: dict[str, Operation] = {"copy": partial(torch.empty_like(x).copy_, x)}
    if workload.direction == "forward":
        timed["pool"] = partial(pool, x)
    else:
        leaf = x.requires_grad_()
        y = pool(leaf)
        ones = torch.ones_like(y)
        timed["pool"] = partial(torch.autograd.grad, y, leaf, ones, retain_graph=True)
        timed["copy"] = partial(torch.empty_like(x).copy_, x.detach())
    timings = time_interleaved(timed, device, rounds=ROUNDS, budget_seconds=SECONDS)
    times = ratio(timings["pool"], timings["copy"])
    share = workload.needed_bytes(x.numel()) / (2 * x.numel() * x.element_size())
    samples = tuple(sample / share for sample in times.samples)
    return Timing(times.median / share, times.low / share, times.high / share, samples)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
