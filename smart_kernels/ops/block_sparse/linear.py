"""``block_sparse_linear``: linear layer whose weight is stored as block compressed sparse rows."""

from dataclasses import replace

import torch
from torch import Tensor

from smart_kernels.ops.common.block_matmul import block_grad, block_matmul, needs_fp8
from smart_kernels.ops.common.blocks import BlockMatrix
from smart_kernels.ops.common.epilogue import Epilogue
from smart_kernels.ops.common.inputs import autocast_all, flat, needs_gradient, no_autocast
from smart_kernels.ops.common.library import define, differentiable
from smart_kernels.reference.block_sparse import linear as reference
from smart_kernels.reference.common.epilogue import finish

from . import kernel_blocks
from .checks import check, check_dtypes, check_epilogue, check_fp8
from .stored import StoredBlocks
from .tile_matmul import takes_tiles, tile_matmul


def block_sparse_linear(
    x: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None = None,
    *,
    out_features: int,
    activation: str | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    index: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """Return ``activation(x @ W.T + bias + residual)``, W stored like a ``torch.sparse_bsr_tensor``.

    Costs follow the number of stored blocks; columns of ``x`` that no block needs are not read. Differentiable in
    ``x``, ``values``, ``bias`` and ``residual``. The indices are trusted: see ``check_indices``.

    Args:
        x: (..., K) activations; fp32, fp16, bf16 or fp64. Under autocast x, values and bias are cast. Or, without
            gradients, float8_e4m3fn: see ``scale`` and :func:`quantize_fp8`.
        values: (nnz, bn, bk) stored blocks, dtype of ``x``, zeros beyond the edges of W.
        crow_indices: (ceil(N / bn) + 1,) int32 or int64, row ``i`` owns the blocks ``crow[i] .. crow[i + 1] - 1``.
        col_indices: (nnz,) int32 or int64, block column of each block, below ``ceil(K / bk)``.
        bias: (N,) dtype of ``x`` (any of the others for fp8), or None.
        out_features: N.
        activation: "relu", "relu6", "gelu", "gelu_tanh", "silu" or None. Fused where no gradient is needed.
        residual: (..., N) any floating dtype, added before the activation, or None.
        out_dtype: dtype of the result, default that of ``x``, bf16 for fp8.
        index: what ``block_index`` made of these indices; without it the backward sorts them anew.
        scale: fp32, for fp8 only: () the scale of x times that of values, or (nnz,) one such product per block. Each
            step of at most 128 columns is summed by the tensor core, then scaled and added in fp32.

    Returns:
        (..., N), accumulated in fp32 (fp64 for fp64).

    Raises:
        ValueError: a shape, dtype, device or activation does not fit.
    """
    w = StoredBlocks(values, crow_indices, col_indices, index)
    check(x, w, bias, out_features)
    if check_fp8(x, values, bias, residual, scale):
        out_dtype = out_dtype or torch.bfloat16
    else:
        x, values, bias = autocast_all(x, values, bias)
        check_dtypes(x, values, bias)
    check_epilogue(x, Epilogue(bias, residual, activation, out_dtype), out_features)
    epilogue = Epilogue(bias, None if residual is None else flat(residual), activation, out_dtype)
    with no_autocast(x):
        y = _linear(flat(x), replace(w, values=values), epilogue, out_features, scale)
    return y.view(*x.shape[:-1], out_features)


def _linear(x: Tensor, w: StoredBlocks, epilogue: Epilogue, out_features: int, scale: Tensor | None) -> Tensor:
    """Fuse activation and residual where torch needs not differentiate them."""
    residual, activation, dtype = epilogue.residual, epilogue.activation, epilogue.dtype
    args = x, w.values, w.crow_indices, w.col_indices, epilogue.bias, out_features, w.index
    if not needs_gradient(x, w.values, epilogue.bias, residual):
        return _block_sparse_linear(*args, residual, activation, dtype, scale)
    if residual is None and activation is None:
        return _block_sparse_linear(*args, None, None, dtype)
    y = _block_sparse_linear(*args, None, None, torch.promote_types(x.dtype, torch.float32))
    return finish(y, None, residual, activation).to(dtype or x.dtype)


def _fake(x, values, crow_indices, col_indices, bias, out_features, index=None, residual=None, activation=None,
          out_dtype=None, scale=None):  # fmt: skip
    return x.new_empty(x.shape[0], out_features, dtype=out_dtype)


def _fake_dx(dy, values, crow_indices, col_indices, in_features, index=None):
    return dy.new_empty(dy.shape[0], in_features)


def _fake_dvalues(dy, x, crow_indices, col_indices, bn, bk):
    return x.new_empty(col_indices.shape[0], bn, bk)


@define("block_sparse_linear", reference=reference.block_sparse_linear, fake=_fake)
def _block_sparse_linear(
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
    if x.dtype == torch.float64:
        args = x, values, crow_indices, col_indices, bias, out_features, index
        return reference.block_sparse_linear(*args, residual, activation, out_dtype)
    w = StoredBlocks(values, crow_indices, col_indices, index)
    epilogue = Epilogue(bias, residual, activation, out_dtype)
    if scale is None and takes_tiles(len(x), values.shape[2], x.dtype):
        return tile_matmul(x, values, w.rows, out_features, epilogue)
    return _matmul(x, w, out_features, epilogue, scale)


def _matmul(x: Tensor, w: StoredBlocks, out_features: int, epilogue: Epilogue, scale: Tensor | None) -> Tensor:
    values = w.values
    n, k = kernel_blocks.forward_axes(values.shape[1:], (out_features, x.shape[1]), x.element_size())
    if scale is not None:
        needs_fp8()
        scale = kernel_blocks.cut_scale(scale, len(values), n, k)
    order = None if w.index is None else kernel_blocks.split(w.index, len(w.crow_indices) - 1, len(values))[0]
    rows = kernel_blocks.rows(w.crow_indices, w.col_indices, order, n, k)
    return block_matmul(x, BlockMatrix(kernel_blocks.cut(values, n, k), rows, n, k), epilogue, scale)


@define("block_sparse_linear_dx", reference=reference.block_sparse_linear_dx, fake=_fake_dx)
def _block_sparse_linear_dx(
    dy: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    in_features: int,
    index: Tensor | None = None,
) -> Tensor:
    if dy.dtype == torch.float64:
        return reference.block_sparse_linear_dx(dy, values, crow_indices, col_indices, in_features)
    columns = kernel_blocks.by_columns(crow_indices, col_indices, -(-in_features // values.shape[2]), index)
    if takes_tiles(len(dy), values.shape[1], dy.dtype):
        return tile_matmul(dy, values.mT, columns, in_features, Epilogue())
    n, k = kernel_blocks.backward_axes(values.shape[1:], (dy.shape[1], in_features), dy.element_size())
    rows = kernel_blocks.transposed_rows(columns, n, k)
    return block_matmul(dy, BlockMatrix(kernel_blocks.cut(values.mT, k, n), rows, k, n), Epilogue())


@define("block_sparse_linear_dvalues", reference=reference.block_sparse_linear_dvalues, fake=_fake_dvalues)
def _block_sparse_linear_dvalues(
    dy: Tensor, x: Tensor, crow_indices: Tensor, col_indices: Tensor, bn: int, bk: int
) -> Tensor:
    if x.dtype == torch.float64:
        return reference.block_sparse_linear_dvalues(dy, x, crow_indices, col_indices, bn, bk)
    n, k = kernel_blocks.axes((bn, bk), (dy.shape[1], x.shape[1]))
    places = kernel_blocks.places(crow_indices, col_indices, n, k)
    return kernel_blocks.join(block_grad(dy, x, places, x.dtype), n, k)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4], inputs[6])


def _backward(ctx, dy):
    x, values, *indices, index = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dbias = dy.sum(0, dtype=x.dtype) if needs[4] else None
    dy = dy.to(x.dtype)
    dx = _block_sparse_linear_dx(dy, values, *indices, x.shape[1], index) if needs[0] else None
    dvalues = _block_sparse_linear_dvalues(dy, x, *indices, *values.shape[1:]) if needs[1] else None
    return dx, dvalues, None, None, dbias, *[None] * 6


differentiable(_block_sparse_linear, _backward, _setup_context)
