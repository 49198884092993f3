"""How a layer becomes a matrix in a format, and back a layer."""

from torch import Tensor, nn

from smart_kernels.formats import FORMATS, Format
from smart_kernels.nn.sparse import SparseConv2d, SparseLinear
from smart_kernels.nn.sparse_base import Sparse, matrix, weight_shape
from smart_kernels.patterns import Pattern
from smart_kernels.shapes import tiles

TILES = ((128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (32, 64), (32, 32), (128, 8), (64, 16), (32, 16))
TILES += ((16, 32), (16, 16), (32, 8), (8, 32), (16, 8), (8, 16), (8, 8))
EXPLAINED = 0.99  # fraction of the zeros that lies in dead tiles; single weights may be 0 by chance


def explaining_tile(weight: Tensor, taps: int) -> tuple[int, int] | None:
    """The largest tile that the zeros of an (N, taps * C) weight are made of, or None."""
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


def tile_of(layer: nn.Linear | nn.Conv2d, pattern: Pattern | None) -> tuple[int, int] | None:
    """Return the tile to store a layer with: the pattern's, or the one its zeros show; None without one."""
    if pattern is None:
        return explaining_tile(matrix(layer), weight_shape(layer).taps)
    return pattern.storage(weight_shape(layer)).tile


def sparse_format(layer: nn.Linear | nn.Conv2d, name: str, tile: tuple[int, int] | None, **options) -> Format:
    """The weight of a layer in the named format.

    Raises:
        ValueError: where that format cannot hold it.
    """
    return FORMATS[name].from_dense(matrix(layer), tile or (1, 1), taps=weight_shape(layer).taps, **options)


def wrap(format: Format, layer: nn.Linear | nn.Conv2d) -> Sparse:
    """The layer with its weight in ``format``."""
    if isinstance(layer, nn.Conv2d):
        return SparseConv2d.from_format(format, layer.bias, layer).train(layer.training)
    return SparseLinear.from_format(format, layer.bias).train(layer.training)
