"""Convolutions with a weight of which only some blocks exist. Images are contiguous NHWC."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton

from smart_kernels.kernels.common.conv_matmul import conv_matmul_kernel
from smart_kernels.shapes import Conv

from .arguments import m_class
from .axis import Axis, constants
from .blocks import BlockPlaces, BlockRows, block_strides
from .launch import TENSOR, Launch, slot
from .walk import Pair, Walk


def transposed(places: BlockPlaces, conv: Conv) -> BlockRows:
    """List the rows (phase, channel block) of the transposed convolution; a block in row -1 is none."""
    blocks_k = places.k.blocks
    tap = torch.floor_divide(places.cols, blocks_k)  # four Python calls less than //
    (_, kw), (sh, sw), (ph, pw), (dh, dw) = conv
    phase = (torch.floor_divide(tap, kw) * dh - ph) % sh * sw + (tap % kw * dw - pw) % sw
    count = sh * sw * blocks_k
    rows = torch.where(places.rows < 0, count, phase * blocks_k + places.cols % blocks_k)
    return BlockRows.transposed(tap * places.n.blocks + places.rows, rows, count)


@dataclass(frozen=True)
class Convolution:
    """All that a convolution with stored blocks follows from, but for its tensors.

    Attributes:
        n, k: output and input channels.
        walk: which pixels of x are read.
        size: (P, Q) of the output.
        activation: a key of ``reference.common.epilogue.ACTIVATIONS`` or None.
        precision: of ``tl.dot`` in fp32.
    """

    n: Axis
    k: Axis
    walk: Walk
    size: Pair
    activation: str | None
    precision: str


def plan_conv(x, values, start, end, cols, slots, bias, residual, conv: Convolution) -> Callable:
    """Plan ``activation(conv(x, W) + bias + residual)``, accumulated in fp32, for tensors like these.

    Args:
        x: (B, H, W, K) fp32, fp16 or bf16, contiguous.
        values: (S, n.block, k.block) same dtype, any strides, zero beyond the width of a block of ``k``.
        start, end, cols, slots: as in ``BlockRows``, of ``walk.phases * n.blocks`` rows of blocks, with columns
            ``tap * k.blocks + block``.
        bias: (N,), contiguous.
        residual: (B, P, Q, N), contiguous.
        conv: all else.

    Returns:
        A function that takes the tensors, ``NOTHING`` for slots, bias or residual where there is none, and returns
        (B, P, Q, N), dtype of ``x``.
    """
    shape = x.shape[0], *conv.size, conv.n.size
    new = functools.partial(torch.empty, shape, dtype=x.dtype, device=x.device)
    if 0 in shape:
        return lambda *tensors: new()
    launch = _conv_launch((x, values, start, end, cols, slots, bias, residual), conv)

    def run(*tensors):
        y = new()
        launch(*tensors, y)
        return y

    return run


def _conv_launch(tensors: tuple, conv: Convolution) -> Launch:
    x, values, *_ = tensors
    n, k, walk = conv.n, conv.k, conv.walk
    P, Q = conv.size
    pixels = x.shape[0] * walk.pixels(conv.size)
    programs = walk.phases * n.blocks
    return Launch(
        conv_matmul_kernel, lambda meta: (triton.cdiv(pixels, meta["BLOCK_M"]) * programs,),
        *map(slot, tensors), TENSOR,
        *x.shape, P, Q, n.size,
        *x.stride()[:3], P * Q * n.size, Q * n.size, n.size,
        m_class(pixels), n.blocks,
        **block_strides(values), **constants(n, k), **walk.constants_of_phases,
        BLOCKS_K=k.blocks, EVEN_K=k.even, HALO=not walk.inside(x.shape[1:3], conv.size),
        ACTIVATION=conv.activation, PRECISION=conv.precision,
    )  # fmt: skip
