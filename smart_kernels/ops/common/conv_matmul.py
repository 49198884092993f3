"""Convolutions with a weight of which only some blocks exist. Images are contiguous NHWC."""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from smart_kernels.kernels.common.conv_matmul import conv_grad_kernel, conv_matmul_kernel
from smart_kernels.shapes import Conv

from .axis import Axis
from .block_matmul import BlockRows
from .launch import m_class, precision

Pair = tuple[int, int]
CHUNK = 4096  # fewest pixels that a program sums up in a gradient, a multiple of every BLOCK_M
PROGRAMS = 512  # how many programs of a gradient fill a GPU; a constant, so that every GPU sums in the same order


@dataclass(frozen=True)
class Walk:
    """Which pixels of x a pixel of y reads: y at ``up * i + phase`` and a tap reads x at
    ``down * i + (phase + offset + tap * step) / up``, along (height, width)."""

    kernel: Pair
    up: Pair
    down: Pair
    offset: Pair
    step: Pair

    @classmethod
    def forward(cls, conv: Conv) -> "Walk":
        """The convolution."""
        (ph, pw), ones = conv.padding, (1, 1)
        return cls(conv.kernel, ones, conv.stride, (-ph, -pw), conv.dilation)

    @classmethod
    def transposed(cls, conv: Conv) -> "Walk":
        """From its output to its input."""
        (dh, dw), ones = conv.dilation, (1, 1)
        return cls(conv.kernel, conv.stride, ones, conv.padding, (-dh, -dw))

    @property
    def phases(self) -> int:
        return self.up[0] * self.up[1]

    def pixels(self, size: Pair) -> int:
        """Of one phase, the largest."""
        return triton.cdiv(size[0], self.up[0]) * triton.cdiv(size[1], self.up[1])

    def inside(self, x_size: Pair, y_size: Pair) -> bool:
        """No pixel of y reads beyond the edge of x."""
        if self.phases > 1:
            return False
        low = (self.offset[a] + min(0, (self.kernel[a] - 1) * self.step[a]) for a in (0, 1))
        high = (
            (y_size[a] - 1) * self.down[a] + self.offset[a] + max(0, (self.kernel[a] - 1) * self.step[a])
            for a in (0, 1)
        )
        return min(low) >= 0 and all(h < size for h, size in zip(high, x_size, strict=True))

    @property
    def constants(self) -> dict[str, int]:
        """The compile-time arguments of the kernels."""
        names = ("UP", "DOWN", "OFFSET", "STEP")
        pairs = (self.up, self.down, self.offset, self.step)
        return {
            f"{name}_{letter}": value
            for name, pair in zip(names, pairs, strict=True)
            for letter, value in zip("HW", pair, strict=True)
        }


def transposed(rows: Tensor, cols: Tensor, conv: Conv, n: Axis, k: Axis) -> BlockRows:
    """The rows (phase, channel block) of the transposed convolution from the place of each stored block; -1: none."""
    tap, block = cols // k.blocks, cols % k.blocks
    (_, kw), (sh, sw), (ph, pw), (dh, dw) = conv
    phase = (tap // kw * dh - ph) % sh * sw + (tap % kw * dw - pw) % sw
    count = sh * sw * k.blocks
    return BlockRows.transposed(tap * n.blocks + rows, torch.where(rows < 0, count, phase * k.blocks + block), count)


def conv_matmul(
    x: Tensor,
    values: Tensor,
    rows: BlockRows,
    walk: Walk,
    size: Pair,
    n: Axis,
    k: Axis,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """``activation(conv(x, W) + bias + residual)`` with the blocks of W in ``values``, accumulated in fp32.

    Args:
        x: (B, H, W, K) fp32, fp16 or bf16, contiguous.
        values: (S, n.block, k.block) same dtype, any strides; zero beyond the width of a block of ``k``.
        rows: the blocks of each of the ``walk.phases * n.blocks`` rows, column ``tap * k.blocks + block``.
        walk: which pixels of x are read.
        size: (P, Q) of the output.
        n, k: output and input channels.
        bias: (N,) or None.
        residual: (B, P, Q, N) contiguous or None.
        activation: see ``kernels.epilogue``.

    Returns:
        (B, P, Q, N), dtype of ``x``.
    """
    y = x.new_empty(x.shape[0], *size, n.size)
    pixels = x.shape[0] * walk.pixels(size)
    blocks = walk.phases * n.blocks
    if y.numel():
        conv_matmul_kernel[lambda meta: (triton.cdiv(pixels, meta["BLOCK_M"]) * blocks,)](
            x, values, rows.start, rows.end, rows.cols, rows.slots, bias, residual, y,
            *x.shape, *size, n.size,
            *x.stride()[:3], *y.stride()[:3],
            m_class(pixels), n.blocks,
            STRIDE_WS=values.stride(0), STRIDE_WN=values.stride(1), STRIDE_WK=values.stride(2),
            KH=walk.kernel[0], KW=walk.kernel[1], **walk.constants,
            STRIDE_N=n.stride, PARTS_N=n.parts, STRIDE_K=k.stride, PARTS_K=k.parts,
            BLOCKS_K=k.blocks, EVEN_K=k.even, HALO=not walk.inside(x.shape[1:3], size),
            ACTIVATION=activation, PRECISION=precision(), BLOCK_N=n.block, BLOCK_K=k.block,
        )  # fmt: skip
    return y


def conv_grad(dy: Tensor, x: Tensor, rows: Tensor, cols: Tensor, conv: Conv, n: Axis, k: Axis, dtype) -> Tensor:
    """The gradient of each block of the weight, accumulated in fp32: that of ``conv_grad_parts``, summed.

    Args:
        dtype: of the result.

    Returns:
        (L, n.block, k.block), zero beyond the width of a block.
    """
    grad = conv_grad_parts(dy, x, rows, cols, conv, n, k, dtype)
    return grad[0] if len(grad) == 1 else grad.sum(0).to(dtype)  # the second pass: parts of a sum in order


def conv_grad_parts(
    dy: Tensor, x: Tensor, rows: Tensor, cols: Tensor, conv: Conv, n: Axis, k: Axis, dtype, gaps: bool = False
) -> Tensor:
    """The gradient of each block of the weight as a sum of parts, to be added in order.

    Args:
        dy: (B, P, Q, N) and
        x: (B, H, W, C) of one dtype, contiguous.
        rows, cols: (L,) int32, where each block is; column ``tap * k.blocks + block``.
        conv: the geometry.
        n, k: output and input channels.
        dtype: of a single part; several are float32.
        gaps: some rows are -1, for which nothing is computed or written.

    Returns:
        (parts, L, n.block, k.block), zero beyond the width of a block.
    """
    M, walk = dy.shape[:3].numel(), Walk.forward(conv)
    parts = max(1, min(triton.cdiv(M, CHUNK), PROGRAMS // max(1, len(rows))))
    chunk = triton.cdiv(triton.cdiv(M, parts), CHUNK) * CHUNK
    parts = triton.cdiv(M, chunk) if M else 0
    grad = x.new_empty(parts, len(rows), n.block, k.block, dtype=torch.float32 if parts > 1 else dtype)
    if grad.numel():
        conv_grad_kernel[(len(rows), parts)](
            dy, x, rows, cols, grad,
            *x.shape[1:], *dy.shape[1:], M,
            n.size, *x.stride()[:3],
            len(rows), chunk, m_class(M),
            KH=conv.kernel[0], KW=conv.kernel[1],
            **{name: value for name, value in walk.constants.items() if name[:2] != "UP"},
            STRIDE_N=n.stride, PARTS_N=n.parts, STRIDE_K=k.stride, PARTS_K=k.parts,
            BLOCKS_K=k.blocks, EVEN=n.even and k.even, HALO=not walk.inside(x.shape[1:3], dy.shape[1:3]),
            PRECISION=precision(), GAPS=gaps, BLOCK_N=n.block, BLOCK_K=k.block,
        )  # fmt: skip
    return grad
