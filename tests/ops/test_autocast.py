"""Autocast changes nothing about a pool, and networks train under it."""

import pytest
import torch

import ddn_cuda
from tests.support.contract import HALVES


@pytest.mark.parametrize("pooled_type", [torch.float64, torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("cast_to", HALVES, ids=str)
@pytest.mark.parametrize("face", ["function", "operator", "module", "segments"])
def test_autocast_casts_nothing(face, cast_to, pooled_type, device):
    """The type of the answer is that of the points, whatever autocast is set to: each type is read
    as it is and solved in float32 at least."""
    x = torch.randn(4, 30, device=device).to(pooled_type).requires_grad_()
    module = ddn_cuda.RobustPool("welsch", 0.7).to(device)
    pool = {
        "function": lambda x: ddn_cuda.robust_pool(x, "welsch", 0.7),
        "operator": lambda x: torch.ops.ddn.robust_pool(x, "welsch", alpha=0.7),
        "module": module,
        "segments": lambda x: ddn_cuda.segment_robust_pool(
            x, torch.tensor([0, 1, 4], device=device), "welsch", 0.7
        ),
    }[face]
    expected = pool(x)
    (expected_g,) = torch.autograd.grad(expected.sum(), x)
    with torch.autocast(device.type, dtype=cast_to):
        y = pool(x)
    (g,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype == g.dtype == pooled_type
    assert torch.equal(y, expected)
    assert torch.equal(g, expected_g)


def test_a_network_trains_under_autocast(half, device):
    """bfloat16 as it is; float16 with a GradScaler or without, since no gradient here vanishes."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 16), torch.nn.ReLU(), ddn_cuda.RobustPool("huber", 1.0, dim=1)
    ).to(device)
    head = torch.nn.Linear(16, 2).to(device)
    params = [*net.parameters(), *head.parameters()]
    x, label = torch.randn(32, 20, 3, device=device), torch.arange(32, device=device) % 2
    x[label == 1] += 1
    optimizer = torch.optim.SGD(params, lr=0.5)
    losses = []
    for _ in range(30):
        with torch.autocast(device.type, dtype=half):
            z = net(x)
            assert z.dtype == half
            loss = torch.nn.functional.cross_entropy(head(z).float(), label)
        optimizer.zero_grad()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in params)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
