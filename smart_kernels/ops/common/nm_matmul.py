"""Products with n:m weights of any n:m, dtype and GPU. No host synchronisation."""

import functools
from collections.abc import Callable

import torch
import triton

from smart_kernels.kernels.common.nm_matmul import semi_structured_kernel

from .arguments import m_class, strides
from .launch import TENSOR, Launch, slot
from .nm import nm_constants
from .plan import Planned

EVEN = 64  # sizes divisible by this have no edge in any configuration


@Planned
def spread_matmul(
    x, values, indices, bias, residual,
    n: int, m: int, size: int, activation: str | None, transposed: bool, precision: str,
) -> Callable:  # fmt: skip
    """Plan ``activation(x @ W.T + bias + residual)``, or ``x @ W``, where the weight is spread out tile by tile.

    Args:
        x: (M, K), or (M, N) for ``transposed``; any strides.
        values, indices: of W (N, K) as they are saved, contiguous.
        bias: (size,), contiguous, or ``NOTHING``.
        residual: (M, size), any strides, or ``NOTHING``.
        n, m: what is kept of every m weights.
        size: columns of the result.
        activation: a key of ``reference.common.epilogue.ACTIVATIONS`` or None.
        transposed: multiply by W, not by W.T.
        precision: of ``tl.dot`` in fp32.

    Returns:
        A function that takes the tensors and returns (M, size), dtype of ``x``.
    """
    M, K = x.shape
    new = functools.partial(torch.empty, (M, size), dtype=x.dtype, device=x.device)
    if not M * size:
        return lambda *tensors: new()
    launch = Launch(
        semi_structured_kernel,
        lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * triton.cdiv(size, meta["BLOCK_O"]),),
        TENSOR, TENSOR, TENSOR, slot(bias), slot(residual), TENSOR,
        M, size, K,
        *x.stride(), values.stride(0), indices.stride(0), *strides(residual), size,
        m_class(M),
        **nm_constants(n, m), TRANSPOSED=transposed, EVEN=size % EVEN == 0 and K % EVEN == 0 < K,
        ACTIVATION=activation, PRECISION=precision,
    )  # fmt: skip

    def run(*tensors):
        y = new()
        launch(*tensors, y)
        return y

    return run
