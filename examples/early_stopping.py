"""Measures the error of stopping a robust pool's solver early.

A declarative node returns the solution of an optimisation problem. A solve that is stopped early
returns a suboptimal point, and the gradient formula, which is exact at a solution, is evaluated
there. This script sweeps `max_iter` and measures, for each penalty (and each solver where they
differ):

1. the forward error |y - y_converged| / alpha: median and 95th percentile over many sets;
2. the gradient error |dx - dx_converged| / |dx_converged| of a set, in the Euclidean norm,
   likewise;
3. the accuracy of the digit classifiers of `examples.digits` with the pool stopped early in
   training and test: on training digits, on held-out digits, and on held-out digits with a fifth
   of the points replaced by outliers.

Fixed in 1 and 2: alpha = 1 and the sets of 1,024 float64 points, of two families. "benchmark" is
standard normal points, a tenth of them replaced by outliers uniform in [-10, 10]. "bimodal" is
two clusters N(-3, 1) and N(3, 0.3^2), the first with a share of the points uniform in [0.3, 0.7].
"Converged" is the same solver with `max_iter=None` at its default accuracy; for a local solver
that need not be the global minimum. Errors are exactly zero once the bound no longer stops the
solve. The gradient errors of Huber and the truncated quadratic are zero as soon as the set of
points within alpha is correct. A set whose converged gradient is zero has no gradient error; the
JSON counts such sets, and the zero gradients of stopped solves.

Fixed in 3: alpha = 1, points per digit (float32), epochs, optimiser and, for each of a few seeds,
the initial weights, the points and their order. The spread over the seeds is training noise. The
quadratic penalty is the mean, which `max_iter` does not affect: it is trained once.

`max_iter` counts the passes of all descents of a solve. With the local solver, "welsch" and
"truncated_quadratic" begin with a Huber descent, so with few passes they return its last iterate.

Prints tables, writes all figures with machine, versions and commit to early_stopping.json, and
draws early_stopping.png from that file.

    python -m examples.early_stopping
    python -m examples.early_stopping --quick --output /tmp/early
    python -m examples.early_stopping --plot-only demo-output/early_stopping.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import ddn_cuda
from ddn_cuda._C import PENALTY_TRAITS
from examples import digits
from examples.digits_data import Digits, draw_points, replace_by_outliers, split_digits
from examples.digits_model import accuracy, build, train
from examples.early_stopping_report import UNTOUCHED, Case, Row, as_text, plot

NAME = "early_stopping"
ALPHA = 1.0
POINTS = 1024
MAX_ITER = (1, 2, 3, 4, 5, 6, 8, 12, 20, None)
DIGIT_MAX_ITER = (1, 4, 8, None)
QUICK_DIGIT_MAX_ITER = (1, None)
DIGIT_OUTLIERS = 0.2
TRAIN_POINTS = 3_000_000  # added to the seed, beside the example's own TEST_POINTS, TEST_OUTLIERS

# Local minima make the solvers differ.
NON_CONVEX = [name for name, t in PENALTY_TRAITS.items() if t["certificate"] != "convex"]


# Sets


def benchmark_sets(sets: int, generator: torch.Generator) -> Tensor:
    """Standard normal points, a tenth of them outliers, uniform in [-10, 10]."""
    normal = torch.randn(sets, POINTS, dtype=torch.float64, generator=generator)
    outliers = torch.rand(sets, POINTS, dtype=torch.float64, generator=generator) * 20 - 10
    chosen = torch.rand(sets, POINTS, generator=generator) < 0.1
    return torch.where(chosen, outliers, normal)


def bimodal_sets(sets: int, generator: torch.Generator) -> Tensor:
    """A wide cluster at -3 and a narrow one at 3, the wide one with 30 to 70% of the points."""
    normal = torch.randn(sets, POINTS, dtype=torch.float64, generator=generator)
    share = 0.3 + 0.4 * torch.rand(sets, 1, generator=generator)
    wide = torch.rand(sets, POINTS, generator=generator) < share
    return torch.where(wide, normal - 3, 0.3 * normal + 3)


FAMILIES: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "benchmark": benchmark_sets,
    "bimodal": bimodal_sets,
}


# What is compared


def find_cases() -> tuple[list[Case], list[Row]]:
    """The penalties with their distinct solvers, and the solvers that are not available."""
    cases: list[Case] = []
    left_out: list[Row] = []
    for penalty in ddn_cuda.PENALTIES:
        for solver in ("local", "global") if penalty in NON_CONVEX else ("local",):
            try:
                ddn_cuda.robust_pool(torch.zeros(2), penalty, ALPHA, solver=solver)
            except NotImplementedError as error:
                reason = str(error).splitlines()[0]
                left_out.append({"penalty": penalty, "solver": solver, "reason": reason})
            else:
                cases.append((penalty, solver))
    return cases, left_out


def solve(x: Tensor, case: Case, max_iter: int | None) -> tuple[Tensor, Tensor]:
    """The answers (sets,) and their gradients (sets, points)."""
    penalty, solver = case
    x = x.detach().requires_grad_()
    y = ddn_cuda.robust_pool(x, penalty, ALPHA, solver=solver, max_iter=max_iter)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), gradient


def spread(errors: Tensor) -> dict[str, float]:
    """The median, the 95th percentile and the largest."""
    middle, high, most = (errors.quantile(share).item() for share in (0.5, 0.95, 1.0))
    return {"median": middle, "p95": high, "max": most}


def sweep(case: Case, family: str, x: Tensor) -> Iterator[Row]:
    """Errors of one penalty and solver on the sets of a family, a row for each of MAX_ITER."""
    converged, gradient = solve(x, case, None)
    size = torch.linalg.vector_norm(gradient, dim=1)
    curved = size > 0
    for max_iter in MAX_ITER:
        y, dx = solve(x, case, max_iter)
        distance = torch.linalg.vector_norm(dx - gradient, dim=1)
        yield {
            "family": family,
            "penalty": case[0],
            "solver": case[1],
            "max_iter": max_iter,
            "forward_error": spread((y - converged).abs() / ALPHA),
            "gradient_error": spread((distance / size)[curved]),
            "zero_gradient_percent": 100 * (dx == 0).all(dim=1).double().mean().item(),
            "sets_without_gradient": int((~curved).sum()),
        }


def pooling_rows(cases: Sequence[Case], sets: int, seed: int) -> list[Row]:
    """Forward and gradient errors of all cases on both families."""
    rows: list[Row] = []
    with tqdm(total=len(FAMILIES) * len(cases), desc="errors", unit="sweep") as bar:
        for family, draw in FAMILIES.items():
            x = draw(sets, torch.Generator().manual_seed(seed))
            for case in cases:
                rows += sweep(case, family, x)
                bar.update()
    return rows


# Digits


def classify(
    case: Case, max_iter: int | None, seed: int, epochs: int, points: int, data: Sequence[Digits]
) -> Row:
    """Train and test one classifier whose pool stops after max_iter passes."""
    train_digits, test_digits = data

    def generator(purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed + purpose)

    start = time.perf_counter()
    penalty, solver = case
    pool = ddn_cuda.RobustPool(penalty, ALPHA, dim=-1, solver=solver, max_iter=max_iter)
    model = build(pool, seed)
    train(model, train_digits, epochs=epochs, points=points, seed=seed)
    seen = draw_points(train_digits.ink, points, generator(TRAIN_POINTS))
    clean = draw_points(test_digits.ink, points, generator(digits.TEST_POINTS))
    noisy = replace_by_outliers(clean, DIGIT_OUTLIERS, generator(digits.TEST_OUTLIERS))
    return {
        "penalty": penalty,
        "solver": solver,
        "max_iter": max_iter,
        "seed": seed,
        "train": round(accuracy(model, seen, train_digits.labels), 2),
        "test": round(accuracy(model, clean, test_digits.labels), 2),
        "test_outliers": round(accuracy(model, noisy, test_digits.labels), 2),
        "seconds": round(time.perf_counter() - start, 2),
    }


def digit_rows(cases: Sequence[Case], args: argparse.Namespace) -> list[Row]:
    """Accuracies in percent: a row for each case, max_iter and seed."""
    data = split_digits()
    runs = [
        (case, max_iter, seed)
        for case in cases
        for max_iter in ((None,) if case[0] == UNTOUCHED else args.digit_max_iter)
        for seed in range(args.seed, args.seed + args.seeds)
    ]
    return [
        classify(case, max_iter, seed, args.epochs, args.digit_points, data)
        for case, max_iter, seed in tqdm(runs, desc="digits", unit="network")
    ]


# Command line


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{NAME}",
        description="Sweep max_iter: errors of answers and gradients, and accuracy of digit "
        "classifiers, when the solver of a robust pool is stopped early.",
    )
    add = parser.add_argument
    at_least = digits.at_least
    add("--sets", type=at_least(2), help="sets per family (default: 1000; quick: 64)")
    add("--epochs", type=at_least(1), help="passes over the digits (default: 5; quick: 1)")
    add("--digit-points", type=at_least(2), help="points per digit (default: 100; quick: 32)")
    add("--seeds", type=at_least(1), help="networks per pool (default: 3; quick: 1)")
    add("--seed", type=int, default=0,
        help="the first seed, of sets, weights, points and outliers (default: %(default)s)"
        )  # fmt: skip
    add("--threads", type=at_least(1), default=2,
        help="CPU threads; figures are repeatable for a given number (default: %(default)s)"
        )  # fmt: skip
    add("--quick", action="store_true", help="a short run, as a smoke test")
    add("--output", type=Path, metavar="DIR",
        help=f"folder for {NAME}.json and {NAME}.png (default: ./demo-output; with --plot-only, "
        "the folder of that file)")  # fmt: skip
    add("--plot-only", type=Path, metavar="JSON", help="only draw the plot of an earlier run")
    args = parser.parse_args(argv)
    args.sets = args.sets or (64 if args.quick else 1000)
    args.epochs = args.epochs or (1 if args.quick else 5)
    args.digit_points = args.digit_points or (32 if args.quick else 100)
    args.seeds = args.seeds or (1 if args.quick else 3)
    args.digit_max_iter = QUICK_DIGIT_MAX_ITER if args.quick else DIGIT_MAX_ITER
    args.output = args.output or (args.plot_only.parent if args.plot_only else Path("demo-output"))
    return args


def measure(args: argparse.Namespace) -> Row:
    """All figures, with the machine and versions they were measured on."""
    start = time.perf_counter()
    cases, left_out = find_cases()
    result = digits.settings(args)
    del result["settings"]["plot_only"], result["settings"]["digit_max_iter"]
    result |= {
        "held_fixed": {"alpha": ALPHA, "points": POINTS, "dtype": "float64",
                       "digit_dtype": "float32", "digit_outliers": DIGIT_OUTLIERS},
        "families": list(FAMILIES),
        "max_iter": list(MAX_ITER),
        "digit_max_iter": list(args.digit_max_iter),
        "left_out": left_out,
    }  # fmt: skip
    result["pooling"] = pooling_rows(cases, args.sets, args.seed)
    pooled = time.perf_counter()
    result["digits"] = digit_rows(cases, args)
    done = time.perf_counter()
    result["seconds"] = {"pooling": round(pooled - start, 1), "digits": round(done - pooled, 1)}
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write and draw; returns the exit status."""
    args = parse(argv)
    source, image = args.plot_only, args.output / f"{NAME}.png"
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        if source is not None:
            digits.read_json(source, "pooling", "digits", "max_iter", "digit_max_iter", "families")
    except (OSError, ValueError) as error:
        sys.exit(f"python -m examples.{NAME}: {error}")
    if source is None:
        source = args.output / f"{NAME}.json"
        with digits.repeatable(args.threads, torch.device("cpu")):
            result = measure(args)
        source.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
        print(as_text(result))
        seconds = result["seconds"]
        print(f"\n{seconds['pooling']} s for the errors, {seconds['digits']} s for the digits; "
              f"wrote {source}")  # fmt: skip
    plot(json.loads(source.read_text()), image)
    print(f"wrote {image}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
