"""Runs every CUDA kernel on small problems, for use under compute-sanitizer.

    compute-sanitizer --tool memcheck python -m bench.sanitizer_case

The problems are those of bench/kernel_cases.py; a test without a GPU checks that they reach every
kernel. The answers are not checked.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import ddn_cuda  # noqa: F401, it registers the operators
from bench import kernel_cases
from bench.kernel_cases import Case

OPS = torch.ops.ddn
NOT_ALL = 3  # exit status


def to_torch(array: np.ndarray | None, dtype: str, device: torch.device) -> Tensor | None:
    """The tensor with the same numbers and strides."""
    if array is None:
        return None
    tensor = torch.from_numpy(array)
    return (tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor).to(device)


def run(case: Case, device: torch.device) -> list[Tensor]:
    """Runs a case with its derivatives.

    Tensors are created on the CPU, and the inner operators are called directly, so almost all
    kernels on the device are those of this project.
    """
    given = kernel_cases.arrays(case)
    x = to_torch(given.x, case.dtype, device)
    weight = to_torch(given.weight, str(case.weight), device)
    alpha, ptr = to_torch(given.alpha, case.real, device), to_torch(given.ptr, "int64", device)
    grad = to_torch(given.grad, case.dtype, device)
    dtypes = (case.dtype, case.real, case.real)
    direction = [
        to_torch(part, dtype, device) for part, dtype in zip(given.direction, dtypes, strict=True)
    ]
    problem = (case.penalty, kernel_cases.ALPHA, alpha, weight, ptr, case.pooled)
    forward = OPS._robust_pool_forward_info if case.info else OPS._robust_pool_forward
    outputs = list(forward(x, *problem, case.solver, None, None))
    sets = (x, *outputs[:3], *problem)
    wanted = [name in case.gradients for name in kernel_cases.ORDER]
    outputs += OPS._robust_pool_backward(grad, *sets, wanted)
    if case.second_order:
        outputs.append(OPS._robust_pool_jvp(*direction, *sets))
        outputs += OPS._robust_pool_double_backward(grad, *direction, *sets, wanted)
    asked = [torch.tensor(part) for part in (kernel_cases.PASS_SETS, kernel_cases.PASS_PARAMETERS)]
    for kind in case.passes:
        numbers = OPS._sharded_pass(x, weight, case.pooled, *asked, case.penalty, kind)
        outputs.append(numbers.nan_to_num())  # no neighbour lies at infinity
    return outputs


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--seconds",
        type=float,
        default=float("inf"),
        help=f"no case starts after this time; exit status {NOT_ALL} where some are left",
    )
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    start = time.monotonic()
    everything = kernel_cases.cases()
    for done, case in enumerate(everything):
        if time.monotonic() - start > options.seconds:
            print(f"ran {done} of {len(everything)} cases in {options.seconds:.0f} s")
            print(f"first of those left: {case}")
            return NOT_ALL
        run(case, device)
        if device.type == "cuda":
            torch.cuda.synchronize()
    print(f"ran all of {len(everything)} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
