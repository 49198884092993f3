"""The convolutions behind ``block_sparse_conv2d`` and its relatives, decided once for tensors alike."""

from collections.abc import Callable

from smart_kernels.ops.common.conv_grad import BlockGradient, plan_grad
from smart_kernels.ops.common.conv_matmul import Convolution, plan_conv
from smart_kernels.ops.common.launch import NOTHING
from smart_kernels.ops.common.plan import Planned
from smart_kernels.ops.common.walk import Walk
from smart_kernels.shapes import Conv

from . import kernel_blocks, kernel_rows
from .conv_blocks import ConvBlocks


@Planned
def convolution(
    x, values, crow_indices, col_indices, bias, residual, index,
    geometry: tuple[int, ...], out_channels: int, activation: str | None, precision: str,
) -> Callable:  # fmt: skip
    """Plan ``activation(conv(x, W) + bias + residual)``; bias contiguous, images and residual NHWC, too."""
    conv = Conv.of(geometry)
    blocks = ConvBlocks.of(len(values), values.shape[1:], (out_channels, x.shape[3]), conv)
    n, k = blocks.n, blocks.k
    windows = kernel_blocks.plan_windows(values, n, k)
    size = conv.output_size(*x.shape[1:3])
    lists = kernel_rows.stand_ins(0, 0, 0, 0) if blocks.cut else (*kernel_rows.stand_ins(0, 0, 0), NOTHING)
    whole = Convolution(n, k, Walk.forward(conv), size, activation, precision)
    convolve = plan_conv(x, windows(values), *lists, bias, residual, whole)

    def run(x, values, crow, col, bias, residual, index):
        return convolve(x, windows(values), *blocks.forward(crow, col, index), bias, residual)

    return run


@Planned
def convolution_dx(
    dy, values, crow_indices, col_indices, bias, index,
    geometry: tuple[int, ...], height: int, width: int, channels: int, precision: str,
) -> Callable:  # fmt: skip
    """Plan the gradient of x, (B, height, width, channels), plus the bias of a transposed convolution."""
    conv = Conv.of(geometry)
    blocks = ConvBlocks.of(len(values), values.shape[1:], (dy.shape[3], channels), conv)
    n, k = blocks.n, blocks.k
    windows = kernel_blocks.plan_windows(values, n, k)
    lists = kernel_rows.stand_ins(0, 0, 0, 0)
    whole = Convolution(k, n, Walk.transposed(conv), (height, width), None, precision)
    convolve = plan_conv(dy, windows(values).mT, *lists, bias, NOTHING, whole)

    def run(dy, values, crow, col, bias, index):
        return convolve(dy, windows(values).mT, *blocks.backward(crow, col, index), bias, NOTHING)

    return run


@Planned
def convolution_dvalues(
    dy, x, crow_indices, col_indices, index,
    geometry: tuple[int, ...], tile_n: int, tile_c: int, precision: str,
) -> Callable:  # fmt: skip
    """Plan the (nnz, tile_n, tile_c) gradients of the stored blocks."""
    conv = Conv.of(geometry)
    blocks = ConvBlocks.of(len(col_indices), (tile_n, tile_c), (dy.shape[3], x.shape[3]), conv)
    n, k = blocks.n, blocks.k
    count = n.parts * len(col_indices) * k.parts
    grad = plan_grad(dy, x, count, BlockGradient(n, k, conv, x.dtype, False, precision))
    join = kernel_blocks.plan_join(n, k)
    return lambda dy, x, *indices: join(grad(dy, x, *blocks.places(*indices)))
