"""Parameter sweeps, of which `make test` runs a few values."""

from collections.abc import Callable, Container, Iterable
from typing import Any

import pytest


def sweep(values: Iterable[Any], few: Container[Any]) -> list[Any]:
    """The values for pytest.mark.parametrize; all except `few` are marked slow."""
    return [v if v in few else pytest.param(v, marks=pytest.mark.slow) for v in values]


def sweep_cases(
    cases: Iterable[tuple[Any, ...]], few: Callable[[tuple[Any, ...]], bool]
) -> list[Any]:
    """The same for several parameters at once; `few` says which cases `make test` runs."""
    return [case if few(case) else pytest.param(*case, marks=pytest.mark.slow) for case in cases]
