"""Products with n:m weights of any n:m, dtype and GPU. No host synchronisation."""

import triton
from torch import Tensor

from smart_kernels.kernels.common.nm_matmul import semi_structured_kernel

from .arguments import m_class, precision
from .epilogue import Epilogue
from .nm import NMWeight

EVEN = 64  # sizes divisible by this have no edge in any configuration


def spread_matmul(x: Tensor, w: NMWeight, size: int, epilogue: Epilogue, transposed: bool = False) -> Tensor:
    """Return ``activation(x @ W.T + bias + residual)``, or ``x @ W``, where the weight is spread out tile by tile.

    Args:
        x: (M, K), or (M, N) for ``transposed``; any strides.
        w: the weight.
        size: columns of the result.
        epilogue: no dtype.

    Returns:
        (M, size), dtype of ``x``.
    """
    y = x.new_empty(len(x), size)
    if y.numel():
        _launch(x, w, epilogue, transposed, y)
    return y


def _launch(x: Tensor, w: NMWeight, epilogue: Epilogue, transposed: bool, y: Tensor) -> None:
    M, size = y.shape
    values, indices = w.tensors
    grid = lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * triton.cdiv(size, meta["BLOCK_O"]),)  # noqa: E731
    semi_structured_kernel[grid](
        x, values, indices, *epilogue.tensors, y,
        M, size, x.shape[1],
        *x.stride(), values.stride(0), indices.stride(0), *epilogue.strides, y.stride(0),
        m_class(M),
        **w.constants, TRANSPOSED=transposed, EVEN=size % EVEN == 0 and x.shape[1] % EVEN == 0 < x.shape[1],
        ACTIVATION=epilogue.activation, PRECISION=precision(),
    )  # fmt: skip
