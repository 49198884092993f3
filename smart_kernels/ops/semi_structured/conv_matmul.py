"""Convolutions with an n:m weight on a GPU. Images are contiguous NHWC. No host synchronisation."""

import triton
from torch import Tensor

from smart_kernels.kernels.semi_structured.conv2d import semi_structured_conv_kernel
from smart_kernels.ops.common.arguments import m_class, precision
from smart_kernels.ops.common.epilogue import Epilogue
from smart_kernels.ops.common.nm import NMWeight
from smart_kernels.ops.common.walk import Walk
from smart_kernels.shapes import Conv

EVEN = 64  # output channels divisible by this have no edge in any configuration
STEP = 128  # bytes of one pixel that a step reads


def spread_conv(x: Tensor, w: NMWeight, conv: Conv, epilogue: Epilogue) -> Tensor:
    """Return ``activation(conv(x, W) + bias + residual)``, where the weight is spread out tile by tile.

    Args:
        x: (B, H, W, C) fp32, fp16 or bf16, contiguous.
        w: the weight (N, taps * C), of the same dtype.
        conv: the geometry.
        epilogue: its residual is (B, P, Q, N), contiguous; no dtype.

    Returns:
        (B, P, Q, N), dtype of ``x``.
    """
    y = x.new_empty(x.shape[0], *conv.output_size(*x.shape[1:3]), len(w.values))
    if y.numel():
        _launch(x, w, Walk.forward(conv), epilogue, y)
    return y


def _launch(x: Tensor, w: NMWeight, walk: Walk, epilogue: Epilogue, y: Tensor) -> None:
    C, N = x.shape[3], y.shape[3]
    values, indices = w.tensors
    pixels = y.shape[:3].numel()
    block = min(STEP // x.element_size(), max(16, triton.next_power_of_2(C)))
    grid = lambda meta: (triton.cdiv(pixels, meta["BLOCK_M"]) * triton.cdiv(N, meta["BLOCK_N"]),)  # noqa: E731
    semi_structured_conv_kernel[grid](
        x, values, indices, *epilogue.tensors, y,
        *x.shape[:3], *y.shape[1:],
        values.stride(0), indices.stride(0),
        m_class(pixels),
        K=C, **walk.constants, **w.constants,
        BLOCKS_K=triton.cdiv(C, block), EVEN=N % EVEN == 0 and C % block == 0,
        HALO=not walk.inside(x.shape[1:3], y.shape[1:3]),
        ACTIVATION=epilogue.activation, PRECISION=precision(), BLOCK_K=block,
    )  # fmt: skip
