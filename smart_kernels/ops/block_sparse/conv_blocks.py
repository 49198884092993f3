"""What a convolution derives from the indices of its blocks alone; made once, it lies in one int32 tensor."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.block_matmul import BlockRows
from smart_kernels.ops.common.conv_matmul import transposed
from smart_kernels.shapes import Conv

from . import kernel_blocks


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
    def of(cls, crow_indices, col_indices, tile, channels, conv, index=None) -> "ConvBlocks":
        """For stored blocks of size ``tile`` and a weight of (output, input) ``channels``."""
        return cls(crow_indices, col_indices, conv, *kernel_blocks.axes(tile, channels), index)

    def forward(self) -> BlockRows:
        """The rows of the convolution; slots of ``kernel_blocks.windows``."""
        if self.index is not None:
            start, end, cols, slots, *_ = self._parts
            return BlockRows(start, end, cols, slots if self._cut else None)
        start, end = kernel_blocks.bounds(self.crow_indices, len(self.col_indices), self.n, self.k)
        cols = kernel_blocks.columns(self.col_indices, self.n, self.k)
        return BlockRows(start, end, cols, self._slots())

    def backward(self) -> BlockRows:
        """The rows (phase, channel block) of the transposed convolution; slots of ``kernel_blocks.windows``."""
        if self.index is not None:
            return BlockRows(*self._parts[4:8])
        rows, slots = transposed(*self.places(), self.conv, self.n, self.k), self._slots()
        return rows if slots is None else BlockRows(rows.start, rows.end, rows.cols, slots[rows.slots])

    def places(self) -> tuple[Tensor, Tensor]:
        """The row and the column of each kernel block."""
        if self.index is not None:
            return self._parts[8], self._parts[2]
        return kernel_blocks.places(self.crow_indices, self.col_indices, self.n, self.k)

    def pack(self) -> Tensor:
        """All of them in one tensor."""
        forward, backward = self.forward(), self.backward()
        slots = [forward.slots] if self._cut else []
        back = backward.start, backward.end, backward.cols, backward.slots
        return torch.cat([forward.start, forward.end, forward.cols, *slots, *back, self.places()[0]])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the lists in ``pack``."""
        n, k = self.n, self.k
        entries = n.parts * len(self.col_indices) * k.parts
        columns = self.conv.stride[0] * self.conv.stride[1] * k.blocks
        return n.blocks, n.blocks, entries, entries * self._cut, columns, columns, entries, entries, entries

    @cached_property
    def _parts(self) -> tuple[Tensor, ...]:
        return self.index.split(self.sizes)

    @property
    def _cut(self) -> bool:
        return self.n.parts * self.k.parts > 1

    def _slots(self) -> Tensor | None:
        return kernel_blocks.slots(self.col_indices, self.n, self.k) if self._cut else None
