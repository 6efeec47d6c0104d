"""Sets of several lengths, one after the other, and a loop over them."""

from __future__ import annotations

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
