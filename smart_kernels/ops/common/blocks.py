"""Matrices of which only some blocks exist."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .axis import Axis


@dataclass(frozen=True)
class BlockRows:
    """The stored blocks of each block row, all int32. No entry is read that no row owns.

    Attributes:
        start: (R,) first entry of each row in ``cols``.
        end: (R,) one past its last entry; ``start == end`` is an empty row.
        cols: (L,) block column of each entry.
        slots: (L,) which block of ``values`` each entry is; ``None``: entry ``j`` is block ``j``.
        order: (R,) the rows in the order in which they are started; ``None``: as they come.
    """

    start: Tensor
    end: Tensor
    cols: Tensor
    slots: Tensor | None = None
    order: Tensor | None = None

    @classmethod
    def transposed(cls, rows: Tensor, cols: Tensor, count: int) -> "BlockRows":
        """List the rows of W.T from the (L,) block row and column of each stored block; ``count`` block columns."""
        cols, slots = cols.sort(stable=True)
        columns = torch.arange(count, device=cols.device, dtype=cols.dtype)
        start, end = (torch.searchsorted(cols, columns, side=side, out_int32=True) for side in ("left", "right"))
        return cls(start, end, rows.index_select(0, slots).int(), slots.int())

    @property
    def lists(self) -> tuple[Tensor | None, ...]:
        """The kernel arguments start, end, cols, slots."""
        return self.start, self.end, self.cols, self.slots


@dataclass(frozen=True)
class BlockPlaces:
    """Where each block of a matrix is.

    Attributes:
        rows, cols: (L,) int32, block row and column.
        n, k: the axes.
    """

    rows: Tensor
    cols: Tensor
    n: Axis
    k: Axis


@dataclass(frozen=True)
class Product:
    """All that a product with stored blocks follows from, but for its tensors.

    Attributes:
        n, k: the axes of W.
        aligned: whether x and the blocks lie at multiples of 16 bytes.
        activation: a key of ``reference.common.epilogue.ACTIVATIONS`` or None.
        dtype: of the result; None: that of x.
        precision: of ``tl.dot`` in fp32.
    """

    n: Axis
    k: Axis
    aligned: bool
    activation: str | None
    dtype: torch.dtype | None
    precision: str


def block_strides(values: Tensor) -> dict[str, int]:
    """Return the compile-time arguments that say how (S, n.block, k.block) blocks lie in memory."""
    return dict(zip(("STRIDE_WS", "STRIDE_WN", "STRIDE_WK"), values.stride(), strict=True))
