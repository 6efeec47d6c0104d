"""Fixtures of the tests of operators."""

import warnings

import pytest
import torch


@pytest.fixture
def no_vmap_fallback():
    """Without a vmap rule, an operator falls back to a loop with only a warning."""
    enabled = torch._C._functorch._is_vmap_fallback_enabled()
    torch._C._functorch._set_vmap_fallback_enabled(False)  # for fallbacks that only a log reports
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield
    torch._C._functorch._set_vmap_fallback_enabled(enabled)
