"""Stored blocks of any size (bn, bk), cut into the blocks a kernel works on.

A stored block gives n.parts x k.parts kernel blocks. All first parts along n come first, then all second ones:
(n.parts, nnz, k.parts), so a row of kernel blocks is one range and needs no slots.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.ops._blocks import Axis

LARGEST = (128, 64)  # block of W that one program, one loop step works on


def axes(block, shape) -> tuple[Axis, Axis]:
    n, k = (Axis.separate(*args) for args in zip(shape, block, LARGEST, strict=True))
    return n, k


def cut(values: Tensor, n: Axis, k: Axis) -> Tensor:
    """(nnz, bn, bk) -> (n.parts * nnz * k.parts, n.block, k.block), a view where nothing is cut or padded."""
    nnz, bn, bk = values.shape
    if (bn, bk) != (n.parts * n.block, k.parts * k.block):
        values = F.pad(values, (0, k.parts * k.block - bk, 0, n.parts * n.block - bn))
    parts = values.reshape(nnz, n.parts, n.block, k.parts, k.block).permute(1, 0, 3, 2, 4)
    return parts.reshape(n.parts * nnz * k.parts, n.block, k.block)


def join(parts: Tensor, n: Axis, k: Axis) -> Tensor:
    """The way back from ``cut``."""
    nnz = len(parts) // (n.parts * k.parts)
    values = parts.view(n.parts, nnz, k.parts, n.block, k.block).permute(1, 0, 3, 2, 4)
    return values.reshape(nnz, n.parts * n.block, k.parts * k.block)[:, : n.tile, : k.tile].contiguous()


def bounds(crow_indices: Tensor, nnz: int, n: Axis, k: Axis) -> tuple[Tensor, Tensor]:
    """(rows + 1,) -> start and end of each row of kernel blocks."""
    bounds = crow_indices.int()
    if n.parts * k.parts > 1:
        copies = torch.arange(n.parts, device=bounds.device, dtype=torch.int32) * (nnz * k.parts)
        bounds = bounds[:, None] * k.parts + copies
    return bounds[:-1].flatten(), bounds[1:].flatten()


def places(crow_indices: Tensor, col_indices: Tensor, n: Axis, k: Axis) -> tuple[Tensor, Tensor]:
    """The row and the column of each kernel block."""
    rows = block_rows(crow_indices, len(col_indices))
    if n.parts * k.parts > 1:
        rows = rows * n.parts + torch.arange(n.parts, device=rows.device, dtype=torch.int32)[:, None]
        rows = rows.repeat_interleave(k.parts, dim=1).flatten()
    return rows, columns(col_indices, n, k)


def block_rows(crow_indices: Tensor, nnz: int) -> Tensor:
    """(rows + 1,) -> (nnz,): the block row of each block."""
    rows = torch.arange(len(crow_indices) - 1, device=crow_indices.device, dtype=torch.int32)
    return rows.repeat_interleave(crow_indices.diff(), output_size=nnz)


def columns(col_indices: Tensor, n: Axis, k: Axis) -> Tensor:
    cols = col_indices.int()
    if n.parts * k.parts > 1:
        cols = cols[:, None] * k.parts + torch.arange(k.parts, device=cols.device, dtype=torch.int32)
        cols = cols.flatten().repeat(n.parts)
    return cols
