"""``block_sparse_linear``: linear layer whose weight is stored as block compressed sparse rows."""

import torch
from torch import Tensor

from smart_kernels.ops import _bsr
from smart_kernels.ops._inputs import autocast, flat, no_autocast
from smart_kernels.ops._library import define
from smart_kernels.ops._matmul import BlockRows, block_grad, block_matmul
from smart_kernels.ops._tile_matmul import takes_tiles, tile_matmul
from smart_kernels.reference import block_sparse_linear as reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def block_sparse_linear(
    x: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None = None,
    *,
    out_features: int,
) -> Tensor:
    """``x @ W.T + bias``, W in block compressed sparse rows (the members of ``torch.sparse_bsr_tensor``).

    Costs follow the number of stored blocks; columns of ``x`` that no block needs are not read. Differentiable in
    ``x``, ``values`` and ``bias``. The indices are trusted: see :func:`check_indices`.

    Args:
        x: (..., K) activations; fp32, fp16, bf16 or fp64. Under autocast all floating inputs are cast.
        values: (nnz, bn, bk) stored blocks, dtype of ``x``, zeros beyond the edges of W.
        crow_indices: (ceil(N / bn) + 1,) int32 or int64, row ``i`` owns the blocks ``crow[i] .. crow[i + 1] - 1``.
        col_indices: (nnz,) int32 or int64, block column of each block, below ``ceil(K / bk)``.
        bias: (N,) dtype of ``x``, or None.
        out_features: N.

    Returns:
        (..., N), dtype of ``x``, accumulated in fp32 (fp64 for fp64).

    Raises:
        ValueError: a shape, dtype or device does not fit.
    """
    _check(x, values, crow_indices, col_indices, bias, out_features)
    x, values, bias = (t if t is None else autocast(t) for t in (x, values, bias))
    _check_dtypes(x, values, bias)
    with no_autocast(x):
        y = _block_sparse_linear(flat(x), values, crow_indices, col_indices, bias, out_features)
    return y.view(*x.shape[:-1], out_features)


def check_indices(crow_indices: Tensor, col_indices: Tensor, grid: tuple[int, int]) -> None:
    """Raise ``ValueError`` unless the indices describe blocks of a (rows, cols) grid. Reads them: synchronises.

    Args:
        crow_indices: (rows + 1,) must rise from 0 to nnz.
        col_indices: (nnz,) must be inside the grid and rise inside each row.
        grid: rows and columns of blocks, ``ceil(N / bn)`` and ``ceil(K / bk)``.
    """
    (rows, cols), nnz = grid, len(col_indices)
    if crow_indices.shape != (rows + 1,):
        raise ValueError(f"crow_indices must be (rows + 1,) for {rows} block rows, got {tuple(crow_indices.shape)}")
    crow, col = crow_indices.long().cpu(), col_indices.long().cpu()
    if crow[0] != 0 or crow[-1] != nnz or (crow.diff() < 0).any():
        raise ValueError(f"crow_indices must rise from 0 to nnz for {nnz} blocks, got {crow.tolist()}")
    if nnz and not 0 <= col.min() <= col.max() < cols:
        raise ValueError(f"col_indices must be in 0..{cols - 1} for {cols} block columns, got {col.min()}..{col.max()}")
    place = _bsr.block_rows(crow, nnz) * cols + col
    if (place.diff() <= 0).any():
        raise ValueError(f"col_indices must rise inside each row, got {col.tolist()} for crow_indices {crow.tolist()}")


def _fake(x, *args):
    return x.new_empty(x.shape[0], args[-1])  # the last argument counts the features that come out


def _fake_dvalues(dy, x, crow_indices, col_indices, bn, bk):
    return x.new_empty(col_indices.shape[0], bn, bk)


@define("block_sparse_linear", reference=reference.block_sparse_linear, fake=_fake)
def _block_sparse_linear(
    x: Tensor, values: Tensor, crow_indices: Tensor, col_indices: Tensor, bias: Tensor | None, out_features: int
) -> Tensor:
    if x.dtype == torch.float64:
        return reference.block_sparse_linear(x, values, crow_indices, col_indices, bias, out_features)
    if takes_tiles(len(x), values.shape[2], x.dtype):
        crow = crow_indices.int()
        rows = BlockRows(crow[:-1], crow[1:], col_indices.int())
        return tile_matmul(x, values, rows, bias, out_features)
    n, k = _bsr.axes(values.shape[1:], (out_features, x.shape[1]))
    start, end = _bsr.bounds(crow_indices, len(values), n, k)
    rows = BlockRows(start, end, _bsr.columns(col_indices, n, k))
    return block_matmul(x, _bsr.cut(values, n, k), rows, bias, n, k)


@define("block_sparse_linear_dx", reference=reference.block_sparse_linear_dx, fake=_fake)
def _block_sparse_linear_dx(
    dy: Tensor, values: Tensor, crow_indices: Tensor, col_indices: Tensor, in_features: int
) -> Tensor:
    if dy.dtype == torch.float64:
        return reference.block_sparse_linear_dx(dy, values, crow_indices, col_indices, in_features)
    if takes_tiles(len(dy), values.shape[1], dy.dtype):
        block_rows = _bsr.block_rows(crow_indices, len(values))
        columns = BlockRows.transposed(block_rows, col_indices.int(), -(-in_features // values.shape[2]))
        return tile_matmul(dy, values.mT, columns, None, in_features)
    n, k = _bsr.axes(values.shape[1:], (dy.shape[1], in_features))
    columns = BlockRows.transposed(*_bsr.places(crow_indices, col_indices, n, k), k.blocks)
    return block_matmul(dy, _bsr.cut(values, n, k).mT, columns, None, k, n)


@define("block_sparse_linear_dvalues", reference=reference.block_sparse_linear_dvalues, fake=_fake_dvalues)
def _block_sparse_linear_dvalues(
    dy: Tensor, x: Tensor, crow_indices: Tensor, col_indices: Tensor, bn: int, bk: int
) -> Tensor:
    if x.dtype == torch.float64:
        return reference.block_sparse_linear_dvalues(dy, x, crow_indices, col_indices, bn, bk)
    n, k = _bsr.axes((bn, bk), (dy.shape[1], x.shape[1]))
    return _bsr.join(block_grad(dy, x, *_bsr.places(crow_indices, col_indices, n, k), n, k, x.dtype), n, k)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])


def _backward(ctx, dy):
    (x, values, *indices), needs = ctx.saved_tensors, ctx.needs_input_grad
    dx = _block_sparse_linear_dx(dy, values, *indices, x.shape[1]) if needs[0] else None
    dvalues = _block_sparse_linear_dvalues(dy, x, *indices, *values.shape[1:]) if needs[1] else None
    return dx, dvalues, None, None, dy.sum(0) if needs[4] else None, None


_block_sparse_linear.register_autograd(_backward, setup_context=_setup_context)


def _check(x, values, crow_indices, col_indices, bias, out_features) -> None:
    if values.dim() != 3 or 0 in values.shape[1:]:
        raise ValueError(f"values must be (nnz, bn, bk) with bn, bk >= 1, got {tuple(values.shape)}")
    expected = {"crow_indices": (-(-out_features // values.shape[1]) + 1,), "col_indices": (len(values),)}
    for name, indices in (("crow_indices", crow_indices), ("col_indices", col_indices)):
        if indices.shape != expected[name] or indices.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"{name} must be {expected[name]} int32 or int64 for values {tuple(values.shape)} and "
                f"out_features {out_features}, got {tuple(indices.shape)} {indices.dtype}"
            )
    if x.dim() == 0:
        raise ValueError("x must be (..., K), got a scalar")
    if bias is not None and bias.shape != (out_features,):
        raise ValueError(f"bias must be (out_features,) = ({out_features},), got {tuple(bias.shape)}")
    tensors = [t for t in (x, values, bias, crow_indices, col_indices) if t is not None]
    if any(t.device != x.device for t in tensors):
        raise ValueError(f"all tensors must be on the device of x, got {[str(t.device) for t in tensors]}")


def _check_dtypes(*tensors: Tensor | None) -> None:
    dtypes = [t.dtype for t in tensors if t is not None]
    if len(set(dtypes)) > 1 or dtypes[0] not in DTYPES:
        raise ValueError(f"x, values and bias must share one of {DTYPES}, got {dtypes}")
