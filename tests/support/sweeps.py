"""Parameter sweeps, of which `make test` runs a few values."""

from collections.abc import Container, Iterable
from typing import Any

import pytest


def sweep(values: Iterable[Any], few: Container[Any]) -> list[Any]:
    """The values for pytest.mark.parametrize; all except `few` are marked slow."""
    return [v if v in few else pytest.param(v, marks=pytest.mark.slow) for v in values]
