"""Low tiles read as tall ones: g rows of tiles become one row that holds the union of their columns.

    row 0  | # | . | # | . |         | # | . | # | . |     a tile that only some of the rows have
    row 1  | # | . | . | # |   ->    | # | . | 0 | # |     is filled with zeros where the others are

Each column of x is then read once for g rows, and a step multiplies g times as many rows of W. The price is the union
factor: how many times more tiles are read. It falls where rows that keep the same columns are united, wherever they lie
(``union_order``); the outputs then come in another order, which is undone.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.ops.block_sparse import block_rows, block_sparse_linear
from smart_kernels.reference.common import finish

from .union_order import agreeing_rows

COUNTS = (2, 4, 8)  # rows of tiles to unite
ROWS = 128  # rows of x, and at most of W, that one program multiplies in a step
UNDONE = 4  # reads from L2 that one output costs whose place is another: a read and a write of memory, half as fast


class Union(NamedTuple):
    """Rows of tiles that inference may read as one.

    Attributes:
        count: how many.
        sort: whether rows that keep the same columns are united, and not those that lie side by side.
        factor: how many times more tiles are read, see ``union_factor``.
    """

    count: int
    sort: bool
    factor: float

    def __str__(self) -> str:
        return f"union {self.count}{' sorted' * self.sort}"


def union_factor(crow_indices: Tensor, col_indices: Tensor, count: int, order: Tensor | None = None) -> float:
    """Return how many times more tiles are read with ``count`` rows united; reads the indices: synchronises.

    1 where the rows have the same columns, ``count`` where they share none, ``(1 - (1 - d) ** count) / d`` on average
    for random masks of density d.

    Args:
        crow_indices: (rows + 1,) where each row of tiles starts.
        col_indices: (nnz,) column of each tile.
        count: rows to unite.
        order: (rows,) the rows in the order in which they are united; None: as they lie.
    """
    return len(_places(crow_indices, col_indices, count, order)[0].unique()) * count / max(1, len(col_indices))


def worth_uniting(crow_indices: Tensor, col_indices: Tensor, tile: tuple[int, int]) -> tuple[Union, ...]:
    """Return the unions, of ``COUNTS`` rows, with which a matrix product of many rows reads less.

    A step reads ROWS rows of x and the rows of a tile of W; united there are ``factor / count`` times as many steps,
    each with ``count`` times the rows of W. With random masks and tiles of 16 rows that is so from a density of 20 %
    on. Sorted rows have to read less even with what undoing their order costs.

    Args:
        crow_indices, col_indices: as above.
        tile: (tile_n, tile_k).
    """
    tile_n, tile_k = tile
    rows = len(crow_indices) - 1

    def union(count: int, sort: bool) -> Union:
        order = agreeing_rows(crow_indices, col_indices, count) if sort else None
        return Union(count, sort, union_factor(crow_indices, col_indices, count, order))

    def reads(union: Union) -> float:
        undone = UNDONE * ROWS * rows * tile_n / (max(1, len(col_indices)) * tile_k) if union.sort else 0
        return union.factor / union.count * (ROWS + union.count * tile_n) + undone

    found: list[Union] = []
    for count in (count for count in COUNTS if count * tile_n <= ROWS):
        least = reads(Union(1, False, 1.0))
        for sort in (False, True):
            united = union(count, sort)
            if reads(united) < least:
                least = reads(united)
                found.append(united)
    return tuple(found)


def check_union(count: int) -> None:
    """Raise ValueError unless so many rows of tiles can be united."""
    if not 1 <= count <= COUNTS[-1]:
        raise ValueError(f"union must count rows of tiles, from 1 to {COUNTS[-1]}, got {count}")


def unite(
    values: Tensor, crow_indices: Tensor, col_indices: Tensor, count: int, order: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Store the same weight in tiles ``count`` times as tall.

    Args:
        values: (nnz, tile_n, tile_k).
        crow_indices, col_indices: as above.
        count: rows of tiles to unite.
        order: as above; rows of the result come in this order.

    Returns:
        values (U, count * tile_n, tile_k) with zeros for tiles that do not exist, crow_indices
        (ceil(rows / count) + 1,) and col_indices (U,), both int32.
    """
    places, within = _places(crow_indices, col_indices, count, order)
    united, index = places.unique(return_inverse=True)
    _, tile_n, tile_k = values.shape
    tall = values.new_zeros(len(united), count, tile_n, tile_k)
    tall[index, within] = values
    cols = _columns(col_indices)
    rows = -(-(len(crow_indices) - 1) // count)
    crow = F.pad(torch.bincount(united // cols, minlength=rows).cumsum(0), (1, 0))
    return tall.flatten(1, 2), crow.int(), (united % cols).int()


def unite_sorted(
    values: Tensor, crow_indices: Tensor, col_indices: Tensor, count: int, outputs: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unite rows that keep the same columns.

    Args:
        values, crow_indices, col_indices, count: as above.
        outputs: N.

    Returns:
        What ``unite`` returns, and the (N,) int64 place of each output among those of the sorted rows.
    """
    height = values.shape[1]
    order = agreeing_rows(crow_indices, col_indices, count)
    output = torch.arange(outputs)
    places = order.argsort()[output // height] * height + output % height
    return *unite(values, crow_indices, col_indices, count, order), places.to(values.device)


def sorted_linear(
    x: Tensor,
    bias: Tensor | None,
    stored: tuple[Tensor, ...],
    outputs: int,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """Return ``activation(x @ W.T + bias + residual)``, (..., N), of what ``unite_sorted`` made.

    Args:
        x: (..., K).
        bias: (N,) or None.
        stored: the result of ``unite_sorted``.
        outputs: those of all rows of tiles, as if the last one were whole: it may lie anywhere among them.
        residual: (..., N) or None; it is added where the outputs are in order again.
        activation: as in ``block_sparse_linear``.
    """
    *tall, places = stored
    if bias is not None:
        bias = bias.new_zeros(outputs).index_copy(0, places, bias)
    fused = activation if residual is None else None
    y = block_sparse_linear(x, *tall, bias, out_features=outputs, activation=fused).index_select(-1, places)
    return y if residual is None else finish(y, None, residual, activation)


def _places(
    crow_indices: Tensor, col_indices: Tensor, count: int, order: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return one number per tile, its united row and its column, and its place within the united row."""
    rows = block_rows(crow_indices, len(col_indices)).long()
    if order is not None:
        rows = order.argsort().to(rows.device)[rows]
    return rows // count * _columns(col_indices) + col_indices, rows % count


def _columns(col_indices: Tensor) -> int:
    return int(col_indices.max()) + 1 if len(col_indices) else 1
