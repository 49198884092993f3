"""Weights of which n of every m are left."""

import torch.nn.functional as F
from torch import nn

from smart_kernels.formats import Groups
from smart_kernels.nn.sparse_base import matrix, weight_shape
from smart_kernels.patterns import Pattern

SOUGHT = ((1, 8), (1, 4), (2, 8), (2, 4), (4, 8))  # n:m that is looked for, fewest weights first


def groups_of(layer: nn.Linear | nn.Conv2d, pattern: Pattern | None) -> Groups | None:
    """Return the n:m that a pattern says or the zeros show; None without one."""
    shape = weight_shape(layer)
    if pattern is not None:
        return pattern.storage(shape).groups
    live = matrix(layer).ne(0).unflatten(1, (shape.taps, -1))
    for n, m in SOUGHT:
        counts = F.pad(live, (0, -shape.C % m)).unflatten(2, (-1, m)).sum(-1)
        if counts.max() <= n and counts.any():
            both_ways = (n, m) == (2, 4) and shape.N % 4 == shape.C % 4 == 0
            return Groups(n, m, both_ways and bool((live.unflatten(0, (-1, 4)).sum(1) == 2).all()))
    return None
