"""Weights of which n of every m are left."""

import torch.nn.functional as F
from torch import nn

from smart_kernels.formats.semi_structured import GROUPS
from smart_kernels.nn.sparse_base import matrix
from smart_kernels.patterns import NM, Pattern

from .plan import weight_shape

KEPT = ((1, 8), (1, 4), (2, 8), (2, 4), (4, 8))  # n:m that is looked for, fewest weights first


def kept_of(layer: nn.Linear | nn.Conv2d, pattern: Pattern | None) -> dict | None:
    """Options of ``SemiStructured`` for the n:m that a pattern says or the zeros show; None without one."""
    shape = weight_shape(layer)
    if isinstance(pattern, NM):
        transposable = pattern.transposable and shape.N % 4 == 0 and shape.C % 4 == 0
        options = {"n": pattern.n, "m": pattern.m, "transposable": transposable}
        return options if pattern.m in GROUPS else None
    if pattern is not None:
        return None
    live = matrix(layer).ne(0).unflatten(1, (shape.taps, -1))
    for n, m in KEPT:
        groups = F.pad(live, (0, -shape.C % m)).unflatten(2, (-1, m)).sum(-1)
        if groups.max() <= n and groups.any():
            both_ways = (n, m) == (2, 4) and shape.N % 4 == shape.C % 4 == 0
            both_ways = both_ways and bool((live.unflatten(0, (-1, 4)).sum(1) == 2).all())
            return {"n": n, "m": m} | ({"transposable": True} if both_ways else {})
    return None
