"""The registered operators behind the convolutions. Images are contiguous NHWC; ``geometry`` is ``Conv.numbers``."""

import torch
from torch import Tensor

from smart_kernels.ops.common.conv_matmul import Walk, conv_grad, conv_matmul
from smart_kernels.ops.common.library import define
from smart_kernels.reference.block_sparse import conv2d as reference
from smart_kernels.shapes import Conv

from . import kernel_blocks
from .conv_blocks import ConvBlocks


def _fake(x, values, crow_indices, col_indices, bias, residual, geometry, out_channels, activation, index=None):
    return x.new_empty(x.shape[0], *Conv.of(geometry).output_size(*x.shape[1:3]), out_channels)


def _fake_dx(dy, values, crow_indices, col_indices, bias, geometry, height, width, channels, index=None):
    return dy.new_empty(dy.shape[0], height, width, channels)


def _fake_dvalues(dy, x, crow_indices, col_indices, geometry, tile_n, tile_c, index=None):
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
    index: Tensor | None = None,
) -> Tensor:
    args = x, values, crow_indices, col_indices, bias, residual, geometry, out_channels, activation
    if x.dtype == torch.float64:
        return reference.block_sparse_conv2d(*args)
    conv = Conv.of(geometry)
    blocks = ConvBlocks.of(crow_indices, col_indices, values.shape[1:], (out_channels, x.shape[3]), conv, index)
    n, k, size = blocks.n, blocks.k, conv.output_size(*x.shape[1:3])
    return conv_matmul(
        x, kernel_blocks.windows(values, n, k), blocks.forward(), Walk.forward(conv), size, n, k,
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
    index: Tensor | None = None,
) -> Tensor:
    args = dy, values, crow_indices, col_indices, bias, geometry, height, width, channels
    if dy.dtype == torch.float64:
        return reference.block_sparse_conv2d_dx(*args)
    conv = Conv.of(geometry)
    blocks = ConvBlocks.of(crow_indices, col_indices, values.shape[1:], (dy.shape[3], channels), conv, index)
    n, k, size = blocks.n, blocks.k, (height, width)
    return conv_matmul(
        dy, kernel_blocks.windows(values, n, k).mT, blocks.backward(), Walk.transposed(conv), size, k, n,
        None if bias is None else bias.contiguous(),
    )  # fmt: skip


@define("block_sparse_conv2d_dvalues", reference=reference.block_sparse_conv2d_dvalues, fake=_fake_dvalues)
def block_conv_dvalues(
    dy: Tensor,
    x: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    geometry: list[int],
    tile_n: int,
    tile_c: int,
    index: Tensor | None = None,
) -> Tensor:
    if x.dtype == torch.float64:
        return reference.block_sparse_conv2d_dvalues(dy, x, crow_indices, col_indices, geometry, tile_n, tile_c)
    conv, channels = Conv.of(geometry), (dy.shape[3], x.shape[3])
    blocks = ConvBlocks.of(crow_indices, col_indices, (tile_n, tile_c), channels, conv, index)
    n, k = blocks.n, blocks.k
    return kernel_blocks.join(conv_grad(dy, x, *blocks.places(), conv, n, k, x.dtype), n, k)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4], inputs[9])
    ctx.geometry = inputs[6]


def _backward(ctx, dy):
    (x, values, *indices, index), needs, dy = ctx.saved_tensors, ctx.needs_input_grad, dy.contiguous()
    dx = dvalues = None
    if needs[0]:
        dx = block_conv_dx(dy, values, *indices, None, ctx.geometry, *x.shape[1:], index)
    if needs[1]:
        dvalues = block_conv_dvalues(dy, x, *indices, ctx.geometry, *values.shape[1:], index)
    return dx, dvalues, None, None, dy.sum((0, 1, 2)) if needs[4] else None, *[None] * 5


def _setup_dx_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4], inputs[9])
    ctx.geometry = inputs[5]


def _backward_dx(ctx, g):
    (dy, values, *indices, index), needs, g = ctx.saved_tensors, ctx.needs_input_grad, g.contiguous()
    ddy = dvalues = None
    if needs[0]:
        ddy = block_conv(g, values, *indices, None, None, ctx.geometry, dy.shape[3], None, index)
    if needs[1]:
        dvalues = block_conv_dvalues(dy, g, *indices, ctx.geometry, *values.shape[1:], index)
    return ddy, dvalues, None, None, g.sum((0, 1, 2)) if needs[4] else None, *[None] * 5


block_conv.register_autograd(_backward, setup_context=_setup_context)
block_conv_dx.register_autograd(_backward_dx, setup_context=_setup_dx_context)
