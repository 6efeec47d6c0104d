"""Runs the float32 kernels of a library on the probe's sets and saves the results.

    python -m tests.support.cuda_shim.probe LIBRARY OUT.npz

Runs in a separate process, because mutated kernels may crash or not terminate.
"""

import sys
from pathlib import Path

import numpy as np

from tests.support.cuda_shim.shim import ORDERS, Shim, ShimError

ALPHA = 1.0
PENALTIES = ("huber", "welsch")
SEARCHED = ("welsch", "truncated_quadratic")


def probe_sets() -> list[np.ndarray]:
    """A small batch for each forward kernel."""
    rng = np.random.default_rng(0)
    shapes = [(20, 33), (3, 1279), (3, 2055), (3, 16_500)]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def searched_sets() -> list[np.ndarray]:
    """The same for the kernels of the global search, with a few modes."""
    rng = np.random.default_rng(1)
    shapes = [(5, 60), (3, 2055), (2, 8200)]
    return [
        (rng.standard_normal(shape) + 4 * rng.integers(0, 3, shape)).astype(np.float32)
        for shape in shapes
    ]


def main(library: Path, out: Path) -> None:
    shim = Shim(library)
    found: dict[str, np.ndarray] = {}
    for order in ORDERS:
        # Few blocks, so that each takes several sets.
        shim.configure(order, seed=1, most_blocks=2)
        try:
            for i, x in enumerate(probe_sets()):
                for penalty in PENALTIES:
                    answer = shim.forward(x, penalty, ALPHA)
                    grad = np.ones(len(x), np.float32)
                    found[f"{order}/{penalty}/{i}/y"] = answer.y
                    found[f"{order}/{penalty}/{i}/gradient"] = shim.backward(
                        grad, x, answer, penalty, ALPHA
                    )
            for i, x in enumerate(searched_sets()):
                for penalty in SEARCHED:
                    y = shim.forward(x, penalty, ALPHA, solver="global").y
                    found[f"{order}/global {penalty}/{i}/y"] = y
        except ShimError as error:
            found[f"{order}/error"] = np.array(str(error))
    np.savez(out, allow_pickle=False, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
