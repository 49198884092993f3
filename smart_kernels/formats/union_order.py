"""Which rows of tiles to unite: an order in which neighbours keep the same columns.

The outputs of a layer may be computed in any order. A union of rows that agree reads fewer tiles than one of rows that
happen to lie side by side, see ``union_factor``.
"""

import torch
from torch import Tensor

from smart_kernels.ops.block_sparse import block_rows


def agreeing_rows(crow_indices: Tensor, col_indices: Tensor, count: int) -> Tensor:
    """Return the rows of tiles in an order whose every ``count`` neighbours share many columns.

    Greedy: the longest row that is left begins a union; then ``count - 1`` times comes the row that shares most columns
    with it, less those that it would add.

    Args:
        crow_indices: (rows + 1,) where each row of tiles starts.
        col_indices: (nnz,) column of each tile.
        count: rows to unite.

    Returns:
        (rows,) int64 on the CPU; reads the indices: synchronises.
    """
    live = live_tiles(crow_indices, col_indices)
    lengths = live.sum(1)
    taken = torch.zeros(len(live))
    order = []
    union = lengths.new_zeros(live.shape[1])
    for place in range(len(live)):
        gain = live @ (2 * union - 1) if place % count else lengths
        row = int((gain + taken).argmax())
        union = torch.maximum(union, live[row]) if place % count else live[row]
        taken[row] = -torch.inf
        order.append(row)
    return torch.tensor(order, dtype=torch.int64)


def live_tiles(crow_indices: Tensor, col_indices: Tensor) -> Tensor:
    """Return (rows, columns) fp32 on the CPU: 1 where there is a tile; no column beyond the last that has one."""
    crow, col = crow_indices.cpu(), col_indices.cpu().long()
    columns = int(col.max()) + 1 if len(col) else 1
    live = torch.zeros(len(crow) - 1, columns)
    live[block_rows(crow, len(col)).long(), col] = 1
    return live
