"""Convolutions with a weight of which only some blocks exist. Images are contiguous NHWC."""

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.common.conv_matmul import conv_grad_kernel, conv_matmul_kernel
from smart_kernels.shapes import Conv

from .arguments import m_class, precision
from .axis import constants
from .blocks import BlockMatrix, BlockPlaces, BlockRows
from .epilogue import Epilogue
from .walk import Pair, Walk

CHUNK = 4096  # fewest pixels that a program sums up in a gradient, a multiple of every BLOCK_M
PROGRAMS = 512  # how many programs of a gradient fill a GPU; a constant, so that every GPU sums in the same order


def transposed(places: BlockPlaces, conv: Conv) -> BlockRows:
    """List the rows (phase, channel block) of the transposed convolution; a block in row -1 is none."""
    blocks_k = places.k.blocks
    tap = places.cols // blocks_k
    (_, kw), (sh, sw), (ph, pw), (dh, dw) = conv
    phase = (tap // kw * dh - ph) % sh * sw + (tap % kw * dw - pw) % sw
    count = sh * sw * blocks_k
    rows = torch.where(places.rows < 0, count, phase * blocks_k + places.cols % blocks_k)
    return BlockRows.transposed(tap * places.n.blocks + places.rows, rows, count)


def conv_matmul(x: Tensor, w: BlockMatrix, walk: Walk, size: Pair, epilogue: Epilogue) -> Tensor:
    """Return ``activation(conv(x, W) + bias + residual)``, accumulated in fp32.

    Args:
        x: (B, H, W, K) fp32, fp16 or bf16, contiguous.
        w: the weight, of the same dtype: output and input channels. It has ``walk.phases * n.blocks`` rows of blocks,
            with columns ``tap * k.blocks + block``.
        walk: which pixels of x are read.
        size: (P, Q) of the output.
        epilogue: its residual is (B, P, Q, N), contiguous; no dtype.

    Returns:
        (B, P, Q, N), dtype of ``x``.
    """
    y = x.new_empty(x.shape[0], *size, w.n.size)
    if y.numel():
        _launch(x, w, walk, epilogue, y)
    return y


def _launch(x: Tensor, w: BlockMatrix, walk: Walk, epilogue: Epilogue, y: Tensor) -> None:
    size = tuple(y.shape[1:3])
    pixels = x.shape[0] * walk.pixels(size)
    conv_matmul_kernel[lambda meta: (triton.cdiv(pixels, meta["BLOCK_M"]) * walk.phases * w.n.blocks,)](
        x, w.values, *w.rows.lists, *epilogue.tensors, y,
        *x.shape, *size, w.n.size,
        *x.stride()[:3], *y.stride()[:3],
        m_class(pixels), w.n.blocks,
        **w.constants, **walk.constants_of_phases,
        BLOCKS_K=w.k.blocks, EVEN_K=w.k.even, HALO=not walk.inside(x.shape[1:3], size),
        ACTIVATION=epilogue.activation, PRECISION=precision(),
    )  # fmt: skip


def conv_grad(dy: Tensor, x: Tensor, places: BlockPlaces, conv: Conv, dtype: torch.dtype) -> Tensor:
    """Return the gradient of each block, (L, n.block, k.block): the sum of ``conv_grad_parts``."""
    grad = conv_grad_parts(dy, x, places, conv, dtype)
    return grad[0] if len(grad) == 1 else grad.sum(0).to(dtype)  # the second pass: parts of a sum in order


def conv_grad_parts(
    dy: Tensor, x: Tensor, places: BlockPlaces, conv: Conv, dtype: torch.dtype, gaps: bool = False
) -> Tensor:
    """Return the gradient of each block as a sum of parts, to be added in order, each accumulated in fp32.

    Args:
        dy, x: (B, P, Q, N) and (B, H, W, C) of one dtype, contiguous.
        places: the blocks, columns ``tap * k.blocks + block``.
        dtype: of a single part; several are float32.
        gaps: some rows are -1, for which nothing is computed or written.

    Returns:
        (parts, L, n.block, k.block), zero beyond the width of a block.
    """
    count = len(places.rows)
    parts, chunk = _split(dy.shape[:3].numel(), count)
    dtype = torch.float32 if parts > 1 else dtype
    grad = x.new_empty(parts, count, places.n.block, places.k.block, dtype=dtype)
    if grad.numel():
        _launch_grad(dy, x, places, Walk.forward(conv), chunk, gaps, grad)
    return grad


def _split(pixels: int, blocks: int) -> tuple[int, int]:
    """Return in how many parts a sum over pixels is computed, and how many pixels each has."""
    parts = max(1, min(triton.cdiv(pixels, CHUNK), PROGRAMS // max(1, blocks)))
    chunk = triton.cdiv(triton.cdiv(pixels, parts), CHUNK) * CHUNK
    return triton.cdiv(pixels, chunk) if pixels else 0, chunk


def _launch_grad(dy: Tensor, x: Tensor, places: BlockPlaces, walk: Walk, chunk: int, gaps: bool, grad: Tensor) -> None:
    n, k = places.n, places.k
    pixels = dy.shape[:3].numel()
    conv_grad_kernel[(len(places.rows), len(grad))](
        dy, x, places.rows, places.cols, grad,
        *x.shape[1:], *dy.shape[1:], pixels,
        n.size, *x.stride()[:3],
        len(places.rows), chunk, m_class(pixels),
        **walk.constants, **constants(n, k),
        BLOCKS_K=k.blocks, EVEN=n.even and k.even, HALO=not walk.inside(x.shape[1:3], dy.shape[1:3]),
        PRECISION=precision(), GAPS=gaps,
    )  # fmt: skip
