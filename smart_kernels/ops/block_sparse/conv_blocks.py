"""The blocks of a convolution's weight, listed for its kernels; all lists lie in one int32 tensor."""

from dataclasses import dataclass

import torch
from torch import Tensor

from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.blocks import BlockPlaces
from smart_kernels.ops.common.conv_matmul import transposed
from smart_kernels.ops.common.launch import NOTHING, Nothing, given
from smart_kernels.shapes import Conv

from . import kernel_blocks, kernel_rows

Lists = tuple[Tensor, Tensor, Tensor, Tensor | Nothing]  # start, end, cols, slots


@dataclass(frozen=True)
class ConvBlocks:
    """The kernel blocks of a weight, for its convolution, the transposed one, and the gradient of the blocks.

    Its functions take crow_indices and col_indices of the stored blocks, columns counted through the taps, and what
    ``pack`` made of these, or ``NOTHING``: then each list is made when it is asked for.

    Attributes:
        nnz: the number of stored blocks.
        conv: the geometry.
        n, k: output and input channels.
        sizes: the lengths of the lists in ``pack``.
    """

    nnz: int
    conv: Conv
    n: Axis
    k: Axis
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, nnz: int, tile: tuple[int, int], channels: tuple[int, int], conv: Conv) -> "ConvBlocks":
        """Make them for stored blocks of size ``tile`` in a weight of (output, input) ``channels``."""
        n, k = kernel_blocks.axes(tile, channels)
        entries = n.parts * nnz * k.parts
        slots = entries if n.parts * k.parts > 1 else 0
        columns = conv.stride[0] * conv.stride[1] * k.blocks
        sizes = n.blocks, n.blocks, entries, slots, columns, columns, entries, entries, entries
        return cls(nnz, conv, n, k, sizes)

    def forward(self, crow_indices: Tensor, col_indices: Tensor, index: Tensor | Nothing) -> Lists:
        """Return the rows of the convolution; slots of ``kernel_blocks.windows``."""
        if index is not NOTHING:
            start, end, cols, slots, *_ = index.split_with_sizes(self.sizes)
            return start, end, cols, slots if self.cut else NOTHING
        start, end = kernel_rows.bounds(crow_indices, self.nnz, self.n, self.k)
        return start, end, kernel_rows.columns(col_indices, self.n, self.k), given(self._slots(col_indices))

    def backward(self, crow_indices: Tensor, col_indices: Tensor, index: Tensor | Nothing) -> Lists:
        """Return the rows (phase, channel block) of the transposed convolution; slots likewise."""
        if index is not NOTHING:
            return tuple(index.split_with_sizes(self.sizes)[4:8])
        rows, cols = self.places(crow_indices, col_indices, index)
        start, end, cols, entries = transposed(BlockPlaces(rows, cols, self.n, self.k), self.conv).lists
        slots = self._slots(col_indices)
        return start, end, cols, entries if slots is None else slots.index_select(0, entries)

    def places(self, crow_indices: Tensor, col_indices: Tensor, index: Tensor | Nothing) -> tuple[Tensor, Tensor]:
        """Return the block row and column of each kernel block."""
        if index is not NOTHING:
            parts = index.split_with_sizes(self.sizes)
            return parts[8], parts[2]
        places = kernel_rows.places(crow_indices, col_indices, self.n, self.k)
        return places.rows, places.cols

    def pack(self, crow_indices: Tensor, col_indices: Tensor) -> Tensor:
        """Return all lists in one tensor."""
        lists = [*self.forward(crow_indices, col_indices, NOTHING), *self.backward(crow_indices, col_indices, NOTHING)]
        rows, _ = self.places(crow_indices, col_indices, NOTHING)
        return torch.cat([part for part in (*lists, rows) if part is not NOTHING])

    @property
    def cut(self) -> bool:
        """Whether a stored block gives several kernel blocks, which then have slots."""
        return self.n.parts * self.k.parts > 1

    def _slots(self, col_indices: Tensor) -> Tensor | None:
        return kernel_blocks.slots(col_indices, self.n, self.k) if self.cut else None
