"""Stored blocks of any size (bn, bk), cut into the blocks a kernel works on.

A stored block gives n.parts x k.parts kernel blocks. All first parts along n come first, then all second ones:
(n.parts, nnz, k.parts), so a row of kernel blocks is one range and needs no slots. ``kernel_rows`` lists these rows.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.kernels.common.tuning import shared_memory
from smart_kernels.ops.common.axis import Axis

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
