"""Forward and backward of every penalty beside torch.mean, torch.amax and copy_ on the same tensor.

python -m bench.quick
python -m bench.quick --device cuda --shape 128x1024x2048 --json out.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ddn_cuda
from bench import machine
from bench.correctness import check
from bench.timing import Timing, time_interleaved

SHAPES = {"cpu": ["16x128x1024", "64x256x49"], "cuda": ["128x1024x2048", "32x1024x1024"]}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
ALPHA = 1.0
OUTLIERS = 0.1


def parse_shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(size) for size in text.split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected sizes such as 32x128x1024")
    return shape


def shrink_to_fit(shape: tuple[int, ...], itemsize: int, free_bytes: int) -> tuple[int, ...]:
    """Halves the first size until input, gradient, copy and a spare one fit in half the memory."""
    while 4 * prod(shape) * itemsize > free_bytes // 2 and shape[0] > 1:
        shape = (shape[0] // 2, *shape[1:])
    return shape


def make_points(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Standard normal points, a tenth of them outliers, uniform in [-10, 10]."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(shape, dtype=dtype, device=device, generator=generator)
    chance = torch.rand(shape, dtype=torch.float32, device=device, generator=generator)
    # One draw serves twice: below the share it chooses the outliers and, rescaled, their place.
    return torch.where(chance < OUTLIERS, chance.to(dtype) * (20 / OUTLIERS) - 10, x)


def make_operations(x: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed, by name: ``forward/NAME`` and ``backward/NAME``, and copy."""
    target = torch.empty_like(x)
    leaf = x.detach().requires_grad_()
    pools: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": partial(torch.mean, dim=-1),
        "amax": partial(torch.amax, dim=-1),
    }
    for penalty in ddn_cuda.PENALTIES:
        pools[penalty] = partial(ddn_cuda.robust_pool, penalty=penalty, alpha=ALPHA)
    operations: dict[str, Callable[[], object]] = {"copy": partial(target.copy_, x)}
    for name, pool in pools.items():
        operations[f"forward/{name}"] = partial(pool, x)
        y = pool(leaf)
        operations[f"backward/{name}"] = partial(
            torch.autograd.grad, y, leaf, torch.ones_like(y), retain_graph=True
        )
    return operations


def moved_bytes(name: str, x: Tensor) -> int:
    """The bytes an operation cannot do without: a read of x, a write of a tensor like it."""
    size = x.numel() * x.element_size()
    reads_and_writes = name == "copy" or (name.startswith("backward/") and name != "backward/mean")
    return 2 * size if reads_and_writes else size


def row(name: str, timing: Timing, timings: dict[str, Timing], x: Tensor) -> dict[str, Any]:
    baseline = "copy" if name.startswith("backward/") else "forward/mean"
    return {
        "operation": name,
        "shape": list(x.shape),
        "dtype": str(x.dtype).removeprefix("torch."),
        "milliseconds": timing.as_dict(),
        "gigabytes_per_second": moved_bytes(name, x) / timing.median / 1e6,
        "baseline": baseline,
        "times_baseline": timing.median / timings[baseline].median,
    }


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'':28}{'median ms':>11}{'10%':>10}{'90%':>10}{'GB/s':>9}   compared")
    for r in rows:
        ms = r["milliseconds"]
        print(
            f"{r['operation']:28}{ms['median']:11.3f}{ms['low']:10.3f}{ms['high']:10.3f}"
            f"{r['gigabytes_per_second']:9.1f}   {r['times_baseline']:.2f} x {r['baseline']}"
        )


def run(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Checks, then times all operations on one tensor; prints the table and returns its rows."""
    if device.type == "cuda":
        shape = shrink_to_fit(shape, dtype.itemsize, torch.cuda.mem_get_info()[0])
    x = make_points(shape, dtype, device)
    print(f"\n{'x'.join(map(str, shape))} {dtype} on {device}, alpha {ALPHA}")
    checked = sum(check(penalty, x, ALPHA) for penalty in ddn_cuda.PENALTIES)
    print(f"answers and gradients of {checked} sets are right")
    operations = make_operations(x)
    timings = time_interleaved(operations, device, rounds=rounds, budget_seconds=seconds)
    rows = [row(name, timing, timings, x) for name, timing in timings.items()]
    print_rows(rows)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add(
        "--shape", type=parse_shape, action="append", help="such as 32x128x1024; last dim is pooled"
    )
    add("--dtype", choices=DTYPES, default="float32")
    add("--rounds", type=int, default=30, help="repetitions at most (default %(default)s)")
    add("--seconds", type=float, default=20, help="time per shape (default %(default)s)")
    add("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    facts = {"machine": machine.describe(), "commit": machine.commit()}
    facts |= {"build": dict(ddn_cuda.build_info())}
    print(json.dumps(facts, indent=1))
    rows: list[dict[str, Any]] = []
    for shape in options.shape or [parse_shape(text) for text in SHAPES[options.device]]:
        rows += run(shape, DTYPES[options.dtype], device, options.rounds, options.seconds)
        if options.json:
            options.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
