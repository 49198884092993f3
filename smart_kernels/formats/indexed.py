"""The order in which kernels read stored blocks, derived from their indices and kept beside them."""

import torch
from torch import Tensor

from smart_kernels.ops.block_sparse import block_index, conv_index
from smart_kernels.ops.common import TRITON_DEVICES
from smart_kernels.shapes import Conv

from .prepared import state


def rows_of(crow_indices: Tensor, nnz: int) -> Tensor:
    """Return the row of each stored block, (nnz,) int64, in operators that ONNX has, too.

    Args:
        crow_indices: (rows + 1,) where each row starts.
        nnz: how many blocks there are.
    """
    starts = crow_indices[1:-1].long()
    return starts.new_zeros(nnz + 1).scatter_add(0, starts, torch.ones_like(starts)).cumsum(0)[:nnz]


class Indexed:
    """Mixin of ``BSR``, which has the indices.

    Attributes:
        index: made of the indices, or None where there are no kernels. Not saved. A buffer, so that compiled code reads
            it as well; that cannot see indices which were changed in place, the next call in eager mode does.
    """

    _conv: Conv | None = None  # the convolution that ``index`` is for
    _made_of = None  # state of the indices that it was made of

    def expect(self, conv):
        self._remember(None if conv.pointwise else conv)

    def _index(self, conv: Conv | None = None) -> Tensor | None:
        if torch.compiler.is_compiling():
            return self.index if self._conv == conv else None
        self._remember(conv)
        return self.index

    def _remember(self, conv: Conv | None) -> None:
        """Make ``index`` anew, if the indices have changed or it is for another convolution (None: a linear layer)."""
        indices = (self.crow_indices, self.col_indices)
        known = self._made_of
        if self._conv != conv:
            known, self._conv = None, conv
        if indices[0].device.type in TRITON_DEVICES and known != state(*indices):
            with torch.inference_mode(False):  # it may be needed for a backward
                self.index = self._derived(*indices)
            self._made_of = state(*indices)

    def _derived(self, *indices: Tensor) -> Tensor:
        if self._conv is None:
            return block_index(*indices, self.grid[1] * self.grid[2])
        channels = self.shape[0], self.shape[1] // self.taps
        return conv_index(*indices, self.tile, channels, **self._conv.named)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self._remember(self._conv)
        return self
