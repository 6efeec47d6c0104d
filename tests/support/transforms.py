"""Pools to which the transforms of torch.func are applied, and the comparison of results."""

import torch

import ddn_cuda

OPS = torch.ops.ddn


def operator(penalty, **options):
    return lambda x, alpha, weight: OPS.robust_pool(
        x, penalty, alpha=alpha, weight=weight, **options
    )


SEGMENT_FACES = {
    "function": lambda penalty, ptr: (
        lambda x, a, w: ddn_cuda.segment_robust_pool(x, ptr, penalty, a, weight=w)
    ),
    "operator": lambda penalty, ptr: (
        lambda x, a, w: OPS.segment_robust_pool(x, ptr, penalty, alpha=a, weight=w)
    ),
}


def assert_same(found, expected):
    leaves = torch.utils._pytree.tree_leaves
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        assert torch.equal(a, b)
