"""Gradients of a convolution's weight of which only some blocks exist. Images are contiguous NHWC."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.common.conv_matmul import conv_grad_kernel
from smart_kernels.shapes import Conv

from .arguments import m_class
from .axis import Axis, constants
from .launch import TENSOR, Launch
from .walk import Pair, Walk

CHUNK = 4096  # fewest pixels that a program sums up in a gradient, a multiple of every BLOCK_M
PROGRAMS = 512  # how many programs of a gradient fill a GPU; a constant, so that every GPU sums in the same order


@dataclass(frozen=True)
class BlockGradient:
    """All that the gradient of a convolution's blocks follows from, but for its tensors.

    Attributes:
        n, k: the axes of the weight, columns ``tap * k.blocks + block``.
        conv: the geometry.
        dtype: of a single part; several are float32.
        gaps: some rows are -1, for which nothing is computed or written.
        precision: of ``tl.dot`` in fp32.
    """

    n: Axis
    k: Axis
    conv: Conv
    dtype: torch.dtype
    gaps: bool
    precision: str


def plan_grad_parts(dy, x, count: int, wanted: BlockGradient) -> Callable:
    """Plan the gradient of each block as a sum of parts, to be added in order, each accumulated in fp32.

    Args:
        dy, x: (B, P, Q, N) and (B, H, W, C) of one dtype, contiguous.
        count: L, the number of blocks.
        wanted: all else.

    Returns:
        A function that takes dy, x and the (L,) int32 block row and column of each block, and returns
        (parts, L, n.block, k.block), zero beyond the width of a block.
    """
    n, k = wanted.n, wanted.k
    parts, chunk = split(math.prod(dy.shape[:3]), count)
    shape = parts, count, n.block, k.block
    dtype = torch.float32 if parts > 1 else wanted.dtype
    new = functools.partial(torch.empty, shape, dtype=dtype, device=x.device)
    if not math.prod(shape):
        return lambda *tensors: new()
    launch = _grad_launch(dy, x, (count, parts), chunk, wanted)

    def run(*tensors):
        grad = new()
        launch(*tensors, grad)
        return grad

    return run


def plan_grad(dy, x, count: int, wanted: BlockGradient) -> Callable:
    """Plan the gradient of each block, (L, n.block, k.block): the sum of the parts."""
    partial = plan_grad_parts(dy, x, count, wanted)
    dtype = wanted.dtype
    if split(math.prod(dy.shape[:3]), count)[0] == 1:
        return lambda *tensors: partial(*tensors).squeeze(0)
    return lambda *tensors: partial(*tensors).sum(0).to(dtype)  # the second pass: parts of a sum in order


def split(pixels: int, blocks: int) -> tuple[int, int]:
    """Return in how many parts a sum over pixels is computed, and how many pixels each has."""
    parts = max(1, min(triton.cdiv(pixels, CHUNK), PROGRAMS // max(1, blocks)))
    chunk = triton.cdiv(triton.cdiv(pixels, parts), CHUNK) * CHUNK
    return triton.cdiv(pixels, chunk) if pixels else 0, chunk


def _grad_launch(dy: Tensor, x: Tensor, grid: Pair, chunk: int, wanted: BlockGradient) -> Launch:
    n, k, walk = wanted.n, wanted.k, Walk.forward(wanted.conv)
    pixels = math.prod(dy.shape[:3])
    return Launch(
        conv_grad_kernel, grid,
        TENSOR, TENSOR, TENSOR, TENSOR, TENSOR,
        *x.shape[1:], *dy.shape[1:], pixels,
        n.size, *x.stride()[:3],
        grid[0], chunk, m_class(pixels),
        **walk.constants, **constants(n, k),
        BLOCKS_K=k.blocks, EVEN=n.even and k.even, HALO=not walk.inside(x.shape[1:3], dy.shape[1:3]),
        PRECISION=wanted.precision, GAPS=wanted.gaps,
    )  # fmt: skip
