"""Tiles: what one value of a mask covers.

        K                     cols = ceil(K / tile_k)
    +---------+               +---+---+--
    |         | N        grid |   |   |     rows = ceil(N / tile_n)
    +---------+               +---+---+--

Sizes that do not divide leave smaller tiles at the lower and right edge.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def grid(shape: tuple[int, int], tile: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of the tile grid over an (N, K) matrix."""
    return -(-shape[0] // tile[0]), -(-shape[1] // tile[1])


def expand(values: Tensor, tile: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Expand (rows, cols) values per tile to (N, K) per element."""
    if tile == (1, 1):
        return values
    rows, cols = values.shape
    full = values[:, None, :, None].expand(rows, tile[0], cols, tile[1]).reshape(rows * tile[0], cols * tile[1])
    return full[: shape[0], : shape[1]]


def split(matrix: Tensor, tile: tuple[int, int]) -> Tensor:
    """Split (N, K) into (rows, cols, tile_n, tile_k), zeros beyond the edge."""
    rows, cols = grid(matrix.shape, tile)
    padded = F.pad(matrix, (0, cols * tile[1] - matrix.shape[1], 0, rows * tile[0] - matrix.shape[0]))
    return padded.view(rows, tile[0], cols, tile[1]).transpose(1, 2)


def reduce_sum(matrix: Tensor, tile: tuple[int, int]) -> Tensor:
    """Sum (N, K) over each tile: (rows, cols)."""
    return split(matrix, tile).sum((2, 3))


def cost(shape: tuple[int, int], tile: tuple[int, int]) -> Tensor:
    """Count how many elements each tile really covers: (rows, cols) int64."""
    edges = [
        torch.full((n,), t).index_fill_(0, torch.tensor(n - 1), size - (n - 1) * t)
        for n, t, size in zip(grid(shape, tile), tile, shape, strict=True)
    ]
    return edges[0][:, None] * edges[1]
