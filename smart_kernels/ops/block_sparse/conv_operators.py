"""The registered operators behind the convolutions. Images are contiguous NHWC; ``geometry`` is ``Conv.numbers``."""

import torch
from torch import Tensor

from smart_kernels.ops.common.arguments import precision
from smart_kernels.ops.common.launch import all_given
from smart_kernels.ops.common.library import always, define, differentiable
from smart_kernels.reference.block_sparse import conv2d as reference
from smart_kernels.shapes import Conv

from .conv_matmul import convolution, convolution_dvalues, convolution_dx


def _fake(x, values, crow_indices, col_indices, bias, residual, geometry, out_channels, activation, index=None):
    return x.new_empty(x.shape[0], *Conv.of(geometry).output_size(*x.shape[1:3]), out_channels)


def _fake_dx(dy, values, crow_indices, col_indices, bias, geometry, height, width, channels, index=None):
    return dy.new_empty(dy.shape[0], height, width, channels)


def _fake_dvalues(dy, x, crow_indices, col_indices, geometry, tile_n, tile_c, index=None):
    return dy.new_empty(col_indices.shape[0], tile_n, tile_c)


@define("block_sparse_conv2d", reference=reference.block_sparse_conv2d, fake=_fake, visible=always)
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
    if x.dtype == torch.float64:
        return reference.block_sparse_conv2d(
            x, values, crow_indices, col_indices, bias, residual, geometry, out_channels, activation
        )
    tensors = all_given(x, values, crow_indices, col_indices, _contiguous(bias), residual, index)
    return convolution(tensors, (tuple(geometry), out_channels, activation, precision()))


@define("block_sparse_conv2d_dx", reference=reference.block_sparse_conv2d_dx, fake=_fake_dx, visible=always)
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
    if dy.dtype == torch.float64:
        return reference.block_sparse_conv2d_dx(
            dy, values, crow_indices, col_indices, bias, geometry, height, width, channels
        )
    tensors = all_given(dy, values, crow_indices, col_indices, _contiguous(bias), index)
    return convolution_dx(tensors, (tuple(geometry), height, width, channels, precision()))


@define(
    "block_sparse_conv2d_dvalues", reference=reference.block_sparse_conv2d_dvalues, fake=_fake_dvalues, visible=always
)
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
    tensors = all_given(dy, x, crow_indices, col_indices, index)
    return convolution_dvalues(tensors, (tuple(geometry), tile_n, tile_c, precision()))


def _contiguous(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.contiguous()


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4], inputs[9])
    ctx.geometry = inputs[6]


def _backward(ctx, dy):
    x, values, *indices, index = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dy = dy.contiguous()
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
    dy, values, *indices, index = ctx.saved_tensors
    needs = ctx.needs_input_grad
    g = g.contiguous()
    ddy = dvalues = None
    if needs[0]:
        ddy = block_conv(g, values, *indices, None, None, ctx.geometry, dy.shape[3], None, index)
    if needs[1]:
        dvalues = block_conv_dvalues(dy, g, *indices, ctx.geometry, *values.shape[1:], index)
    return ddy, dvalues, None, None, g.sum((0, 1, 2)) if needs[4] else None, *[None] * 5


differentiable(block_conv, _backward, _setup_context)
differentiable(block_conv_dx, _backward_dx, _setup_dx_context)
