"""The overhead of a call from Python is small; `python -m bench.overhead` measures it.

The tests count Python calls, which do not depend on the load of the machine.
"""

import gc
import sys

import pytest
import torch

import ddn_cuda


def python_calls(run):
    """The number of calls of Python functions."""
    run()  # excludes the work of the first call
    calls = []

    def record(frame, event, argument):
        if event == "call":
            calls.append(frame.f_code.co_name)

    gc.disable()  # other tests' garbage has callbacks
    sys.setprofile(record)
    try:
        run()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


ALPHAS = {"float": lambda x: 0.5, "tensor": lambda x: x.new_ones(1)}


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_call_that_nothing_differentiates(alpha, penalty, device):
    x = torch.randn(4, 9, device=device)
    options = {"alpha": ALPHAS[alpha](x), "weight": torch.ones_like(x), "max_iter": 9, "tol": 1e-3}
    ptr = torch.tensor([0, 2, 4], device=device)
    calls = python_calls(lambda: ddn_cuda.robust_pool(x, penalty, dim=(0, 1), **options))
    assert len(calls) <= 10, calls
    calls = python_calls(lambda: ddn_cuda.segment_robust_pool(x, ptr, penalty, **options))
    assert len(calls) <= 10, calls


def test_a_call_with_its_gradient(device):
    """In comparison with the calls for the gradient of torch.median."""
    x = torch.randn(16, device=device, requires_grad=True)
    calls = python_calls(lambda: ddn_cuda.robust_pool(x).backward())
    others = python_calls(lambda: x.median().backward())
    # From PyTorch 2.14 on, `apply` inspects the signature of `forward` in every call.
    inspects = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14)
    assert len(calls) - len(others) <= (80 if inspects else 60), calls
