"""A build without CUDA computes CUDA tensors on the CPU, with one warning."""

import warnings

import pytest
import torch

import ddn_cuda
from ddn_cuda import _fallback
from tests.support.devices import REQUIRE_CUDA

FAR = torch.device("cuda", 1)  # the device that the stand-ins report; it need not exist


class Near(torch.Tensor):
    """A CPU tensor that can be moved to the stand-in for a CUDA device."""

    def to(self, device):
        assert torch.device(device) == FAR
        MOVES.append("back")
        return self.as_subclass(Far)


class Far(torch.Tensor):
    """A tensor that reports a CUDA device and records when it is moved away."""

    @property
    def device(self):
        return FAR

    @property
    def is_cuda(self):
        return True

    def cpu(self):
        MOVES.append("to the CPU")
        return self.as_subclass(Near)

    def to(self, device):
        assert torch.device(device).type == "cpu"
        return self.cpu()


MOVES: list[str] = []


@pytest.fixture(autouse=True)
def first_call(monkeypatch):
    MOVES.clear()
    monkeypatch.setattr(_fallback, "_warned", False)


def far(values):
    return torch.tensor(values).as_subclass(Far)


def test_tensors_go_to_the_cpu_and_the_result_comes_back():
    seen = []

    def op(*args):
        seen.extend(args)
        return args[0] + args[2]

    x, y = far([1.0, 2.0]), far([10.0, 20.0])
    with pytest.warns(RuntimeWarning, match="without CUDA"):
        result = _fallback.via_cpu(op, x, "huber", y, 0.5, None, [1], None)
    assert [type(s) for s in seen] == [Near, str, Near, float, type(None), list, type(None)]
    assert seen[1] == "huber"
    assert seen[3:] == [0.5, None, [1], None]
    assert isinstance(result, Far)
    assert result.device == FAR
    assert result.as_subclass(torch.Tensor).tolist() == [11.0, 22.0]
    assert MOVES == ["to the CPU", "to the CPU", "back"]


def test_several_results_come_back_in_their_order():
    with pytest.warns(RuntimeWarning):
        results = _fallback.via_cpu(lambda x: (x + 1, x + 2, x + 3), far([0.0]))
    assert isinstance(results, tuple)
    assert all(isinstance(part, Far) for part in results)
    assert [part.as_subclass(torch.Tensor).item() for part in results] == [1.0, 2.0, 3.0]
    assert MOVES == ["to the CPU", "back", "back", "back"]


def test_the_result_goes_to_the_device_of_the_first_tensor():
    """With other arguments before the tensor, and a CPU tensor after it."""
    with pytest.warns(RuntimeWarning):
        result = _fallback.via_cpu(
            lambda scale, x, shift: x * scale + shift, 3.0, far([2.0]), torch.tensor([1.0])
        )
    assert isinstance(result, Far)
    assert result.as_subclass(torch.Tensor).item() == 7.0


def test_it_warns_once_and_names_the_device():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            _fallback.via_cpu(lambda x: x + 1, far([0.0]))
    assert [w.category for w in caught] == [RuntimeWarning]
    assert "cuda:1" in str(caught[0].message)


def test_an_error_of_the_operator_passes_through():
    def op(x):
        raise ValueError("robust_pool: no")

    with pytest.warns(RuntimeWarning), pytest.raises(ValueError, match="robust_pool: no"):
        _fallback.via_cpu(op, far([0.0]))


def test_the_hop_is_registered_just_where_there_are_no_kernels():
    """Without CUDA kernels, Python kernels replace them; with CUDA kernels nothing is moved."""
    inner = ("forward", "forward_info", "backward", "jvp", "double_backward")
    for name in (f"_robust_pool_{part}" for part in inner):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"ddn::{name}", "CUDA")
        registered = torch._C._dispatch_dump(f"ddn::{name}")
        (line,) = [line for line in registered.splitlines() if line.startswith("CUDA:")]
        in_python = ".py:" in line
        assert in_python == (ddn_cuda.build_info()["cuda"] is None), line


@pytest.mark.cpu_only_build
def test_on_a_real_device(penalty, dtype):
    if ddn_cuda.build_info()["cuda"] is not None:
        pytest.skip("needs a build without CUDA: build_info()['cuda'] is not None")
    if not torch.cuda.is_available():
        reason = "needs a CUDA device: torch.cuda.is_available() is False"
        pytest.fail(reason) if REQUIRE_CUDA else pytest.skip(reason)
    on_cpu = torch.randn(7, 50, dtype=dtype, requires_grad=True)
    x = on_cpu.detach().cuda().requires_grad_()
    with pytest.warns(RuntimeWarning, match="without CUDA"):
        y = ddn_cuda.robust_pool(x, penalty, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y.sum().backward()
        alpha = torch.full((7, 1), 0.5, dtype=dtype, device="cuda")
        per_set = ddn_cuda.robust_pool(x, penalty, alpha)
    expected = ddn_cuda.robust_pool(on_cpu, penalty, 0.5)
    expected.sum().backward()
    assert y.device == per_set.device == x.grad.device == x.device
    assert torch.equal(y.cpu(), expected)
    assert torch.equal(per_set.cpu(), expected)
    assert torch.equal(x.grad.cpu(), on_cpu.grad)
