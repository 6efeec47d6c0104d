"""Objectives in units of alpha, and bounds of their minima; see oracle.py."""

from typing import NamedTuple

import numpy as np

from tests.support import reference as ref

EPS = 2.0**-52
# Relative error of a sum of up to 1e5 terms of one sign: NumPy adds pairwise from 128 on.
ROUNDING = 32 * EPS


class Minimum(NamedTuple):
    """The best place found in each set, [sets] each, and a lower bound of the objective."""

    anchor: np.ndarray
    v: np.ndarray  # units of alpha, relative to the anchor
    value: np.ndarray  # f at v
    lower: np.ndarray  # lower <= min f <= value
    # Length of the interval of minimisers, of which v is the midpoint, in units of alpha; -1 if
    # rounding decides whether it exists. Only for Huber.
    flat: np.ndarray


# ---- Objectives ----------------------------------------------------------------------------------


def scaled(x, anchor, alpha):
    """(x - anchor) / alpha for x [sets, points], with at most two rounding errors per element."""
    return (x - anchor[:, None]) / alpha[:, None]


def objective(v, s, w, penalty):
    return (w * ref.phi(v[:, None] - s, penalty, 1.0)).sum(1)


def derivative(v, s, w, penalty):
    return (w * ref.psi(v[:, None] - s, penalty, 1.0)).sum(1)


def curvature(v, s, w, penalty):
    return (w * ref.dpsi(v[:, None] - s, penalty, 1.0)).sum(1)
