"""Rows and columns of kernel blocks, listed from the indices of the stored blocks; see ``kernel_blocks``."""

from collections.abc import Callable

import torch
from torch import Tensor

from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.blocks import BlockPlaces, BlockRows
from smart_kernels.ops.common.launch import NOTHING, Nothing, given


def plan_rows(stored_rows: int, n: Axis, k: Axis) -> Callable[[Tensor, Tensor, Tensor | Nothing], tuple]:
    """Return what lists start, end, cols and order of ``rows`` from the indices and ``index``, ``NOTHING`` for None."""

    def run(crow, col, index):
        listed = rows(crow, col, None if index is NOTHING else index.narrow(0, 0, stored_rows), n, k)
        return listed.start, listed.end, listed.cols, given(listed.order)

    def run_uncut(crow, col, index):
        start, end = ends(crow.int())
        return start, end, col.int(), index if index is NOTHING else index.narrow(0, 0, stored_rows)

    return run if n.parts * k.parts > 1 else run_uncut


def rows(crow_indices: Tensor, col_indices: Tensor, order: Tensor | None, n: Axis, k: Axis) -> BlockRows:
    """List the rows of kernel blocks; ``order`` is that of the stored rows."""
    start, end = bounds(crow_indices, len(col_indices), n, k)
    if order is not None and n.parts > 1:
        order = (order.unsqueeze(1) * n.parts + torch.arange(n.parts, device=order.device, dtype=order.dtype)).flatten()
    return BlockRows(start, end, columns(col_indices, n, k), order=order)


def transposed_rows(stored: BlockRows, n: Axis, k: Axis) -> BlockRows:
    """List the rows of kernel blocks of W.T, from those of the stored blocks; slots of ``cut(values.mT, k, n)``."""
    slots = stored.slots
    nnz = len(slots)
    if n.parts * k.parts > 1:
        part_n, part_k = (torch.arange(axis.parts, device=slots.device, dtype=torch.int32) for axis in (n, k))
        slots = ((part_k.unsqueeze(1) * nnz + slots).unsqueeze(-1) * n.parts + part_n).flatten()
    start, end = (spread(edge, nnz, k, n) for edge in (stored.start, stored.end))
    return BlockRows(start, end, columns(stored.cols, k, n), slots)


def plan_transposed_rows(n: Axis, k: Axis) -> Callable[..., tuple[Tensor, ...]]:
    """Return what makes the lists of ``transposed_rows`` from those of the stored blocks."""
    if n.parts * k.parts == 1:
        return lambda *lists: lists
    return lambda *lists: transposed_rows(BlockRows(*lists), n, k).lists


def transpose(crow_indices: Tensor, col_indices: Tensor, cols: int) -> BlockRows:
    """List the stored blocks by columns."""
    return BlockRows.transposed(block_rows(crow_indices, col_indices.shape[0]), col_indices, cols)


def plan_columns(crow_indices: Tensor, col_indices: Tensor, cols: int, index: Tensor | Nothing) -> Callable:
    """Return what lists the stored blocks by columns, as ``transpose`` or from ``index``; ``NOTHING`` for None.

    Returns:
        A function that takes tensors like these and returns start, end, cols and slots.
    """
    if index is NOTHING:
        return lambda crow, col, index: transpose(crow, col, cols).lists
    nnz = len(col_indices)
    sizes = len(crow_indices) - 1, cols, cols, nnz, nnz
    return lambda crow, col, index: index.split_with_sizes(sizes)[1:]


def index(crow_indices: Tensor, col_indices: Tensor, cols: int) -> Tensor:
    """Return in one int32 tensor what follows from the indices alone: the rows, longest first, and ``transpose``."""
    order = crow_indices.diff().argsort(descending=True, stable=True).int()
    columns = transpose(crow_indices, col_indices, cols)
    return torch.cat([order, columns.start, columns.end, columns.cols, columns.slots])


def bounds(crow_indices: Tensor, nnz: int, n: Axis, k: Axis) -> tuple[Tensor, Tensor]:
    """Return start and end of each row of kernel blocks."""
    start, end = ends(crow_indices)
    return spread(start, nnz, n, k), spread(end, nnz, n, k)


def stand_ins(*sizes: int) -> tuple[Tensor, ...]:
    """Return lists of these lengths for a plan, which asks for no more: what a graph traces is made once."""
    return tuple(torch.empty(size, dtype=torch.int32, device="meta") for size in sizes)


def ends(crow_indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each stored row starts and ends."""
    rows = crow_indices.shape[0] - 1
    return crow_indices.narrow(0, 0, rows), crow_indices.narrow(0, 1, rows)


def spread(edges: Tensor, nnz: int, n: Axis, k: Axis) -> Tensor:
    """Return where each row of kernel blocks starts (or ends), from where each stored row does."""
    edges = edges.int()
    if n.parts * k.parts > 1:
        copies = torch.arange(n.parts, device=edges.device, dtype=torch.int32) * (nnz * k.parts)
        edges = (edges.unsqueeze(1) * k.parts + copies).flatten()
    return edges


def places(crow_indices: Tensor, col_indices: Tensor, n: Axis, k: Axis) -> BlockPlaces:
    """Return where each kernel block is."""
    rows = block_rows(crow_indices, col_indices.shape[0])
    if n.parts * k.parts > 1:
        rows = rows * n.parts + torch.arange(n.parts, device=rows.device, dtype=torch.int32).unsqueeze(1)
        rows = rows.repeat_interleave(k.parts, dim=1).flatten()
    return BlockPlaces(rows, columns(col_indices, n, k), n, k)


def block_rows(crow_indices: Tensor, nnz: int) -> Tensor:
    """Return the (nnz,) int32 block row of each block."""
    blocks = torch.arange(nnz, device=crow_indices.device, dtype=crow_indices.dtype)
    return torch.searchsorted(ends(crow_indices)[1], blocks, right=True, out_int32=True)


def columns(col_indices: Tensor, n: Axis, k: Axis) -> Tensor:
    """Return the int32 column of each kernel block."""
    cols = col_indices.int()
    if n.parts * k.parts > 1:
        cols = cols.unsqueeze(1) * k.parts + torch.arange(k.parts, device=cols.device, dtype=torch.int32)
        cols = cols.flatten().repeat(n.parts)
    return cols
