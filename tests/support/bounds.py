"""Constants that the sources state, and the derivatives of the Gaussian kernel."""

import re

import numpy as np

from tests.support import ROOT

CORE = ROOT / "csrc" / "core"
BINS, PENALTIES = (next(CORE.rglob(name)).read_text() for name in ("bins.h", "penalties.h"))


def constant(text, pattern):
    (found,) = set(re.findall(pattern, text))
    return float(found)


assert "(std::fabs(d[2]) + Welsch::max_d2psi * far)" in BINS
THIRD = constant(PENALTIES, r"struct Welsch \{[^}]*?max_d2psi = ([\d.]+);")
FIFTH = constant(BINS, r"far \* \(std::fabs\(d\[4\]\) \+ ([\d.]+) \* far\)")
LINE = np.linspace(-15, 15, 600_001)


def kernel(z, n=0):
    """The n-th derivative of exp(-z^2 / 2)."""
    before, here = np.zeros_like(z), np.exp(-0.5 * z * z)
    for k in range(n):
        before, here = here, -(z * here + k * before)
    return here
