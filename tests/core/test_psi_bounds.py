"""The bounds on derivatives of psi, and the series of psi; see docs/global.md. The constants are
read from the sources, so a wrong constant fails the test."""

import math
import os
import re
import subprocess

import numpy as np
import pytest

from tests.support import exact
from tests.support.bounds import CORE, FIFTH, LINE, THIRD, constant, kernel

SERIES, PENALTIES = (next(CORE.rglob(name)).read_text() for name in ("series.h", "penalties.h"))
TERMS = int(constant(SERIES, r"int terms = (\d+);"))
RADIUS = constant(SERIES, r"radius = ([\d.]+);")
REMAINDER = constant(SERIES, r"remainder = ([\d.e-]+);")
CRAMER = 1.0865  # Abramowitz and Stegun, 22.14.17: 1.086435, rounded up


def test_the_derivatives_are_derivatives():
    h = 1e-5
    for n in range(6):
        quotient = (kernel(LINE + h, n) - kernel(LINE - h, n)) / (2 * h)
        np.testing.assert_allclose(kernel(LINE, n + 1), quotient, atol=1e-7)


@pytest.mark.parametrize(("order", "bound"), [(3, THIRD), (5, FIFTH)])
def test_largest_derivatives(order, bound):
    largest = np.abs(kernel(LINE, order)).max()
    assert largest <= bound <= 1.001 * largest


def smooth_structs():
    """(struct, name of the penalty, its degree, the bounds that it states), from the source."""
    name = None
    for struct, body in re.findall(r"^struct (\w+)[^;{]*\{\n(.*?)^\};", PENALTIES, re.M | re.S):
        # A struct that inherits the name is a variant of the penalty before it.
        name = (re.findall(r'\* name = "(\w+)";', body) or [name])[0]
        bounds = dict(re.findall(r"(max_d2psi|max_rest) = ([\d.]+);", body))
        if "max_rest" in bounds:
            degree = int(constant(body, r"int degree = (\d+);"))
            yield pytest.param(name, degree, bounds, id=f"{struct}-{name}")


@pytest.mark.parametrize(("penalty", "degree", "bounds"), list(smooth_structs()))
def test_bounds_on_derivatives_of_psi(penalty, degree, bounds):
    """A descent decides with these bounds that a step is its last."""
    orders = {"max_d2psi": 2, "max_rest": degree + 1}
    line = np.linspace(0, 6, 1201)
    for name, bound in bounds.items():
        largest = max(abs(exact.derivative(penalty, orders[name], float(t))) for t in line)
        assert largest <= float(bound) * (1 + 1e-12)
        assert float(bound) <= 1.01 * largest


def test_all_smooth_structs_are_found():
    found = [values.id for values in smooth_structs()]
    assert {"PseudoHuber-pseudo_huber", "Welsch-welsch", "WelschFar-welsch"} <= set(found)


SERIES_OF_PSI = """
#include <cstdio>
#include "core/newton.h"
template <class P>
void print() {
  struct { double* m; void operator()(int k, double x, double y) const { m[k] += x * y; }
           void operator()(int k, double x, ddn::One) const { m[k] += x; }
           void count(int, double, double) const {} } add;
  for (double z = -6; z <= 6; z += 0.0625) {
    for (double t = -0.25; t <= 0.25; t += 0.03125) {
      double m[16] = {};
      add.m = m;
      P::template add_moments<BOUNDED>(z, ddn::Alpha<double>{0.5, 2.0}, add);
      const auto sums = P::sums(m, 0.5);
      const ddn::PsiSeries<P> series(sums, 2.0);
      std::printf("%.17g %.17g %.17g %.17g %.17g %.17g\\n", z, t, series.value(t),
                  series.derivative(t), sums.density - series.integral(t), series.remainder(t));
    }
  }
}
int main() { print<ddn::PENALTY>(); }
"""


@pytest.mark.parametrize("bounded", ["true", "false"])
@pytest.mark.parametrize("penalty", ["PseudoHuber", "Welsch", "WelschFar"])
def test_the_series_of_psi(penalty, bounded, tmp_path):
    source = tmp_path / "series.cpp"
    source.write_text(SERIES_OF_PSI.replace("PENALTY", penalty).replace("BOUNDED", bounded))
    program, compiler = tmp_path / "series", os.environ.get("CXX", "c++")
    subprocess.run(
        [compiler, "-std=c++20", "-O1", f"-I{CORE.parent}", source, "-o", program], check=True
    )
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    z, t, value, derivative, density_at, rest = np.array(printed.split(), float).reshape(-1, 6).T
    u, welsch = z + t, penalty != "PseudoHuber"
    psi = -kernel(u, 1) if welsch else u / np.sqrt(1 + u * u)
    curvature = -kernel(u, 2) if welsch else (1 + u * u) ** -1.5
    degree = 6 if penalty == "WelschFar" else 2
    rounding = 1e-14
    errors = [
        (np.abs(derivative - curvature), rest),
        (np.abs(value - psi), rest * np.abs(t) / (degree + 1)),
    ]
    if welsch:
        errors.append((np.abs(density_at - kernel(u)), rest * t * t / (degree + 1) / (degree + 2)))
    for error, bound in errors:
        assert (error <= bound + rounding).all()
        assert (error >= 0.5 * bound)[np.abs(t) == 0.125].any()


def test_cramers_bound_and_the_remainder_of_the_series():
    for n in range(41):
        scaled = np.abs(kernel(LINE, n)) * np.exp(LINE**2 / 4) / math.sqrt(math.factorial(n))
        assert scaled.max() <= CRAMER
    bound = CRAMER * RADIUS**TERMS / math.sqrt(math.factorial(TERMS))
    assert bound <= REMAINDER <= 1.1 * bound
    # The remainder of the series of one point, in extended precision.
    z, t = np.linspace(-8, 8, 801).astype(np.longdouble)[:, None], np.longdouble(RADIUS)
    g = [np.exp(-z * z / 2), -z * np.exp(-z * z / 2)]
    for k in range(1, 40):
        g.append(-(z * g[k] + g[k - 1]) / (k + 1))
    rest = sum(g[k] * t**k for k in range(TERMS, 40))
    assert 0.2 * REMAINDER <= np.abs(rest).max() <= REMAINDER
    shorter = sum(g[k] * t**k for k in range(TERMS - 1, 40))
    assert np.abs(shorter).max() > REMAINDER
