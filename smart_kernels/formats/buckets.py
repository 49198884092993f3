"""Block rows sorted into buckets of about the same length, and the dense product of each bucket."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from smart_kernels.shapes import Conv

from .packed import POINT, pack_conv, pack_linear


@dataclass(frozen=True)
class Bucket:
    """Block rows of about the same length, G * tile_n outputs; ``cols`` (G * L,) are the block columns they gather."""

    outputs: int
    cols: Tensor
    product: Callable[[Tensor, Tensor | None], Tensor]  # (B, H, W, G * L * tile_c), bias -> (B, H', W', G * tile_n)


@dataclass(frozen=True)
class Buckets:
    """Buckets in order of computation; ``order`` and ``place`` (rows,) lead to it and back, None where they agree.

    ``sizes`` are those of the layer: block rows, tile_n, block columns, tile_c; ``zeros`` stand for no bias.
    ``gathered``: channels that the widest bucket gathers.
    """

    buckets: list[Bucket]
    order: Tensor | None
    place: Tensor | None
    sizes: tuple[int, int, int, int]
    zeros: Tensor

    @property
    def gathered(self) -> int:
        return self.sizes[3] * max((len(bucket.cols) for bucket in self.buckets), default=0)


def sort_into_buckets(blocks: Tensor, engine: str, most: int, conv: Conv) -> Buckets:
    """Sort (block rows, taps, block columns, tile_n, tile_c) dense blocks into at most so many buckets."""
    tile_n, tile_c = blocks.shape[3:]
    live = blocks.ne(0).any(-1).any(-1).any(1)  # (rows, cols)
    length = live.sum(1)
    order = length.argsort(stable=True)
    order = torch.cat([order[length[order] > 0], order[length[order] == 0]])
    buckets: list[Bucket] = []
    start = 0
    for count, longest in split(length.tolist(), most):
        rows = order[start : start + count]
        # the first columns are the live ones, ascending; dead ones fill up, their weight is 0
        cols = live[rows].int().argsort(dim=1, descending=True, stable=True)[:, :longest]
        weight = blocks[rows[:, None], :, cols]  # (count, longest, taps, tile_n, tile_c)
        buckets.append(Bucket(count * tile_n, cols.flatten(), _product(weight, engine, conv)))
        start += count
    moved = not torch.equal(order, torch.arange(len(order)))
    sizes = len(blocks), tile_n, live.shape[1], tile_c
    zeros = blocks.new_zeros(sizes[0] * sizes[1])
    return Buckets(buckets, order if moved else None, order.argsort() if moved else None, sizes, zeros)


def _product(weight: Tensor, engine: str, conv: Conv) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return the product of a bucket with weights (G, L, taps, tile_n, tile_c)."""
    groups, _, _, tile_n, _ = weight.shape
    weight = weight.permute(0, 3, 2, 1, 4).flatten(3)  # (groups, tile_n, taps, L * tile_c)
    if engine == "bmm":
        return _batched(weight.squeeze(2).transpose(1, 2).contiguous())
    if groups == 1 and conv == POINT:  # a linear layer has less to set up than a convolution
        return pack_linear(weight.view(tile_n, -1))
    grouped = pack_conv(weight.flatten(0, 1).unflatten(1, conv.kernel).movedim(3, 1), conv, groups)
    return lambda x, bias: grouped(x.movedim(3, 1), bias).movedim(1, 3)


def _batched(weight: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Return the product of a bucket with weights (G, L * tile_c, tile_n)."""
    groups, depth, tile_n = weight.shape

    def product(x, bias):
        x = x.view(-1, groups, depth).transpose(0, 1)
        return torch.baddbmm(bias.view(groups, 1, tile_n), x, weight).transpose(0, 1).reshape(1, -1, 1, groups * tile_n)

    return product


def even(size: int, unit: int, most: int) -> int:
    """Return the length of equal pieces of ``size``: a multiple of ``unit``, at most ``most`` if that is a unit."""
    count = -(-size // max(unit, most // unit * unit))
    return -(-size // (count * unit)) * unit


def split(lengths: list[int], most: int) -> list[tuple[int, int]]:
    """Cut rows, sorted by length, into buckets with the least padding.

    Args:
        lengths: live blocks of each row, in any order; rows of length 0 belong to no bucket.
        most: at most how many buckets.

    Returns:
        (rows, longest row) of each bucket, shortest first.
    """
    kinds = sorted({n for n in lengths if n})
    counts = [lengths.count(kind) for kind in kinds]
    best: dict[int, tuple[int, list]] = {0: (0, [])}  # kinds covered -> blocks with padding, buckets
    for _ in range(min(most, len(kinds))):
        reached = dict(best)
        for done, (cost, buckets) in best.items():
            for end in range(done + 1, len(kinds) + 1):
                rows = sum(counts[done:end])
                total = cost + rows * kinds[end - 1]
                if end not in reached or total < reached[end][0]:
                    reached[end] = total, [*buckets, (rows, kinds[end - 1])]
        best = reached
    return best[len(kinds)][1]
