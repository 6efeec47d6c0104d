"""The check of test_global at scale: any number of drawn sets, with every penalty and dtype.

python -m tests.soak --sets 1000000 --seed 0 --json soak.json
python -m tests.soak --replay soak-welsch-float32.npz
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

import ddn_cuda
from bench import machine
from tests.support import drawn, oracle
from tests.support import reference as ref

DTYPES = {"float32": torch.float32, "float64": torch.float64}
SETS = 256  # in a batch
# Occasionally a batch of a few large sets, around the sizes where kernels change.
LARGE_SIZES = (257, 513, 1000, 1024, 1025, 2049, 4097)
LARGE_EVERY, LARGE_SETS = 41, 16  # odd, so that kinds alternate between weighted and unweighted


class Tally:
    """The tally of a penalty and dtype."""

    def __init__(self):
        self.sets = self.determined = self.violations = self.nonfinite = 0
        self.excess = self.position = self.gradient = self.doubt = 0.0
        self.seconds = self.solving = 0.0

    def add(self, verdict):
        self.sets += len(verdict.finite)
        self.determined += int(verdict.determined.sum())
        self.violations += len(verdict.violations)
        self.nonfinite += int((~verdict.finite).sum())
        for name in ("excess", "position", "gradient", "doubt"):
            setattr(self, name, max(getattr(self, name), float(getattr(verdict, name).max())))


def keep(verdict, batch, y, g, penalty, dtype, solver):
    """Writes the worst set to a file that --replay takes, and returns its name."""
    broken = verdict.violations
    worst = np.where(verdict.finite, verdict.worst, np.inf)
    i = broken[np.argmax(worst[broken])]
    path = f"soak-{penalty}-{dtype}.npz"
    weight = {} if batch.weight is None else {"weight": batch.weight[i]}
    np.savez(
        path,
        x=batch.x[i],
        alpha=batch.alphas[i],
        y=y[i],
        gradient=g[i],
        penalty=penalty,
        dtype=dtype,
        solver=solver,
        parameters=json.dumps(batch.parameters),
        **weight,
    )
    print(f"{penalty} {dtype}: {len(broken)} of {len(y)} sets, such as {verdict.about(i)}")
    print(f"    replay it: python -m tests.soak --replay {path}", flush=True)
    return path


def replay(path, device):
    """Pools and checks a kept set again, prints the result and returns the exit status."""
    kept = np.load(path)
    penalty, dtype = str(kept["penalty"]), DTYPES[str(kept["dtype"])]
    weight = kept["weight"][None] if "weight" in kept else None
    parameters = json.loads(str(kept["parameters"]))
    batch = drawn.Batch(kept["x"][None], float(kept["alpha"]), weight, parameters)
    y, g = drawn.pool(batch, penalty, device, dtype, str(kept["solver"]))
    verdict = oracle.judge(y, batch.x, penalty, batch.alphas, dtype, weight, g)
    found = oracle.minimum(batch.x, penalty, batch.alpha, weight)
    least = found.anchor[0] + batch.alpha * found.v[0]
    print(f"{penalty} {kept['dtype']}, alpha={batch.alpha!r}, {parameters}")
    print(f"x={batch.x[0].tolist()}")
    print(f"y={y[0]!r} (then {float(kept['y'])!r}), the minimum is at {float(least)!r}")
    print(verdict.about(0))
    return int(len(verdict.violations) > 0)


def soak(arguments):
    """Checks all batches with every penalty and dtype; returns the tallies."""
    rng = np.random.default_rng(arguments.seed)
    tallies = {(p, d): Tally() for p in arguments.penalty for d in DTYPES}
    each, kept, batches, shown = arguments.sets / len(tallies), [], 0, time.perf_counter()
    while min(tally.sets for tally in tallies.values()) < each:
        batches += 1
        weighted = arguments.weights == "all" or (arguments.weights == "some" and batches % 2 == 0)
        parameters, sets = drawn.random_parameters(rng, weighted), SETS
        if batches % LARGE_EVERY == 0:
            parameters["points"] = LARGE_SIZES[rng.integers(len(LARGE_SIZES))]
            sets = LARGE_SETS
        for (penalty, dtype), tally in tallies.items():
            begin = time.perf_counter()
            batch = drawn.batch(parameters, sets, DTYPES[dtype])
            drawing = time.perf_counter()
            y, g = drawn.pool(batch, penalty, arguments.device, DTYPES[dtype], arguments.solver)
            tally.solving += time.perf_counter() - drawing
            verdict = oracle.judge(
                y, batch.x, penalty, batch.alphas, DTYPES[dtype], batch.weight, g
            )
            tally.add(verdict)
            tally.seconds += time.perf_counter() - begin
            first = not any(name.endswith(f"-{penalty}-{dtype}.npz") for name in kept)
            if len(verdict.violations) and first:
                kept.append(keep(verdict, batch, y, g, penalty, dtype, arguments.solver))
        if time.perf_counter() - shown > 30:
            shown = time.perf_counter()
            done = sum(tally.sets for tally in tallies.values())
            print(f"{done} of {arguments.sets} sets", file=sys.stderr, flush=True)
    return tallies


def table(tallies):
    columns = "sets", "determined", "violations", "non-finite", "excess", "position", "gradient"
    lines = ["worst shares of what is allowed; above 1 is a violation"]
    head = "".join(f"{name:>12}" for name in columns)
    lines.append(f"{'penalty':<20}{'dtype':<8}{head}{'solving s':>12}{'in all s':>10}")
    for (penalty, dtype), t in tallies.items():
        counts = f"{t.sets:>12}{t.determined:>12}{t.violations:>12}{t.nonfinite:>12}"
        shares = f"{t.excess:>12.3g}{t.position:>12.3g}{t.gradient:>12.3g}"
        lines.append(f"{penalty:<20}{dtype:<8}{counts}{shares}{t.solving:>12.1f}{t.seconds:>10.1f}")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", type=int, default=1_000_000, help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--solver", choices=["global", "local"], default="global")
    parser.add_argument("--penalty", nargs="+", choices=ref.PENALTIES, default=ref.PENALTIES)
    parser.add_argument(
        "--weights",
        choices=["none", "some", "all"],
        default="some",
        help="which batches have weights; some: every other one (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table here")
    parser.add_argument("--replay", type=Path, metavar="NPZ", help="judge one kept set again")
    arguments = parser.parse_args(argv)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    if arguments.replay:
        return replay(arguments.replay, arguments.device)
    begin = time.perf_counter()
    tallies = soak(arguments)
    wall = time.perf_counter() - begin
    sets = sum(tally.sets for tally in tallies.values())
    violations = sum(tally.violations for tally in tallies.values())
    print(table(tallies))
    print(f"{sets} sets, {violations} violations, {wall:.0f} s, seed {arguments.seed}")
    if arguments.json:
        report = {
            "seed": arguments.seed,
            "device": arguments.device,
            "solver": arguments.solver,
            "weights": arguments.weights,
            "sets": sets,
            "violations": violations,
            "seconds": wall,
            "machine": machine.describe(),
            "commit": machine.commit(),
            "build": ddn_cuda.build_info(),
            "results": [
                {"penalty": p, "dtype": d, **vars(tally)} for (p, d), tally in tallies.items()
            ],
        }
        arguments.json.write_text(json.dumps(report, indent=2, default=str) + "\n")
    return int(violations > 0)


if __name__ == "__main__":
    sys.exit(main())
