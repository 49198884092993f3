"""A weight cut into the tiles that a format stores."""

import torch.nn.functional as F
from torch import Tensor

from smart_kernels.shapes import tiles

PADDING = 2**20  # weights that may be filled up to whole tiles, if the weight itself is smaller than that


def check_tile(tile: tuple[int, int], shape: tuple[int, int], taps: int) -> None:
    """Raise ValueError for tiles that are none, or so large that filling them up takes memory out of all proportion."""
    if min(tile) < 1:
        raise ValueError(f"tiles must have at least one row and one column, got {tile}")
    rows, cols = tiles.grid((shape[0], shape[1] // taps), tile)
    if rows * tile[0] * taps * cols * tile[1] > 4 * shape[0] * shape[1] + PADDING:
        raise ValueError(f"tiles must not be that much larger than the weight, got {tile} for {tuple(shape)}")


def blocks_of(matrix: Tensor, tile: tuple[int, int], taps: int) -> Tensor:
    """Cut (N, taps * C) into (block rows, taps * block columns, tile_n, tile_c); taps are filled up to whole tiles."""
    channels = matrix.shape[1] // taps
    filled = F.pad(matrix.unflatten(1, (taps, channels)), (0, -channels % tile[1]))
    return tiles.split(filled.flatten(1), tile)
