"""Block compressed sparse rows, as the ops of this family are handed them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StoredBlocks:
    """A weight in block compressed sparse rows, with the names of ``torch.sparse_bsr_tensor``.

    Attributes:
        values: (nnz, bn, bk) stored blocks, zeros beyond the edges of the weight.
        crow_indices: (rows + 1,) int32 or int64, row ``i`` owns the blocks ``crow[i] .. crow[i + 1] - 1``.
        col_indices: (nnz,) int32 or int64, block column of each block.
        index: what ``block_index`` or ``conv_index`` made of these indices, or None.
    """

    values: Tensor
    crow_indices: Tensor
    col_indices: Tensor
    index: Tensor | None = None

    def check(self, rows: int, what: str, block: str = "bn, bk") -> None:
        """Raise ``ValueError`` unless values and indices fit each other and a weight with so many rows.

        ``what`` is the name of its rows and ``block`` that of a block's sizes in the message.
        """
        values = self.values
        if values.dim() != 3 or 0 in values.shape[1:]:
            raise ValueError(f"values must be (nnz, {block}) with {block} >= 1, got {tuple(values.shape)}")
        expected = {"crow_indices": (-(-rows // values.shape[1]) + 1,), "col_indices": (len(values),)}
        for name, shape in expected.items():
            indices = getattr(self, name)
            if indices.shape != shape or indices.dtype not in (torch.int32, torch.int64):
                raise ValueError(
                    f"{name} must be {shape} int32 or int64 for values {tuple(values.shape)} and {rows} {what}, "
                    f"got {tuple(indices.shape)} {indices.dtype}"
                )

    def index_size(self, columns: int) -> int:
        """Return the size of what ``block_index`` makes of these indices, for so many columns of the weight."""
        return len(self.crow_indices) - 1 + 2 * (-(-columns // self.values.shape[2]) + len(self.values))

    def check_index(self, size: int, maker: str) -> None:
        """Raise ``ValueError`` unless ``index`` has the size that ``maker`` gives it."""
        index = self.index
        device = self.values.device
        if index is None:
            return
        if index.shape != (size,) or index.dtype != torch.int32 or index.device != device:
            raise ValueError(
                f"index must be ({size},) int32 on {device}, as {maker} makes it of these indices, got "
                f"{tuple(index.shape)} {index.dtype} on {index.device}"
            )
