"""Sets of several lengths, one after the other, and a loop over them."""

from __future__ import annotations

import itertools

import torch

import ddn_cuda

# Sizes of sets: one point, none, many, as first and as last.
LENGTHS = ([5, 1, 0, 17, 2], [0, 3, 0, 0], [4], [0, 0])


def offsets(lengths, device):
    return torch.tensor([0, *lengths], device=device).cumsum(0)


def indices(lengths, device):
    sets = torch.arange(len(lengths), device=device)
    return sets.repeat_interleave(torch.tensor(lengths, device=device))


def per_set(x, lengths, penalty, alpha, weight=None, **options):
    """The definition: a loop over the sets of x (T, *channels), grouped by set."""
    answers = []
    pieces = x.split(lengths)
    weights = [None] * len(lengths) if weight is None else weight.split(lengths)
    for points, w in zip(pieces, weights, strict=True):
        if len(points):
            options |= {"dim": 0, "weight": w}
            answers.append(ddn_cuda.robust_pool(points, penalty, alpha, **options))
        else:
            answers.append(x.sum(0) * 0)
    return torch.stack(answers)


def assert_same(found, expected):
    """Equal to the last bit; NaN equals NaN."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def ragged(lengths, channels, dtype, device):
    """Points, offsets, weights, and an alpha per segment and channel."""
    rows = sum(lengths)
    x = 2 * torch.randn(rows, *channels, dtype=dtype)
    weight = 0.5 + torch.rand(rows, *channels, dtype=dtype)
    alpha = 0.5 + torch.rand(len(lengths), *channels, dtype=dtype)
    return (x.to(device), offsets(lengths, device), weight.to(device), alpha.to(device))


def upstream(y):
    """An upstream gradient of y's shape."""
    numbers = torch.linspace(0.5, 2, y.numel(), dtype=y.dtype, device=y.device)
    return numbers.reshape(y.shape)


def pooled(pool, *inputs, grad=None):
    """The answer, and the gradients of all inputs."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    y = pool(*leaves)
    return y.detach(), torch.autograd.grad(y, leaves, upstream(y) if grad is None else grad)


def by_hand(penalty, ptr, x, weight, alpha):
    """The same from a separate pool of each segment."""
    y = torch.zeros_like(alpha)
    up, points = upstream(y), [x] if weight is None else [x, weight]
    grads = [torch.zeros_like(t) for t in (*points, alpha)]

    def pool(x, *others):
        w, a = (None, *others)[-2:]
        return ddn_cuda.robust_pool(x, penalty, a, dim=0, weight=w)

    for s, (start, stop) in enumerate(itertools.pairwise(ptr.tolist())):
        if start == stop:
            continue
        rows = slice(start, stop)
        y[s], found = pooled(pool, *(t[rows] for t in points), alpha[s], grad=up[s])
        for into, g in zip([*(g[rows] for g in grads[:-1]), grads[-1][s]], found, strict=True):
            into.copy_(g)
    return y, grads


def assert_all_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
