"""Training in one process, or in several under `torchrun`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn  # its default arguments capture a process group that exists at import
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

PATIENCE = timedelta(hours=2)  # for the leader to parse ModelNet40's meshes


@dataclass(frozen=True)
class Team:
    """The processes of a training run; without `torchrun`, this process alone.

    Attributes:
        device: where this process computes.
        rank, world: the rank of this process and their number. Only rank 0 reads and writes files.
        joined: whether they have a process group, as even a single process has under `torchrun`.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    joined: bool = False

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def agree(self, make: Callable[[], T]) -> T:
        """Broadcasts the result of `make` on the leader; if it raises there, all raise."""
        if not self.joined:
            return make()
        box: list[Any] = [None, None]
        if self.leads:
            try:
                box[0] = make()
            except (ImportError, OSError, ValueError) as error:
                box[1] = error
        dist.broadcast_object_list(box, device=self.device)
        if box[1] is not None:
            raise box[1]
        received: T = box[0]
        return received

    def leader_first(self, make: Callable[[], T]) -> T:
        """Calls `make` on the leader first, which may leave a cache, and then on the others."""
        made: list[T] = []
        self.agree(lambda: made.append(make()))
        return made[0] if made else make()

    def wrap(self, model: nn.Module) -> nn.Module:
        """Wraps the model so that gradients are averaged over the processes.

        On GPUs batch norms average over all processes. On CPUs torch has no such norm: each process
        normalises by its own part of the batch, and the running means are those of rank 0.
        """
        if not self.joined:
            return model
        if self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            return DistributedDataParallel(model, device_ids=[self.device.index])
        return DistributedDataParallel(model)

    def align(self, model: nn.Module) -> None:
        """Broadcasts the leader's buffers."""
        if self.joined:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def mean(self, value: Tensor) -> float:
        """The mean of a number over the processes."""
        if self.joined:
            dist.all_reduce(value)
        return value.item() / self.world

    def gather(self, rows: Tensor) -> Tensor:
        """Interleaves the rows of all processes, computed with stride `world`, on the CPU."""
        if not self.joined:
            return rows.cpu()
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, rows.cpu())
        whole = torch.empty(sum(map(len, parts)), *rows.shape[1:], dtype=rows.dtype)
        for rank, part in enumerate(parts):
            whole[rank :: self.world] = part
        return whole


def device_name(text: str) -> str:
    """Validates a device type without initialising it; torchrun may select the device."""
    try:
        kind = torch.device(text).type
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(str(error).splitlines()[0]) from error
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise argparse.ArgumentTypeError(f"{text} given; expected cpu, or cuda where torch has it")
    return text


def end(parser: argparse.ArgumentParser, error: Exception) -> NoReturn:
    """Exits with a one-line error, which under `torchrun` names the rank.

    torchrun cannot distinguish a permanent error from a crash, so it restarts all processes up to
    --max-restarts times.
    """
    under = "TORCHELASTIC_RUN_ID" in os.environ
    rank = f"rank {os.environ['RANK']}: " if under else ""
    parser.exit(1, f"{parser.prog}: {rank}{error}\n")


@contextmanager
def join(device: str) -> Iterator[Team]:
    """The team of this process: that of `torchrun`, with NCCL on GPUs and Gloo on CPUs.

    Args:
        device: a torch device. "cuda" under `torchrun` is the GPU of the process's local rank.
    """
    kind = torch.device(device)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Team(kind)
        return
    if kind.type == "cuda":
        kind = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(kind)
    # The store survives a restart with the addresses of dead processes, so each start uses its own
    # keys. Over several machines the restart counts differ, and torch provides no other number.
    store, rank, world = next(dist.rendezvous("env://", timeout=PATIENCE))
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:
        store = dist.PrefixStore(f"life {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "nccl" if kind.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    try:
        yield Team(kind, dist.get_rank(), dist.get_world_size(), joined=True)
    finally:
        dist.destroy_process_group()
