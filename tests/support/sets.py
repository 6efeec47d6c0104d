"""Sets of points of every kind for the tests of accuracy."""

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """`points` [sets, points] in float64, and the alpha to pool them with."""

    name: str
    points: np.ndarray
    alpha: float


SIZES = (1, 2, 3, 7, 16, 31, 32, 33, 49, 64, 127, 128, 129, 1000, 1024, 5000)
LARGE_SIZES = (20_000, 70_000)


def contaminated(rng, sets, n, outliers=0.1, reach=10.0):
    """Standard normal points, a share of them replaced by outliers U(-reach, reach)."""
    x = rng.standard_normal((sets, n))
    return np.where(rng.random((sets, n)) < outliers, rng.uniform(-reach, reach, (sets, n)), x)


def modes(rng, sets, n, count, reach=10.0, spread=0.5):
    """Clusters at `count` random places, each point in one of them at random."""
    centers = rng.uniform(-reach, reach, (sets, count))
    which = rng.integers(0, count, (sets, n))
    return np.take_along_axis(centers, which, 1) + spread * rng.standard_normal((sets, n))


def two_clusters(rng, sets, n, distance):
    """Two equal clusters `distance` apart. Huber is flat between them if the distance exceeds 2
    alpha and the widths of the clusters."""
    x = rng.uniform(-0.25, 0.25, (sets, n))
    x[:, n // 2 :] += distance
    return x


def unimodal(rng, sets, n):
    """A cluster narrower than 1 and a tenth of the points at least 8 away on either side."""
    x = rng.uniform(-0.45, 0.45, (sets, n))
    far = rng.uniform(8, 50, (sets, n)) * rng.choice([-1, 1], (sets, n))
    return np.where(rng.random((sets, n)) < 0.1, far, x)


def cases():
    """The named cases, the same on every call."""
    rng = np.random.default_rng(20_240_501)
    scales = 10.0 ** np.arange(-8, 9)[:, None]
    found = [
        Case("outliers", contaminated(rng, 6, 1024), 1.0),
        Case("outliers_small_alpha", contaminated(rng, 6, 1024), 0.1),
        Case("outliers_49", contaminated(rng, 40, 49), 0.7),
        Case("bimodal", modes(rng, 8, 200, 2), 1.0),
        Case("bimodal_64", modes(rng, 30, 64, 2), 0.3),
        Case("trimodal", modes(rng, 8, 300, 3), 1.0),
        Case("far_modes", modes(rng, 8, 64, 2, reach=500.0), 1.0),
        Case("equal_clusters", two_clusters(rng, 6, 64, 9.0), 1.0),
        Case("equal_clusters_touching", two_clusters(rng, 6, 64, 2.2), 1.0),
        Case("unequal_clusters", two_clusters(rng, 6, 65, 9.0), 1.0),
        Case("far_from_zero", 1e4 + contaminated(rng, 6, 500), 1.0),
        Case("far_from_zero_bimodal", 1e4 + modes(rng, 6, 128, 2), 0.5),
        Case("very_far_from_zero", -1e6 + contaminated(rng, 6, 100), 1.0),
        Case("tiny_alpha", contaminated(rng, 6, 101), 1e-6),
        Case("tiny_alpha_even", contaminated(rng, 6, 100), 1e-4),
        Case("smallest_alpha", contaminated(rng, 6, 101), 1e-15),
        Case("smallest_alpha_even", contaminated(rng, 6, 64), 1e-15),
        Case("small_points_and_alpha", 1e-15 * contaminated(rng, 6, 101), 1e-15),
        Case("huge_alpha", contaminated(rng, 6, 101), 1e6),
        Case("largest_alpha", contaminated(rng, 6, 101), 1e15),
        Case("large_points_and_alpha", 1e15 * contaminated(rng, 6, 101), 1e15),
        Case("all_equal", np.repeat([[-3.7], [0.0], [1e-20], [1e20], [0.1]], 77, 1), 0.5),
        Case("one_point", rng.standard_normal((9, 1)) * 100, 0.3),
        Case("two_points", rng.standard_normal((20, 2)), 0.5),
        Case("two_points_apart", rng.standard_normal((20, 2)) * 50, 0.5),
        Case("scales_in_one_batch", scales * contaminated(rng, 17, 60), 1.0),
        Case("lattice", rng.integers(-4, 5, (12, 40)) * 0.5, 1.0),
        Case("lattice_coarse", rng.integers(-3, 4, (12, 33)) * 1.0, 0.5),
        Case("one_sided_outliers", np.abs(contaminated(rng, 6, 257, 0.3, 1000.0)), 1.0),
        Case("heavy_tails", rng.standard_cauchy((8, 333)), 0.5),
        Case("heaviest_tails", rng.standard_cauchy((8, 333)) ** 5, 0.5),
        Case("geometric", np.repeat(np.geomspace(1e-12, 1e12, 97)[None], 1, 0), 1e-3),
    ]
    found += [Case(f"size_{n}", contaminated(rng, 3, n), 1.0) for n in SIZES]
    found += [Case(f"size_{n}", contaminated(rng, 2, n), 1.0) for n in LARGE_SIZES]
    return found


def extremes_of_double():
    """Cases for double precision only: alpha at the ends of its range."""
    rng = np.random.default_rng(7)
    return [
        Case("smallest_alpha_double", contaminated(rng, 4, 101), 1e-30),
        Case("smallest_points_and_alpha_double", 1e-30 * contaminated(rng, 4, 101), 1e-30),
        Case("largest_alpha_double", contaminated(rng, 4, 101), 1e30),
        Case("large_points_and_alpha_double", 1e30 * contaminated(rng, 4, 101), 1e30),
        Case("large_points_small_alpha_double", 1e200 * contaminated(rng, 4, 101), 1e-30),
    ]
