"""Low tiles read as tall ones: g rows of tiles become one row that holds the union of their columns.

    row 0  | # | . | # | . |         | # | . | # | . |     a tile that only some of the rows have
    row 1  | # | . | . | # |   ->    | # | . | 0 | # |     is filled with zeros where the others are

Each column of x is then read once for g rows, and a step multiplies g times as many rows of W. The price is the union
factor: how many times more tiles are read.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.ops.block_sparse import block_rows

COUNTS = (2, 4, 8)  # rows of tiles to unite
ROWS = 128  # rows of x, and at most of W, that one program multiplies in a step


def union_factor(crow_indices: Tensor, col_indices: Tensor, count: int) -> float:
    """Return how many times more tiles are read with ``count`` rows united; reads the indices: synchronises.

    1 where the rows have the same columns, ``count`` where they share none, ``(1 - (1 - d) ** count) / d`` on average
    for random masks of density d.

    Args:
        crow_indices: (rows + 1,) where each row of tiles starts.
        col_indices: (nnz,) column of each tile.
        count: rows to unite.
    """
    return len(_places(crow_indices, col_indices, count).unique()) * count / max(1, len(col_indices))


def worth_uniting(crow_indices: Tensor, col_indices: Tensor, tile_n: int) -> tuple[int, ...]:
    """Return the ``COUNTS`` with which a matrix product of many rows reads less.

    A step reads ROWS rows of x and the rows of a tile of W; united there are ``factor / count`` times as many steps,
    each with ``count`` times the rows of W. With random masks
    and tiles of 16 rows that is so from a density of 20 % on.

    Args:
        crow_indices, col_indices: as above.
        tile_n: rows of a tile.
    """

    def reads(count: int) -> float:
        return union_factor(crow_indices, col_indices, count) / count * (ROWS + count * tile_n)

    alone = reads(1)
    return tuple(count for count in COUNTS if count * tile_n <= ROWS and reads(count) < alone)


def unite(values: Tensor, crow_indices: Tensor, col_indices: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Store the same weight in tiles ``count`` times as tall.

    Args:
        values: (nnz, tile_n, tile_k).
        crow_indices, col_indices: as above.
        count: rows of tiles to unite.

    Returns:
        values (U, count * tile_n, tile_k) with zeros for tiles that do not exist, crow_indices
        (ceil(rows / count) + 1,) and col_indices (U,), both int32.
    """
    places = _places(crow_indices, col_indices, count)
    united, index = places.unique(return_inverse=True)
    nnz, tile_n, tile_k = values.shape
    within = block_rows(crow_indices, nnz) % count
    tall = values.new_zeros(len(united), count, tile_n, tile_k)
    tall[index, within] = values
    cols = _columns(col_indices)
    rows = -(-(len(crow_indices) - 1) // count)
    crow = F.pad(torch.bincount(united // cols, minlength=rows).cumsum(0), (1, 0))
    return tall.flatten(1, 2), crow.int(), (united % cols).int()


def _places(crow_indices: Tensor, col_indices: Tensor, count: int) -> Tensor:
    """Return one number per tile: its united row and its column."""
    rows = block_rows(crow_indices, len(col_indices)) // count
    return rows.long() * _columns(col_indices) + col_indices


def _columns(col_indices: Tensor) -> int:
    return int(col_indices.max()) + 1 if len(col_indices) else 1
