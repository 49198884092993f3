"""Derive from the indices of block compressed sparse rows what depends on them alone, once per change of them."""

import torch
from torch import Tensor

from smart_kernels.shapes import Conv, pair

from . import kernel_rows
from .conv_blocks import ConvBlocks

Size = int | tuple[int, int]


def check_indices(crow_indices: Tensor, col_indices: Tensor, grid: tuple[int, int]) -> None:
    """Raise ``ValueError`` unless the indices describe blocks of a (rows, cols) grid. Reads them: synchronises.

    Args:
        crow_indices: (rows + 1,) must rise from 0 to nnz.
        col_indices: (nnz,) must be inside the grid and rise inside each row.
        grid: rows and columns of blocks, ``ceil(N / bn)`` and ``ceil(K / bk)``.
    """
    rows, cols = grid
    nnz = len(col_indices)
    if crow_indices.shape != (rows + 1,):
        raise ValueError(f"crow_indices must be (rows + 1,) for {rows} block rows, got {tuple(crow_indices.shape)}")
    if (dtypes := {crow_indices.dtype, col_indices.dtype}) - {torch.int32, torch.int64}:
        raise ValueError(f"indices must be int32 or int64, got {sorted(map(str, dtypes))}")
    crow = crow_indices.long().cpu()
    col = col_indices.long().cpu()
    # the largest first: differences of numbers beyond it may overflow
    if crow[0] != 0 or crow[-1] != nnz or crow.max() > nnz or (crow.diff() < 0).any():
        raise ValueError(f"crow_indices must rise from 0 to nnz for {nnz} blocks, got {crow.tolist()}")
    if nnz and not 0 <= col.min() <= col.max() < cols:
        raise ValueError(f"col_indices must be in 0..{cols - 1} for {cols} block columns, got {col.min()}..{col.max()}")
    place = kernel_rows.block_rows(crow, nnz) * cols + col
    if (place.diff() <= 0).any():
        raise ValueError(f"col_indices must rise inside each row, got {col.tolist()} for crow_indices {crow.tolist()}")


def block_index(crow_indices: Tensor, col_indices: Tensor, cols: int) -> Tensor:
    """Make the ``index`` of ``block_sparse_linear``.

    It holds the block rows by falling length, so that no long one is left for the end, and the blocks by columns, which
    the gradient of ``x`` walks. It stays on the device of the indices, without a synchronisation.

    Args:
        crow_indices: (rows + 1,) int32 or int64.
        col_indices: (nnz,) int32 or int64.
        cols: ``ceil(K / bk)``.

    Returns:
        (rows + 2 * cols + 2 * nnz,) int32.
    """
    return kernel_rows.index(crow_indices, col_indices, cols)


def conv_index(
    crow_indices: Tensor,
    col_indices: Tensor,
    tile: tuple[int, int],
    channels: tuple[int, int],
    *,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
) -> Tensor:
    """Make the ``index`` of ``block_sparse_conv2d`` and its relatives, which depends on the geometry, too.

    Args:
        crow_indices, col_indices: as there.
        tile: (tile_n, tile_c) of the stored blocks.
        channels: (N, C) of the convolution; (C, N) of the transposed one, which has the blocks of its gradient.
        kernel_size, stride, padding, dilation: as there.

    Returns:
        (L,) int32: block rows with their start, end and columns, for the convolution and for the gradient of ``x``. Of
        a pointwise convolution what ``block_index`` makes: it runs as a linear layer.
    """
    conv = Conv(*map(pair, (kernel_size, stride, padding, dilation)))
    if conv.pointwise:
        return block_index(crow_indices, col_indices, -(-channels[1] // tile[1]))
    return ConvBlocks.of(len(col_indices), tile, channels, conv).pack(crow_indices, col_indices)
