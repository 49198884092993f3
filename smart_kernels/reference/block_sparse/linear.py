"""Definition of ``block_sparse_linear``: each block row multiplies the columns of ``x`` it needs, and only those.

A matrix (M, size) seen in blocks is (M, ceil(size / block), block), zeros beyond the edge.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from smart_kernels.reference.common.epilogue import finish


def block_sparse_linear(
    x: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None,
    out_features: int,
    index: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    out_dtype: torch.dtype | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """Return (M, N) from (M, K) and (nnz, bn, bk); ``index`` only saves time elsewhere."""
    x_blocks = _blocks(x, values.shape[2])
    wide = _wide(values)
    if scale is not None:
        wide = wide * scale.view(-1, 1, 1)
    y = x_blocks.new_zeros(len(x), len(crow_indices) - 1, values.shape[1])
    for row, own in _rows(crow_indices):
        y[:, row] = x_blocks[:, col_indices[own]].flatten(1) @ wide[own].mT.flatten(0, 1)
    y = finish(y.flatten(1)[:, :out_features], bias, residual, activation)
    return y.to(out_dtype or x.dtype).contiguous()


def block_sparse_linear_dx(
    dy: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    in_features: int,
    index: Tensor | None = None,
) -> Tensor:
    """Return (M, K) from (M, N) and (nnz, bn, bk)."""
    bn, bk = values.shape[1:]
    dy_blocks = _blocks(dy, bn)
    wide = _wide(values)
    dx = dy_blocks.new_zeros(len(dy), -(-in_features // bk), bk)
    for row, own in _rows(crow_indices):
        products = dy_blocks[:, row] @ wide[own].transpose(0, 1).flatten(1)
        dx.index_add_(1, col_indices[own], products.unflatten(1, (-1, bk)))
    return dx.flatten(1)[:, :in_features].to(dy.dtype).contiguous()


def block_sparse_linear_dvalues(
    dy: Tensor, x: Tensor, crow_indices: Tensor, col_indices: Tensor, bn: int, bk: int
) -> Tensor:
    """Return (nnz, bn, bk) from (M, N) and (M, K)."""
    dy_blocks, x_blocks = _blocks(dy, bn), _blocks(x, bk)
    dvalues = x_blocks.new_empty(len(col_indices), bn, bk)
    for row, own in _rows(crow_indices):
        products = dy_blocks[:, row].T @ x_blocks[:, col_indices[own]].flatten(1)
        dvalues[own] = products.unflatten(1, (-1, bk)).transpose(0, 1)
    return dvalues.to(x.dtype)


def _rows(crow_indices: Tensor):
    """List the block rows that have blocks, each with the slice of its blocks."""
    for row, (start, end) in enumerate(pairwise(crow_indices.tolist())):
        if end > start:
            yield row, slice(start, end)


def _wide(t: Tensor) -> Tensor:
    return t.double() if t.dtype == torch.float64 else t.float()


def _blocks(matrix: Tensor, block: int) -> Tensor:
    """View (M, size) as (M, blocks, block), after padding it."""
    M, size = matrix.shape
    count = -(-size // block)
    return F.pad(_wide(matrix), (0, count * block - size)).view(M, count, block)
