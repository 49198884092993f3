"""The registered operators behind ``masked_conv2d``. Images are contiguous NHWC; ``geometry`` is ``Conv.numbers``.

The weight is a matrix (N, taps * W), W >= C so that each kernel position has blocks of its own, all of one cut.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from smart_kernels.kernels.masked.conv2d import masked_grad_kernel
from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.blocks import BlockMatrix, BlockPlaces, BlockRows
from smart_kernels.ops.common.conv_grad import conv_grad_parts
from smart_kernels.ops.common.conv_matmul import conv_matmul, transposed
from smart_kernels.ops.common.epilogue import Epilogue
from smart_kernels.ops.common.inputs import unsuited
from smart_kernels.ops.common.launch import ABSENT, TENSOR, Launch, slot
from smart_kernels.ops.common.library import define, differentiable
from smart_kernels.ops.common.plan import Planned
from smart_kernels.ops.common.walk import Walk
from smart_kernels.reference.masked import conv2d as reference
from smart_kernels.shapes import Conv

from .live_blocks import Settings, TileMask, cut, live_blocks
from .matmul import Wanted, pack, plan_finish, plan_gradients


@define("masked_conv2d", reference=reference.masked_conv2d)
def masked_conv(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    geometry: list[int],
    tile_n: int,
    tile_k: int,
    eps: float,
    dead_grad: bool,
) -> Tensor:
    if unsuited(x, weight, mask):
        return reference.masked_conv2d(x, weight, mask, bias, geometry, tile_n, tile_k, eps, dead_grad)
    conv = Conv.of(geometry)
    w = _packed(weight, TileMask(mask, (tile_n, tile_k), eps), x.shape[3], x.dtype)
    return conv_matmul(x, w, Walk.forward(conv), conv.output_size(*x.shape[1:3]), Epilogue(bias))


@define("masked_conv2d_dx", reference=reference.masked_conv2d_dx)
def masked_conv_dx(
    dy: Tensor,
    weight: Tensor,
    mask: Tensor,
    geometry: list[int],
    height: int,
    width: int,
    channels: int,
    tile_n: int,
    tile_k: int,
    eps: float,
) -> Tensor:
    if unsuited(dy, weight, mask):
        return reference.masked_conv2d_dx(
            dy, weight, mask, geometry, height, width, channels, tile_n, tile_k, eps
        )  # fmt: skip
    conv = Conv.of(geometry)
    w = _packed(weight, TileMask(mask, (tile_n, tile_k), eps), channels, dy.dtype)
    w_t = BlockMatrix(w.values.mT, transposed(_places(w.rows, w.n, w.k), conv), w.k, w.n)
    return conv_matmul(dy, w_t, Walk.transposed(conv), (height, width), Epilogue())


@define("masked_conv2d_backward", reference=reference.masked_conv2d_backward)
def masked_conv_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    geometry: list[int],
    tile_n: int,
    tile_k: int,
    eps: float,
    dead_grad: bool,
    needs_dweight: bool,
    needs_dmask: bool,
) -> tuple[Tensor, Tensor]:
    wanted = Wanted(needs_dweight, needs_dmask, dead_grad)
    if not unsuited(x, weight, mask):
        return _gradients(dy, x, weight, TileMask(mask, (tile_n, tile_k), eps), Conv.of(geometry), wanted)
    args = dy, x, weight, mask, geometry, tile_n, tile_k, eps
    return reference.masked_conv2d_backward(*args, dead_grad, needs_dweight, needs_dmask)


def _gradients(
    dy: Tensor, x: Tensor, weight: Tensor, tiles: TileMask, conv: Conv, wanted: Wanted
) -> tuple[Tensor, Tensor]:
    n, k, columns = _axes(tiles, weight, x.shape[3])
    rows = live_blocks(tiles, n, columns, wanted.all_blocks)
    g = conv_grad_parts(dy, x, _places(rows, n, k), conv, torch.float32, gaps=True)
    return _reduced((g, weight, *tiles.given, rows.end, rows.cols), (tiles.settings, n, columns, wanted))


@Planned
def _reduced(
    g, weight, values, threshold, temperature, end, cols, settings: Settings, n: Axis, columns: Axis, wanted: Wanted
) -> Callable:
    """Plan the gradients of weight and mask from those of the blocks, (parts, L, n.block, k.block)."""
    tiles = TileMask.of(values, threshold, temperature, settings)
    count = n.blocks * columns.blocks
    launch = Launch(
        masked_grad_kernel, (count,),
        TENSOR, TENSOR, *map(slot, tiles.given), TENSOR, TENSOR,
        TENSOR if wanted.dweight else ABSENT, TENSOR if wanted.dmask else ABSENT,
        *weight.shape, columns.blocks, *tiles.groups,
        *weight.stride(), *tiles.strides,
        count, len(g), tiles.eps,
        **cut(n, columns), PER_TILE_N=n.blocks_per_tile, PER_TILE_K=columns.blocks_per_tile,
        EVEN_N=n.even, EVEN_K=columns.even, DEAD_GRAD=wanted.dead_grad,
        num_warps=8 if n.block * columns.block > 64 * 64 else 4,
    )  # fmt: skip
    zeros = plan_gradients(weight, tiles, n, columns, wanted)
    finish = plan_finish(weight, tiles, n, columns, wanted)

    def run(*tensors):
        dweight, dmask = zeros()
        launch(*tensors, dweight, dmask)
        return finish(dweight, dmask)

    return run


def _packed(weight: Tensor, tiles: TileMask, channels: int, dtype: torch.dtype) -> BlockMatrix:
    """Pack the live blocks of ``weight * mask``."""
    n, k, columns = _axes(tiles, weight, channels)
    rows = live_blocks(tiles, n, columns)
    return BlockMatrix(pack(weight, tiles, rows, n, columns, dtype), rows, n, k)


def _axes(mask: TileMask, weight: Tensor, channels: int) -> tuple[Axis, Axis, Axis]:
    """Return the axes of output channels, input channels, and columns: the input channels of every kernel position."""
    n, k = mask.axes((len(weight), channels))
    return n, k, replace(k, size=weight.shape[1])


def _places(rows: BlockRows, n: Axis, k: Axis) -> BlockPlaces:
    """Return where each entry is; row -1 where there is none."""
    entries = torch.arange(len(rows.cols), dtype=torch.int32, device=rows.cols.device)
    row = entries // (len(rows.cols) // len(rows.end))
    return BlockPlaces(torch.where(entries < rows.end[row], row, -1), rows.cols, n, k)


def _setup_context(ctx, inputs, output):
    x, weight, mask, bias, *ctx.settings = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, weight, mask)


def _backward(ctx, dy):
    x, weight, mask = ctx.saved_tensors
    geometry, tile_n, tile_k, eps, _ = ctx.settings
    needs_dx, needs_dweight, needs_dmask, needs_dbias = ctx.needs_input_grad[:4]
    dx = dweight = dmask = dbias = None
    dy = dy.contiguous()
    if needs_dx:
        dx = masked_conv_dx(dy, weight, mask, geometry, *x.shape[1:], tile_n, tile_k, eps)
    if needs_dweight or needs_dmask:
        dweight, dmask = masked_conv_backward(dy, x, weight, mask, *ctx.settings, needs_dweight, needs_dmask)
    if needs_dbias:
        dbias = dy.sum((0, 1, 2), dtype=ctx.bias_dtype)
    return dx, dweight if needs_dweight else None, dmask if needs_dmask else None, dbias, *[None] * 5


differentiable(masked_conv, _backward, _setup_context)
