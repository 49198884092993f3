"""Stored blocks of any size (bn, bk), cut into the blocks a kernel works on.

A stored block gives n.parts x k.parts kernel blocks. All first parts along n come first, then all second ones:
(n.parts, nnz, k.parts), so a row of kernel blocks is one range and needs no slots.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.kernels.common.tuning import shared_memory
from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.blocks import BlockPlaces, BlockRows
from smart_kernels.ops.common.launch import NOTHING, Nothing, given

LARGEST = (128, 64)  # block of W that one program of its gradient works on


def axes(block, shape, largest=LARGEST, least=(16, 16)) -> tuple[Axis, Axis]:
    """Return how stored blocks of size ``block`` of a weight of this shape are cut."""
    n, k = (Axis.separate(*args) for args in zip(shape, block, largest, least, strict=True))
    return n, k


def forward_axes(block, shape, itemsize: int) -> tuple[Axis, Axis]:
    """Return how they are cut for ``x @ W.T``.

    A step reads 256 bytes of each row of x and W, and 256 rows of W, if the device holds two steps of 128 rows.
    Tensor cores take 16 elements of a row, of one byte 32; steps of these are scaled, in registers of their own.
    """
    if itemsize == 1:
        return axes(block, shape, (128, 128), (16, 32))
    roomy = shared_memory() >= 2 * (128 + 128) * 256
    return axes(block, shape, (256 if roomy and itemsize == 2 else 128, (256 if roomy else 128) // itemsize))


def backward_axes(block, shape, itemsize: int) -> tuple[Axis, Axis]:
    """Return how they are cut for ``dy @ W``."""
    k, n = forward_axes(block[::-1], shape[::-1], itemsize)
    return n, k


def cut(values: Tensor, n: Axis, k: Axis) -> Tensor:
    """Cut (nnz, bn, bk) into (n.parts * nnz * k.parts, n.block, k.block), a view where nothing is cut or padded."""
    values = filled(values, n, k)
    parts = values.view(len(values), n.parts, n.block, k.parts, k.block).permute(1, 0, 3, 2, 4)
    return parts.reshape(n.parts * len(values) * k.parts, n.block, k.block)


def plan_cut(values: Tensor, n: Axis, k: Axis) -> Callable[[Tensor], Tensor]:
    """Return what cuts values of this shape; nothing is left to do where each is one kernel block."""
    if values.shape[1:] == (n.block, k.block) and n.parts * k.parts == 1:
        return lambda values: values
    return lambda values: cut(values, n, k)


def windows(values: Tensor, n: Axis, k: Axis) -> Tensor:
    """View (nnz, bn, bk) as (S, n.block, k.block), after padding it: kernel blocks are at ``slots`` of it.

    Where a stored block is cut, its parts are not next to each other, so the windows overlap: one starts every
    ``k.block`` elements.
    """
    values = filled(values, n, k)
    if n.parts * k.parts == 1:
        return values
    count = max(0, (len(values) * n.parts - 1) * n.block * k.parts + k.parts)
    return values.contiguous().as_strided((count, n.block, k.block), (k.block, k.parts * k.block, 1))


def plan_windows(values: Tensor, n: Axis, k: Axis) -> Callable[[Tensor], Tensor]:
    """Return what gives the windows of values of this shape."""
    return plan_cut(values, n, k) if n.parts * k.parts == 1 else lambda values: windows(values, n, k)


def slots(col_indices: Tensor, n: Axis, k: Axis) -> Tensor:
    """Return the window of each kernel block, in the order of ``cut``."""
    options = {"device": col_indices.device, "dtype": torch.int32}
    part_n, block, part_k = (torch.arange(size, **options) for size in (n.parts, len(col_indices), k.parts))
    rows = (block * n.parts + part_n.unsqueeze(1)) * (n.block * k.parts)
    return (rows.unsqueeze(-1) + part_k).flatten()


def filled(values: Tensor, n: Axis, k: Axis) -> Tensor:
    """Fill stored blocks with zeros up to whole kernel blocks."""
    _, bn, bk = values.shape
    if (bn, bk) == (n.parts * n.block, k.parts * k.block):
        return values
    return F.pad(values, (0, k.parts * k.block - bk, 0, n.parts * n.block - bn))


def cut_scale(scale: Tensor, nnz: int, n: Axis, k: Axis) -> Tensor:
    """Return one scale per block of ``cut`` from () or (nnz,); of stride 0 where they are the same."""
    return scale.repeat_interleave(k.parts).repeat(n.parts) if scale.dim() else scale.expand(n.parts * nnz * k.parts)


def join(parts: Tensor, n: Axis, k: Axis) -> Tensor:
    """Invert ``cut``."""
    nnz = len(parts) // (n.parts * k.parts)
    values = parts.view(n.parts, nnz, k.parts, n.block, k.block).permute(1, 0, 3, 2, 4)
    return (
        values.reshape(nnz, n.parts * n.block, k.parts * k.block).narrow(1, 0, n.tile).narrow(2, 0, k.tile).contiguous()
    )


def plan_join(n: Axis, k: Axis) -> Callable[[Tensor], Tensor]:
    """Return what inverts ``plan_cut``, likewise."""
    if (n.tile, k.tile) == (n.block, k.block):
        return lambda parts: parts
    return lambda parts: join(parts, n, k)


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
    return BlockRows.transposed(block_rows(crow_indices, len(col_indices)), col_indices, cols)


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
    rows = block_rows(crow_indices, len(col_indices))
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
