"""The registered operators behind the convolutions. Images are contiguous NHWC; ``geometry`` is ``Conv.numbers``."""

import torch
from torch import Tensor

from smart_kernels.ops import _bsr
from smart_kernels.ops._conv import Walk, conv_grad, conv_matmul, transposed
from smart_kernels.ops._library import define
from smart_kernels.ops._matmul import BlockRows
from smart_kernels.reference import block_sparse_conv2d as reference
from smart_kernels.reference.conv import Conv


def _fake(x, values, crow_indices, col_indices, bias, residual, geometry, out_channels, activation):
    return x.new_empty(x.shape[0], *Conv.of(geometry).output_size(*x.shape[1:3]), out_channels)


def _fake_dx(dy, values, crow_indices, col_indices, bias, geometry, height, width, channels):
    return dy.new_empty(dy.shape[0], height, width, channels)


def _fake_dvalues(dy, x, crow_indices, col_indices, geometry, tile_n, tile_c):
    return dy.new_empty(col_indices.shape[0], tile_n, tile_c)


@define("block_sparse_conv2d", reference=reference.block_sparse_conv2d, fake=_fake)
def block_conv(
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
def block_conv_dx(
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
def block_conv_dvalues(
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
        dx = block_conv_dx(dy, values, *indices, None, ctx.geometry, *x.shape[1:])
    if needs[1]:
        dvalues = block_conv_dvalues(dy, x, *indices, ctx.geometry, *values.shape[1:])
    return dx, dvalues, None, None, dy.sum((0, 1, 2)) if needs[4] else None, None, None, None, None


def _setup_dx_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])
    ctx.geometry = inputs[5]


def _backward_dx(ctx, g):
    (dy, values, *indices), needs, g = ctx.saved_tensors, ctx.needs_input_grad, g.contiguous()
    ddy = dvalues = None
    if needs[0]:
        ddy = block_conv(g, values, *indices, None, None, ctx.geometry, dy.shape[3], None)
    if needs[1]:
        dvalues = block_conv_dvalues(dy, g, *indices, ctx.geometry, *values.shape[1:])
    return ddy, dvalues, None, None, g.sum((0, 1, 2)) if needs[4] else None, None, None, None, None


block_conv.register_autograd(_backward, setup_context=_setup_context)
block_conv_dx.register_autograd(_backward_dx, setup_context=_setup_dx_context)
