"""Runs a workload in the emulator of tests/support/ptx_emulator and takes its counts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.gpu_model import points
from bench.gpu_model.counted import Counted

if TYPE_CHECKING:
    from tests.support.ptx_emulator.counts import KernelCounts
    from tests.support.ptx_emulator.emulator import Emulator

# The kernels that the workloads launch; building the others would take minutes more.
SOURCES = r"^(?!.*float64)"
KERNELS = (
    r"^(?!.*\b(double|Half)\b)(?!.*\bbackward_sums<)"
    r"(?!.*\b(local|global)_\w+<.*\b(Quadratic|PseudoHuber|TruncatedQuadratic)\b.*\btrue>)"
)


def build() -> Emulator:
    """Builds with nvcc and the host's compiler, which takes minutes unless nothing has changed."""
    from tests.support.cuda_shim.host_build import kernel_units
    from tests.support.ptx_emulator.build import build_kept

    sources = [unit for unit in kernel_units() if re.search(SOURCES, unit.name)]
    return build_kept("counting", sources, match=KERNELS, count=True)


def count(emulator: Emulator, workload: Counted) -> dict[str, KernelCounts]:
    """The counts of the workload's kernels. A backward pass has no forward pass before it, and the
    values of its gradients do not matter."""
    from tests.support.cuda_shim.shim import Answer, BFloat16

    x, weight, ptr = points.draw(workload)
    if workload.dtype == "bfloat16":
        x = x.view(BFloat16)
    options: dict[str, Any] = {"weight": weight, "ptr": ptr, "set_rank": 2 if x.ndim == 3 else 1}
    emulator.clear_counts()
    if workload.direction == "forward":
        emulator.forward(x, workload.penalty, solver=workload.solver, **options)
        return emulator.counts()
    zeros, ones = np.zeros(workload.sets(), np.float32), np.ones(workload.sets(), np.float32)
    y, incoming = zeros, ones
    if workload.dtype == "bfloat16":
        y, incoming = (points.bfloat16_bits(part).view(BFloat16) for part in (zeros, ones))
    answer = Answer(y, zeros, ones)
    into = points.aligned(x)
    into = into.view(BFloat16) if workload.dtype == "bfloat16" else into
    emulator.backward(incoming, x, answer, workload.penalty, into=into, **options)
    return emulator.counts()
