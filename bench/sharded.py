"""Counts the communication of `ddn_cuda.distributed.sharded_robust_pool`: all-reduces, and bytes
per set.

python -m bench.sharded [--ranks 2] [--sets 256] [--points 4096]

Runs Gloo processes on this machine, each with a share of the points. "normal": one cluster of unit
deviation; "clusters": four of deviation 0.4, 3 apart; both with a tenth of outliers of deviation
100, and alpha = 1. The seconds are those of CPU processes that share this machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

import ddn_cuda
from bench.methods import ours

CASES = ours(list(ddn_cuda.PENALTIES))


def draw(kind: str, sets: int, points: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sets, points, generator=generator)
    if kind == "clusters":
        x = 0.4 * x + 3 * torch.randint(0, 4, (sets, points), generator=generator)
    far = torch.rand(sets, points, generator=generator) < 0.1
    return torch.where(far, 100 * torch.randn(sets, points, generator=generator), x)


def work(rank: int, arguments: argparse.Namespace, store: str) -> None:
    from ddn_cuda.distributed import sharded_robust_pool

    torch.set_num_threads(1)
    world = arguments.ranks
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    sizes: list[int] = []
    all_reduce = dist.all_reduce

    def count(t: Tensor, *args: Any, **options: Any) -> Any:
        sizes.append(t.numel() * t.element_size())
        return all_reduce(t, *args, **options)

    counted: Any = count
    dist.all_reduce = counted
    if rank == 0:
        print(f"{'points':9}{'dtype':9}{'penalty':21}{'solver':8}all-reduces  bytes/set  seconds")
    for kind in ("normal", "clusters"):
        for dtype in (torch.float32, torch.float64):
            x = draw(kind, arguments.sets, arguments.points).to(dtype)
            mine = x.tensor_split(world, 1)[rank].contiguous()
            for penalty, solver in CASES:
                sizes.clear()
                begin = time.perf_counter()
                sharded_robust_pool(mine, penalty, solver=solver)
                seconds = time.perf_counter() - begin
                if rank == 0:
                    each = sum(sizes) / arguments.sets
                    name = str(dtype).removeprefix("torch.")
                    print(
                        f"{kind:9}{name:9}{penalty:21}{solver:8}{len(sizes):11}{each:11.0f}"
                        f"{seconds:9.2f}",
                        flush=True,
                    )
    dist.barrier()
    dist.all_reduce = all_reduce
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("ranks", 2), ("sets", 256), ("points", 4096)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        mp.spawn(work, (arguments, store), nprocs=arguments.ranks)


if __name__ == "__main__":
    main()
