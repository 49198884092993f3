"""Products with n:m weights of any n:m, dtype and GPU. No host synchronisation."""

import math

import triton
from torch import Tensor

from smart_kernels.kernels.common.nm_matmul import semi_structured_kernel
from smart_kernels.shapes import index_bits

from .launch import m_class, precision, strides

EVEN = 64  # sizes divisible by this have no edge in any configuration


def spread_matmul(
    x: Tensor,
    values: Tensor,
    indices: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    kept: tuple[int, int],
    size: int,
    activation: str | None = None,
    transposed: bool = False,
) -> Tensor:
    """``activation(x @ W.T + bias + residual)``, or ``x @ W``; the weight is spread out tile by tile.

    Args:
        x: (M, K), or (M, N) for ``transposed``; any strides.
        values, indices: as saved, rows next to each other.
        bias, residual: (size,) and (M, size), or None.
        kept: (n, m).
        size: columns of the result.

    Returns:
        (M, size), dtype of ``x``.
    """
    (n, m), M = kept, x.shape[0]
    values, indices = values.contiguous(), indices.contiguous()
    y, bits = x.new_empty(M, size), index_bits(m)
    if y.numel():
        grid = lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * triton.cdiv(size, meta["BLOCK_O"]),)  # noqa: E731
        semi_structured_kernel[grid](
            x, values, indices, None if bias is None else bias.contiguous(), residual, y,
            M, size, x.shape[1],
            *x.stride(), values.stride(0), indices.stride(0), *strides(residual), y.stride(0),
            m_class(M),
            KEEP=n, GROUP=m, BITS=bits, SPAN=index_span(n, m),
            TRANSPOSED=transposed, EVEN=size % EVEN == 0 and x.shape[1] % EVEN == 0 < x.shape[1],
            ACTIVATION=activation, PRECISION=precision(),
        )  # fmt: skip
    return y


def index_span(n: int, m: int) -> int:
    """Most bytes that the indices of one group lie in."""
    bits = n * index_bits(m)
    return -(-(bits + 8 - math.gcd(bits, 8)) // 8)  # they begin at multiples of that divisor
