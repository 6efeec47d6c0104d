"""The targets for a GPU: those of the CPU, graph replay, training steps, the predecessor."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ddn_cuda
from bench import correctness, methods, targets
from bench.compare import Settings
from bench.timing import Operation, Timing, capture, ratio, summarize, time_interleaved
from bench.workloads import Sets, Workload, make

Row = dict[str, Any]

CUDA = torch.device("cuda")
SMALL = (1024, 1024)  # one cloud of 1,024 channels and points
MOST_LAUNCHES = 2.0
CHAIN = 64  # tiny kernels in a graph that measures the cost of one

BATCH, CLOUD = 32, 1024
MOST_STEP = 1.05

PREDECESSOR_SETS, PREDECESSOR_POINTS = 8192, 1024
FORWARD_FASTER, BACKWARD_FASTER, LESS_MEMORY = 500.0, 50.0, 10.0
PREDECESSOR_ROUNDS = 5

PREDECESSOR_KINDS = (
    ("forward", "times faster", FORWARD_FASTER),
    ("backward", "times faster", BACKWARD_FASTER),
    ("memory of forward", "times less", LESS_MEMORY),
    ("memory of backward", "times less", LESS_MEMORY),
)


def _row(what: str, place: str, unit: str, goal: float) -> Row:
    return targets.target_row(what, CUDA, place, unit, goal)


def _replay_row(name: str) -> Row:
    place = f"{SMALL[0]:,} sets of {SMALL[1]:,} points, float32, replayed graphs"
    unit = "launches above torch.amax"
    return _row(f"forward {name}", place, unit, MOST_LAUNCHES)


def _step_row(compiled: bool) -> Row:
    what = "training step, compiled" if compiled else "training step"
    place = f"PointNet, {BATCH} clouds of {CLOUD:,} points, huber for max"
    return _row(what, place, "x step with max", MOST_STEP)


def _predecessor_row(penalty: str, kind: str, unit: str, goal: float) -> Row:
    place = f"{PREDECESSOR_SETS:,} sets of {PREDECESSOR_POINTS:,} points, float32"
    return _row(f"{kind} {penalty}", f"{place}, {methods.PREDECESSOR}", unit, goal)


def parts(settings: Settings) -> Iterator[Iterator[Row]]:
    for dtype in targets.GPU_BACKWARD:
        yield targets.measure(targets.gpu_goals(dtype), targets.GPU_SHAPE, dtype, CUDA, settings)
    yield targets.overhead(CUDA, settings)
    yield replayed(settings)
    yield predecessor(settings)
    for compiled in (False, True):
        yield iter([training_step(compiled, settings)])


def rows() -> Iterator[Row]:
    """All lines of the table, without figures."""
    sets, points = targets.GPU_SHAPE
    for dtype in targets.GPU_BACKWARD:
        for goal in targets.gpu_goals(dtype):
            place = f"{sets:,} sets of {points:,} points, {dtype}"
            what = f"{goal.operation} {goal.method}"
            yield _row(what, place, f"x {goal.baseline}", goal.goal)
    yield _row("eager call, forward huber", "16 points", "us", targets.OVERHEAD_GOAL)
    for penalty, solver in methods.ours(list(ddn_cuda.PENALTIES)):
        yield _replay_row(methods.label(penalty, solver))
    for compiled in (False, True):
        yield _step_row(compiled)
    for penalty in methods.PREDECESSOR_METHODS:
        if not methods.is_mean(penalty):
            for kind in PREDECESSOR_KINDS:
                yield _predecessor_row(penalty, *kind)


def skipped(reason: str) -> Iterator[Row]:
    """The rows for a missing GPU."""
    for row in rows():
        yield row | {"skipped": reason}


# Small batches under graph replay


def replayed(settings: Settings) -> Iterator[Row]:
    sets = make(Workload("small", "", SMALL), "outliers", torch.float32, CUDA)
    ours = methods.our_methods(sets, settings.penalties, settings.alpha)
    counter = torch.zeros(1, device=CUDA)

    def chain(length: int) -> None:
        for _ in range(length):
            counter.add_(1)

    timed: dict[str, Operation] = {
        "one": capture(partial(chain, 1)),
        "many": capture(partial(chain, 1 + CHAIN)),
        "amax": capture(partial(torch.amax, sets.x, -1)),
    }
    for one in ours:
        if one.pool is not None:
            timed[one.name] = capture(partial(one.pool, sets.x))
    rounds = max(targets.LEAST_REPETITIONS, settings.repetitions)
    timings = time_interleaved(timed, CUDA, rounds=rounds, budget_seconds=float("inf"))
    launch = (timings["many"].median - timings["one"].median) / CHAIN
    for one in ours:
        row = _replay_row(one.name)
        if one.pool is None:
            yield row | {"skipped": one.skipped, "refused": one.refused}
            continue
        above = launches_above(timings[one.name], timings["amax"], launch)
        samples = {"milliseconds": timings[one.name].as_dict()}
        samples["baseline_milliseconds"] = timings["amax"].as_dict()
        note = f"a launch takes {1e3 * launch:.2f} us"
        yield row | targets.measured(above, MOST_LAUNCHES) | samples | {"note": note}


def launches_above(timing: Timing, baseline: Timing, launch: float) -> Timing:
    """The excess over a baseline of the same rounds, in launches."""
    pairs = zip(timing.samples, baseline.samples, strict=True)
    each = summarize([(one - other) / launch for one, other in pairs])
    return Timing((timing.median - baseline.median) / launch, each.low, each.high, each.samples)


# Training steps


class PointNet(nn.Module):
    """The classifier of Qi et al., CVPR 2017, without its two transform networks: points (B, 3, N)
    to logits (B, 40)."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        widths = (3, 64, 64, 64, 128, 1024)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv1d(before, after, 1), nn.BatchNorm1d(after), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        self.pool = pool
        self.head = nn.Sequential(
            *(nn.Linear(1024, 512), nn.BatchNorm1d(512), nn.ReLU()),
            *(nn.Linear(512, 256), nn.BatchNorm1d(256), nn.ReLU()),
            nn.Linear(256, 40),
        )

    def forward(self, points: Tensor) -> Tensor:
        return self.head(self.pool(self.encoder(points)))


def make_step(
    pool: Callable[[Tensor], Tensor],
    device: torch.device,
    *,
    batch: int = BATCH,
    cloud: int = CLOUD,
    backend: str | None = None,
) -> Operation:
    """A training step on fixed clouds: forward, backward, SGD."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(batch, 3, cloud, generator=generator).to(device) * 2 - 1
    labels = torch.randint(40, (batch,), generator=generator).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PointNet(pool).to(device).train()
    model = network if backend is None else torch.compile(network, backend=backend)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = cross_entropy(model(points), labels)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def training_step(compiled: bool, settings: Settings) -> Row:
    row = _step_row(compiled)
    backend = settings.backend if compiled else None
    steps: Mapping[str, Operation] = {
        "max": make_step(partial(torch.amax, dim=-1), CUDA, backend=backend),
        "huber": make_step(ddn_cuda.RobustPool("huber", settings.alpha), CUDA, backend=backend),
    }
    rounds = max(targets.LEAST_REPETITIONS, settings.repetitions)
    try:
        timings = time_interleaved(steps, CUDA, rounds=rounds, budget_seconds=float("inf"))
    except Exception as error:  # a missing compiler
        return row | {"skipped": methods.failure(error)}
    times = ratio(timings["huber"], timings["max"])
    samples = {name: timings[name].as_dict() for name in ("huber", "max")}
    return row | targets.measured(times, MOST_STEP) | {"milliseconds": samples}


# The predecessor


def extra_memory(operation: Operation, wanted: int = 0) -> float:
    """The peak of allocated bytes of an operation, minus those allocated before and those
    `wanted`."""
    operation()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    operation()
    torch.cuda.synchronize()
    return float(max(512, torch.cuda.max_memory_allocated() - before - wanted))


def predecessor(settings: Settings) -> Iterator[Row]:
    """The predecessor and this library on the same sets. Memory is counted without the points and,
    in a backward pass, without their gradient."""
    module, reason = methods.find_predecessor()
    sets = None
    for penalty in settings.penalties:
        if methods.is_mean(penalty):
            continue
        if module is None:
            for kind in PREDECESSOR_KINDS:
                yield _predecessor_row(penalty, *kind) | {"skipped": reason}
            continue
        if sets is None:
            shape = (PREDECESSOR_SETS, PREDECESSOR_POINTS)
            sets = make(Workload("predecessor", "", shape), "outliers", torch.float32, CUDA)
        try:
            yield from against_predecessor(module, penalty, sets, settings)
        except Exception as error:  # in third-party code
            for kind in PREDECESSOR_KINDS:
                reason = methods.failure(error)
                yield _predecessor_row(penalty, *kind) | {"skipped": reason}


def against_predecessor(
    module: types.ModuleType, penalty: str, sets: Sets, settings: Settings
) -> Iterator[Row]:
    alpha = settings.alpha
    theirs = methods.predecessor_pool(module, penalty, alpha)
    correctness.check(penalty, sets, alpha)
    right = correctness.share_right(penalty, theirs, sets, alpha)
    both = {
        "ours": methods.Method("ours", sets, sets.pool(penalty, alpha, "global")),
        "theirs": methods.Method("theirs", sets, theirs),
    }
    timed = {name: methods.operations(one) for name, one in both.items()}
    flat = {
        f"{kind} {name}": timed[name][kind] for name in both for kind in ("forward", "backward")
    }
    timings = time_interleaved(flat, CUDA, rounds=PREDECESSOR_ROUNDS, budget_seconds=float("inf"))
    gradient = sets.x.numel() * sets.x.element_size()
    for kind, unit, goal in PREDECESSOR_KINDS:
        note = {"note": f"{right:.0%} of its answers are right"}
        operation = kind.removeprefix("memory of ")
        if kind == operation:
            times = ratio(timings[f"{kind} theirs"], timings[f"{kind} ours"])
            samples: Row = {n: timings[f"{kind} {n}"].as_dict() for n in both}
            samples = {"milliseconds": samples}
        else:
            wanted = gradient if operation == "backward" else 0
            held = {name: extra_memory(timed[name][operation], wanted) for name in both}
            times = summarize([held["theirs"] / held["ours"]])
            samples = {"bytes": held}
            note = {"note": ", ".join(f"{n} {b / 2**20:.3g} MiB" for n, b in held.items())}
        row = _predecessor_row(penalty, kind, unit, goal)
        yield row | targets.measured(times, goal, at_least=True) | samples | note
