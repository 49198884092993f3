"""Products with a matrix of which only some blocks exist."""

import functools
from collections.abc import Callable

import torch
import triton
from torch import Tensor
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

from smart_kernels.kernels.common.block_matmul import TMA_ROWS, block_grad_kernel, block_matmul_kernel

from . import exact
from .arguments import m_class, processors, strides
from .axis import Axis, constants
from .blocks import Product, block_strides
from .capture import capturing
from .fastest import Fastest
from .launch import NOTHING, TENSOR, Descriptor, Launch, slot
from .persistent import configurations, fits, form_of, key_of, launched, sources


def plan_matmul(x, values, start, end, cols, slots, order, scale, bias, residual, product: Product) -> Callable:
    """Plan ``activation(x @ W.T + bias + residual)``, accumulated in fp32, for tensors like these.

    Args:
        x: (M, K) fp32, fp16, bf16 or, with a scale, fp8, any strides. Columns without a block are not read.
        values: (S, n.block, k.block) same dtype, any strides, zero beyond the width of a block of ``k``.
        start, end, cols, slots, order: as in ``BlockRows``; they, and values, may be on the meta device.
        scale: (S,) fp32, any stride: what the product with each block is multiplied by.
        bias: (N,), contiguous.
        residual: (M, N), any strides.
        product: all else.

    Returns:
        A function that takes the tensors, ``NOTHING`` for each from slots on that is not there, and returns the (M, N)
        product.
    """
    M, N = x.shape[0], product.n.size
    new = functools.partial(torch.empty, (M, N), dtype=product.dtype or x.dtype, device=x.device)
    if not M * N:
        return lambda *tensors: new()
    tensors = (x, values, start, end, cols, slots, order, scale, bias, residual)
    multiply = _plan_ways(tensors, product)

    def run(*tensors):
        y = new()
        multiply(*tensors, y)
        return y

    return run


def _plan_ways(tensors: tuple, product: Product) -> Callable[..., None]:
    """Return the launch of the product, or the choice between two, given the tensors and y."""
    x, values, *_ = tensors
    tma = product.aligned and fits_tma(x, values, product.k)
    launch = _matmul_launch(tensors, product, tma)

    def plain(x, values, *others):
        launch(x, values, *others, x, values)

    plain = plain if tma else launch
    persistent = _plan_persistent(tensors, product) if has_tma() else None
    if persistent is None:
        return plain
    return Fastest({"plain": plain, "persistent": persistent}, sources() + key_of(tensors, product))


def _plan_persistent(tensors: tuple, product: Product) -> Callable[..., None] | None:
    """Return the launch of the persistent form; None where it does not fit or has not proved right."""
    if not fits(tensors, product) or capturing():
        return None
    device = tensors[0].device
    form = form_of(tensors, product)
    if exact.verified(device, form) is not None or not configurations(form):
        return None
    return launched(tensors, product, form, processors(device))


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


def plan_grad(dy, x, count: int, n: Axis, k: Axis, dtype: torch.dtype, precision: str) -> Callable:
    """Plan ``dy[:, rows of the block].T @ x[:, columns of the block]`` for each block, accumulated in fp32.

    Args:
        dy, x: (M, N) and (M, K) of one dtype, any strides.
        count: L, the number of blocks.
        n, k: the axes of the weight (N, K).
        dtype: of the result.
        precision: of ``tl.dot`` in fp32.

    Returns:
        A function that takes dy, x and the (L,) int32 block row and column of each block, and returns their
        (L, n.block, k.block) gradients, zero beyond the width of a block.
    """
    M = x.shape[0]
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
