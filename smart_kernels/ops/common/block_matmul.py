"""Products with a matrix of which only some blocks exist."""

import triton
from torch import Tensor
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

from smart_kernels.kernels.common.block_matmul import TMA_ROWS, block_grad_kernel, block_matmul_kernel

from .arguments import m_class, precision
from .axis import constants
from .blocks import BlockMatrix, BlockPlaces
from .epilogue import Epilogue


def block_matmul(x: Tensor, w: BlockMatrix, epilogue: Epilogue, scale: Tensor | None = None) -> Tensor:
    """Return ``activation(x @ W.T + bias + residual)``, accumulated in fp32.

    Args:
        x: (M, K) fp32, fp16, bf16 or, with a scale, fp8, any strides. Columns without a block are not read.
        w: the matrix, of the same dtype.
        epilogue: its residual has any strides.
        scale: (S,) fp32, any stride: what the product with each block is multiplied by, or None.

    Returns:
        (M, N).
    """
    y = x.new_empty(len(x), w.n.size, dtype=epilogue.dtype)
    if y.numel():
        _launch(x, w, epilogue, scale, y)
    return y


def _launch(x: Tensor, w: BlockMatrix, epilogue: Epilogue, scale: Tensor | None, y: Tensor) -> None:
    x_tma, w_tma = descriptors(x, w)
    block_matmul_kernel[lambda meta: (triton.cdiv(len(x), meta["BLOCK_M"]) * w.n.blocks,)](
        x, w.values, *w.rows.lists, w.rows.order, scale, *epilogue.tensors, y,
        x_tma, w_tma,
        len(x), w.n.size, w.k.size,
        *x.stride(), 0 if scale is None else scale.stride(0), *epilogue.strides, y.stride(0),
        m_class(len(x)), w.n.blocks,
        **w.constants, EVEN_K=w.k.even, TMA_FITS=x_tma is not None,
        ACTIVATION=epilogue.activation, PRECISION=precision(),
    )  # fmt: skip


def descriptors(x: Tensor, w: BlockMatrix) -> tuple[TensorDescriptor | None, TensorDescriptor | None]:
    """Return tensor-memory copies of ``x`` and of the values, or twice None without a Hopper or where they do not fit.

    A copy needs rows of 16-byte multiples from a 16-byte address, and cannot mask what a ragged block leaves out.
    """
    values = w.values
    rows = values.flatten(0, 1) if values.is_contiguous() else None
    fits = has_tma() and rows is not None and w.k.even and x.element_size() == 2 and x.numel() and values.numel()
    if not fits or x.stride(1) != 1 or x.stride(0) % 8 or x.stride(0) < x.shape[1]:
        return None, None
    if x.data_ptr() % 16 or values.data_ptr() % 16:
        return None, None
    of_x = TensorDescriptor.from_tensor(x, [TMA_ROWS, w.k.block])
    return of_x, TensorDescriptor.from_tensor(rows, [w.n.block, w.k.block])


def has_tma() -> bool:
    """Return whether the current device is a Hopper. Others turn such a copy into narrow loads, or have other rules."""
    if triton.knobs.runtime.interpret:
        return False
    target = driver.active.get_current_target()
    return target.backend == "cuda" and target.arch == 90


def needs_fp8() -> None:
    """Raise ``ValueError`` unless the current device multiplies float8_e4m3fn; the interpreter does."""
    if triton.knobs.runtime.interpret:
        return
    target = driver.active.get_current_target()
    if target.backend != "cuda" or target.arch < 89:
        name = f"sm_{target.arch}" if target.backend == "cuda" else target.arch
        raise ValueError(f"the device must be sm_89 or newer for products of float8_e4m3fn, got {name}")


def block_grad(dy: Tensor, x: Tensor, places: BlockPlaces, dtype) -> Tensor:
    """Return ``dy[:, rows of the block].T @ x[:, columns of the block]`` for each block, accumulated in fp32.

    Args:
        dy, x: (M, N) and (M, K) of one dtype, any strides.
        places: the blocks of the weight (N, K).
        dtype: of the result.

    Returns:
        (L, n.block, k.block), zero beyond the width of a block.
    """
    n, k = places.n, places.k
    new = x.new_empty if len(x) else x.new_zeros
    grad = new(len(places.rows), n.block, k.block, dtype=dtype)
    if len(x) and grad.numel():
        block_grad_kernel[(len(grad),)](
            dy, x, places.rows, places.cols, grad,
            len(x), n.size, k.size,
            *dy.stride(), *x.stride(),
            m_class(len(x)),
            **constants(n, k), EVEN=n.even and k.even, PRECISION=precision(),
        )  # fmt: skip
    return grad
