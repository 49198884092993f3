"""Products with a weight stored as block compressed sparse rows."""

from .conv1d import block_sparse_conv1d
from .conv2d import block_sparse_conv2d
from .conv_transpose2d import block_sparse_conv_transpose2d
from .index import block_index, check_indices, conv_index
from .kernel_rows import block_rows
from .linear import block_sparse_linear
from .tile_matmul import FEW_ROWS

__all__ = [
    "FEW_ROWS",
    "block_index",
    "block_rows",
    "block_sparse_conv1d",
    "block_sparse_conv2d",
    "block_sparse_conv_transpose2d",
    "block_sparse_linear",
    "check_indices",
    "conv_index",
]
