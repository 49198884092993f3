"""2:4 weights in the layouts of CUTLASS and of ``torch.sparse.to_sparse_semi_structured``, from and to the saved form.

A nibble of the metadata holds the two indices of a group as the saved form does, an int16 those of 16 columns. The
int16s are shuffled for ``ldmatrix``: rows are dealt out in 32s, then the off-diagonal corners of 2x2 change places,
and pairs of columns lie next to each other, column-major.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.reference.common import expand

from .semi_structured import SemiStructured

ROWS, COLUMNS = 32, 64  # sizes CUTLASS takes are multiples of these


def to_cutlass(stored: SemiStructured) -> tuple[Tensor, Tensor]:
    """Return (values, metadata) of a 2:4 weight of 16 bits.

    Returns:
        values (N', K' / 2) and metadata (N', K' / 16) int16, with N and K filled up to multiples of 32 and 64.

    Raises:
        ValueError: the weight is not 2:4, not of 16 bits or has several taps.
    """
    if (stored.n, stored.m) != (2, 4) or stored.taps > 1 or stored.values.element_size() != 2:
        raise ValueError(f"CUTLASS metadata is of 2:4 in 16 bits, got {stored.n}:{stored.m} in {stored.values.dtype}")
    values, indices = (t.detach() for t in stored.saved())
    N = len(values)
    columns = -(-stored.shape[1] // COLUMNS) * COLUMNS
    rows = -N % ROWS
    values = F.pad(values, (0, columns // 2 - values.shape[1], 0, rows))
    # a last byte with one group, and bytes of padding, hold the places 0 and 1
    if stored.values.shape[1] // 2 % 2:
        indices = torch.cat([indices[:, :-1], indices[:, -1:] | 0x40], 1)
    indices = F.pad(indices, (0, columns // 8 - indices.shape[1], 0, rows), value=0x44)
    metadata = indices.contiguous().view(torch.int16)
    shuffled = torch.empty_like(metadata).flatten()
    shuffled[_offsets(*metadata.shape, metadata.device)] = metadata.flatten()
    return values, shuffled.view_as(metadata)


def from_cutlass(values: Tensor, metadata: Tensor, shape: tuple[int, int]) -> SemiStructured:
    """Undo ``to_cutlass``; the indices of a group may come in any order.

    Args:
        values: (N', K' / 2) of 16 bits.
        metadata: (N', K' / 16) int16.
        shape: (N, K) of the weight itself.

    Raises:
        ValueError: the sizes do not fit.
    """
    rows, half = values.shape
    if metadata.dtype != torch.int16 or metadata.shape != (rows, half // 8) or rows % ROWS or half % 8:
        raise ValueError(f"metadata must be ({rows}, {half // 8}) int16, got {tuple(metadata.shape)} {metadata.dtype}")
    plain = metadata.flatten()[_offsets(*metadata.shape, metadata.device)].view_as(metadata)
    indices = plain.contiguous().view(torch.uint8)
    weight = expand(values, indices, 2, 4, 2 * half)
    keep = expand(torch.ones_like(values), indices, 2, 4, 2 * half).bool()
    return SemiStructured.from_dense(_crop(weight, shape), (1, 1), keep=_crop(keep, shape))


def from_torch(tensor: Tensor) -> SemiStructured:
    """Store what ``torch.sparse.to_sparse_semi_structured``, of either backend."""
    if getattr(tensor, "meta", None) is not None:
        return from_cutlass(tensor.packed, tensor.meta.view(tensor.packed.shape[0], -1), tensor.shape)
    return SemiStructured.from_dense(tensor.to_dense(), (1, 1))


def _offsets(rows: int, columns: int, device: torch.device) -> Tensor:
    """Return where each int16 of a (rows, columns) matrix goes."""
    row = torch.arange(rows, device=device)[:, None].expand(rows, columns)
    column = torch.arange(columns, device=device).expand(rows, columns)
    row = row // 32 * 32 + row % 8 * 4 + row % 32 // 8
    swap = (row + column) % 2 * (1 - 2 * (row % 2))  # 1: from the upper right, -1: from the lower left
    row, column = row + swap, column - swap
    return (column // 2 * (2 * rows) + row * 2 + column % 2).flatten()


def _crop(matrix: Tensor, shape: tuple[int, int]) -> Tensor:
    return matrix[: shape[0], : shape[1]].contiguous()
