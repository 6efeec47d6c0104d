"""A stand-in for the predecessor in benchmarks."""

import sys
import types
from typing import Any

import pytest
import torch

import ddn_cuda
from bench import methods


@pytest.fixture
def predecessor(monkeypatch):
    """A function with the predecessor's interface, half of whose answers are wrong."""
    module: Any = types.ModuleType("ddn.pytorch.robustpool")

    class Pool:
        @staticmethod
        def apply(x, method, alpha):
            assert (x.dim(), alpha.shape) == (4, (1,))
            y = ddn_cuda.robust_pool(x, method, alpha.item(), dim=(-2, -1))
            return torch.where(torch.arange(y.numel()) % 2 == 0, y, y + 1)

    for penalty, name in methods.PREDECESSOR_METHODS.items():
        setattr(module, name, penalty)
    module.RobustGlobalPool2dFn = Pool
    for name in ("ddn", "ddn.pytorch"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "ddn.pytorch.robustpool", module)
