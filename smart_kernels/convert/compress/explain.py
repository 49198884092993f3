"""Which zeros a layer has: those of the pattern, or those that the weight shows."""

import torch.nn.functional as F
from torch import Tensor, nn

from smart_kernels.formats import Groups, Zeros
from smart_kernels.nn import matrix, weight_shape
from smart_kernels.patterns import Pattern
from smart_kernels.shapes import tiles

TILES = ((128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (32, 64), (32, 32), (128, 8), (64, 16), (32, 16))
TILES += ((16, 32), (16, 16), (32, 8), (8, 32), (16, 8), (8, 16), (8, 8))  # that are looked for, largest first
EXPLAINED = 0.99  # fraction of the zeros that lies in dead tiles; single weights may be 0 by chance
GROUPS = ((1, 8), (1, 4), (2, 8), (2, 4), (4, 8))  # n:m that are looked for, fewest weights first


def zeros_of(layer: nn.Linear | nn.Conv2d, pattern: Pattern | None) -> Zeros:
    """Return the weight of a plain layer with what the pattern says of its zeros, or what they show without one."""
    weight = matrix(layer)
    shape = weight_shape(layer)
    if pattern is not None:
        storage = pattern.storage(shape)
        return Zeros(weight, shape.taps, storage.tile, storage.groups)
    return Zeros(weight, shape.taps, explaining_tile(weight, shape.taps), explaining_groups(weight, shape.taps))


def explaining_tile(weight: Tensor, taps: int) -> tuple[int, int] | None:
    """Return the largest tile that the zeros of an (N, taps * C) weight are made of, or None."""
    zeros = (weight == 0).sum().item()
    if not zeros:
        return None
    live = weight.ne(0).float().unflatten(1, (taps, -1)).unbind(1)
    size = live[0].shape
    for tile in TILES:
        if tile[0] > size[0] or tile[1] > size[1]:
            continue
        cost = tiles.cost(size, tile).to(weight.device)
        dead = sum(cost[tiles.reduce_sum(tap, tile) == 0].sum().item() for tap in live)
        if dead >= EXPLAINED * zeros:
            return tile
    return None


def explaining_groups(weight: Tensor, taps: int) -> Groups | None:
    """Return the n:m with the smallest share of weights that an (N, taps * C) weight is, or None."""
    if (weight != 0).all():  # three channels fit into a group of eight, which is padding and not sparsity
        return None
    live = weight.ne(0).unflatten(1, (taps, -1))
    rows, _, channels = live.shape
    for n, m in GROUPS:
        counts = F.pad(live, (0, -channels % m)).unflatten(2, (-1, m)).sum(-1)
        if counts.max() <= n and counts.any():
            square = (n, m) == (2, 4) and rows % 4 == channels % 4 == 0
            return Groups(n, m, square and bool((live.unflatten(0, (-1, 4)).sum(1) == 2).all()))
    return None
