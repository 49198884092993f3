"""Convolutions with an n:m weight on a GPU. Images are contiguous NHWC. No host synchronisation."""

import triton
from torch import Tensor

from smart_kernels.kernels.semi_structured.conv2d import semi_structured_conv_kernel
from smart_kernels.ops.common.conv_matmul import Walk
from smart_kernels.ops.common.launch import m_class, precision
from smart_kernels.ops.common.nm_matmul import index_span
from smart_kernels.shapes import Conv, index_bits

EVEN = 64  # output channels divisible by this have no edge in any configuration
STEP = 128  # bytes of one pixel that a step reads


def spread_conv(
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    kept: tuple[int, int],
    conv: Conv,
    activation: str | None,
) -> Tensor:
    """``activation(conv(x, W) + bias + residual)``; the weight is spread out tile by tile.

    Args:
        x: (B, H, W, C) fp32, fp16 or bf16, contiguous.
        values, indices: as saved, rows next to each other.
        bias, residual: (N,) and (B, P, Q, N) contiguous, or None.
        kept: (n, m).
        conv: the geometry.

    Returns:
        (B, P, Q, N), dtype of ``x``.
    """
    (n, m), N, C, walk = kept, len(values), x.shape[3], Walk.forward(conv)
    values, indices, size = values.contiguous(), indices.contiguous(), conv.output_size(*x.shape[1:3])
    y, block = x.new_empty(x.shape[0], *size, N), min(STEP // x.element_size(), max(16, triton.next_power_of_2(C)))
    pixels, bits = y.shape[:3].numel(), index_bits(m)
    if y.numel():
        grid = lambda meta: (triton.cdiv(pixels, meta["BLOCK_M"]) * triton.cdiv(N, meta["BLOCK_N"]),)  # noqa: E731
        semi_structured_conv_kernel[grid](
            x, values, indices, None if bias is None else bias.contiguous(), residual, y,
            *x.shape[:3], *size, N,
            values.stride(0), indices.stride(0),
            m_class(pixels),
            K=C, KH=conv.kernel[0], KW=conv.kernel[1],
            **{name: value for name, value in walk.constants.items() if name[:2] != "UP"},
            KEEP=n, GROUP=m, BITS=bits, SPAN=index_span(n, m),
            BLOCKS_K=triton.cdiv(C, block), EVEN=N % EVEN == 0 and C % block == 0,
            HALO=not walk.inside(x.shape[1:3], size),
            ACTIVATION=activation, PRECISION=precision(), BLOCK_K=block,
        )  # fmt: skip
    return y
