"""Products with a matrix of which only some blocks exist."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

from smart_kernels.kernels.common.block_matmul import TMA_ROWS, block_grad_kernel, block_matmul_kernel

from .arguments import m_class, precision, strides
from .axis import Axis, constants
from .blocks import BlockMatrix, BlockPlaces, block_strides
from .epilogue import Epilogue
from .launch import NOTHING, TENSOR, Descriptor, Launch, aligned, given, slot
from .plan import Planned


@dataclass(frozen=True)
class Product:
    """All that a product with stored blocks follows from, but for its tensors.

    Attributes:
        n, k: the axes of W.
        aligned: whether x and the blocks lie at multiples of 16 bytes.
        activation: a key of ``reference.common.epilogue.ACTIVATIONS`` or None.
        dtype: of the result; None: that of x.
        precision: of ``tl.dot`` in fp32.
    """

    n: Axis
    k: Axis
    aligned: bool
    activation: str | None
    dtype: torch.dtype | None
    precision: str


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
    tensors = (x, w.values, *w.rows.lists, w.rows.order, scale, *epilogue.tensors)
    product = Product(w.n, w.k, aligned(x, w.values), epilogue.activation, epilogue.dtype, precision())
    return _matmul(tuple(map(given, tensors)), (product,))


def plan_matmul(x, values, start, end, cols, slots, order, scale, bias, residual, product: Product) -> Callable:
    """Plan ``block_matmul`` for tensors like these, of which those of W may be on the meta device.

    Returns:
        A function that takes x, values, start, end, cols, slots, order, scale, bias and residual, ``NOTHING`` where
        there is none, and returns the product.
    """
    M, N = x.shape[0], product.n.size
    new = functools.partial(torch.empty, (M, N), dtype=product.dtype or x.dtype, device=x.device)
    if not M * N:
        return lambda *tensors: new()
    tensors = (x, values, start, end, cols, slots, order, scale, bias, residual)
    tma = product.aligned and fits_tma(x, values, product.k)
    launch = _matmul_launch(tensors, product, tma)

    def run(x, values, *others):
        y = new()
        if tma:
            launch(x, values, *others, y, x, values)
        else:
            launch(x, values, *others, y)
        return y

    return run


_matmul = Planned(plan_matmul)


def _matmul_launch(tensors: tuple, product: Product, tma: bool) -> Launch:
    x, values, *_, scale, _, residual = tensors
    n, k = product.n, product.k
    of_x = Descriptor(lambda x: TensorDescriptor.from_tensor(x, [TMA_ROWS, k.block])) if tma else None
    of_w = Descriptor(lambda w: TensorDescriptor.from_tensor(w.flatten(0, 1), [n.block, k.block])) if tma else None
    M, blocks = x.shape[0], n.blocks
    return Launch(
        block_matmul_kernel, lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * blocks,),
        *map(slot, tensors), TENSOR,
        of_x, of_w,
        M, n.size, k.size,
        *x.stride(), 0 if scale is NOTHING else scale.stride(0), *strides(residual), n.size,
        m_class(M), blocks,
        **block_strides(values), **constants(n, k), EVEN_K=k.even, TMA_FITS=tma,
        ACTIVATION=product.activation, PRECISION=product.precision,
    )  # fmt: skip


def fits_tma(x: Tensor, values: Tensor, k: Axis) -> bool:
    """Return whether the tensor memory accelerator copies blocks of aligned ``x`` and of the values.

    A copy needs rows of 16-byte multiples, and cannot mask what a ragged block leaves out.
    """
    fits = has_tma() and values.is_contiguous() and k.even and x.element_size() == 2 and x.numel() and values.numel()
    return bool(fits) and x.stride(1) == 1 and x.stride(0) % 8 == 0 and x.stride(0) >= x.shape[1]


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
    tensors = (dy, x, places.rows, places.cols)
    return _grad(tensors, (places.n, places.k, dtype, precision()))


@Planned
def _grad(dy, x, rows, cols, n: Axis, k: Axis, dtype: torch.dtype, precision: str) -> Callable:
    M, count = x.shape[0], rows.shape[0]
    new = torch.empty if M else torch.zeros
    grad = functools.partial(new, (count, n.block, k.block), dtype=dtype, device=x.device)
    if not M * count:
        return lambda *tensors: grad()
    launch = Launch(
        block_grad_kernel, (count,), TENSOR, TENSOR, TENSOR, TENSOR, TENSOR,
        M, n.size, k.size,
        *dy.stride(), *x.stride(),
        m_class(M),
        **constants(n, k), EVEN=n.even and k.even, PRECISION=precision,
    )  # fmt: skip

    def run(*tensors):
        dvalues = grad()
        launch(*tensors, dvalues)
        return dvalues

    return run
