"""``block_sparse_conv2d``: convolution whose weight is stored as block compressed sparse rows."""

import torch
from torch import Tensor

from smart_kernels.ops import _bsr
from smart_kernels.ops._conv import Walk, conv_grad, conv_matmul, transposed
from smart_kernels.ops._conv_inputs import autocast_all, check_conv, nhwc, pair
from smart_kernels.ops._inputs import no_autocast
from smart_kernels.ops._library import define
from smart_kernels.ops._matmul import BlockRows
from smart_kernels.reference import block_sparse_conv2d as reference
from smart_kernels.reference.conv import Conv
from smart_kernels.reference.epilogue import check_activation, finish

Size = int | tuple[int, int]


def block_sparse_conv2d(
    x: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    out_channels: int,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(conv2d(x, W) + bias + residual)``, W (N, taps * C) in block compressed sparse rows.

    Block column ``tap * ceil(C / tile_c) + i`` is channel block ``i`` of kernel position ``tap = row * kw + column``.
    Costs follow the number of stored blocks. Differentiable in ``x``, ``values``, ``bias`` and ``residual``; activation
    and residual are fused where no gradient is needed. The indices are trusted: see ``check_indices``.

    Args:
        x: (B, C, H, W), fastest in channels_last; fp32, fp16, bf16 or fp64. Under autocast all floating inputs are cast.
        values: (nnz, tile_n, tile_c) stored blocks, dtype of ``x``, zeros beyond the edges of W.
        crow_indices: (ceil(N / tile_n) + 1,) int32 or int64, row ``i`` owns the blocks ``crow[i] .. crow[i + 1] - 1``.
        col_indices: (nnz,) int32 or int64, block column of each block, below ``taps * ceil(C / tile_c)``.
        bias: (N,) dtype of ``x``, or None.
        kernel_size, stride, padding, dilation: as in ``nn.Conv2d``; groups are not supported.
        out_channels: N.
        activation: None, "relu", "relu6", "gelu", "gelu_tanh" or "silu".
        residual: shape of the result, or None.

    Returns:
        (B, N, H', W') in channels_last, dtype of ``x``, accumulated in fp32 (fp64 for fp64).

    Raises:
        ValueError: a shape, dtype, device or the activation does not fit.
    """
    conv = Conv(*map(pair, (kernel_size, stride, padding, dilation)))
    check_activation(activation)
    x, values, bias, residual = autocast_all(x, values, bias, residual)
    check_conv(x, values, crow_indices, col_indices, bias, out_channels, conv, residual)
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, values, bias, residual))
    after = (None, None) if wanted else (None if residual is None else nhwc(residual), activation)
    with no_autocast(x):
        args = nhwc(x), values, crow_indices, col_indices, bias, after[0], conv.numbers, out_channels, after[1]
        y = _block_sparse_conv2d(*args).movedim(3, 1)
        return finish(y, None, residual, activation) if wanted else y


def block_sparse_conv1d(
    x: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    out_channels: int,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """:func:`block_sparse_conv2d` of images one pixel high.

    Args:
        x: (B, C, L); the others as there.

    Returns:
        (B, N, L').

    Raises:
        ValueError: as there.
    """
    if x.dim() != 3:
        raise ValueError(f"x must be (B, C, L), got {tuple(x.shape)}")
    y = block_sparse_conv2d(
        x.unsqueeze(2), values, crow_indices, col_indices, bias,
        kernel_size=(1, kernel_size), stride=(1, stride), padding=(0, padding), dilation=(1, dilation),
        out_channels=out_channels, activation=activation,
        residual=None if residual is None else residual.unsqueeze(2),
    )  # fmt: skip
    return y.squeeze(2)


def block_sparse_conv_transpose2d(
    x: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
    out_channels: int,
) -> Tensor:
    """``conv_transpose2d(x, W) + bias``: the input gradient of the convolution whose weight is W.

    Args:
        x: (B, C, H, W); dtypes as in :func:`block_sparse_conv2d`.
        values: (nnz, tile_c, tile_n) blocks of W (C, taps * N), the weight of ``nn.ConvTranspose2d`` as a matrix.
        crow_indices: (ceil(C / tile_c) + 1,) and
        col_indices: (nnz,) below ``taps * ceil(N / tile_n)``, as in :func:`block_sparse_conv2d`.
        bias: (N,) or None.
        kernel_size, stride, padding, output_padding, dilation: as in ``nn.ConvTranspose2d``.
        out_channels: N.

    Returns:
        (B, N, H', W') in channels_last.

    Raises:
        ValueError: a shape, dtype or device does not fit.
    """
    conv, extra = Conv(*map(pair, (kernel_size, stride, padding, dilation))), pair(output_padding)
    x, values, bias = autocast_all(x, values, bias)
    check_conv(x, values, crow_indices, col_indices, bias, out_channels, conv, transposed=True)
    if not all(0 <= e < s for e, s in zip(extra, conv.stride, strict=True)):
        raise ValueError(f"output_padding must be at least 0 and below stride {conv.stride}, got {extra}")
    size = conv.input_size(*x.shape[2:])
    with no_autocast(x):
        args = nhwc(x), values, crow_indices, col_indices, bias, conv.numbers, size[0] + extra[0], size[1] + extra[1]
        return _block_sparse_conv2d_dx(*args, out_channels).movedim(3, 1)


def _fake(x, values, crow_indices, col_indices, bias, residual, geometry, out_channels, activation):
    return x.new_empty(x.shape[0], *Conv.of(geometry).output_size(*x.shape[1:3]), out_channels)


def _fake_dx(dy, values, crow_indices, col_indices, bias, geometry, height, width, channels):
    return dy.new_empty(dy.shape[0], height, width, channels)


def _fake_dvalues(dy, x, crow_indices, col_indices, geometry, tile_n, tile_c):
    return dy.new_empty(col_indices.shape[0], tile_n, tile_c)


@define("block_sparse_conv2d", reference=reference.block_sparse_conv2d, fake=_fake)
def _block_sparse_conv2d(
    x: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    geometry: list[int],
    out_channels: int,
    activation: str | None,
) -> Tensor:
    args = x, values, crow_indices, col_indices, bias, residual, geometry, out_channels, activation
    if x.dtype == torch.float64:
        return reference.block_sparse_conv2d(*args)
    conv = Conv.of(geometry)
    n, k = _bsr.axes(values.shape[1:], (out_channels, x.shape[3]))
    start, end = _bsr.bounds(crow_indices, len(values), n, k)
    rows = BlockRows(start, end, _bsr.columns(col_indices, n, k))
    size = conv.output_size(*x.shape[1:3])
    return conv_matmul(
        x, _bsr.cut(values, n, k), rows, Walk.forward(conv), size, n, k,
        None if bias is None else bias.contiguous(), residual, activation,
    )  # fmt: skip


@define("block_sparse_conv2d_dx", reference=reference.block_sparse_conv2d_dx, fake=_fake_dx)
def _block_sparse_conv2d_dx(
    dy: Tensor,
    values: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    bias: Tensor | None,
    geometry: list[int],
    height: int,
    width: int,
    channels: int,
) -> Tensor:
    args = dy, values, crow_indices, col_indices, bias, geometry, height, width, channels
    if dy.dtype == torch.float64:
        return reference.block_sparse_conv2d_dx(*args)
    conv = Conv.of(geometry)
    n, k = _bsr.axes(values.shape[1:], (dy.shape[3], channels))
    columns = transposed(*_bsr.places(crow_indices, col_indices, n, k), conv, n, k)
    return conv_matmul(
        dy, _bsr.cut(values, n, k).mT, columns, Walk.transposed(conv), (height, width), k, n,
        None if bias is None else bias.contiguous(),
    )  # fmt: skip


@define("block_sparse_conv2d_dvalues", reference=reference.block_sparse_conv2d_dvalues, fake=_fake_dvalues)
def _block_sparse_conv2d_dvalues(
    dy: Tensor, x: Tensor, crow_indices: Tensor, col_indices: Tensor, geometry: list[int], tile_n: int, tile_c: int
) -> Tensor:
    if x.dtype == torch.float64:
        return reference.block_sparse_conv2d_dvalues(dy, x, crow_indices, col_indices, geometry, tile_n, tile_c)
    n, k = _bsr.axes((tile_n, tile_c), (dy.shape[3], x.shape[3]))
    places = _bsr.places(crow_indices, col_indices, n, k)
    return _bsr.join(conv_grad(dy, x, *places, Conv.of(geometry), n, k, x.dtype), n, k)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])
    ctx.geometry = inputs[6]


def _backward(ctx, dy):
    (x, values, *indices), needs, dy = ctx.saved_tensors, ctx.needs_input_grad, dy.contiguous()
    dx = dvalues = None
    if needs[0]:
        dx = _block_sparse_conv2d_dx(dy, values, *indices, None, ctx.geometry, *x.shape[1:])
    if needs[1]:
        dvalues = _block_sparse_conv2d_dvalues(dy, x, *indices, ctx.geometry, *values.shape[1:])
    return dx, dvalues, None, None, dy.sum((0, 1, 2)) if needs[4] else None, None, None, None, None


def _setup_dx_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])
    ctx.geometry = inputs[5]


def _backward_dx(ctx, g):
    (dy, values, *indices), needs, g = ctx.saved_tensors, ctx.needs_input_grad, g.contiguous()
    ddy = dvalues = None
    if needs[0]:
        ddy = _block_sparse_conv2d(g, values, *indices, None, None, ctx.geometry, dy.shape[3], None)
    if needs[1]:
        dvalues = _block_sparse_conv2d_dvalues(dy, g, *indices, ctx.geometry, *values.shape[1:])
    return ddy, dvalues, None, None, g.sum((0, 1, 2)) if needs[4] else None, None, None, None, None


_block_sparse_conv2d.register_autograd(_backward, setup_context=_setup_context)
_block_sparse_conv2d_dx.register_autograd(_backward_dx, setup_context=_setup_dx_context)
