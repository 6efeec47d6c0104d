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


# For each forward kernel a small batch, and the shared memory of a multiprocessor in KiB: so little
# that few warps or blocks solve the batch, each several tiles of sets.
BATCHES = (
    ((70, 32), 48),
    ((80, 33), 48),
    ((40, 100), 48),
    ((14, 400), 48),
    ((7, 1281), 48),
    ((3, 2055), 100),
    ((3, 6399), 100),
    ((3, 16_500), 228),
    ((2, 33_000), 228),
)


def probe_sets() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape, _ in BATCHES]


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
            for i, (x, (_, shared_kib)) in enumerate(zip(probe_sets(), BATCHES, strict=True)):
                shim.use_device(shared_kib=shared_kib)
                for penalty in PENALTIES:
                    answer = shim.forward(x, penalty, ALPHA)
                    grad = np.ones(len(x), np.float32)
                    found[f"{order}/{penalty}/{i}/y"] = answer.y
                    found[f"{order}/{penalty}/{i}/gradient"] = shim.backward(
                        grad, x, answer, penalty, ALPHA
                    )
            shim.use_device()
            for i, x in enumerate(searched_sets()):
                for penalty in SEARCHED:
                    y = shim.forward(x, penalty, ALPHA, solver="global").y
                    found[f"{order}/global {penalty}/{i}/y"] = y
        except ShimError as error:
            found[f"{order}/error"] = np.array(str(error))
    np.savez(out, allow_pickle=False, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
