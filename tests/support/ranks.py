"""Checks that run in several processes, between which the points of a set are sharded."""

import multiprocessing
import os
import pickle
import traceback
from typing import Any

import torch
import torch.multiprocessing as mp

dist = torch.distributed

CHECKS: dict[str, Any] = {}
COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "all_to_all",
    "broadcast",
    "gather",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "send",
    "recv",
)


def check(function):
    """Registers a check for several processes."""
    CHECKS[function.__name__] = function
    return function


def pool():
    from ddn_cuda.distributed import sharded_robust_pool

    return sharded_robust_pool


def part(t, dim=-1, shares=None):
    """This rank's part of a tensor; parts have unequal lengths."""
    rank, world = dist.get_rank(), dist.get_world_size()
    n = t.shape[dim]
    ends = [round(n * (i / world) ** 1.3) for i in range(world + 1)] if shares is None else shares
    return t.narrow(dim, ends[rank], ends[rank + 1] - ends[rank])


def together(t, dim=-1):
    """Concatenates the parts of all ranks."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, t)
    return torch.cat(parts, dim)


def close(a, b, dtype, alpha=1.0, what=""):
    """Equal to twice the guaranteed accuracy, since both have that error. NaN equals NaN."""
    b = b.double()
    ulp = 0.0 if dtype == torch.float64 else 2 * torch.finfo(dtype).eps
    step = 1e-10 if dtype == torch.float64 else 4e-6
    room = 2 * (step * alpha + (ulp if ulp else 1e-10) * b.abs())
    a = a.double()
    same = (a == b) | (a.isnan() & b.isnan()) | ((a - b).abs() <= room)
    assert same.all(), f"{what}: {a[~same]}, expected {b[~same]}"


class Counted:
    """Records the collectives called in its context, as (name, bytes)."""

    def __enter__(self):
        self.calls: list[tuple[str, int]] = []
        self.kept = {name: getattr(dist, name) for name in COLLECTIVES}
        for name, call in self.kept.items():
            setattr(dist, name, self.counting(name, call))
        return self

    def counting(self, name, call):
        def counted(t, *args, **options):
            size = t.numel() * t.element_size() if isinstance(t, torch.Tensor) else -1
            self.calls.append((name, size))
            return call(t, *args, **options)

        return counted

    def __exit__(self, *_):
        for name, call in self.kept.items():
            setattr(dist, name, call)

    @property
    def sizes(self):
        assert {name for name, _ in self.calls} <= {"all_reduce"}, self.calls
        return [size for _, size in self.calls]


PRELOADED = (
    "tests.support.ranks",
    "ddn_cuda.distributed",
    "torch.distributed.tensor",
    "torch.distributed.fsdp",
)


# ---- Processes -----------------------------------------------------------------------------------


def work(rank, world, folder, checks):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    failed = {}
    for name, check in checks.items():
        torch.manual_seed(0)
        try:
            check()
        except BaseException:
            failed[name] = traceback.format_exc()
        # If one rank failed alone, the others would wait in the next check.
        dist.barrier()
    with open(f"{folder}/{rank}.pkl", "wb") as file:
        pickle.dump(failed, file)
    dist.destroy_process_group()
    # DTensor's caches keep groups and their threads. Such a thread aborts the process if it
    # requests the lock of a finalising interpreter.
    os._exit(0)


def run(world, folder, checks):
    """{name of a check: tracebacks of the ranks that failed}"""
    # The ranks are forks of one process that has imported what they need.
    multiprocessing.set_forkserver_preload([*PRELOADED, *{c.__module__ for c in checks.values()}])
    mp.start_processes(work, (world, str(folder), checks), nprocs=world, start_method="forkserver")
    found: dict[str, list[str]] = {}
    for rank in range(world):
        with open(folder / f"{rank}.pkl", "rb") as file:
            for name, trace in pickle.load(file).items():
                found.setdefault(name, []).append(f"rank {rank}: {trace}")
    return found
