"""The convolutions behind ``masked_conv2d``, decided once for tensors alike."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from smart_kernels.kernels.masked.conv2d import masked_grad_kernel
from smart_kernels.ops.common.axis import Axis
from smart_kernels.ops.common.blocks import BlockPlaces
from smart_kernels.ops.common.conv_grad import BlockGradient, plan_grad_parts, split
from smart_kernels.ops.common.conv_matmul import Convolution, plan_conv, transposed
from smart_kernels.ops.common.launch import ABSENT, NOTHING, TENSOR, Launch
from smart_kernels.ops.common.plan import Planned, buffers
from smart_kernels.ops.common.walk import Walk
from smart_kernels.shapes import Conv

from .live_blocks import TileMask, cut, lists_launch
from .matmul import Wanted, pack_launch, plan_finish, plan_gradients

UNUSED = (NOTHING, NOTHING)  # threshold and temperature, or bias and residual


@Planned
def convolution(
    x, weight, mask, bias, geometry: tuple[int, ...], tile: tuple[int, int], eps: float, precision: str
) -> Callable:
    """Plan ``conv(x, weight * mask) + bias``, for x NHWC and bias contiguous: list, pack, convolve."""
    conv, tiles = Conv.of(geometry), TileMask(mask, tile, eps)
    n, k, columns = _axes(tiles, weight, x.shape[3])
    packed = _plan_packed(weight, tiles, n, columns, x.dtype)
    whole = Convolution(n, k, Walk.forward(conv), conv.output_size(*x.shape[1:3]), None, precision)
    convolve = plan_conv(x, _stand_in(n, columns, x.dtype), *[_LIST] * 3, NOTHING, bias, NOTHING, whole)

    def run(x, weight, mask, bias):
        blocks, start, end, cols = packed(weight, mask)
        return convolve(x, blocks, start, end, cols, NOTHING, bias, NOTHING)

    return run


@Planned
def convolution_dx(
    dy, weight, mask,
    geometry: tuple[int, ...], size: tuple[int, int, int], tile: tuple[int, int], eps: float, precision: str,
) -> Callable:  # fmt: skip
    """Plan the gradient of x, (B, *size) with size (height, width, channels), for dy NHWC."""
    conv, tiles = Conv.of(geometry), TileMask(mask, tile, eps)
    n, k, columns = _axes(tiles, weight, size[2])
    packed = _plan_packed(weight, tiles, n, columns, dy.dtype)
    whole = Convolution(k, n, Walk.transposed(conv), size[:2], None, precision)
    convolve = plan_conv(dy, _stand_in(n, columns, dy.dtype).mT, *[_LIST] * 4, *UNUSED, whole)

    def run(dy, weight, mask):
        blocks, _, end, cols = packed(weight, mask)
        places = BlockPlaces(_rows(end, n, columns), cols.narrow(0, 0, n.blocks * columns.blocks), n, k)
        return convolve(dy, blocks.mT, *transposed(places, conv).lists, *UNUSED)

    return run


@Planned
def gradients(
    dy, x, weight, mask,
    geometry: tuple[int, ...], tile: tuple[int, int], eps: float, wanted: Wanted, precision: str,
) -> Callable:  # fmt: skip
    """Plan dweight and dmask from those of the listed blocks, for dy and x NHWC."""
    tiles = TileMask(mask, tile, eps)
    n, k, columns = _axes(tiles, weight, x.shape[3])
    count = n.blocks * columns.blocks
    lists = lists_launch(tiles, n, columns, wanted.all_blocks)
    empty = buffers((n.blocks, n.blocks, count), torch.int32, x.device)
    grad = plan_grad_parts(dy, x, count, BlockGradient(n, k, Conv.of(geometry), torch.float32, True, precision))
    reduce = _reduce_launch(split(math.prod(dy.shape[:3]), count)[0], weight, tiles, n, columns, wanted)
    zeros = plan_gradients(weight, tiles, n, columns, wanted)
    finish = plan_finish(weight, tiles, n, columns, wanted)

    def run(dy, x, weight, mask):
        start, end, cols = empty()
        lists(mask, *UNUSED, start, end, cols)
        g = grad(dy, x, _rows(end, n, columns), cols)
        dweight, dmask = zeros()
        reduce(g, weight, mask, end, cols, dweight, dmask)
        return finish(dweight, dmask)

    return run


def _reduce_launch(parts: int, weight: Tensor, tiles: TileMask, n: Axis, columns: Axis, wanted: Wanted) -> Launch:
    """Return the launch from the gradients of blocks, in parts, weight, mask, end and cols to dweight and dmask."""
    count = n.blocks * columns.blocks
    return Launch(
        masked_grad_kernel, (count,),
        TENSOR, TENSOR, TENSOR, None, None, TENSOR, TENSOR,
        TENSOR if wanted.dweight else ABSENT, TENSOR if wanted.dmask else ABSENT,
        *weight.shape, columns.blocks, *tiles.groups,
        *weight.stride(), *tiles.strides,
        count, parts, tiles.eps,
        **cut(n, columns), PER_TILE_N=n.blocks_per_tile, PER_TILE_K=columns.blocks_per_tile,
        EVEN_N=n.even, EVEN_K=columns.even, DEAD_GRAD=wanted.dead_grad,
        num_warps=8 if n.block * columns.block > 64 * 64 else 4,
    )  # fmt: skip


def _plan_packed(weight: Tensor, tiles: TileMask, n: Axis, columns: Axis, dtype: torch.dtype) -> Callable:
    """Return what makes of weight and mask the live blocks of their product, and their start, end and cols."""
    lists = lists_launch(tiles, n, columns)
    pack = pack_launch(weight, tiles, n, columns, ABSENT)
    empty = buffers((n.blocks, n.blocks, n.blocks * columns.blocks), torch.int32, weight.device)
    shape = n.blocks * columns.blocks, n.block, columns.block
    new = functools.partial(torch.empty, shape, dtype=dtype, device=weight.device)

    def run(weight, mask):
        start, end, cols = empty()
        blocks = new()
        lists(mask, *UNUSED, start, end, cols)
        pack(weight, mask, *UNUSED, end, cols, blocks, NOTHING)
        return blocks, start, end, cols

    return run


_LIST = torch.empty(0, dtype=torch.int32, device="meta")


def _stand_in(n: Axis, columns: Axis, dtype: torch.dtype) -> Tensor:
    """Return packed blocks for a plan, which asks for no more than how they lie."""
    return torch.empty(n.blocks * columns.blocks, n.block, columns.block, dtype=dtype, device="meta")


def _axes(mask: TileMask, weight: Tensor, channels: int) -> tuple[Axis, Axis, Axis]:
    """Return the axes of output channels, input channels, and columns: the input channels of every kernel position."""
    n, k = mask.axes((weight.shape[0], channels))
    return n, k, replace(k, size=weight.shape[1])


def _rows(end: Tensor, n: Axis, columns: Axis) -> Tensor:
    """Return the row of each entry; -1 where there is none."""
    make = functools.partial(torch.arange, dtype=torch.int32, device=end.device)
    entries = make(n.blocks * columns.blocks).view(n.blocks, columns.blocks)
    live = entries < end.narrow(0, 0, n.blocks).unsqueeze(1)
    return torch.where(live, make(n.blocks).unsqueeze(1), -1).flatten()
