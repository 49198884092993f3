"""``block_sparse_linear``: linear layer whose weight is stored as block compressed sparse rows."""

import torch
from torch import Tensor

from smart_kernels.ops.common.arguments import precision
from smart_kernels.ops.common.inputs import autocast_all, autocasts, flat, needs_gradient, no_autocast
from smart_kernels.ops.common.launch import aligned, all_given
from smart_kernels.ops.common.library import always, define, differentiable
from smart_kernels.reference.block_sparse import linear as reference
from smart_kernels.reference.common.epilogue import finish

from .checks import check, check_no_gradient
from .matmul import product, product_dvalues, product_dx


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
    if autocasts(x) and torch.float8_e4m3fn not in (x.dtype, values.dtype):
        x, values, bias = autocast_all(x, values, bias)
    tensors = x, values, crow_indices, col_indices, bias, residual, index, scale
    check(tensors, (out_features, activation, out_dtype))
    if x.dtype == torch.float8_e4m3fn:
        check_no_gradient(x, values, bias, residual, scale)
        out_dtype = out_dtype or torch.bfloat16
    args = flat(x), values, crow_indices, col_indices, bias, out_features, index
    with no_autocast(x):
        y = _linear(args, None if residual is None else flat(residual), activation, out_dtype, scale)
    return y.view(*x.shape[:-1], out_features)


def _linear(
    args: tuple, residual: Tensor | None, activation: str | None, dtype: torch.dtype | None, scale: Tensor | None
) -> Tensor:
    """Fuse activation and residual where torch needs not differentiate them."""
    x, values, _, _, bias, *_ = args
    if not needs_gradient(x, values, bias, residual):
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


@define("block_sparse_linear", reference=reference.block_sparse_linear, fake=_fake, visible=always)
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
    bias = bias if bias is None else bias.contiguous()
    tensors = all_given(x, values, crow_indices, col_indices, bias, index, residual, scale)
    return product(tensors, (out_features, activation, out_dtype, aligned(x, values), precision()))


@define("block_sparse_linear_dx", reference=reference.block_sparse_linear_dx, fake=_fake_dx, visible=always)
def block_sparse_linear_dx(
    dy: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    in_features: int,
    index: Tensor | None = None,
) -> Tensor:
    if dy.dtype == torch.float64:
        return reference.block_sparse_linear_dx(dy, values, crow_indices, col_indices, in_features)
    tensors = all_given(dy, values, crow_indices, col_indices, index)
    return product_dx(tensors, (in_features, aligned(dy, values), precision()))


@define(
    "block_sparse_linear_dvalues",
    reference=reference.block_sparse_linear_dvalues,
    fake=_fake_dvalues,
    visible=always,
)
def _block_sparse_linear_dvalues(
    dy: Tensor, x: Tensor, crow_indices: Tensor, col_indices: Tensor, bn: int, bk: int
) -> Tensor:
    if x.dtype == torch.float64:
        return reference.block_sparse_linear_dvalues(dy, x, crow_indices, col_indices, bn, bk)
    return product_dvalues((dy, x, crow_indices, col_indices), (bn, bk, aligned(dy, x), precision()))


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4], inputs[6])


def _backward(ctx, dy):
    x, values, *indices, index = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dbias = dy.sum(0, dtype=x.dtype) if needs[4] else None
    dy = dy.to(x.dtype)
    dx = block_sparse_linear_dx(dy, values, *indices, x.shape[1], index) if needs[0] else None
    dvalues = _block_sparse_linear_dvalues(dy, x, *indices, *values.shape[1:]) if needs[1] else None
    return dx, dvalues, None, None, dbias, *[None] * 6


def _setup_dx_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4], inputs[5])


def _backward_dx(ctx, g):
    dy, values, *indices, index = ctx.saved_tensors
    needs = ctx.needs_input_grad
    ddy = _block_sparse_linear(g, values, *indices, None, dy.shape[1], index) if needs[0] else None
    dvalues = _block_sparse_linear_dvalues(dy, g, *indices, *values.shape[1:]) if needs[1] else None
    return ddy, dvalues, *[None] * 4


differentiable(_block_sparse_linear, _backward, _setup_context)
differentiable(block_sparse_linear_dx, _backward_dx, _setup_dx_context)
