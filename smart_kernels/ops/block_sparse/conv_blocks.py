"""The blocks of a convolution's weight, listed for its kernels; all lists lie in one int32 tensor."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.blocks import BlockPlaces, BlockRows
from smart_kernels.ops.common.conv_matmul import transposed
from smart_kernels.shapes import Conv

from . import kernel_blocks
from .stored import StoredBlocks


@dataclass(frozen=True)
class ConvBlocks:
    """The kernel blocks of a weight, for its convolution, the transposed one, and the gradient of the blocks.

    Attributes:
        crow_indices, col_indices: of the stored blocks, columns counted through the taps.
        conv: the geometry.
        n, k: output and input channels.
        index: what ``pack`` made of these, or None: then each list is made when it is asked for.
    """

    crow_indices: Tensor
    col_indices: Tensor
    conv: Conv
    n: Axis
    k: Axis
    index: Tensor | None = None

    @classmethod
    def of(cls, w: StoredBlocks, channels: tuple[int, int], conv: Conv) -> "ConvBlocks":
        """Make them for a weight of (output, input) ``channels``."""
        return cls.of_tile(w.crow_indices, w.col_indices, w.values.shape[1:], channels, conv, w.index)

    @classmethod
    def of_tile(cls, crow_indices, col_indices, tile, channels, conv, index=None) -> "ConvBlocks":
        """Make them from the indices of stored blocks of size ``tile``."""
        return cls(crow_indices, col_indices, conv, *kernel_blocks.axes(tile, channels), index)

    def forward(self) -> BlockRows:
        """Return the rows of the convolution; slots of ``kernel_blocks.windows``."""
        if self.index is not None:
            start, end, cols, slots, *_ = self._parts
            return BlockRows(start, end, cols, slots if self._cut else None)
        start, end = kernel_blocks.bounds(self.crow_indices, len(self.col_indices), self.n, self.k)
        cols = kernel_blocks.columns(self.col_indices, self.n, self.k)
        return BlockRows(start, end, cols, self._slots())

    def backward(self) -> BlockRows:
        """Return the rows (phase, channel block) of the transposed convolution; slots likewise."""
        if self.index is not None:
            return BlockRows(*self._parts[4:8])
        rows = transposed(self.places(), self.conv)
        slots = self._slots()
        return rows if slots is None else BlockRows(rows.start, rows.end, rows.cols, slots[rows.slots])

    def places(self) -> BlockPlaces:
        """Return where each kernel block is."""
        if self.index is not None:
            return BlockPlaces(self._parts[8], self._parts[2], self.n, self.k)
        return kernel_blocks.places(self.crow_indices, self.col_indices, self.n, self.k)

    def pack(self) -> Tensor:
        """Return all lists in one tensor."""
        forward = self.forward()
        slots = [forward.slots] if self._cut else []
        lists = [forward.start, forward.end, forward.cols, *slots, *self.backward().lists]
        return torch.cat([*lists, self.places().rows])

    @property
    def sizes(self) -> tuple[int, ...]:
        """The lengths of the lists in ``pack``."""
        entries = self.n.parts * len(self.col_indices) * self.k.parts
        columns = self.conv.stride[0] * self.conv.stride[1] * self.k.blocks
        rows = self.n.blocks
        return rows, rows, entries, entries * self._cut, columns, columns, entries, entries, entries

    @cached_property
    def _parts(self) -> tuple[Tensor, ...]:
        return self.index.split(self.sizes)

    @property
    def _cut(self) -> bool:
        return self.n.parts * self.k.parts > 1

    def _slots(self) -> Tensor | None:
        return kernel_blocks.slots(self.col_indices, self.n, self.k) if self._cut else None
