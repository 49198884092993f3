"""Convolutions with an n:m weight on a GPU. Images are contiguous NHWC. No host synchronisation."""

import functools
import math
from collections.abc import Callable

import torch
import triton

from smart_kernels.kernels.semi_structured.conv2d import semi_structured_conv_kernel
from smart_kernels.ops.common.arguments import m_class
from smart_kernels.ops.common.launch import TENSOR, Launch, slot
from smart_kernels.ops.common.nm import nm_constants
from smart_kernels.ops.common.plan import Planned
from smart_kernels.ops.common.walk import Walk
from smart_kernels.shapes import Conv

EVEN = 64  # output channels divisible by this have no edge in any configuration
STEP = 128  # bytes of one pixel that a step reads


@Planned
def spread_conv(
    x, values, indices, bias, residual,
    geometry: tuple[int, ...], n: int, m: int, activation: str | None, precision: str,
) -> Callable:  # fmt: skip
    """Plan ``activation(conv(x, W) + bias + residual)``, where the weight is spread out tile by tile.

    Args:
        x: (B, H, W, C) fp32, fp16 or bf16, contiguous.
        values, indices: of W (N, taps * C) as they are saved, contiguous, of the same dtype.
        bias: (N,), contiguous, or ``NOTHING``.
        residual: (B, P, Q, N), contiguous, or ``NOTHING``.
        geometry: ``Conv.numbers``.
        n, m: what is kept of every m weights.
        activation: a key of ``reference.common.epilogue.ACTIVATIONS`` or None.
        precision: of ``tl.dot`` in fp32.

    Returns:
        A function that takes the tensors and returns (B, P, Q, N), dtype of ``x``.
    """
    conv = Conv.of(geometry)
    C, N, size, walk = x.shape[3], values.shape[0], conv.output_size(*x.shape[1:3]), Walk.forward(conv)
    shape = x.shape[0], *size, N
    new = functools.partial(torch.empty, shape, dtype=x.dtype, device=x.device)
    pixels = math.prod(shape[:3])
    if not pixels * N:
        return lambda *tensors: new()
    block = min(STEP // x.element_size(), max(16, triton.next_power_of_2(C)))
    launch = Launch(
        semi_structured_conv_kernel,
        lambda meta: (triton.cdiv(pixels, meta["BLOCK_M"]) * triton.cdiv(N, meta["BLOCK_N"]),),
        TENSOR, TENSOR, TENSOR, slot(bias), slot(residual), TENSOR,
        *x.shape[:3], *shape[1:],
        values.stride(0), indices.stride(0),
        m_class(pixels),
        K=C, **walk.constants, **nm_constants(n, m),
        BLOCKS_K=triton.cdiv(C, block), EVEN=N % EVEN == 0 and C % block == 0,
        HALO=not walk.inside(x.shape[1:3], size),
        ACTIVATION=activation, PRECISION=precision, BLOCK_K=block,
    )  # fmt: skip

    def run(*tensors):
        y = new()
        launch(*tensors, y)
        return y

    return run
